//! One server as a process, with directories and addresses that outlast it: started with what a test says, killed, refused,
//! started again. [`crate::cluster`] has those that serve together and are told the usual.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{http, spine_process, wait};

/// A start with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// A refusal takes a round trip or two, an orderly end may write a checkpoint.
const ENDED_WITHIN: Duration = Duration::from_mins(1);

/// What a command or a server ends with that is refused.
pub const REFUSED: i32 = 4;

/// A server, running or not. Dropping it kills the process, and prints what it said if the test fails.
#[derive(Debug)]
pub struct Server {
    /// What it is called.
    pub name: String,
    /// Where it serves Consul's HTTP API.
    pub http: SocketAddr,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// Where the other servers reach it.
    pub peer: SocketAddr,
    place: PathBuf,
    data: PathBuf,
    /// What it runs, from its next start on.
    binary: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// One that doesn't run, with a place of its own below `place`.
    pub fn new(place: &Path, name: &str) -> Self {
        let place = place.join(name);
        fs::create_dir_all(&place).expect("a directory for the server");
        Self {
            name: name.to_owned(),
            http: spine_process::free_address(),
            grpc: spine_process::free_address(),
            peer: spine_process::free_address(),
            data: place.join("data"),
            place,
            binary: spine_process::binary().to_owned(),
            child: None,
        }
    }

    /// From its next start on it runs this binary.
    pub fn is_to_run(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Its data is elsewhere, as on a disk of its own.
    pub fn keep_data_in(&mut self, directory: &Path) {
        directory.clone_into(&mut self.data);
    }

    /// Starts it with these arguments and those that say who and where it is, except for other servers.
    pub fn start(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a place for the log");
        let child = Command::new(&self.binary)
            .args(arguments)
            .args(["--governance", "open", "--name", &self.name])
            .args(["--http-addr", &self.http.to_string()])
            .args(["--grpc-addr", &self.grpc.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .expect("the binary under test starts");
        self.child = Some(child);
    }

    /// Starts it as one of these founders.
    pub fn found(&mut self, founders: &str) {
        self.start(&["serve", "--initial-cluster", founders]);
    }

    /// Starts it so that it joins the cluster of the server at `seed`, or comes back to it.
    pub fn join(&mut self, seed: SocketAddr, arguments: &[&str]) {
        let (seed, own) = (seed.to_string(), self.peer.to_string());
        self.start(&[&["join", &seed, "--peer-addr", &own], arguments].concat());
    }

    /// Waits until it serves.
    pub fn await_ready(&mut self) {
        if let Err(ended) = self.ready() {
            panic!("{ended}");
        }
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It has ended instead: what it said.
    pub fn ready(&mut self) -> Result<(), String> {
        let url = format!("http://{}/readyz", self.http);
        let what = format!("{} is ready", self.name);
        wait::until(&what, READY_WITHIN, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Some(Err(format!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    self.said()
                )));
            }
            http::is_ok(&url).then_some(Ok(()))
        })
    }

    /// Its process, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it at once, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child may be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Asks it to end, and waits until it has, in order.
    pub fn stop(&mut self) {
        let child = self.child.as_ref().expect("it runs");
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a child may be signalled");
        let ended = self.ended();
        assert!(ended.success(), "{} ends in order: {ended}", self.name);
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        wait::until("the server ends", ENDED_WITHIN, || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    /// Waits until it has ended as one that is refused; gives the error that it said last.
    pub fn refused(&mut self) -> String {
        let status = self.ended();
        let said = self.said();
        assert_eq!(status.code(), Some(REFUSED), "{said}");
        // A thread that ends may have logged something since.
        let error = said.lines().rfind(|line| line.starts_with("error: "));
        error.unwrap_or_default().to_owned()
    }

    /// What it has printed, at all its starts.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Puts a key; whether it was taken.
    pub fn put(&self, key: &str, value: &str) -> bool {
        let url = format!("http://{}/v1/kv/{key}", self.http);
        http::put(&url, value).is_some_and(|answer| answer.status().is_success())
    }

    /// What is under a key, by the leader's word.
    pub fn get(&self, key: &str) -> Option<String> {
        self.read(&format!("{key}?raw"))
    }

    /// What is under a key, by its own.
    pub fn get_stale(&self, key: &str) -> Option<String> {
        self.read(&format!("{key}?raw&stale"))
    }

    /// One of its metrics.
    pub fn metric(&self, name: &str) -> Option<f64> {
        http::metric(self.http, name)
    }

    fn read(&self, path: &str) -> Option<String> {
        let answer = http::get(&format!("http://{}/v1/kv/{path}", self.http))?;
        answer.status().is_success().then(|| answer.text().ok())?
    }

    fn log(&self) -> PathBuf {
        self.place.join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = format!("---- {} ----\n{}\n", self.name, self.said());
            let _ = std::io::copy(&mut text.as_bytes(), &mut std::io::stderr());
        }
    }
}

/// Three that don't run, and the list of them as `--initial-cluster` takes it.
pub fn three(place: &Path, names: [&str; 3]) -> ([Server; 3], String) {
    let servers = names.map(|name| Server::new(place, name));
    let founders = founders(&servers);
    (servers, founders)
}

/// What `--initial-cluster` takes for these.
pub fn founders<'a>(servers: impl IntoIterator<Item = &'a Server>) -> String {
    let founders = servers.into_iter();
    let founders: Vec<_> = founders
        .map(|server| format!("{}={}", server.name, server.peer))
        .collect();
    founders.join(",")
}

/// Starts three founders, and waits until they serve.
pub fn found(servers: &mut [Server; 3], founders: &str) {
    for server in servers.iter_mut() {
        server.found(founders);
    }
    for server in servers {
        server.await_ready();
    }
}
