//! Probes: what each kind sees of a target, and where none of them goes.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "targets of probes are part of the world outside"
)]

use parking_lot::Mutex;
use spine_core::{CheckKind, GrpcProbe, HttpProbe, Pace, Status, TcpProbe, Ttl};
use spine_node::limits::{PROBE_ANSWER_BYTES_MAX, PROBE_HEAD_BYTES_MAX};
use spine_node::probe::{Finding, Guard, NetProber, Prober};
use spine_node::world::net::OsNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
async fn a_head_may_have_so_many_bytes() {
    for (bytes, status) in [
        (PROBE_HEAD_BYTES_MAX, Status::Passing),
        (2 * PROBE_HEAD_BYTES_MAX + 1, Status::Critical),
    ] {
        let (before, after) = ("HTTP/1.1 200 OK\r\nx: ", "\r\n\r\n");
        let filling = "x".repeat(bytes - before.len() - after.len());
        let (address, _) = target(format!("{before}{filling}{after}").leak().as_bytes()).await;
        let finding = ask(http(&format!("http://{address}/"))).await;
        assert_eq!(finding.status, status, "{bytes}: {}", finding.output);
    }
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
