//! What clients of any node of three may rely on: writes, renewals and reads go through each of them, whoever leads, and
//! each write takes effect once.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use spine_api::{Blocking, Consistency, Context, Error, Read, Registry};
use spine_core::{
    Command, Dialect, GetKey, Guard, Index, LeaseGrant, LeaseId, Put, Query, Renewal, Renewed, Repeat,
    Request, Ttl, codec,
};
use spine_node::limits;
use spine_proto::internal::v1::{self, forward_client::ForwardClient};
use support::{cluster::Cluster, cx, put, read, write};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tonic::{Code, transport::Endpoint};

const ALL: [usize; 3] = [0, 1, 2];

fn until(within: Duration) -> Context {
    Context {
        deadline: Instant::now() + within,
        ..Context::new(Dialect::Internal)
    }
}

fn stale() -> Context {
    Context {
        consistency: Consistency::Stale,
        ..cx()
    }
}

/// A write that is seen to be applied twice: each time makes another version.
fn once(key: &str) -> Command {
    Command::Put(Put {
        key: key.to_owned().into(),
        value: "x".into(),
        flags: 0,
        lease: None,
        guard: Guard::Always,
        repeat: Repeat::Write,
    })
}

/// How often these were applied, by all that is acknowledged.
async fn assert_once(registry: &dyn Registry, written: &[Written]) {
    let state = registry.view(&cx()).await.unwrap();
    for write in written.iter().filter(|write| write.outcome.is_ok()) {
        let row = GetKey(write.key.clone().into()).ask(&state).value;
        assert_eq!(row.map(|row| row.version), Some(1), "{}", write.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_shows_them_at_once() {
    let cluster = Cluster::start().await;
    cluster.leader_among(&ALL).await;
    for node in ALL {
        let key = format!("through-{node}");
        write(&*cluster.registry(node), &key, "here").await;
        // On the node that took it without asking anybody, on the others by a linearizable read.
        let there = cluster.registry(node).view(&stale()).await.unwrap();
        assert!(GetKey(key.clone().into()).ask(&there).value.is_some());
        for other in ALL {
            assert_eq!(
                read(&*cluster.registry(other), &key).await.as_deref(),
                Some("here"),
                "{key} on {other}"
            );
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_back_as_they_are() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&ALL).await;
    for node in ALL {
        let registry = cluster.registry(node);
        let refused = registry
            .propose(&cx(), Command::LeaseRevoke(LeaseId(7)))
            .await
            .unwrap();
        assert_eq!(refused.result.unwrap_err().to_string(), "lease 7 not found");
        let renewed = registry.renew(&cx(), Renewal::Lease(LeaseId(7))).await.unwrap();
        assert_eq!(renewed, Renewed::NotARenewal, "through {node}, {leader} leads");
    }
    cluster.stop().await;
}

/// What became of a write.
struct Written {
    key: String,
    outcome: Result<(), Error>,
    at: Instant,
}

/// Clients that write one key after another until they are told to stop.
#[derive(Clone, Default)]
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writers {
    /// Four of them through each of these nodes.
    fn start(&self, cluster: &Cluster, nodes: &[usize], life: &str) -> Vec<JoinHandle<Vec<Written>>> {
        let clients = nodes
            .iter()
            .flat_map(|node| (0..4).map(move |number| (*node, number)));
        clients
            .map(|(node, number)| {
                let name = format!("{life}-{node}-{number}");
                tokio::spawn(self.clone().write(cluster.registry(node), name))
            })
            .collect()
    }

    async fn write(self, registry: Arc<dyn Registry>, name: String) -> Vec<Written> {
        let mut written = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let key = format!("{name}-{}", written.len());
            let outcome = registry.propose(&cx(), once(&key)).await;
            let over = outcome == Err(Error::ShuttingDown);
            self.acknowledged
                .fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
            written.push(Written {
                key,
                outcome: outcome.map(|applied| assert!(applied.result.is_ok())),
                at: Instant::now(),
            });
            if over {
                break;
            }
        }
        written
    }

    /// Waits until so many more are acknowledged.
    async fn more(&self, count: usize) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        let written = async {
            while self.acknowledged.load(Ordering::Relaxed) < enough {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written)
            .await
            .expect("writes go on");
    }

    async fn stop(&self, writing: Vec<JoinHandle<Vec<Written>>>) -> Vec<Written> {
        self.stop.store(true, Ordering::Relaxed);
        join_all(writing)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .collect()
    }
}

/// The longest time without any write acknowledged.
fn longest_gap(written: &[Written]) -> Duration {
    let mut moments: Vec<_> = written
        .iter()
        .filter(|write| write.outcome.is_ok())
        .map(|write| write.at)
        .collect();
    moments.sort();
    let gaps = moments.windows(2).map(|two| two[1] - two[0]);
    gaps.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_and_what_followers_took_is_applied_once() {
    let mut cluster = Cluster::start().await;
    for life in 0..3 {
        let leader = cluster.leader_among(&ALL).await;
        let followers: Vec<_> = ALL.into_iter().filter(|node| *node != leader).collect();
        let writers = Writers::default();
        let writing = writers.start(&cluster, &followers, &format!("life{life}"));
        writers.more(200).await;
        cluster.halt(leader).await;
        cluster.leader_among(&followers).await;
        writers.more(200).await;
        let written = writers.stop(writing).await;
        let failed: Vec<_> = written
            .iter()
            .filter_map(|write| write.outcome.as_ref().err())
            .collect();
        println!(
            "life {life}: {} writes, {} not acknowledged ({failed:?}), longest gap {:?}",
            written.len(),
            failed.len(),
            longest_gap(&written)
        );
        assert!(failed.is_empty(), "another leads long before the deadline");
        for node in &followers {
            assert_once(&*cluster.registry(*node), &written).await;
        }
        cluster.revive(leader).await;
        cluster.node(leader).ready().await.unwrap();
        cluster.until_equal(&ALL).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_without_a_break() {
    let mut cluster = Cluster::start().await;
    for life in 0..3 {
        let leader = cluster.leader_among(&ALL).await;
        let writers = Writers::default();
        let writing = writers.start(&cluster, &ALL, &format!("life{life}"));
        writers.more(200).await;
        let others: Vec<_> = ALL.into_iter().filter(|node| *node != leader).collect();
        let began = Instant::now();
        if life == 2 {
            // The node stops in order; those who wrote through it learn that at once.
            cluster.stop_one(leader).await;
        } else {
            cluster.node(leader).hand_over().await.unwrap();
        }
        let next = cluster.leader_among(&others).await;
        assert_ne!(next, leader);
        println!(
            "life {life}: from {leader} to {next} within {:?}",
            began.elapsed()
        );
        writers.more(200).await;
        let written = writers.stop(writing).await;
        println!(
            "life {life}: {} writes, longest gap {:?}",
            written.len(),
            longest_gap(&written)
        );
        for node in &others {
            assert_once(&*cluster.registry(*node), &written).await;
        }
        let failed = written.iter().filter_map(|write| write.outcome.as_ref().err());
        for error in failed {
            assert_eq!((error, life), (&Error::ShuttingDown, 2));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_everything_ends_at_its_deadline() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&ALL).await;
    let [one, other]: [usize; 2] = ALL
        .into_iter()
        .filter(|node| *node != leader)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    write(&*cluster.registry(one), "before", "x").await;

    // A follower that is left alone.
    cluster.halt(leader).await;
    cluster.halt(other).await;
    let registry = cluster.registry(one);
    let within = Duration::from_secs(2);
    let began = Instant::now();
    let (written, renewed, seen) = tokio::join!(
        async {
            let cx = until(within);
            registry.propose(&cx, put("nobody", "hears")).await
        },
        async {
            let cx = until(within);
            registry.renew(&cx, Renewal::Lease(LeaseId(1))).await
        },
        async {
            let cx = until(within);
            registry.view(&cx).await.map(drop)
        },
    );
    assert!(
        began.elapsed() < within + Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert!(
        matches!(written, Err(Error::NoLeader | Error::Unknown(_))),
        "{written:?}"
    );
    assert!(
        matches!(renewed, Err(Error::NoLeader | Error::Unknown(_))),
        "{renewed:?}"
    );
    assert_eq!(seen, Err(Error::NoLeader));
    // Nobody leads any more: what comes now is certainly not proposed.
    let written = registry
        .propose(&until(Duration::from_millis(300)), put("nobody", "hears"))
        .await;
    assert_eq!(written, Err(Error::NoLeader));
    assert_eq!(registry.status().leader, None);
    // What is here is still shown to whoever takes it as it is.
    assert!(
        GetKey("before".into())
            .ask(&registry.view(&stale()).await.unwrap())
            .value
            .is_some()
    );
    let mut ready = true;
    let not_ready = async {
        while ready {
            ready = registry.status().ready;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), not_ready)
        .await
        .expect("it says that it is not ready");

    cluster.revive(other).await;
    cluster.node(other).ready().await.unwrap();
    cluster.node(one).ready().await.unwrap();
    write(&*registry, "after", "x").await;
    assert_eq!(
        read(&*cluster.registry(other), "after").await.as_deref(),
        Some("x")
    );
    drop(registry);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_left_alone_says_so() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&ALL).await;
    for node in ALL {
        if node != leader {
            cluster.halt(node).await;
        }
    }
    let registry = cluster.registry(leader);
    let began = Instant::now();
    let (written, seen) = tokio::join!(
        async {
            let cx = until(Duration::from_secs(2));
            registry.propose(&cx, put("nobody", "hears")).await
        },
        async {
            let cx = until(Duration::from_secs(2));
            registry.view(&cx).await.map(drop)
        },
    );
    assert!(
        began.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        began.elapsed()
    );
    assert!(
        matches!(written, Err(Error::NoLeader | Error::Unknown(_))),
        "{written:?}"
    );
    assert_eq!(seen, Err(Error::NoLeader));
    drop(registry);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_has_only_so_many_calls_on_their_way() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&ALL).await;
    let follower = (leader + 1) % 3;
    let header = v1::Header {
        cluster_id: cluster
            .node(leader)
            .identity()
            .cluster
            .0
            .to_be_bytes()
            .to_vec()
            .into(),
        from: cluster.node(follower).identity().node,
        to: cluster.node(leader).identity().node,
        boot: 1_000,
    };
    // Alone it answers nothing before the deadline.
    for node in ALL {
        if node != leader {
            cluster.halt(node).await;
        }
    }
    let address = cluster.node(leader).peer_address().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let client = ForwardClient::new(endpoint.connect().await.unwrap());
    let call = || {
        let mut client = client.clone();
        let request = v1::ProposeRequest {
            header: Some(header.clone()),
            format: codec::ENTRY_FORMAT.into(),
            requests: vec![v1::Forwarded {
                content: codec::encode_row(&Request::internal(put("nobody", "hears"))).into(),
                remaining_ms: 60_000,
            }],
        };
        async move { client.propose(request).await }
    };
    let mut waiting = JoinSet::new();
    for _ in 0..=limits::PEER_FORWARD_CALLS_MAX {
        waiting.spawn(call());
    }
    let refused = tokio::time::timeout(Duration::from_secs(20), waiting.join_next());
    let refused = refused.await.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let refused = call().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(waiting.try_join_next().is_none(), "the others wait");
    // Those that are given up make room.
    waiting.shutdown().await;
    let room = async {
        while tokio::time::timeout(Duration::from_millis(100), call())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), room).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_through_all_nodes_share_entries() {
    const EACH: u128 = 400;
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&ALL).await;
    let grants = (1..=3 * EACH).map(|id| {
        let grant = LeaseGrant {
            id: LeaseId(id),
            ttl: Ttl::seconds(60),
        };
        let registry = cluster.registry(leader);
        async move { registry.propose(&cx(), Command::LeaseGrant(grant)).await.unwrap() }
    });
    join_all(grants).await;
    cluster.until_equal(&ALL).await;
    let position = || cluster.node(leader).applied().borrow().position.unwrap().index;
    let before = position();
    let renewals = ALL.into_iter().flat_map(|node| {
        let registry = cluster.registry(node);
        let ids = node as u128 * EACH + 1..=(node as u128 + 1) * EACH;
        ids.map(move |id| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.renew(&cx(), Renewal::Lease(LeaseId(id))).await.unwrap() })
        })
    });
    for renewed in join_all(renewals).await {
        assert!(matches!(renewed.unwrap(), Renewed::Until(Some(_))));
    }
    let entries = position() - before;
    println!("{} renewals in {entries} entries", 3 * EACH);
    assert!(entries < 60, "{entries} entries");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_query_goes_on_at_another_node() {
    let cluster = Cluster::start().await;
    cluster.leader_among(&ALL).await;
    for round in 0..30 {
        // An index that one node has just given, shown to another that may not have it yet.
        let applied = write(&*cluster.registry(round % 3), "turn", format!("{round}")).await;
        let floor = Index(applied.index.0 - 1);
        let blocking = Blocking {
            floor,
            until: Instant::now() + Duration::from_secs(5),
        };
        let answer = cluster
            .registry((round + 1) % 3)
            .read(&cx(), &GetKey("turn".into()), Some(blocking))
            .await
            .unwrap();
        assert!(answer.index > floor, "{} after {floor}", answer.index);
        assert_eq!(answer.value.unwrap().value, format!("{round}"));
    }
    // An index that nobody has: the present is the answer, with its lower index, at once.
    let began = Instant::now();
    let future = Blocking {
        floor: Index(1_000_000),
        until: Instant::now() + Duration::from_secs(30),
    };
    for node in ALL {
        let answer = cluster
            .registry(node)
            .read(&cx(), &GetKey("turn".into()), Some(future))
            .await
            .unwrap();
        assert!(answer.index < Index(1_000_000));
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    cluster.stop().await;
}
