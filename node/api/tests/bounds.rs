//! The bounds of the ways in over HTTP and of waiting and watching, each gone past from outside: what fits is taken,
//! what lies outside gets the answer that it is to get. Those of the native API are in `native/bounds.rs`.
//!
//! Time stands still and leaps to the next moment that somebody waits for, so a wait of ten minutes takes none.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use spine_api::{
    AdminCommand, AdminOutcome, Context, Error, NodeStatus, Read, Registry, consul, hub::Hub, limits,
    local::Local, ui,
};
use spine_core::{
    Applied, CheckDefinition, CheckId, CheckKind, Command, Delete, Dialect, ExistingChecks, Guard, Index,
    InstanceId, KeyRange, NodeDefinition, NodeName, Put, Register, Renewal, Renewed, Repeat, Service,
    ServiceName, State, Status, Thresholds, Topic, WallTime, Weights, limits::VALUE_BYTES_MAX,
};
use tokio::{sync::watch, time::Instant};
use tower::ServiceExt;

struct Around;

impl consul::Host for Around {
    fn metrics(&self) -> String {
        String::new()
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

fn local() -> Arc<Local> {
    Arc::new(Local::new(NodeName::parse("n1").unwrap()))
}

fn router(registry: Arc<dyn Registry>) -> Router {
    let settings = consul::Settings {
        datacenter: "dc1".into(),
        node: NodeName::parse("n1").unwrap(),
        default_service_ttl: None,
        version: "0".into(),
        host: Arc::new(Around),
    };
    consul::router(registry.clone(), settings).merge(ui::router(registry))
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn get(router: &Router, path: &str) -> Reply {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn put(router: &Router, path: &str, body: impl Into<Body>) -> Reply {
    send(router, Request::put(path).body(body.into()).unwrap()).await
}

async fn change(local: &Local, command: Command) -> Index {
    let cx = Context::new(Dialect::Internal);
    let applied = local.propose(&cx, command).await.unwrap();
    applied.result.unwrap();
    applied.index
}

fn key(name: String) -> Command {
    Command::Put(Put {
        key: name.into(),
        value: "1".into(),
        flags: 0,
        lease: None,
        guard: Guard::Always,
        repeat: Repeat::Skip,
    })
}

/// A body that doesn't say its length, in pieces of `piece` bytes, and how many of its bytes were taken.
fn streamed(bytes: usize, piece: usize) -> (Body, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let pieces = stream::iter((0..bytes).step_by(piece)).map(move |at| {
        let piece = piece.min(bytes - at);
        counter.fetch_add(piece, Ordering::Relaxed);
        Ok::<_, io::Error>(Bytes::from(vec![b'x'; piece]))
    });
    (Body::from_stream(pieces), taken)
}

#[tokio::test]
async fn a_body_may_have_so_many_bytes() {
    let router = router(local());
    let largest = "x".repeat(limits::BODY_BYTES_MAX);
    assert_eq!(put(&router, "/v1/kv/a", largest.clone()).await.text(), "true");
    let refused = put(&router, "/v1/kv/b", largest + "x").await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        refused.text(),
        "Request body(524289 bytes) too large, max size: 524288 bytes"
    );
    assert_eq!(get(&router, "/v1/kv/b").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_body_too_large_is_read_to_its_end_but_not_for_ever() {
    const PIECE: usize = 64 << 10;
    let router = router(local());
    let drained = limits::BODY_DRAINED_TIMES * limits::BODY_BYTES_MAX;
    for (sent, read) in [(drained, drained), (2 * drained, drained + PIECE)] {
        let (body, taken) = streamed(sent, PIECE);
        let refused = put(&router, "/v1/kv/a", body).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(taken.load(Ordering::Relaxed), read, "of {sent}");
    }
}

#[tokio::test]
async fn a_body_in_hex_may_hold_the_largest_value() {
    let router = router(local());
    let value = "61".repeat(VALUE_BYTES_MAX);
    let padded = |bytes: usize| {
        let json = format!("{{\"Value\":\"{value}\"}}");
        let spaces = " ".repeat(bytes - json.len());
        json + &spaces
    };
    let largest = padded(limits::HEX_BODY_BYTES_MAX);
    assert_eq!(put(&router, "/hex/v1/kv/a", largest).await.text(), "true");
    assert_eq!(get(&router, "/v1/kv/a?raw").await.body.len(), VALUE_BYTES_MAX);
    let refused = put(&router, "/hex/v1/kv/b", padded(limits::HEX_BODY_BYTES_MAX + 1)).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        refused.text(),
        "Request body(1048641 bytes) too large, max size: 1048640 bytes"
    );
}

/// No pause between two pieces is long, so it is the body's whole time that ends it.
#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_in_is_given_up() {
    let router = router(local());
    let trickle = |pieces: u32| {
        let pieces = stream::iter(0..pieces).then(async |_| {
            tokio::time::sleep(limits::BODY_TIME_MAX / 10).await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        });
        Body::from_stream(pieces)
    };
    let began = Instant::now();
    assert_eq!(put(&router, "/v1/kv/a", trickle(9)).await.text(), "true");
    assert_eq!(began.elapsed(), limits::BODY_TIME_MAX / 10 * 9);
    let began = Instant::now();
    let refused = put(&router, "/v1/kv/b", trickle(100)).await;
    assert_eq!(began.elapsed(), limits::BODY_TIME_MAX);
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.text(), "Request body could not be read: it took too long");
}

#[tokio::test]
async fn a_reply_is_packed_above_so_many_bytes() {
    let router = router(local());
    for (bytes, packed) in [
        (limits::GZIP_BYTES_MIN, false),
        (limits::GZIP_BYTES_MIN + 1, true),
    ] {
        put(&router, "/v1/kv/a", "x".repeat(bytes)).await;
        let request = Request::get("/v1/kv/a?raw").header("accept-encoding", "gzip");
        let reply = send(&router, request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.headers.contains_key("content-encoding"), packed, "{bytes}");
        assert_eq!(reply.body.len() < bytes, packed);
    }
}

/// A registry whose disk stands still: a proposal has no answer before its deadline.
struct Stalled(Arc<Local>);

#[async_trait]
impl Registry for Stalled {
    async fn propose(&self, cx: &Context, _command: Command) -> Result<Applied, Error> {
        tokio::time::sleep_until(cx.deadline).await;
        Err(Error::Unknown("no answer in time".into()))
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        self.0.renew(cx, renewal).await
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        tokio::time::sleep_until(cx.deadline).await;
        Err(Error::NoLeader)
    }

    fn hub(&self) -> &Hub {
        self.0.hub()
    }

    fn status(&self) -> NodeStatus {
        self.0.status()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.0.ready()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        self.0.admin(cx, command).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_block_is_answered_within_its_deadline() {
    let router = router(Arc::new(Stalled(local())));
    let began = Instant::now();
    let written = put(&router, "/v1/kv/a", "1").await;
    assert_eq!(began.elapsed(), limits::REQUEST_DEADLINE);
    assert_eq!(written.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(written.text(), "outcome unknown: no answer in time");
    assert_eq!(written.headers["x-spine-outcome"], "unknown");
    let began = Instant::now();
    assert_eq!(get(&router, "/v1/kv/a").await.text(), "No cluster leader");
    assert_eq!(began.elapsed(), limits::REQUEST_DEADLINE);
}

/// Waits are spread by up to a sixteenth, and come in whole milliseconds.
fn spread(wait: Duration) -> Range<Duration> {
    wait..wait + wait / 16 + Duration::from_millis(2)
}

#[tokio::test(start_paused = true)]
async fn a_blocking_query_waits_so_long_and_no_longer() {
    let local = local();
    let router = router(local.clone());
    let index = change(&local, key("a".into())).await;
    let waits = [
        ("", limits::WAIT_DEFAULT),
        ("&wait=0s", limits::WAIT_DEFAULT),
        ("&wait=10m", limits::WAIT_MAX),
        ("&wait=601s", limits::WAIT_MAX),
        ("&wait=1000h", limits::WAIT_MAX),
    ];
    for (wait, bound) in waits {
        let began = Instant::now();
        let reply = get(&router, &format!("/v1/kv/a?index={index}{wait}")).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(
            spread(bound).contains(&began.elapsed()),
            "{wait}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_by_hash_waits_no_longer_either() {
    let local = local();
    let router = router(local.clone());
    register(&local, "web", "web-1", "").await;
    let path = "/v1/agent/service/web-1";
    let hash = get(&router, path).await.headers["x-consul-contenthash"].clone();
    let hash = hash.to_str().unwrap();
    for (wait, bound) in [("", limits::WAIT_DEFAULT), ("&wait=1000h", limits::WAIT_MAX)] {
        let began = Instant::now();
        let reply = get(&router, &format!("{path}?hash={hash}{wait}")).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(
            spread(bound).contains(&began.elapsed()),
            "{wait}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_requests_wait_and_no_more() {
    let local = local();
    let router = router(local.clone());
    let index = change(&local, key("a".into())).await;
    let hub = local.hub();
    let mut parked: Vec<_> = (1..limits::WAITERS_MAX)
        .map(|_| hub.enroll(&[Topic::Nodes]).unwrap())
        .collect();
    let blocking = format!("/v1/kv/a?index={index}&wait=1s");
    assert_eq!(
        get(&router, &blocking).await.status,
        StatusCode::OK,
        "the last place"
    );
    parked.push(hub.enroll(&[Topic::Nodes]).unwrap());
    let refused = get(&router, &blocking).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        refused.text(),
        "too many waiting requests: at most 100000 at once"
    );
    // Who doesn't wait is answered, and a place that is given up can be had again.
    assert_eq!(get(&router, "/v1/kv/a").await.status, StatusCode::OK);
    parked.pop();
    assert_eq!(get(&router, &blocking).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_watch_tells_so_many_events_at_once_but_a_request_whole() {
    let local = local();
    let begin = local.hub().newest().index();
    let keys = limits::WATCH_BATCH_EVENTS + 100;
    for n in 0..keys {
        change(&local, key(n.to_string())).await;
    }
    let deleted = change(
        &local,
        Command::Delete(Delete {
            range: KeyRange::all(),
            guard: Guard::Always,
        }),
    )
    .await;
    let mut cursor = local.watch(vec![Topic::Keys(KeyRange::all())], begin);
    let first = cursor.next(None).await.unwrap();
    assert_eq!(first.events.len(), limits::WATCH_BATCH_EVENTS);
    assert_eq!(first.through.0, begin.0 + limits::WATCH_BATCH_EVENTS as u64);
    // The next has room for the first of the deletes, and so holds all of them.
    let second = cursor.next(None).await.unwrap();
    assert_eq!(second.events.len(), 100 + keys);
    assert_eq!(second.through, deleted);
}

#[tokio::test]
async fn so_many_cached_reads_are_remembered() {
    let router = router(local());
    let asked = async |n: usize| {
        let reply = get(&router, &format!("/v1/health/service/s{n}?cached")).await;
        reply.headers["x-cache"].to_str().unwrap().to_owned()
    };
    for n in 0..limits::CACHED_READS_MAX {
        assert_eq!(asked(n).await, "MISS");
    }
    assert_eq!(asked(0).await, "HIT", "all of them are remembered");
    assert_eq!(asked(limits::CACHED_READS_MAX).await, "MISS");
    assert_eq!(asked(0).await, "MISS", "it began anew");
}

/// A filter of nodes: whether it is taken, or what is said.
async fn filter(router: &Router, filter: &str) -> Result<(), String> {
    let escaped = percent_encode(filter.as_bytes(), NON_ALPHANUMERIC);
    let reply = get(router, &format!("/v1/catalog/nodes?filter={escaped}")).await;
    if reply.status == StatusCode::OK {
        return Ok(());
    }
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let said = reply
        .text()
        .strip_prefix("Failed to create boolean expression evaluator: ");
    Err(said.unwrap().to_owned())
}

#[tokio::test]
async fn a_filter_has_bounds() {
    let router = router(local());
    let refused = |text: &str| Err(text.to_owned());

    let long = |bytes: usize| format!("Node == `{}`", "x".repeat(bytes - "Node == ``".len()));
    assert_eq!(filter(&router, &long(limits::FILTER_BYTES_MAX)).await, Ok(()));
    assert_eq!(
        filter(&router, &long(limits::FILTER_BYTES_MAX + 1)).await,
        refused("the expression is 8193 bytes long, at most 8192 are allowed")
    );

    let nested = |depth: usize| format!("{}Node == a{}", "(".repeat(depth), ")".repeat(depth));
    let negated = |depth: usize| format!("{}Node == a", "not ".repeat(depth));
    for deep in [&nested as &(dyn Fn(usize) -> String + Sync), &negated] {
        assert_eq!(filter(&router, &deep(limits::FILTER_DEPTH_MAX)).await, Ok(()));
        assert_eq!(
            filter(&router, &deep(limits::FILTER_DEPTH_MAX + 1)).await,
            refused("the expression nests deeper than 64")
        );
    }

    let regexes = |count: usize| vec!["Node matches x"; count].join(" or ");
    assert_eq!(
        filter(&router, &regexes(limits::FILTER_REGEXES_MAX)).await,
        Ok(())
    );
    assert_eq!(
        filter(&router, &regexes(limits::FILTER_REGEXES_MAX + 1)).await,
        refused("more than 16 regular expressions")
    );

    // Few bytes that stand for a large automaton.
    assert_eq!(filter(&router, "Node matches `x{1000}`").await, Ok(()));
    let said = filter(&router, "Node matches `x{1000}{100}`").await.unwrap_err();
    let bound = limits::FILTER_REGEX_BYTES_MAX;
    assert!(
        said.ends_with(&format!("Compiled regex exceeds size limit of {bound} bytes.")),
        "{said}"
    );
}

async fn register(local: &Local, service: &str, instance: &str, output: &str) {
    let id = InstanceId::parse(instance).unwrap();
    let service = Service {
        id: id.clone(),
        name: ServiceName::parse(service).unwrap(),
        kind: "".into(),
        tags: Vec::new(),
        address: "10.0.0.1".into(),
        tagged_addresses: [].into(),
        port: 80,
        socket_path: "".into(),
        meta: [].into(),
        weights: Weights::default(),
        enable_tag_override: false,
    };
    let check = CheckDefinition {
        id: CheckId::parse(&format!("service:{instance}")).unwrap(),
        name: "alive".into(),
        notes: "".into(),
        service: Some(id),
        status: Some(Status::Passing),
        output: output.into(),
        kind: CheckKind::External,
        deregister_after: None,
        thresholds: Thresholds::default(),
    };
    let register = Register {
        node: NodeName::parse("n1").unwrap(),
        node_update: Some(NodeDefinition {
            address: "127.0.0.1".into(),
            ..NodeDefinition::default()
        }),
        service: Some(service),
        checks: vec![check],
        existing: ExistingChecks::Overwrite,
        heartbeat: None,
    };
    change(local, Command::Register(Box::new(register))).await;
}

/// How many services and instances the UI's page shows.
async fn shown(local: &Arc<Local>) -> (usize, usize) {
    let page = get(&router(local.clone()), "/ui/services").await;
    let count = |mark: &str| page.text().matches(mark).count();
    (
        count("<ul class=\"instances\">"),
        count("<code>10.0.0.1:80</code>"),
    )
}

#[tokio::test]
async fn the_page_shows_so_much() {
    let many = local();
    for n in 0..=limits::UI_SERVICES_MAX {
        register(&many, &format!("s{n:04}"), &format!("s{n:04}-1"), "").await;
    }
    assert_eq!(
        shown(&many).await,
        (limits::UI_SERVICES_MAX, limits::UI_SERVICES_MAX)
    );

    let large = local();
    let output = "o".repeat(limits::UI_OUTPUT_BYTES_MAX);
    for n in 0..=limits::UI_SERVICE_INSTANCES_MAX {
        register(&large, "web", &format!("web-{n}"), &format!("{output}LEFT OUT")).await;
    }
    assert_eq!(shown(&large).await, (1, limits::UI_SERVICE_INSTANCES_MAX));
    let page = get(&router(large), "/ui/services").await;
    assert!(page.text().contains(&format!("{output}…")) && !page.text().contains("LEFT OUT"));

    let wide = local();
    let services = limits::UI_INSTANCES_MAX / limits::UI_SERVICE_INSTANCES_MAX + 2;
    for service in 0..services {
        for n in 0..limits::UI_SERVICE_INSTANCES_MAX {
            register(&wide, &format!("s{service}"), &format!("s{service}-{n}"), "").await;
        }
    }
    assert_eq!(shown(&wide).await, (services, limits::UI_INSTANCES_MAX));
}
