//! The topics of a watch: each tells its changes and no others, goes on from an index, and says how far it has come.

use spine_api::{Context, Registry};
use spine_core::{Command, Dialect, Member, MemberReport, MemberStatus, NodeName};
use spine_proto::v1::{self, event::Change, topic::Topic};
use tonic::Streaming;

use crate::served::{Served, photo, ttl_check};

type Told = Streaming<v1::WatchResponse>;

/// A watch that has said where it begins.
async fn watch(served: &Served, topic: &Topic, from: Option<u64>) -> (Told, u64) {
    let request = v1::WatchRequest {
        topics: vec![v1::Topic {
            topic: Some(topic.clone()),
        }],
        from_index: from,
        progress_interval_ms: 100,
        with_before: true,
        ..v1::WatchRequest::default()
    };
    let mut told = served.watch().watch(request).await.unwrap().into_inner();
    let opening = told.message().await.unwrap().unwrap();
    assert!(opening.events.is_empty());
    (told, opening.index)
}

/// What is told up to an index.
async fn up_to(told: &mut Told, index: u64) -> Vec<v1::Event> {
    let mut events = Vec::new();
    loop {
        let message = told.message().await.unwrap().unwrap();
        events.extend(message.events);
        if message.index >= index {
            return events;
        }
    }
}

/// Watches a topic through a change elsewhere and one of its own, each given as its index; and again from before the second,
/// and from behind it. Gives what was told.
async fn followed(
    served: &Served,
    topic: Topic,
    elsewhere: impl AsyncFnOnce() -> u64,
    change: impl AsyncFnOnce() -> u64,
) -> Vec<Change> {
    let (mut told, begins) = watch(served, &topic, None).await;
    assert_eq!(begins, newest(served));
    let between = elsewhere().await;
    // Progress, and nothing else: the index moves on with what is not told.
    let progress = up_to(&mut told, between).await;
    assert!(progress.is_empty(), "{topic:?}: {progress:?}");
    let changed = change().await;
    let events = up_to(&mut told, changed).await;
    assert!(events.iter().all(|event| event.index == changed), "{events:?}");

    let (mut again, begins) = watch(served, &topic, Some(between)).await;
    assert_eq!(begins, between);
    assert_eq!(up_to(&mut again, changed).await, events);
    let (mut behind, _) = watch(served, &topic, Some(changed)).await;
    let last = served.registry.put_here("last", changed.to_string()).await;
    let progress = up_to(&mut behind, last).await;
    assert!(progress.is_empty(), "{topic:?}: {progress:?}");
    events.into_iter().filter_map(|event| event.change).collect()
}

fn newest(served: &Served) -> u64 {
    served.registry.hub().newest().index().0
}

async fn register(served: &Served, request: v1::RegisterRequest) -> u64 {
    let answer = served.catalog().register(request).await.unwrap().into_inner();
    assert!(answer.changed);
    answer.index
}

/// The instance `p1` with another port or other tags.
fn p1(port: u32, tags: &[&str]) -> v1::RegisterRequest {
    let mut request = photo("p1", "1", 1);
    let service = request.service.as_mut().unwrap();
    service.port = port;
    service.tags = tags.iter().map(ToString::to_string).collect();
    request
}

/// The one change of an instance.
fn instance(changes: &[Change]) -> &v1::InstanceChange {
    let [Change::Instance(change)] = changes else {
        panic!("{changes:?}")
    };
    change
}

fn tags(row: Option<&v1::Instance>) -> &[String] {
    &row.unwrap().service.as_ref().unwrap().tags
}

#[tokio::test]
async fn services_tell_which_there_are_and_their_tags() {
    let served = Served::start().await;
    register(&served, p1(80, &[])).await;
    let changes = followed(
        &served,
        Topic::Services(v1::Services {}),
        async || register(&served, p1(81, &[])).await,
        async || register(&served, p1(81, &["blue"])).await,
    )
    .await;
    let change = instance(&changes);
    assert_eq!((change.service.as_str(), change.id.as_str()), ("photo", "p1"));
    assert_eq!(tags(change.before.as_ref()), [""; 0]);
    assert_eq!(tags(change.after.as_ref()), ["blue"]);
}

#[tokio::test]
async fn instances_tell_all_that_changes_of_them() {
    let served = Served::start().await;
    register(&served, p1(80, &[])).await;
    let node = v1::RegisterRequest {
        node: "m1".into(),
        node_definition: Some(v1::NodeDefinition {
            address: "10.1.0.1".into(),
            ..v1::NodeDefinition::default()
        }),
        ..v1::RegisterRequest::default()
    };
    let changes = followed(
        &served,
        Topic::Instances(v1::Instances {}),
        async || register(&served, node).await,
        async || register(&served, p1(81, &[])).await,
    )
    .await;
    let port = |row: Option<&v1::Instance>| row.unwrap().service.as_ref().unwrap().port;
    let change = instance(&changes);
    assert_eq!(
        (port(change.before.as_ref()), port(change.after.as_ref())),
        (80, 81)
    );

    let gone = v1::DeregisterRequest {
        node: String::new(),
        target: Some(v1::deregister_request::Target::Instance("p1".into())),
    };
    let changes = followed(
        &served,
        Topic::Instances(v1::Instances {}),
        async || served.registry.put_here("k", "1".into()).await,
        async || {
            served
                .catalog()
                .deregister(gone)
                .await
                .unwrap()
                .into_inner()
                .index
        },
    )
    .await;
    let change = instance(&changes);
    assert_eq!((change.service.as_str(), &change.after), ("photo", &None));
}

#[tokio::test]
async fn checks_tell_what_they_say() {
    let served = Served::start().await;
    let request = v1::RegisterRequest {
        checks: vec![ttl_check()],
        ..p1(80, &[])
    };
    register(&served, request).await;
    let report = async |status: v1::Status| {
        let request = v1::UpdateCheckRequest {
            check: "service:p1".into(),
            status: status.into(),
            output: "so it says".into(),
            ..v1::UpdateCheckRequest::default()
        };
        let answer = served.health().update_check(request).await;
        answer.unwrap().into_inner().index
    };
    let changes = followed(
        &served,
        Topic::Checks(v1::Checks {}),
        async || served.registry.put_here("k", "1".into()).await,
        async || report(v1::Status::Passing).await,
    )
    .await;
    let [Change::Check(change)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (change.service.as_str(), change.id.as_str()),
        ("photo", "service:p1")
    );
    let before = change.before.as_ref().unwrap();
    let after = change.after.as_ref().unwrap();
    assert_eq!(
        (before.status(), after.status(), after.output.as_str()),
        (v1::Status::Critical, v1::Status::Passing, "so it says")
    );
}

#[tokio::test]
async fn servers_tell_who_comes_and_who_is_lost() {
    let served = Served::start().await;
    let propose = async |command: Command| {
        let cx = Context::new(Dialect::Internal);
        served.registry.local.propose(&cx, command).await.unwrap().index.0
    };
    let name = NodeName::parse("n2").unwrap();
    let up = Command::MemberUp(Member {
        name: name.clone(),
        id: 2,
        node_uuid: "".into(),
        host: "10.0.0.2".into(),
        peer_address: "10.0.0.2:8300".into(),
        http_address: "".into(),
        grpc_address: "10.0.0.2:8502".into(),
        version: "0.3.0".into(),
        rules: 1,
    });
    let servers = || Topic::Servers(v1::Servers {});
    let changes = followed(
        &served,
        servers(),
        async || register(&served, p1(80, &[])).await,
        async || propose(up).await,
    )
    .await;
    let [Change::Member(change)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!((change.name.as_str(), &change.before), ("n2", &None));
    let row = change.after.as_ref().unwrap();
    assert_eq!((row.grpc_address.as_str(), row.failed), ("10.0.0.2:8502", false));

    let lost = Command::MemberStatus(MemberReport {
        name,
        id: 2,
        status: MemberStatus::Failed,
    });
    let changes = followed(
        &served,
        servers(),
        async || served.registry.put_here("k", "1".into()).await,
        async || propose(lost).await,
    )
    .await;
    let [Change::Member(change)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert!(!change.before.as_ref().unwrap().failed && change.after.as_ref().unwrap().failed);
}
