//! The other ways to Consul's API: over TLS, and on a Unix socket.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "clients are part of the world outside; a test that can't go on fails"
)]

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use spine_node::{
    World,
    config::{Config, HostPort, Mode, Options, OrOff},
    limits::HANDSHAKE_TIME_MAX,
    server::{ServeError, Server, SocketError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What takes longer hangs.
const PATIENCE: Duration = HANDSHAKE_TIME_MAX.saturating_mul(2);

/// A root, and a certificate for `localhost` that it vouches for through one in between, in files.
struct Certified {
    directory: tempfile::TempDir,
    roots: RootCertStore,
}

impl Certified {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = rcgen::CertificateParams::new([]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params, rcgen::KeyPair::generate().unwrap())
        };
        let (root, root_key) = authority("root");
        let root_certificate = root.self_signed(&root_key).unwrap();
        let root = rcgen::Issuer::new(root, root_key);
        let (between, between_key) = authority("between");
        let between_certificate = between.signed_by(&between_key, &root).unwrap();
        let between = rcgen::Issuer::new(between, between_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = own.signed_by(&key, &between).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(root_certificate.der().clone()).unwrap();
        let certified = Self {
            directory: tempfile::tempdir().unwrap(),
            roots,
        };
        let chain = certificate.pem() + &between_certificate.pem();
        fs::write(certified.certificate(), chain).unwrap();
        fs::write(certified.key(), key.serialize_pem()).unwrap();
        fs::set_permissions(certified.key(), fs::Permissions::from_mode(0o600)).unwrap();
        certified
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("server.key")
    }

    fn options(&self) -> Options {
        Options {
            https_addr: Some(free()),
            tls_cert: Some(self.certificate()),
            tls_key: Some(self.key()),
            ..options()
        }
    }

    /// Connects as a client that trusts the root alone and offers the protocols of `alpn`.
    async fn connect(&self, server: &Server, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = builder
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(server.places().https.unwrap()).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn ask(&self, server: &Server, request: &str) -> io::Result<String> {
        let stream = self.connect(server, &[b"http/1.1"]).await?;
        Ok(ask(stream, request).await)
    }
}

fn free() -> OrOff<HostPort> {
    OrOff::On(HostPort::new("127.0.0.1", 0))
}

/// Options of a server without the usual port.
fn options() -> Options {
    Options {
        name: Some("n1".into()),
        http_addr: Some(OrOff::Off),
        grpc_addr: Some(free()),
        ..Options::default()
    }
}

fn on_socket(path: &Path) -> Options {
    Options {
        http_socket: Some(path.to_owned()),
        ..options()
    }
}

async fn try_start(options: Options) -> Result<Server, ServeError> {
    let config = Config::resolve(Mode::Dev, options, None).unwrap();
    Server::start(config, World::real()).await
}

async fn start(options: Options) -> Server {
    try_start(options).await.unwrap()
}

async fn refusal(options: Options) -> ServeError {
    let Err(refused) = try_start(options).await else {
        panic!("it starts")
    };
    refused
}

/// Sends one request and gives the whole answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    let request = format!("{request} HTTP/1.1\r\nhost: spine\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
}

/// What comes until the other side ends the connection, which it must.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn https_answers_what_http_answers() {
    let certified = Certified::new();
    let server = start(certified.options()).await;
    assert_eq!(server.places().http, None);
    for (request, answer) in [
        ("PUT /v1/kv/color?flags=7", "true"),
        ("GET /v1/kv/color", "\"Flags\":7"),
        ("GET /readyz", "HTTP/1.1 200"),
        ("GET /metrics", "spine_connections{port=\"https\"} "),
        ("GET /ui/", "<h1>Services</h1>"),
    ] {
        let found = certified.ask(&server, request).await.unwrap();
        assert!(found.contains(answer), "{request}: {found}");
    }
    let address = server.places().https.unwrap();
    server.stop().await.unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn https_agrees_on_http_1_1_and_nothing_else() {
    let certified = Certified::new();
    let server = start(certified.options()).await;
    let both = certified.connect(&server, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let none = certified.connect(&server, &[]).await.unwrap();
    assert_eq!(none.get_ref().1.alpn_protocol(), None);
    assert!(ask(none, "GET /livez").await.starts_with("HTTP/1.1 200"));
    let refused = certified.connect(&server, &[b"h2"]).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    drop(both);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_on_the_https_port_ends_that_connection_alone() {
    let certified = Certified::new();
    let server = start(certified.options()).await;
    let kept = certified.connect(&server, &[]).await.unwrap();
    let plain = TcpStream::connect(server.places().https.unwrap()).await.unwrap();
    let answer = ask(plain, "GET /v1/agent/self").await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    assert!(ask(kept, "GET /livez").await.starts_with("HTTP/1.1 200"));
    assert!(
        certified
            .ask(&server, "GET /livez")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_ends_the_handshake_counts_as_a_connection_and_is_dropped() {
    let certified = Certified::new();
    let server = start(Options {
        connections_max: Some(1),
        ..certified.options()
    })
    .await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(server.places().https.unwrap()).await.unwrap();
    // The beginning of a record with a handshake message, whose 512 bytes never come.
    silent.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    assert!(
        certified.ask(&server, "GET /livez").await.is_err(),
        "no room beside it"
    );
    rest(&mut silent).await;
    assert!(began.elapsed() >= HANDSHAKE_TIME_MAX, "{:?}", began.elapsed());
    let deadline = Instant::now() + PATIENCE;
    while certified.ask(&server, "GET /livez").await.is_err() {
        assert!(Instant::now() < deadline, "room comes back");
        tokio::task::yield_now().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_a_handshake() {
    let certified = Certified::new();
    let server = start(certified.options()).await;
    let mut silent = TcpStream::connect(server.places().https.unwrap()).await.unwrap();
    silent.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    // Taken in order, so the silent one is in.
    certified.ask(&server, "GET /livez").await.unwrap();
    let began = Instant::now();
    server.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_serve_is_said_with_its_file() {
    let certified = Certified::new();
    let other = Certified::new();
    let with = |certificate: PathBuf, key: PathBuf| Options {
        tls_cert: Some(certificate),
        tls_key: Some(key),
        ..certified.options()
    };
    let damaged = certified.directory.path().join("damaged.pem");
    fs::write(
        &damaged,
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let not_one = certified.directory.path().join("not-one.pem");
    fs::write(
        &not_one,
        "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let nowhere = certified.directory.path().join("nowhere.pem");
    for (options, option, file, problem) in [
        (
            with(nowhere.clone(), certified.key()),
            "--tls-cert: ",
            &nowhere,
            "No such file",
        ),
        (
            with(certified.certificate(), nowhere.clone()),
            "--tls-key: ",
            &nowhere,
            "No such file",
        ),
        (
            with(certified.key(), certified.key()),
            "--tls-cert: ",
            &certified.key(),
            "holds no certificate",
        ),
        (
            with(certified.certificate(), certified.certificate()),
            "--tls-key: ",
            &certified.certificate(),
            "holds no private key",
        ),
        (
            with(damaged.clone(), certified.key()),
            "--tls-cert: ",
            &damaged,
            "is not PEM",
        ),
        (
            with(not_one.clone(), certified.key()),
            "--tls-cert, --tls-key: ",
            &not_one,
            "invalid",
        ),
        (
            with(certified.certificate(), other.key()),
            "--tls-cert, --tls-key: ",
            &other.key(),
            "KeyMismatch",
        ),
    ] {
        let refused = refusal(options).await.to_string();
        assert!(refused.starts_with(option), "{option} {problem}: {refused}");
        assert!(
            refused.contains(&file.display().to_string()) && refused.contains(problem),
            "{option} {problem}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_answers_what_http_answers_and_goes_with_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spine.sock");
    let server = start(on_socket(&path)).await;
    assert_eq!(server.places().http_socket.as_deref(), Some(&*path));
    let file = fs::symlink_metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    let connect = async || UnixStream::connect(&path).await.unwrap();
    for (request, answer) in [
        ("PUT /v1/kv/color?flags=7", "true"),
        ("GET /v1/kv/color", "\"Flags\":7"),
        ("GET /readyz", "HTTP/1.1 200"),
        ("GET /metrics", "spine_connections{port=\"unix\"} "),
        ("GET /ui/", "<h1>Services</h1>"),
    ] {
        let found = ask(connect().await, request).await;
        assert!(found.contains(answer), "{request}: {found}");
    }
    let mut kept = connect().await;
    kept.write_all(b"GET /livez HTTP/1.1\r\nhost: spine\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.stop().await.unwrap();
    rest(&mut kept).await;
    assert!(!path.exists(), "its file goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spine.sock");
    // A listener that ends leaves its file, as a killed process does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = start(on_socket(&path)).await;

    let refused = refusal(on_socket(&path)).await;
    assert!(
        matches!(refused, ServeError::Socket(SocketError::InUse { .. })),
        "{refused}"
    );
    assert!(
        refused.to_string().contains(&path.display().to_string()),
        "{refused}"
    );
    let stream = UnixStream::connect(&path).await.unwrap();
    assert!(
        ask(stream, "GET /livez").await.starts_with("HTTP/1.1 200"),
        "the first goes on"
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_a_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    let refused = refusal(on_socket(&path)).await;
    assert!(
        matches!(refused, ServeError::Socket(SocketError::NotASocket { .. })),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    let refused = refusal(on_socket(&directory.path().join("no/such/spine.sock"))).await;
    assert!(
        matches!(refused, ServeError::Socket(SocketError::Listen { .. })),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_has_put_there_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spine.sock");
    let server = start(on_socket(&path)).await;
    fs::rename(&path, directory.path().join("moved")).unwrap();
    let _another = UnixListener::bind(&path).unwrap();
    server.stop().await.unwrap();
    assert!(path.exists());
}
