//! A server from outside: its ports, its bounds, its end.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "clients are part of the world outside; a test that can't go on fails"
)]

use std::{net::SocketAddr, time::Duration};

use spine_node::{
    World,
    config::{Config, HostPort, Mode, Options, OrOff},
    limits,
    server::{ServeError, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// Options of a server on free ports.
fn options() -> Options {
    let free = || Some(OrOff::On(HostPort::new("127.0.0.1", 0)));
    Options {
        name: Some("n1".into()),
        http_addr: free(),
        grpc_addr: free(),
        ..Options::default()
    }
}

fn dev(options: Options) -> Config {
    Config::resolve(Mode::Dev, options, None).unwrap()
}

async fn start(config: Config) -> Server {
    Server::start(config, World::real()).await.unwrap()
}

fn http(server: &Server) -> SocketAddr {
    server.places().http.unwrap()
}

/// Sends one request on a connection of its own; gives the whole answer.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: spine\r\nconnection: close\r\n\r\n");
    // A server that refuses the connection may have closed it already.
    let _ = stream.write_all(request.as_bytes()).await;
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_when_it_has_started_and_leaves_nothing_behind() {
    let server = start(dev(options())).await;
    let address = http(&server);
    assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
    let metrics = ask(address, "GET /metrics").await;
    assert!(
        metrics.contains("openmetrics-text") && metrics.contains("spine_raft_is_leader 1"),
        "{metrics}"
    );
    assert!(ask(address, "GET /v1/status/leader").await.contains(':'));
    assert!(
        ask(address, "GET /v1/agent/connect/ca/roots")
            .await
            .contains("BEGIN CERTIFICATE")
    );
    assert!(ask(address, "GET /ui/").await.contains("<h1>Services</h1>"));
    assert!(ask(address, "GET /").await.contains("location: /ui/"));
    let data = server.places().data_dir.clone();
    assert!(data.exists());
    server.stop().await.unwrap();
    assert!(!data.exists(), "a temporary directory goes");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_kept_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let kept = || Options {
        data_dir: Some(directory.path().join("data")),
        ..options()
    };
    let server = start(dev(kept())).await;
    let put =
        "PUT /v1/kv/greeting HTTP/1.1\r\nhost: spine\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let mut stream = TcpStream::connect(http(&server)).await.unwrap();
    stream.write_all(put.as_bytes()).await.unwrap();
    assert!(read(&mut stream).await.ends_with("true"));
    let roots = ask(http(&server), "GET /v1/connect/ca/roots?pem=1").await;
    server.stop().await.unwrap();

    let server = start(dev(kept())).await;
    assert!(
        ask(http(&server), "GET /v1/kv/greeting?raw")
            .await
            .ends_with("hello")
    );
    let again = ask(http(&server), "GET /v1/connect/ca/roots?pem=1").await;
    let certificate = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(certificate(&again), certificate(&roots), "the root is made once");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_before_anything_is_touched() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let config = dev(Options {
        grpc_addr: Some(OrOff::On(HostPort::new("127.0.0.1", port))),
        data_dir: Some(data.clone()),
        ..options()
    });
    let Err(refused) = Server::start(config, World::real()).await else {
        panic!("the port is taken")
    };
    assert!(
        matches!(
            refused,
            ServeError::InUse {
                option: "--grpc-addr",
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains(&port.to_string()), "{refused}");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_past_the_bound_are_closed_and_room_comes_back() {
    let server = start(dev(Options {
        connections_max: Some(2),
        ..options()
    }))
    .await;
    let address = http(&server);
    let held = TcpStream::connect(address).await.unwrap();
    let also_held = TcpStream::connect(address).await.unwrap();
    // Taken in order, so these two are in before the third is looked at.
    assert_eq!(ask(address, "GET /livez").await, "", "closed without an answer");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(address, "GET /livez").await.is_empty() {
        assert!(Instant::now() < deadline, "room comes back");
        tokio::task::yield_now().await;
    }
    let metrics = ask(address, "GET /metrics").await;
    assert!(
        metrics.contains("spine_connections_refused_total{port=\"http\"}"),
        "{metrics}"
    );
    drop(also_held);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_too_large_is_refused() {
    let server = start(dev(options())).await;
    let ask_with = async |lines: String| {
        let mut stream = TcpStream::connect(http(&server)).await.unwrap();
        let head = format!("GET /livez HTTP/1.1\r\nhost: spine\r\nconnection: close\r\n{lines}\r\n");
        // A server that refuses the head may have closed the connection already.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = read(&mut stream).await;
        answer.lines().next().unwrap_or_default().to_owned()
    };
    // Two lines are there already.
    let lines = |count: usize| "x: y\r\n".repeat(count - 2);
    assert_eq!(ask_with(lines(limits::HEADERS_MAX)).await, "HTTP/1.1 200 OK");
    let refused = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(ask_with(lines(limits::HEADERS_MAX + 1)).await, refused);

    let bytes_max = limits::HEAD_BYTES_MAX as usize;
    let long = |bytes: usize| format!("x: {}\r\n", "y".repeat(bytes));
    assert_eq!(ask_with(long(bytes_max - 256)).await, "HTTP/1.1 200 OK");
    // The refusal is lost where the rest of the head is still on its way.
    let answer = ask_with(long(2 * bytes_max)).await;
    assert!(answer == refused || answer.is_empty(), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_change_is_answered_when_the_server_ends() {
    let server = start(dev(options())).await;
    let address = http(&server);
    let registry = server.registry();
    let parked_before = registry.hub().waiting();
    let index = registry.hub().newest().index();
    let waiting = [
        format!("GET /v1/kv/none?index={index}&wait=5m"),
        format!("GET /v1/catalog/services?index={index}&wait=5m"),
        format!("GET /ui/events?from={index}"),
    ]
    .map(|request| tokio::spawn(async move { ask(address, &request).await }));
    let deadline = Instant::now() + Duration::from_secs(10);
    while registry.hub().waiting() < parked_before + waiting.len() {
        assert!(Instant::now() < deadline, "all of them wait");
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    server.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }
}

/// That something took about as long as it may. Moments at which others wait lie between, and each takes a little.
fn took(began: Instant, bound: Duration) {
    let took = began.elapsed();
    assert!(
        took + Duration::from_secs(1) >= bound && took < 2 * bound,
        "{took:?} of {bound:?}"
    );
}

/// The clock is stopped once the server runs: whenever everybody waits, it leaps to the next moment that somebody waits for.
#[tokio::test]
async fn a_request_that_stops_coming_is_given_up() {
    let server = start(dev(options())).await;
    let address = http(&server);
    for (sent, bound) in [
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: spine\r\ncontent-length: 9\r\n\r\nabc",
            limits::BODY_PAUSE_MAX,
        ),
        ("GET /livez HTTP/1.1\r\nhost: sp", limits::HEAD_TIME_MAX),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        tokio::time::pause();
        let began = Instant::now();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        took(began, bound);
        tokio::time::resume();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let kept = ask(address, "GET /v1/kv/a").await;
    assert!(kept.starts_with("HTTP/1.1 404"), "{kept}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_past_the_bound_of_a_connection_wait_for_their_turn() {
    let server = start(dev(options())).await;
    let address = format!("http://{}", server.places().grpc.unwrap());
    let channel = tonic::transport::Endpoint::try_from(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let client = spine_proto::v1::watch_client::WatchClient::new(channel);
    let watch = || {
        let mut client = client.clone();
        async move {
            let topic = spine_proto::v1::Topic {
                topic: Some(spine_proto::v1::topic::Topic::Everything(
                    spine_proto::v1::Everything {},
                )),
            };
            let request = spine_proto::v1::WatchRequest {
                topics: vec![topic],
                ..Default::default()
            };
            client.watch(request).await.unwrap().into_inner()
        }
    };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..=limits::STREAMS_MAX {
        calls.spawn(watch());
    }
    let mut open = Vec::new();
    while open.len() < limits::STREAMS_MAX as usize {
        open.push(calls.join_next().await.unwrap().unwrap());
    }
    assert!(calls.try_join_next().is_none(), "one waits");
    open.pop();
    calls.join_next().await.unwrap().unwrap();
    drop(open);
    server.stop().await.unwrap();
}
