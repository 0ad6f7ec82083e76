//! A client of three nodes, all in this process, whose leader is lost again and again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spine_client::proto::PutOutcome;
use spine_client::{Client, Guard, Topic};
use spine_core::NodeName;
use spine_node::metrics_sink::Uncounted;
use spine_node::node::{PeerPort, PeerSettings};
use spine_node::raft::Peer;
use spine_node::{Node, NodeSettings, World};
use spine_tests::local_api::LocalApi;
use spine_tests::spine_process::free_address;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_mins(2);
const KILLS: usize = 4;

struct Cluster {
    members: Vec<Member>,
    _directory: tempfile::TempDir,
}

struct Member {
    settings: NodeSettings,
    api: SocketAddr,
    running: Option<(Node, LocalApi)>,
}

impl Member {
    async fn begin(&self) -> (Node, LocalApi) {
        let node = Node::start(self.settings.clone(), World::real(), Arc::new(Uncounted));
        let node = timeout(PATIENCE, node).await.unwrap().unwrap();
        let api = LocalApi::serve_at(node.registry(), self.api);
        (node, api)
    }
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let peers: Vec<Peer> = (0..3)
            .map(|number| Peer {
                name: format!("n{number}"),
                address: free_address().to_string(),
            })
            .collect();
        let members = peers.iter().map(|peer| {
            let api = free_address();
            let settings = NodeSettings {
                host: Ipv4Addr::LOCALHOST.to_string().into(),
                peer_address: peer.address.as_str().into(),
                grpc_address: api.to_string().into(),
                peers: Some(PeerSettings {
                    port: PeerPort::At(peer.address.parse().unwrap()),
                    founders: peers.clone(),
                    join: Vec::new(),
                    replace: None,
                }),
                ..NodeSettings::new(
                    NodeName::parse(&peer.name).unwrap(),
                    directory.path().join(&peer.name),
                )
            };
            Member {
                settings,
                api,
                running: None,
            }
        });
        let mut members: Vec<Member> = members.collect();
        let begun = futures::future::join_all(members.iter().map(Member::begin)).await;
        for (member, begun) in members.iter_mut().zip(begun) {
            member.running = Some(begun);
        }
        Self {
            members,
            _directory: directory,
        }
    }

    fn addresses(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(|member| member.api.to_string()).collect();
        addresses.join(",")
    }

    /// Who leads, as one says that leads itself.
    async fn leader(&self) -> usize {
        let leads = async {
            loop {
                let found = self.members.iter().position(|member| {
                    let running = member.running.as_ref();
                    running.is_some_and(|(node, _)| {
                        let status = node.registry().status();
                        status.leader.as_ref() == Some(&status.name) && status.ready
                    })
                });
                match found {
                    Some(found) => return found,
                    None => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, leads).await.unwrap()
    }

    /// Ends a node as a crash would, with the connections of its clients.
    async fn kill(&mut self, number: usize) {
        let (node, api) = self.members[number].running.take().unwrap();
        drop(api);
        node.halt().await.unwrap();
    }

    async fn revive(&mut self, number: usize) {
        self.members[number].running = Some(self.members[number].begin().await);
    }

    async fn stop(self) {
        for (node, api) in self.members.into_iter().filter_map(|member| member.running) {
            drop(api);
            node.stop().await.unwrap();
        }
    }
}

/// Counts up by compare and set, one after another.
async fn count(client: Client, acknowledged: Arc<AtomicU64>, up_to: Arc<AtomicU64>) {
    while acknowledged.load(Ordering::Relaxed) < up_to.load(Ordering::Relaxed) {
        let row = client.kv.get("counter").await.unwrap();
        let (before, guard) = match &row {
            Some(row) => {
                let text = std::str::from_utf8(&row.value).unwrap();
                (text.parse::<u64>().unwrap(), Guard::ModifyIndex(row.modify_index))
            }
            None => (0, Guard::Absent),
        };
        assert_eq!(
            before,
            acknowledged.load(Ordering::Relaxed),
            "an increment was lost, or done twice"
        );
        let next = (before + 1).to_string();
        let put = client.kv.put_if("counter", next, guard).await.unwrap();
        assert_eq!(put.outcome(), PutOutcome::Written, "nobody else writes");
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

async fn until_counted(acknowledged: &AtomicU64, more: u64) {
    let goal = acknowledged.load(Ordering::Relaxed) + more;
    let reached = async {
        while acknowledged.load(Ordering::Relaxed) < goal {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_increment_counts_once_and_a_watch_sees_each_while_leaders_are_lost() {
    let mut cluster = Cluster::start().await;
    let builder = Client::builder(&cluster.addresses())
        .deadline(Duration::from_mins(1))
        .prefer_leader(true)
        .exactly_once(true);
    let client = builder.build().unwrap();
    let mut watch = client
        .watch
        .topics([Topic::key("counter")])
        .start()
        .await
        .unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let up_to = Arc::new(AtomicU64::new(u64::MAX));
    let counting = tokio::spawn(count(client.clone(), acknowledged.clone(), up_to.clone()));
    for _ in 0..KILLS {
        until_counted(&acknowledged, 20).await;
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        until_counted(&acknowledged, 20).await;
        cluster.revive(leader).await;
    }
    up_to.store(0, Ordering::Relaxed);
    timeout(PATIENCE, counting).await.unwrap().unwrap();

    // The watch began at one node, went on at others, and has told each increment once.
    let counted = acknowledged.load(Ordering::Relaxed);
    let mut versions = Vec::new();
    let told = async {
        while versions.len() < usize::try_from(counted).unwrap() {
            for event in watch.next().await.unwrap().events {
                let Some(spine_client::proto::event::Change::Key(change)) = event.change else {
                    panic!("a key was watched")
                };
                versions.push(change.after.unwrap().version);
            }
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    assert!(versions.iter().copied().eq(1..=counted), "{versions:?}");
    cluster.stop().await;
}
