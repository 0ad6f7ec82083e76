//! Probes: what each kind sees of a target, where none of them goes, and who runs which check how often.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "targets of probes are part of the world outside"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use spine_api::{Context, Registry, local::Local};
use spine_core::{
    Check, CheckDefinition, CheckId, CheckKey, CheckKind, Command, Dialect, ExistingChecks, GrpcProbe,
    HttpProbe, Member, NodeDefinition, NodeName, Pace, Register, Status, TcpProbe, Thresholds, Ttl,
};
use spine_node::{
    limits::{PROBE_ANSWER_BYTES_MAX, PROBE_RUNS_MAX},
    metrics_sink::Uncounted,
    probe::{Finding, Guard, NetProber, ProbeMetrics, Prober, Probes},
    world::{net::OsNet, rng::OsRng},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PACE: Pace = Pace {
    interval: Ttl::seconds(10),
    timeout: Ttl::seconds(5),
};

fn prober() -> NetProber {
    NetProber::new(Arc::new(OsNet), Guard::new(None, []))
}

fn http(url: &str) -> HttpProbe {
    HttpProbe {
        url: url.into(),
        method: "".into(),
        header: BTreeMap::new(),
        body: "".into(),
        tls_skip_verify: false,
        tls_server_name: "".into(),
        disable_redirects: false,
        pace: PACE,
    }
}

/// A target that answers each connection with `answer` and closes it; tells what it was asked.
async fn target(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = head(&mut stream).await;
            heard.lock().push(request);
            let _ = stream.write_all(answer).await;
        }
    });
    (address, asked)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn ask(probe: HttpProbe) -> Finding {
    prober().run(&CheckKind::Http(probe)).await
}

#[tokio::test]
async fn http_passes_with_2xx_warns_with_429_and_is_critical_with_all_else() {
    for (line, status) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"[..],
            Status::Passing,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Status::Passing),
        (
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
            Status::Warning,
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            Status::Critical,
        ),
        (
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            Status::Critical,
        ),
        (b"not HTTP at all\r\n\r\n", Status::Critical),
        (b"", Status::Critical),
    ] {
        let (address, _) = target(line).await;
        let finding = ask(http(&format!("http://{address}/health"))).await;
        assert_eq!(finding.status, status, "{}", finding.output);
        assert!(
            finding
                .output
                .starts_with(&format!("HTTP GET http://{address}/health: ")),
            "{}",
            finding.output
        );
    }
    let (address, _) = target(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await;
    let finding = ask(http(&format!("http://{address}/health"))).await;
    assert_eq!(
        &*finding.output,
        format!("HTTP GET http://{address}/health: 200 OK Output: fine")
    );
}

#[tokio::test]
async fn a_redirect_is_critical_and_never_followed() {
    let (elsewhere, asked_elsewhere) = target(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let (address, _) = target(answer.leak().as_bytes()).await;
    let finding = ask(http(&format!("http://{address}/"))).await;
    assert_eq!(finding.status, Status::Critical);
    assert!(finding.output.contains("302 Found"), "{}", finding.output);
    assert!(asked_elsewhere.lock().is_empty());
}

#[tokio::test]
async fn the_request_is_as_the_check_says() {
    let (address, asked) = target(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut probe = http(&format!("http://user:secret@{address}/a?b=c#d"));
    probe.method = "POST".into();
    probe.body = "hello".into();
    probe.header.insert("X-Two".into(), vec!["1".into(), "2".into()]);
    probe.header.insert("Host".into(), vec!["named.example".into()]);
    let finding = ask(probe).await;
    assert_eq!(finding.status, Status::Passing, "{}", finding.output);
    assert!(!finding.output.contains("secret"), "{}", finding.output);
    let asked = asked.lock().join("").to_lowercase();
    for line in [
        "post /a?b=c http/1.1\r\n",
        "x-two: 1\r\n",
        "x-two: 2\r\n",
        "host: named.example\r\n",
        "content-length: 5\r\n",
        "authorization: basic dxnlcjpzzwnyzxq=\r\n",
        "connection: close\r\n",
    ] {
        assert!(asked.contains(line), "{line} is not in {asked}");
    }
}

#[tokio::test]
async fn of_an_endless_body_a_beginning_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut sent = 0_u64;
        // Ends when the probe hangs up.
        while stream.write_all(&vec![b'x'; 1 << 16]).await.is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    let finding = ask(http(&format!("http://{address}/"))).await;
    assert_eq!(finding.status, Status::Passing);
    assert_eq!(finding.output.len(), spine_core::limits::OUTPUT_BYTES_MAX);
    // What fits into the sockets' buffers, and not much more.
    let sent = tokio::time::timeout(Duration::from_secs(10), sent)
        .await
        .unwrap()
        .unwrap();
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn an_endless_head_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while stream.write_all(&vec![b'x'; 1 << 16]).await.is_ok() {}
    });
    let finding = ask(http(&format!("http://{address}/"))).await;
    assert_eq!(finding.status, Status::Critical, "{}", finding.output);
}

#[tokio::test]
async fn a_target_that_does_not_answer_in_time_is_critical() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut probe = http(&format!("http://{address}/"));
    probe.pace.timeout = Ttl(50);
    let finding = ask(probe).await;
    assert_eq!(finding.status, Status::Critical);
    assert!(
        finding.output.contains("no answer within 50ms"),
        "{}",
        finding.output
    );
}

#[tokio::test]
async fn what_can_not_be_asked_is_critical_with_the_reason() {
    for (url, reason) in [
        ("ftp://127.0.0.1/", "only http and https"),
        ("http//nowhere", "invalid URL"),
        ("http://169.254.169.254/latest/meta-data/", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("http://127.0.0.1:1/", "refused"),
    ] {
        let finding = ask(http(url)).await;
        assert_eq!(finding.status, Status::Critical, "{url}");
        assert!(finding.output.contains(reason), "{url}: {}", finding.output);
    }
}

#[tokio::test]
async fn spines_own_port_is_closed_under_every_name() {
    let (address, asked) = target(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let prober = NetProber::new(Arc::new(OsNet), Guard::new(None, [address.port()]));
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "127.1.2.3"] {
        let finding = prober
            .run(&CheckKind::Http(http(&format!(
                "http://{host}:{}/",
                address.port()
            ))))
            .await;
        assert_eq!(finding.status, Status::Critical, "{host}");
        assert!(
            finding.output.contains("Spine's own port"),
            "{host}: {}",
            finding.output
        );
    }
    assert!(asked.lock().is_empty());
}

/// A target that speaks TLS with a certificate that nobody knows, for `localhost`.
async fn tls_target() -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A probe that does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn a_certificate_is_verified_unless_the_check_says_not_to() {
    let address = tls_target().await;
    let mut probe = http(&format!("https://localhost:{}/", address.port()));
    let finding = ask(probe.clone()).await;
    assert_eq!(finding.status, Status::Critical);
    assert!(finding.output.contains("certificate"), "{}", finding.output);
    probe.tls_skip_verify = true;
    let finding = ask(probe).await;
    assert_eq!(finding.status, Status::Passing, "{}", finding.output);

    let tcp = |tls| TcpProbe {
        address: address.to_string().into(),
        tls,
        pace: PACE,
    };
    assert_eq!(
        prober().run(&CheckKind::Tcp(tcp(false))).await.status,
        Status::Passing
    );
    assert_eq!(
        prober().run(&CheckKind::Tcp(tcp(true))).await.status,
        Status::Critical
    );
}

#[tokio::test]
async fn tcp_passes_when_a_connection_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Arc<str> = listener.local_addr().unwrap().to_string().into();
    let probe = CheckKind::Tcp(TcpProbe {
        address: address.clone(),
        tls: false,
        pace: PACE,
    });
    let finding = prober().run(&probe).await;
    assert_eq!(
        (finding.status, &*finding.output),
        (Status::Passing, &*format!("TCP connect {address}: Success"))
    );
    drop(listener);
    assert_eq!(prober().run(&probe).await.status, Status::Critical);
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("photo", tonic_health::ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("mail", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Arc<str> = listener.local_addr().unwrap().to_string().into();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    for (service, status, said) in [
        ("", Status::Passing, "success"),
        ("photo", Status::Passing, "success"),
        ("mail", Status::Critical, "NOT_SERVING"),
        ("unknown", Status::Critical, "not found"),
    ] {
        let probe = GrpcProbe {
            address: address.clone(),
            service: service.into(),
            tls: false,
            pace: PACE,
        };
        let finding = prober().run(&CheckKind::Grpc(probe)).await;
        assert_eq!(finding.status, status, "{service}: {}", finding.output);
        assert!(
            finding.output.to_lowercase().contains(&said.to_lowercase()),
            "{service}: {}",
            finding.output
        );
    }
    let nobody = GrpcProbe {
        address: "127.0.0.1:1".into(),
        service: "".into(),
        tls: false,
        pace: PACE,
    };
    assert_eq!(
        prober().run(&CheckKind::Grpc(nobody)).await.status,
        Status::Critical
    );
}

#[tokio::test]
async fn an_answer_larger_than_any_of_the_health_service_is_critical() {
    let large = u32::try_from(PROBE_ANSWER_BYTES_MAX + 1).unwrap();
    let answer = move || async move {
        let mut body = vec![0];
        body.extend_from_slice(&large.to_be_bytes());
        body.resize(body.len() + large as usize, 0);
        ([("content-type", "application/grpc")], body)
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Arc<str> = listener.local_addr().unwrap().to_string().into();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming(incoming),
    );
    let probe = GrpcProbe {
        address,
        service: "".into(),
        tls: false,
        pace: PACE,
    };
    let finding = prober().run(&CheckKind::Grpc(probe)).await;
    assert_eq!(finding.status, Status::Critical);
    assert!(finding.output.contains("too large"), "{}", finding.output);
}

/// A prober that says what it is told to say.
#[derive(Default)]
struct Scripted {
    says: Mutex<BTreeMap<Arc<str>, (Status, String)>>,
    runs: Mutex<BTreeMap<Arc<str>, usize>>,
    /// How long a run takes.
    takes: Duration,
    running: AtomicUsize,
    running_most: AtomicUsize,
    /// Each output differs from the one before.
    counting: bool,
}

impl Scripted {
    fn say(&self, address: &str, status: Status, output: &str) {
        self.says
            .lock()
            .insert(address.into(), (status, output.to_owned()));
    }

    fn runs_of(&self, address: &str) -> usize {
        self.runs.lock().get(address).copied().unwrap_or_default()
    }
}

#[async_trait]
impl Prober for Scripted {
    async fn run(&self, kind: &CheckKind) -> Finding {
        let CheckKind::Tcp(probe) = kind else {
            panic!("the tests register TCP checks")
        };
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let run = {
            let mut runs = self.runs.lock();
            let run = runs.entry(probe.address.clone()).or_default();
            *run += 1;
            *run
        };
        let said = self.says.lock().get(&probe.address).cloned();
        let (status, output) = said.unwrap_or((Status::Passing, "scripted".to_owned()));
        let output = if self.counting {
            format!("{output} {run}")
        } else {
            output
        };
        Finding {
            status,
            output: output.into(),
        }
    }
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn key(id: &str) -> CheckKey {
    CheckKey {
        node: node("n1"),
        id: CheckId::parse(id).unwrap(),
    }
}

async fn propose(local: &Local, command: Command) {
    let applied = local
        .propose(&Context::new(Dialect::Consul), command)
        .await
        .unwrap();
    applied.result.unwrap();
}

async fn member_up(local: &Local, name: &str, id: u64) {
    let member = Member {
        name: node(name),
        id,
        node_uuid: format!("00000000-0000-0000-0000-00000000000{id}").into(),
        host: "127.0.0.1".into(),
        peer_address: "".into(),
        http_address: "".into(),
        grpc_address: "".into(),
        version: "0.1.0".into(),
        rules: 1,
    };
    propose(local, Command::MemberUp(member)).await;
}

async fn local() -> Arc<Local> {
    let local = Arc::new(Local::new(node("n1")));
    member_up(&local, "n1", 1).await;
    local
}

/// Registers checks of the node n1, each of a target named like the check.
async fn register(local: &Local, ids: impl IntoIterator<Item = String>, thresholds: Thresholds) {
    let ids: Vec<_> = ids.into_iter().collect();
    for some in ids.chunks(50) {
        let checks = some.iter().map(|id| CheckDefinition {
            id: CheckId::parse(id).unwrap(),
            name: id.as_str().into(),
            notes: "".into(),
            service: None,
            status: None,
            output: "".into(),
            kind: CheckKind::Tcp(TcpProbe {
                address: id.as_str().into(),
                tls: false,
                pace: PACE,
            }),
            deregister_after: None,
            thresholds,
        });
        let register = Register {
            node: node("n1"),
            node_update: Some(NodeDefinition {
                address: "127.0.0.1".into(),
                ..NodeDefinition::default()
            }),
            service: None,
            checks: checks.collect(),
            existing: ExistingChecks::Keep,
            heartbeat: None,
        };
        propose(local, Command::Register(Box::new(register))).await;
    }
}

fn check(local: &Local, id: &str) -> Arc<Check> {
    local.hub().newest().health().check(&key(id)).unwrap().clone()
}

/// Waits until `holds`; with time standing still but for timers, a day passes in no time.
async fn wait(what: &str, holds: impl Fn() -> bool) {
    let day = tokio::time::Instant::now() + Duration::from_hours(24);
    while !holds() {
        assert!(tokio::time::Instant::now() < day, "{what}: not within a day");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn start(local: &Arc<Local>, prober: &Arc<Scripted>) -> Probes {
    Probes::start(
        local.clone(),
        prober.clone(),
        Arc::new(OsRng),
        Arc::new(Uncounted),
    )
}

#[tokio::test(start_paused = true)]
async fn a_change_of_status_is_reported_and_a_repeated_result_is_not() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let _probes = start(&local, &prober);
    // Registered while the probes run: they follow the catalog.
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    wait("it passes", || check(&local, "a").status == Status::Passing).await;
    assert_eq!(&*check(&local, "a").output, "scripted");
    let index = local.hub().newest().index();
    let runs = prober.runs_of("a");
    wait("it runs on", || prober.runs_of("a") >= runs + 5).await;
    assert_eq!(local.hub().newest().index(), index, "nothing was written");
    prober.say("a", Status::Critical, "down");
    wait("it is critical", || check(&local, "a").status == Status::Critical).await;
    assert_eq!(&*check(&local, "a").output, "down");
}

#[tokio::test(start_paused = true)]
async fn thresholds_count_results_in_a_row() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let thresholds = Thresholds {
        success_before_passing: 2,
        failures_before_warning: 2,
        failures_before_critical: 3,
    };
    register(&local, ["a".to_owned()], thresholds).await;
    let _probes = start(&local, &prober);
    let ran = async |times| wait("it runs", || prober.runs_of("a") == times).await;
    let settled = async |status| wait("it is reported", || check(&local, "a").status == status).await;
    ran(1).await;
    assert_eq!(
        check(&local, "a").status,
        Status::Critical,
        "one success is not enough"
    );
    settled(Status::Passing).await;
    assert_eq!(prober.runs_of("a"), 2);
    prober.say("a", Status::Critical, "down");
    ran(3).await;
    assert_eq!(
        (check(&local, "a").status, &*check(&local, "a").output),
        (Status::Passing, "scripted")
    );
    settled(Status::Warning).await;
    assert_eq!(prober.runs_of("a"), 4);
    settled(Status::Critical).await;
    assert_eq!(prober.runs_of("a"), 5);
}

#[tokio::test(start_paused = true)]
async fn an_output_alone_is_reported_every_few_minutes() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        counting: true,
        ..Scripted::default()
    });
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("it passes", || check(&local, "a").status == Status::Passing).await;
    let (index, runs) = (local.hub().newest().index(), prober.runs_of("a"));
    // Half an hour: a run every 10 s, a report every 3 minutes.
    wait("it runs for half an hour", || prober.runs_of("a") >= runs + 180).await;
    let reports = local.hub().newest().index().0 - index.0;
    assert!((9..=10).contains(&reports), "{reports} reports");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_finds_no_leader_is_made_again() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    local.set_leaderless(true);
    let _probes = start(&local, &prober);
    wait("it runs", || prober.runs_of("a") >= 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(check(&local, "a").status, Status::Critical);
    local.set_leaderless(false);
    let runs = prober.runs_of("a");
    wait("it is reported", || check(&local, "a").status == Status::Passing).await;
    assert!(
        prober.runs_of("a") <= runs + 1,
        "it does not wait for the next run"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_gone_or_another_nodes_is_not_run() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let ids: Vec<_> = (0..100).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("all run", || ids.iter().all(|id| prober.runs_of(id) >= 1)).await;
    member_up(&local, "n2", 2).await;
    let state = local.hub().newest();
    let mine = |id: &String| state.assignment(&check(&local, id)).unwrap().member == node("n1");
    let (kept, given): (Vec<_>, Vec<_>) = ids.iter().partition(|id| mine(id));
    assert!((20..80).contains(&kept.len()), "{} of 100 stay", kept.len());
    // What ran at that moment ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<_> = given.iter().map(|id| prober.runs_of(id)).collect();
    let runs = prober.runs_of(kept[0]);
    wait("its own run on", || prober.runs_of(kept[0]) >= runs + 5).await;
    assert_eq!(
        given.iter().map(|id| prober.runs_of(id)).collect::<Vec<_>>(),
        before
    );
}

#[derive(Default)]
struct Tally(Mutex<BTreeMap<Status, usize>>);

impl ProbeMetrics for Tally {
    fn probes(&self, status: Status, count: usize) {
        self.0.lock().insert(status, count);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_checks_share_a_bounded_number_of_workers() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        takes: Duration::from_millis(200),
        ..Scripted::default()
    });
    let ids: Vec<_> = (0..10_000).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let tally = Arc::new(Tally::default());
    let began = tokio::time::Instant::now();
    let _probes = Probes::start(local.clone(), prober.clone(), Arc::new(OsRng), tally.clone());
    let passing = || tally.0.lock().get(&Status::Passing).copied() == Some(10_000);
    wait("all pass", passing).await;
    // Spread over the interval of 10 s, 1,000 a second of 200 ms each: some 200 at once, and on time.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(11), "{took:?}");
    let most = prober.running_most.load(Ordering::SeqCst);
    assert!(
        most > 100 && most < 400 && most <= PROBE_RUNS_MAX,
        "{most} at once"
    );
    assert!(ids.iter().all(|id| prober.runs_of(id) <= 2));
}

#[tokio::test(start_paused = true)]
async fn slow_targets_wait_for_a_worker() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        takes: Duration::from_secs(9),
        ..Scripted::default()
    });
    let ids: Vec<_> = (0..3_000).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("all run in the end", || {
        ids.iter().all(|id| prober.runs_of(id) >= 1)
    })
    .await;
    assert_eq!(prober.running_most.load(Ordering::SeqCst), PROBE_RUNS_MAX);
}
