//! Servers compare what they hold: one that has gone astray ends, and nobody else does.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::{path::Path, time::Duration};

use futures::FutureExt;
use prost::Message;
use spine_core::{Command, Entry, Index, Request, Time, WallTime};
use spine_node::{World, limits::DIGESTS_BYTES_MAX, raft::checkpoint::Checkpoints};
use spine_proto::internal::v1::{Header, MarksRequest, digests_client::DigestsClient};
use support::{cluster::Cluster, write};
use tokio::time::timeout;
use tonic::{Code, transport::Endpoint};

/// Puts, many at once, until the index has passed a multiple of 1,000.
async fn write_past_a_mark(cluster: &Cluster, leader: usize) {
    let registry = cluster.registry(leader);
    let begun = registry.hub().newest().index();
    while registry.hub().newest().index() < Index(begun.0 + 1_000) {
        let keys: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
        let value = registry.hub().newest().index().to_string();
        let puts = keys.iter().map(|key| write(&*registry, key, value.clone()));
        futures::future::join_all(puts).await;
    }
}

/// Puts one request more into the state from which the node in `directory` goes on.
fn plant(directory: &Path) {
    let checkpoints = Checkpoints::new((World::real().engine)(&directory.join("checkpoint")).unwrap());
    let mut loaded = checkpoints.load().unwrap().expect("it was started before");
    loaded.applied.state.apply(&Entry {
        time: Time(0),
        wall: WallTime(0),
        requests: vec![Request::internal(Command::OpenSession)],
    });
    checkpoints.write(&loaded.identity, &loaded.applied, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_most_others_contradict_ends_and_they_go_on() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    write_past_a_mark(&cluster, leader).await;
    let astray = (leader + 1) % 3;
    let right = 3 - leader - astray;
    cluster.halt(astray).await;
    plant(cluster.directory(astray));
    cluster.revive(astray).await;

    let reason = timeout(Duration::from_secs(30), cluster.node(astray).fatal());
    let reason = reason.await.expect("it ends");
    assert!(
        reason.contains("contradicts this one's state: here digest"),
        "{reason}"
    );
    cluster.halt(astray).await;

    // The others noticed, and serve.
    let leader = cluster.leader_among(&[leader, right]).await;
    write_past_a_mark(&cluster, leader).await;
    cluster.until_equal(&[leader, 3 - leader - astray]).await;
    for number in [leader, 3 - leader - astray] {
        assert_eq!(cluster.node(number).fatal().now_or_never(), None);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_about_digests_have_a_bound() {
    let cluster = Cluster::start().await;
    let address = cluster.node(0).peer_address().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = DigestsClient::new(endpoint.connect().await.unwrap());
    let request = |id: usize| MarksRequest {
        header: Some(Header {
            cluster_id: vec![0; id].into(),
            ..Header::default()
        }),
        after: 0,
    };
    let beside = request(DIGESTS_BYTES_MAX).encoded_len() - DIGESTS_BYTES_MAX;
    let refused = client
        .marks(request(DIGESTS_BYTES_MAX - beside))
        .await
        .unwrap_err();
    // It is read, and it is of another cluster.
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = client.marks(request(DIGESTS_BYTES_MAX)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    cluster.stop().await;
}
