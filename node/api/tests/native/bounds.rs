//! The bounds of the native API, each gone past by a client.

use std::{sync::Arc, time::Duration};

use prost::Message;
use spine_api::{limits, native};
use spine_core::limits::VALUE_BYTES_MAX;
use spine_proto::v1::{
    self, admin_client::AdminClient, catalog_client::CatalogClient, event::Change, kv_client::KvClient,
    save_snapshot_response::Part, topic::Topic, watch_client::WatchClient,
};
use tokio::time::Instant;
use tonic::{Code, Request, Status, client::Grpc, service::Routes};
use tonic_prost::ProstCodec;

use crate::served::{Scripted, Served, photo, prefix, put};

/// The API without a connection: where time stands still nobody waits for a socket.
pub(crate) async fn served_here() -> (Arc<Scripted>, Routes) {
    let registry = Arc::new(Scripted::new().await);
    let routes = native::services(registry.clone(), native::Settings::default());
    (registry, routes)
}

/// A put whose message has so many bytes.
pub(crate) fn put_of(bytes: usize) -> v1::PutRequest {
    let mut request = put("k", "");
    request.value = vec![0; bytes].into();
    while request.encoded_len() > bytes {
        request.value.truncate(request.value.len() - 1);
    }
    request
}

/// Calls a method with a message that is none of its own; its size is looked at first.
async fn call(served: &Served, method: &'static str, message: v1::PutRequest) -> Result<(), Status> {
    let mut grpc = Grpc::new(served.channel.clone());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<v1::PutRequest, v1::PutResponse>::default();
    let path = http::uri::PathAndQuery::from_static(method);
    grpc.unary(Request::new(message), path, codec).await.map(drop)
}

#[tokio::test]
async fn no_service_takes_a_message_above_the_bound() {
    let served = Served::start().await;
    for method in [
        "/spine.v1.KV/Put",
        "/spine.v1.Catalog/Register",
        "/spine.v1.Health/UpdateCheck",
        "/spine.v1.Lease/Grant",
        "/spine.v1.Lock/Acquire",
        "/spine.v1.Election/Campaign",
        "/spine.v1.Members/ListMembers",
        "/spine.v1.Watch/Watch",
        "/spine.v1.Admin/SaveSnapshot",
        "/grpc.health.v1.Health/Check",
    ] {
        let too_large = call(&served, method, put_of(limits::GRPC_MESSAGE_BYTES_MAX + 1)).await;
        let status = too_large.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{method}: {status}");
        let said = "found 2097153 bytes, the limit is: 2097152 bytes";
        assert!(status.message().ends_with(said), "{method}: {status}");
        let largest = call(&served, method, put_of(limits::GRPC_MESSAGE_BYTES_MAX)).await;
        assert!(
            !matches!(&largest, Err(status) if status.code() == Code::OutOfRange),
            "{method}: {largest:?}"
        );
    }
    // What is within the bound is read, and judged by the rules.
    let status = call(
        &served,
        "/spine.v1.KV/Put",
        put_of(limits::GRPC_MESSAGE_BYTES_MAX),
    )
    .await;
    let status = status.unwrap_err();
    assert_eq!(
        status.metadata().get("spine-code").unwrap(),
        "too_large",
        "{status}"
    );
    let mut largest = put("k", "");
    largest.value = vec![0; VALUE_BYTES_MAX].into();
    served.kv().put(largest).await.unwrap();
}

/// Reflection ends its stream where it can't read a message, and says nothing.
#[tokio::test]
async fn reflection_takes_no_message_above_the_bound() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let served = Served::start().await;
    let mut reflection = ServerReflectionClient::new(served.channel.clone());
    for (bytes, is_read) in [
        (limits::GRPC_MESSAGE_BYTES_MAX / 2, true),
        (limits::GRPC_MESSAGE_BYTES_MAX, false),
    ] {
        let request = ServerReflectionRequest {
            host: "x".repeat(bytes),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answers = reflection
            .server_reflection_info(futures::stream::iter([request]))
            .await;
        let answer = answers.unwrap().into_inner().message().await.unwrap();
        assert_eq!(answer.is_some(), is_read, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_given_so_much_time() {
    let (registry, routes) = served_here().await;
    let budget = async |timeout: Option<Duration>| {
        let mut request = Request::new(put("a", "1"));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        KvClient::new(routes.clone()).put(request).await.unwrap();
        registry.last_call().0
    };
    assert_eq!(budget(None).await, limits::REQUEST_DEADLINE);
    // A tenth of a second is left for the answer.
    let longest = limits::REQUEST_DEADLINE_MAX;
    let answered = longest.saturating_sub(Duration::from_millis(100));
    for asked in [longest, longest + Duration::from_secs(1), 1_000 * longest] {
        assert_eq!(budget(Some(asked)).await, answered, "{asked:?}");
    }
    let shorter = longest / 2;
    assert!(budget(Some(shorter)).await < shorter);
}

#[tokio::test]
async fn a_page_has_so_many_rows() {
    let (registry, routes) = served_here().await;
    for n in 0..=limits::PAGE_ROWS_MAX {
        let key: &'static str = format!("k{n:05}").leak();
        registry.put_here(key, "1".into()).await;
    }
    let mut kv = KvClient::new(routes);
    for limit in [0, 1_000_000] {
        let request = v1::ListRequest {
            range: Some(prefix("k")),
            limit,
            ..v1::ListRequest::default()
        };
        let page = kv.list(request).await.unwrap().into_inner();
        assert_eq!(page.kvs.len(), limits::PAGE_ROWS_MAX);
        assert_eq!(page.next.unwrap(), format!("k{:05}", limits::PAGE_ROWS_MAX));
    }
}

/// Bytes of messages, and what one more would make of them.
fn fills(rows: &[impl Message], bytes_max: usize) -> bool {
    let bytes: usize = rows.iter().map(Message::encoded_len).sum();
    let more = bytes + rows.first().unwrap().encoded_len();
    (bytes..more).contains(&bytes_max)
}

#[tokio::test]
async fn a_page_and_a_message_of_a_watch_have_so_many_bytes() {
    let (registry, routes) = served_here().await;
    // All of the same size, and fewer than a page has rows.
    for n in 0..100 {
        let key: &'static str = format!("k{n:05}").leak();
        registry
            .put_here(key, "x".repeat(limits::PAGE_BYTES_MAX / 60))
            .await;
    }
    let request = v1::ListRequest {
        range: Some(prefix("k")),
        ..v1::ListRequest::default()
    };
    let page = KvClient::new(routes.clone())
        .list(request)
        .await
        .unwrap()
        .into_inner();
    assert!(
        page.next.is_some() && fills(&page.kvs, limits::PAGE_BYTES_MAX),
        "{}",
        page.kvs.len()
    );

    let mut told = watch(routes, everything(1), 0).await.unwrap();
    told.message().await.unwrap().unwrap();
    let message = told.message().await.unwrap().unwrap();
    let keys: Vec<_> = message
        .events
        .into_iter()
        .filter(|event| matches!(event.change, Some(Change::Key(_))))
        .collect();
    assert!(
        keys.len() < 100 && fills(&keys, limits::PAGE_BYTES_MAX),
        "{}",
        keys.len()
    );
}

fn everything(topics: usize) -> Vec<v1::Topic> {
    let everything = v1::Topic {
        topic: Some(Topic::Everything(v1::Everything {})),
    };
    vec![everything; topics]
}

/// A watch from the beginning.
async fn watch(
    routes: Routes,
    topics: Vec<v1::Topic>,
    progress_interval_ms: u64,
) -> Result<tonic::Streaming<v1::WatchResponse>, Status> {
    let request = v1::WatchRequest {
        topics,
        from_index: Some(0),
        progress_interval_ms,
        ..v1::WatchRequest::default()
    };
    let answer = WatchClient::new(routes).watch(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_watch_has_so_many_topics() {
    let (_, routes) = served_here().await;
    let most = watch(routes.clone(), everything(limits::WATCH_TOPICS_MAX), 0).await;
    assert!(most.is_ok());
    let refused = watch(routes, everything(limits::WATCH_TOPICS_MAX + 1), 0)
        .await
        .unwrap_err();
    assert_eq!(refused.metadata().get("spine-code").unwrap(), "too_many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_neither_too_often_nor_too_seldom_that_nothing_happens() {
    for (asked, bound) in [
        (1, limits::WATCH_PROGRESS_MIN),
        (u64::MAX, limits::WATCH_PROGRESS_MAX),
    ] {
        let (_, routes) = served_here().await;
        let nothing = v1::Topic {
            topic: Some(Topic::Keys(prefix("none"))),
        };
        let mut told = watch(routes, vec![nothing], asked).await.unwrap();
        told.message().await.unwrap().unwrap();
        for _ in 0..3 {
            let began = Instant::now();
            let progress = told.message().await.unwrap().unwrap();
            assert!(progress.events.is_empty());
            assert_eq!(began.elapsed(), bound);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_refused_where_too_many_wait() {
    let (registry, routes) = served_here().await;
    let hub = spine_api::Registry::hub(&*registry);
    let parked: Vec<_> = (0..limits::WAITERS_MAX)
        .map(|_| hub.enroll(&[spine_core::Topic::Nodes]).unwrap())
        .collect();
    let mut told = watch(routes, everything(1), 0).await.unwrap();
    told.message().await.unwrap().unwrap();
    let status = told.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.metadata().get("spine-code").unwrap(), "overloaded");
    drop(parked);
}

/// More than connections and queues hold on their own.
async fn fill(registry: &Scripted) {
    for key in ["a", "b", "c", "d", "e", "f"] {
        registry.put_here(key, "x".repeat(VALUE_BYTES_MAX)).await;
    }
}

#[tokio::test]
async fn so_many_snapshots_are_sent_at_once() {
    let (registry, routes) = served_here().await;
    fill(&registry).await;
    let mut admin = AdminClient::new(routes);
    let mut sending = Vec::new();
    for _ in 0..limits::SNAPSHOTS_SENT_MAX {
        let request = v1::SaveSnapshotRequest::default();
        sending.push(admin.save_snapshot(request).await.unwrap().into_inner());
    }
    let refused = admin.save_snapshot(v1::SaveSnapshotRequest::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.metadata().get("spine-code").unwrap(), "overloaded");
    // One that was given up makes room for another, as soon as that is noticed.
    sending.pop();
    while admin
        .save_snapshot(v1::SaveSnapshotRequest::default())
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_a_snapshot_is_cut_off() {
    let (registry, routes) = served_here().await;
    fill(&registry).await;
    let mut admin = AdminClient::new(routes);
    let request = v1::SaveSnapshotRequest::default();
    let mut parts = admin.save_snapshot(request).await.unwrap().into_inner();
    for _ in 0..3 {
        // As long as it takes something it may take its time.
        tokio::time::sleep(limits::SNAPSHOT_PAUSE_MAX / 10 * 9).await;
        parts.message().await.unwrap().unwrap();
    }
    tokio::time::sleep(limits::SNAPSHOT_PAUSE_MAX + Duration::from_secs(1)).await;
    let status = loop {
        match parts.message().await {
            Ok(Some(part)) => assert!(!matches!(part.part, Some(Part::End(_)))),
            Ok(None) => panic!("it says why it ends"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert_eq!(status.metadata().get("spine-code").unwrap(), "slow_reader");
}

/// What most clients take as a message.
const USUAL_MESSAGE_BYTES_MAX: usize = 4 << 20;

async fn resolve(catalog: &mut CatalogClient<Routes>) -> v1::ResolveResponse {
    let request = v1::ResolveRequest {
        service: "photo".into(),
        ..v1::ResolveRequest::default()
    };
    let answer = catalog.resolve(request).await.unwrap().into_inner();
    assert!(answer.encoded_len() < USUAL_MESSAGE_BYTES_MAX);
    answer
}

#[tokio::test]
async fn a_service_resolves_to_so_many_targets() {
    let (_, routes) = served_here().await;
    let mut catalog = CatalogClient::new(routes);
    for n in 0..limits::TARGETS_MAX {
        catalog.register(photo(&format!("p{n}"), "1", 1)).await.unwrap();
    }
    let answer = resolve(&mut catalog).await;
    assert_eq!((answer.targets.len(), answer.more), (limits::TARGETS_MAX, false));
    catalog.register(photo("one-more", "1", 1)).await.unwrap();
    let answer = resolve(&mut catalog).await;
    assert_eq!((answer.targets.len(), answer.more), (limits::TARGETS_MAX, true));
    assert_eq!(answer.registered as usize, limits::TARGETS_MAX + 1);
}

#[tokio::test]
async fn a_service_resolves_to_so_many_bytes() {
    let (_, routes) = served_here().await;
    let mut catalog = CatalogClient::new(routes);
    // All of the same size.
    for n in 0..100 {
        let mut request = photo(&format!("p{n:02}"), "1", 1);
        request.service.as_mut().unwrap().address = "x".repeat(limits::TARGETS_BYTES_MAX / 60);
        catalog.register(request).await.unwrap();
    }
    let answer = resolve(&mut catalog).await;
    assert!(
        fills(&answer.targets, limits::TARGETS_BYTES_MAX),
        "{}",
        answer.targets.len()
    );
    assert_eq!((answer.registered, answer.more), (100, true));
}

/// Rows to which many registrations add: alone on a page they would have no bound.
#[tokio::test]
async fn the_tags_of_a_service_and_the_checks_of_an_instance_have_so_many_bytes() {
    let (_, routes) = served_here().await;
    let mut catalog = CatalogClient::new(routes);
    for n in 0..20 {
        let mut request = photo(&format!("p{n:02}"), "1", 1);
        request.service.as_mut().unwrap().tags = vec![format!("{n:02}{}", "x".repeat(100 << 10))];
        catalog.register(request).await.unwrap();
    }
    let request = v1::ListServicesRequest {
        after: "consul".into(),
        ..v1::ListServicesRequest::default()
    };
    let page = catalog.list_services(request).await.unwrap().into_inner();
    let summary = &page.services[0];
    assert!(
        fills(&summary.tags, limits::PAGE_BYTES_MAX),
        "{}",
        summary.tags.len()
    );
    assert_eq!(summary.passing, 20, "all are counted");

    for n in 0..15 {
        let check = |i: usize| v1::CheckDefinition {
            id: format!("c{n:02}-{i:02}"),
            judges_node: true,
            status: v1::Status::Passing.into(),
            output: "x".repeat(4 << 10),
            ..v1::CheckDefinition::default()
        };
        let request = v1::RegisterRequest {
            checks: (0..20).map(check).collect(),
            ..v1::RegisterRequest::default()
        };
        catalog.register(request).await.unwrap();
    }
    let last = v1::CheckDefinition {
        id: "last".into(),
        judges_node: true,
        status: v1::Status::Warning.into(),
        ..v1::CheckDefinition::default()
    };
    let request = v1::RegisterRequest {
        checks: vec![last],
        ..v1::RegisterRequest::default()
    };
    catalog.register(request).await.unwrap();
    let request = v1::ServiceInstancesRequest {
        service: "photo".into(),
        ..v1::ServiceInstancesRequest::default()
    };
    let page = catalog.service_instances(request).await.unwrap().into_inner();
    assert!(page.more && page.encoded_len() < USUAL_MESSAGE_BYTES_MAX);
    let endpoint = &page.endpoints[0];
    assert!(
        fills(&endpoint.checks, limits::PAGE_BYTES_MAX),
        "{}",
        endpoint.checks.len()
    );
    assert_eq!(endpoint.status(), v1::Status::Warning, "all are judged by");
}

/// A lease, and the channel-less lock service.
async fn leased(routes: &Routes) -> bytes::Bytes {
    let request = v1::LeaseGrantRequest {
        ttl_ms: 10_000,
        ..v1::LeaseGrantRequest::default()
    };
    let granted = v1::lease_client::LeaseClient::new(routes.clone())
        .grant(request)
        .await;
    granted.unwrap().into_inner().id
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_waited_for_so_long() {
    let (_registry, routes) = served_here().await;
    let mut lock = v1::lock_client::LockClient::new(routes.clone());
    let acquire = |lease, wait_ms| v1::LockAcquireRequest {
        name: "job".into(),
        lease,
        wait_ms,
        keep_place: true,
    };
    let first = lock
        .acquire(acquire(leased(&routes).await, 0))
        .await
        .unwrap()
        .into_inner();
    assert!(first.acquired);
    let other = leased(&routes).await;
    for (asked, waited) in [(1_000, Duration::from_secs(1)), (u64::MAX, limits::LOCK_WAIT_MAX)] {
        let began = Instant::now();
        let answer = lock
            .acquire(acquire(other.clone(), asked))
            .await
            .unwrap()
            .into_inner();
        assert!(!answer.acquired);
        assert_eq!(began.elapsed(), waited);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_something_every_so_often() {
    let (_registry, routes) = served_here().await;
    let mut election = v1::election_client::ElectionClient::new(routes);
    let request = v1::ObserveRequest { name: "job".into() };
    let mut told = election.observe(request).await.unwrap().into_inner();
    assert_eq!(told.message().await.unwrap().unwrap().leader, None);
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(told.message().await.unwrap().unwrap().leader, None);
        assert_eq!(began.elapsed(), limits::OBSERVE_PROGRESS);
    }
}
