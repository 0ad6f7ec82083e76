//! Three nodes in one process: what one of them leads is on all of them, and goes on without it.

mod support;

use std::time::Duration;

use prost::Message;
use spine_api::{Blocking, Consistency, Context, Error, Read};
use spine_core::{GetKey, Index, RULES_KNOWN};
use spine_node::limits::{HELLO_BYTES_MAX, MEMBERSHIP_BYTES_MAX, PEER_MESSAGE_BYTES_MAX};
use spine_proto::internal::v1::{
    self, entry::Payload, hello_client::HelloClient, join_response::Result as JoinResult,
    members_client::MembersClient, raft_client::RaftClient,
};
use support::{cluster::Cluster, cx, write};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Endpoint};

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_applied_on_all_and_survive_the_leader() {
    let mut cluster = Cluster::start().await;
    let first = cluster.leader_among(&[0, 1, 2]).await;
    for number in 0..200 {
        write(&*cluster.registry(first), &format!("k{number}"), vec![7; 300]).await;
    }
    cluster.until_equal(&[0, 1, 2]).await;

    // The leader goes; another leads, and takes writes.
    cluster.halt(first).await;
    let rest: Vec<_> = (0..3).filter(|node| *node != first).collect();
    let began = Instant::now();
    let second = cluster.leader_among(&rest).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "another leads after {took:?}");
    for number in 0..200 {
        write(&*cluster.registry(second), &format!("k{number}"), vec![8; 300]).await;
    }
    cluster.until_equal(&rest).await;

    // It comes back and catches up.
    cluster.revive(first).await;
    write(&*cluster.registry(second), "back", "again").await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_many_megabytes_pass_within_the_bounds_of_a_message() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    cluster.halt(away).await;
    for number in 0..24 {
        write(
            &*cluster.registry(leader),
            &format!("large{number}"),
            vec![number; 500 << 10],
        )
        .await;
    }
    cluster.revive(away).await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    write(&*cluster.registry(leader), "before", "handover").await;
    let began = Instant::now();
    let next = cluster.node(leader).hand_over().await.unwrap();
    println!("handed over within {:?}", began.elapsed());
    assert_ne!(next.name, format!("n{leader}"));
    let now = cluster.leader_among(&[0, 1, 2]).await;
    write(&*cluster.registry(now), "after", "handover").await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

/// Waits at a node for a key to become newer than that.
fn wait_for(
    cluster: &Cluster,
    node: usize,
    consistency: Consistency,
    floor: Index,
) -> JoinHandle<Result<Index, Error>> {
    let registry = cluster.registry(node);
    tokio::spawn(async move {
        let cx = Context { consistency, ..cx() };
        let blocking = Blocking {
            floor,
            until: Instant::now() + Duration::from_hours(1),
        };
        let answer = registry.read(&cx, &GetKey("k".into()), Some(blocking)).await;
        answer.map(|answer| answer.index)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_a_node_that_has_lost_the_others_is_told() {
    let mut cluster = Cluster::start().await;
    for leads in [true, false] {
        let leader = cluster.leader_among(&[0, 1, 2]).await;
        let left = if leads { leader } else { (leader + 1) % 3 };
        let others = (0..3).filter(|node| *node != left);
        let floor = write(&*cluster.registry(left), "k", format!("{leads}"))
            .await
            .index;
        let waited = cluster.registry(left).hub().waiting();
        let fresh = wait_for(&cluster, left, Consistency::Linearizable, floor);
        let stale = wait_for(&cluster, left, Consistency::Stale, floor);
        let wait = async {
            while cluster.registry(left).hub().waiting() < waited + 2 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), wait).await.expect("they wait");
        for other in others.clone() {
            cluster.halt(other).await;
        }
        let told = timeout(Duration::from_secs(30), fresh).await;
        let told = told.expect("it does not wait for nothing").unwrap();
        assert_eq!(told, Err(Error::NoLeader), "leads: {leads}");
        assert!(!stale.is_finished());
        stale.abort();
        let status = cluster.registry(left).status();
        assert!(!status.ready && status.leader.is_none(), "{status:?}");
        assert!(status.last_contact > Some(Duration::from_secs(1)), "{status:?}");
        for other in others {
            cluster.revive(other).await;
        }
        cluster.until_ready(left).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_may_be_longer_than_the_deadline_of_a_call() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let registry = cluster.registry((leader + 1) % 3);
    let floor = write(&*registry, "k", "1").await.index;
    let began = cx();
    let blocking = Blocking {
        floor,
        until: began.deadline + Duration::from_millis(1),
    };
    let answer = registry.read(&began, &GetKey("k".into()), Some(blocking)).await;
    assert_eq!(answer.map(|answer| answer.index), Ok(floor));
    cluster.stop().await;
}

/// A message with so much in it that it has so many bytes.
fn filled<T: Message>(bytes: usize, with: impl Fn(usize) -> T) -> T {
    let beside = with(bytes).encoded_len() - bytes;
    let message = with(bytes - beside);
    assert_eq!(message.encoded_len(), bytes);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_peers_have_bounds() {
    let cluster = Cluster::start().await;
    let address = cluster.node(0).peer_address().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();

    let append = |bytes: usize| {
        let entry = v1::Entry {
            log_id: None,
            payload: Some(Payload::Normal(vec![0; bytes].into())),
        };
        v1::AppendRequest {
            entries: vec![entry],
            ..v1::AppendRequest::default()
        }
    };
    let mut raft = RaftClient::new(channel.clone());
    // What is read is refused because it doesn't say who sends it.
    for (bytes, code) in [
        (PEER_MESSAGE_BYTES_MAX, Code::InvalidArgument),
        (PEER_MESSAGE_BYTES_MAX + 1, Code::OutOfRange),
    ] {
        let refused = raft.heartbeat(filled(bytes, append)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{bytes}: {refused}");
    }

    let hello = |bytes: usize| v1::HelloRequest {
        me: Some(v1::Introduction {
            name: "x".repeat(bytes),
            ..v1::Introduction::default()
        }),
        ..v1::HelloRequest::default()
    };
    let join = |bytes: usize| v1::JoinRequest {
        me: Some(v1::Server {
            name: "x".repeat(bytes),
            ..v1::Server::default()
        }),
        ..v1::JoinRequest::default()
    };
    let mut client = MembersClient::new(channel.clone());
    // What is read is refused because it has no address.
    for (bytes, code) in [
        (MEMBERSHIP_BYTES_MAX, Code::InvalidArgument),
        (MEMBERSHIP_BYTES_MAX + 1, Code::OutOfRange),
    ] {
        let refused = client.join(filled(bytes, join)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{bytes}: {refused}");
    }

    let mut client = HelloClient::new(channel);
    let read = client.hello(filled(HELLO_BYTES_MAX, hello)).await;
    assert!(
        !matches!(&read, Err(refused) if refused.code() == Code::OutOfRange),
        "{read:?}"
    );
    let refused = client
        .hello(filled(HELLO_BYTES_MAX + 1, hello))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    cluster.stop().await;
}

/// A release that doesn't say which rules it knows knows the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_older_release_has_no_part_once_newer_rules_are_in_force() {
    let cluster = Cluster::start().await;
    for at in 0..3 {
        let mut applied = cluster.node(at).applied();
        let raised = applied.wait_for(|applied| applied.state.rules() == RULES_KNOWN);
        timeout(Duration::from_secs(30), raised)
            .await
            .expect("in time")
            .expect("it runs");
    }
    for at in 0..3 {
        let address = cluster.node(at).peer_address().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let join = v1::JoinRequest {
            me: Some(v1::Server {
                name: "old".into(),
                peer_address: "127.0.0.1:1".into(),
            }),
            node_id: 77,
            ..v1::JoinRequest::default()
        };
        let answer = MembersClient::new(channel.clone()).join(join).await.unwrap();
        let refused = answer.into_inner().result;
        assert!(
            matches!(&refused, Some(JoinResult::Refused(why)) if why.contains("old runs an older release")),
            "{refused:?}"
        );
        let hello = v1::HelloRequest {
            me: Some(v1::Introduction {
                name: "n1".into(),
                ..v1::Introduction::default()
            }),
            ..v1::HelloRequest::default()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        // It is known to the port a moment after it is applied; before, what lacks is something else.
        loop {
            let refused = HelloClient::new(channel.clone())
                .hello(hello.clone())
                .await
                .unwrap_err();
            if refused.code() == Code::FailedPrecondition {
                assert!(
                    refused.message().contains("start it with a newer release"),
                    "{refused}"
                );
                break;
            }
            assert!(Instant::now() < deadline, "{refused}");
            sleep(Duration::from_millis(10)).await;
        }
    }
    cluster.stop().await;
}

/// Whoever is not of this cluster, or means another node, is told so.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let cluster = Cluster::start().await;
    let node = cluster.node(0);
    let identity = node.identity();
    let uri = format!("http://{}", node.peer_address().unwrap());
    let endpoint = Endpoint::from_shared(uri).unwrap();
    let mut client = RaftClient::new(endpoint.connect().await.unwrap());
    let header = v1::Header {
        cluster_id: identity.cluster.0.to_be_bytes().to_vec().into(),
        from: cluster.node(1).identity().node,
        to: identity.node,
        boot: cluster.node(1).boot_number(),
    };
    let mut another_cluster = header.clone();
    another_cluster.cluster_id = vec![7; 16].into();
    let mut another_node = header.clone();
    another_node.to = 77;
    let mut another_sender = header.clone();
    another_sender.from = 77;
    let headers = [
        (None, Code::InvalidArgument, "a request without a header"),
        (
            Some(another_cluster),
            Code::FailedPrecondition,
            "this server is of cluster",
        ),
        (Some(another_node), Code::FailedPrecondition, "this is node"),
        (
            Some(another_sender),
            Code::FailedPrecondition,
            "node 000000000000004d is not a member",
        ),
        // It is heard, and what it says makes no sense.
        (Some(header), Code::InvalidArgument, "malformed vote"),
    ];
    for (header, code, text) in headers {
        let request = v1::VoteRequest {
            header,
            ..v1::VoteRequest::default()
        };
        let refused = client.pre_vote(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().starts_with(text), "{refused}");
    }
    cluster.stop().await;
}
