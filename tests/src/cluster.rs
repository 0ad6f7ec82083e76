//! Three servers of one cluster as processes on the loopback: started, killed, stopped and started again one by one.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::{http, spine_process, wait};

/// How many there are.
pub const SERVERS: usize = 3;

/// A start, with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// An orderly end may write a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// The cluster. Dropping it kills the processes.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    founders: String,
    /// What each server is told beside who and where it is.
    flags: Vec<String>,
}

#[derive(Debug)]
struct Server {
    name: String,
    places: Places,
    data: PathBuf,
    log: PathBuf,
    /// It joins the others instead of founding a cluster with them.
    joins: bool,
    /// What it runs, from its next start on.
    binary: PathBuf,
    /// Options beside the usual ones.
    options: Vec<String>,
    child: Option<Child>,
}

/// Where a server is found.
#[derive(Clone, Copy, Debug)]
struct Places {
    http: SocketAddr,
    grpc: SocketAddr,
    peer: SocketAddr,
}

impl Cluster {
    /// Servers with these data directories, none of them started. Their logs lie in `logs`.
    pub fn new(data: [PathBuf; SERVERS], logs: &Path) -> Self {
        let servers: Vec<_> = data
            .into_iter()
            .enumerate()
            .map(|(at, data)| Server {
                name: format!("n{}", at + 1),
                places: Places::free(),
                data,
                log: logs.join(format!("n{}.log", at + 1)),
                joins: false,
                binary: spine_process::binary().to_owned(),
                options: Vec::new(),
                child: None,
            })
            .collect();
        let founders: Vec<_> = servers
            .iter()
            .map(|server| format!("{}={}", server.name, server.places.peer))
            .collect();
        Self {
            founders: founders.join(","),
            servers,
            flags: Vec::new(),
        }
    }

    /// A cluster below `place` that serves.
    pub fn start(place: &Path) -> Self {
        Self::start_with(place, &[])
    }

    /// The same, each of whose servers has these flags, too.
    pub fn start_with(place: &Path, flags: &[&str]) -> Self {
        let data = ["n1", "n2", "n3"].map(|name| place.join(name));
        let mut cluster = Self::new(data, place);
        cluster.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        cluster.start_all();
        cluster
    }

    /// From its next start on a server runs this binary, with these options beside the usual ones.
    pub fn is_to_run(&mut self, at: usize, binary: &Path, options: &[&str]) {
        let server = &mut self.servers[at];
        binary.clone_into(&mut server.binary);
        server.options = options.iter().map(ToString::to_string).collect();
    }

    /// Starts every server that doesn't run, and waits until all are ready.
    pub fn start_all(&mut self) {
        for at in 0..SERVERS {
            if self.servers[at].child.is_none() {
                self.spawn(at);
            }
        }
        for at in 0..SERVERS {
            self.await_ready(at);
        }
    }

    /// Starts a server, and doesn't wait for it.
    pub fn spawn(&mut self, at: usize) {
        let founders = self.founders.clone();
        if self.servers[at].joins {
            let others = self.servers.iter().enumerate().filter(|(other, _)| *other != at);
            let others: Vec<_> = others.map(|(_, other)| other.places.peer.to_string()).collect();
            self.launch(at, &["join", &others.join(",")]);
        } else {
            self.launch(at, &["serve", "--initial-cluster", &founders]);
        }
    }

    /// Deletes the data of a server that doesn't run: it is to join the others when it is started again.
    pub fn wipe(&mut self, at: usize) {
        let server = &mut self.servers[at];
        assert!(server.child.is_none(), "{} runs", server.name);
        fs::remove_dir_all(&server.data).expect("the directory of a server that ran");
        server.joins = true;
    }

    fn launch(&mut self, at: usize, how: &[&str]) {
        let flags = self.flags.clone();
        let server = &mut self.servers[at];
        assert!(server.child.is_none(), "{} runs already", server.name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&server.log)
            .expect("a place for the log");
        let child = Command::new(&server.binary)
            .args(how)
            .args(flags)
            .args(["--governance", "open", "--name", &server.name])
            .args(["--http-addr", &server.places.http.to_string()])
            .args(["--grpc-addr", &server.places.grpc.to_string()])
            .args(["--peer-addr", &server.places.peer.to_string()])
            .arg("--data-dir")
            .arg(&server.data)
            .args(&server.options)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log file"))
            .stderr(output)
            .spawn()
            .expect("the binary under test starts");
        server.child = Some(child);
    }

    /// Waits until a server is ready, and says how long that took.
    pub fn await_ready(&mut self, at: usize) -> Duration {
        let began = Instant::now();
        let server = &mut self.servers[at];
        let url = format!("http://{}/readyz", server.places.http);
        let what = format!("{} is ready", server.name);
        wait::until_true(&what, READY_WITHIN, || {
            if let Some(Ok(Some(status))) = server.child.as_mut().map(Child::try_wait) {
                panic!(
                    "{} ended at its start with {status}:\n{}",
                    server.name,
                    server.said()
                );
            }
            http::is_ok(&url)
        });
        began.elapsed()
    }

    /// Ends a server at once.
    pub fn kill(&mut self, at: usize) {
        let mut child = self.running(at);
        child.kill().expect("a child may be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Asks a server to end (SIGTERM), and doesn't wait for it.
    pub fn ask_to_stop(&mut self, at: usize) {
        let child = self.servers[at].child.as_ref().expect("the server runs");
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a child may be signalled");
    }

    /// Waits until a server that was asked to has ended.
    pub fn await_stopped(&mut self, at: usize) -> ExitStatus {
        let mut child = self.running(at);
        wait::until("the server ends after SIGTERM", STOPPED_WITHIN, || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    fn running(&mut self, at: usize) -> Child {
        self.servers[at].child.take().expect("the server runs")
    }

    /// Which server leads, as one that runs says.
    pub fn leader(&self) -> usize {
        wait::until("a server leads", READY_WITHIN, || {
            let running = self.servers.iter().filter(|server| server.child.is_some());
            running.filter_map(Server::leader).find_map(|leader| {
                let peers = self.servers.iter().map(|server| server.places.peer.to_string());
                let led = peers.into_iter().position(|peer| peer == leader)?;
                self.servers[led].child.is_some().then_some(led)
            })
        })
    }

    /// Where a server serves Consul's API.
    pub fn http(&self, at: usize) -> SocketAddr {
        self.servers[at].places.http
    }

    /// Where a server serves the native API.
    pub fn grpc(&self, at: usize) -> SocketAddr {
        self.servers[at].places.grpc
    }

    /// The native API of all servers, the one at `first` first.
    pub fn grpc_of_all(&self, first: usize) -> String {
        let addresses = (0..SERVERS).map(|step| self.grpc((first + step) % SERVERS).to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The process of a server.
    pub fn process_id(&self, at: usize) -> Option<u32> {
        self.servers[at].child.as_ref().map(Child::id)
    }

    /// What a server has said in all its lives.
    pub fn said(&self, at: usize) -> String {
        self.servers[at].said()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(child) = &mut server.child {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                let said = server.said();
                let lines: Vec<_> = said.lines().collect();
                let newest = lines[lines.len().saturating_sub(60)..].join("\n");
                // The first thing that the reader of a failed test needs.
                let text = format!("---- {} ----\n{newest}\n", server.name);
                let _ = std::io::copy(&mut text.as_bytes(), &mut std::io::stderr());
            }
        }
    }
}

impl Server {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The leader's address for peers, as this one says.
    fn leader(&self) -> Option<String> {
        let answer = http::get_json(&format!("http://{}/v1/status/leader", self.places.http))?;
        answer
            .as_str()
            .filter(|leader| !leader.is_empty())
            .map(ToOwned::to_owned)
    }
}

impl Places {
    fn free() -> Self {
        let [http, grpc, peer] = std::array::from_fn(|_| spine_process::free_address());
        Self { http, grpc, peer }
    }
}
