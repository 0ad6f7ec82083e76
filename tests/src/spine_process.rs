//! The binary `spine` as a process under test: started on free ports, awaited, ended by its id.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::{http, wait};

/// How long a start may take on a loaded machine before it counts as failed.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long an orderly end may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// A running `spine`. Dropping it kills the process.
#[derive(Debug)]
pub struct SpineProcess {
    child: Child,
    http: SocketAddr,
    log: PathBuf,
    _place: TempDir,
}

impl SpineProcess {
    /// `spine dev` with its listeners on free ports of the loopback, once it is ready.
    pub fn dev() -> Self {
        let http = free_address();
        let arguments = [("--http-addr", http), ("--grpc-addr", free_address())];
        let arguments = arguments.map(|(flag, address)| [flag.to_owned(), address.to_string()]);
        Self::start(
            ["dev".to_owned()]
                .into_iter()
                .chain(arguments.into_iter().flatten()),
            http,
        )
    }

    /// `spine` with any arguments that make it serve Consul's HTTP API on `http`, once it is ready.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, http: SocketAddr) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory for a process under test");
        let log = place.path().join("spine.log");
        let output = File::create(&log).expect("a log file in a fresh directory");
        let errors = output.try_clone().expect("a second handle of the log file");
        let child = Command::new(binary())
            .args(arguments)
            .current_dir(place.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("the binary under test starts");
        let mut started = Self {
            child,
            http,
            log,
            _place: place,
        };
        started.await_ready();
        started
    }

    /// Where it serves Consul's HTTP API.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// `http://HOST:PORT` of Consul's HTTP API, then `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// What the process has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end (SIGTERM) and gives what it ended with.
    pub fn stop(mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a child may be signalled");
        wait::until("spine ends after SIGTERM", STOPPED_WITHIN, || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    fn await_ready(&mut self) {
        let (leader, log) = (self.url("/v1/status/leader"), self.log.clone());
        let child = &mut self.child;
        wait::until_true("spine has a leader", READY_WITHIN, || {
            if let Ok(Some(status)) = child.try_wait() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("spine ended at its start with {status}:\n{said}");
            }
            http::get_json(&leader).is_some_and(|leader| leader.as_str().is_some_and(|name| !name.is_empty()))
        });
    }
}

impl Drop for SpineProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the server said is the first thing that the reader of a failed test needs.
            let _ = std::io::copy(&mut self.log().as_bytes(), &mut std::io::stderr());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test: `SPINE_BIN`, or else what cargo builds from this workspace, in the profile of the test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SPINE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .find(|directory| directory.join("deps").is_dir())
        .expect("cargo puts tests below PROFILE/deps");
    let mut cargo = crate::cargo::cargo();
    cargo.args(["build", "--package", "spine-node", "--bin", "spine"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo starts");
    assert!(built.success(), "the binary under test does not build: {built}");
    profile.join("spine")
}

/// An address of the loopback that nobody listens on at this moment, given once in this process.
///
/// Its port lies below those that the system gives to outgoing connections and to listeners that name none: one of those
/// would now and then be taken by somebody else before the server under test listens.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    let addresses = std::iter::repeat_with(|| {
        let at = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + at).expect("below 32,768");
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    let mut tried = addresses.take(COUNT as usize);
    tried
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("the loopback has a free port")
}
