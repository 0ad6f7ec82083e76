//! The servers of one cluster as processes on the loopback: started, killed, stopped and started again one by one. There
//! are three of them from the beginning, or one, which others join.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use spine_client::Client;
use spine_core::snapshot::Header;
use tokio::runtime::Runtime;

use crate::{http, spine_process, wait};

/// How many there are, where there are several from the beginning.
pub const SERVERS: usize = 3;

/// A start, with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// An orderly end may write a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// The cluster. Dropping it kills the processes.
#[derive(Debug)]
pub struct Cluster {
    /// In the order in which they came.
    servers: Vec<Server>,
    /// What each server is told beside who and where it is.
    flags: Vec<String>,
    /// Where those that join have their data and their logs.
    place: PathBuf,
}

#[derive(Debug)]
struct Server {
    name: String,
    places: Places,
    data: PathBuf,
    log: PathBuf,
    others: Others,
    /// What it runs, from its next start on.
    binary: PathBuf,
    /// Options beside the usual ones.
    options: Vec<String>,
    child: Option<Child>,
    /// It is a member no longer.
    gone: bool,
}

/// What a server is told of the others.
#[derive(Clone, Debug)]
enum Others {
    /// There are none.
    None,
    /// `--initial-cluster`.
    Founders(String),
    /// `--join`.
    Seeds(String),
}

/// Where a server is found.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    http: SocketAddr,
    grpc: SocketAddr,
    peer: SocketAddr,
}

impl Cluster {
    /// Servers with these data directories, none of them started. Their logs lie in `logs`.
    pub fn new(data: [PathBuf; SERVERS], logs: &Path) -> Self {
        let mut servers: Vec<_> = data
            .into_iter()
            .enumerate()
            .map(|(at, data)| Server::new(at, data, logs))
            .collect();
        let founders: Vec<_> = servers
            .iter()
            .map(|server| format!("{}={}", server.name, server.places.peer))
            .collect();
        for server in &mut servers {
            server.others = Others::Founders(founders.join(","));
        }
        Self {
            servers,
            flags: Vec::new(),
            place: logs.to_owned(),
        }
    }

    /// A cluster of one server below `place` that serves. It has a port for others.
    pub fn alone(place: &Path) -> Self {
        let mut cluster = Self {
            servers: vec![Server::new(0, place.join("n1"), place)],
            flags: Vec::new(),
            place: place.to_owned(),
        };
        cluster.start_all();
        cluster
    }

    /// Another server that joins those that run; gives its place, and doesn't wait for it.
    pub fn join(&mut self) -> usize {
        let at = self.servers.len();
        let seeds = self.seeds();
        let mut server = Server::new(at, self.place.join(format!("n{}", at + 1)), &self.place);
        server.others = Others::Seeds(seeds);
        self.servers.push(server);
        self.spawn(at);
        at
    }

    /// Deletes the data of a server that doesn't run: it is to join the others when it is started again.
    pub fn wipe(&mut self, at: usize) {
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<_> = others.map(|(_, other)| other.places.peer.to_string()).collect();
        let server = &mut self.servers[at];
        assert!(server.child.is_none(), "{} runs", server.name);
        fs::remove_dir_all(&server.data).expect("the directory of a server that ran");
        server.others = Others::Seeds(others.join(","));
    }

    /// A server that doesn't run is to begin a cluster of its own with what is in its directory.
    pub fn begin_alone(&mut self, at: usize) {
        self.servers[at].others = Others::None;
    }

    /// Notes that a server is a member no longer, and waits until it has ended.
    pub fn await_gone(&mut self, at: usize) -> ExitStatus {
        self.servers[at].gone = true;
        self.await_stopped(at)
    }

    /// Stops all that run in order, and starts them at other places, which only these servers are told.
    pub fn move_to(&mut self, places: &[Places]) {
        let moved: Vec<_> = self.running().collect();
        assert_eq!(moved.len(), places.len(), "a place for each server");
        for at in &moved {
            self.ask_to_stop(*at);
        }
        for at in &moved {
            let status = self.await_stopped(*at);
            assert!(status.success(), "{status}:\n{}", self.said(*at));
        }
        let peers: Vec<_> = places.iter().map(|places| places.peer.to_string()).collect();
        for (at, places) in moved.iter().zip(places) {
            self.servers[*at].places = *places;
            self.servers[*at].others = Others::Seeds(peers.join(","));
        }
        self.start_all();
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        let servers = self.servers.iter().enumerate();
        servers
            .filter(|(_, server)| server.child.is_some())
            .map(|(at, _)| at)
    }

    /// Where those that run hear each other.
    fn seeds(&self) -> String {
        let peers = self.running().map(|at| self.servers[at].places.peer.to_string());
        peers.collect::<Vec<_>>().join(",")
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

    /// Starts every member that doesn't run, and waits until all are ready.
    pub fn start_all(&mut self) {
        for at in 0..self.servers.len() {
            if self.servers[at].child.is_none() && !self.servers[at].gone {
                self.spawn(at);
            }
        }
        let running: Vec<_> = self.running().collect();
        for at in running {
            self.await_ready(at);
        }
    }

    /// Starts a server, and doesn't wait for it.
    pub fn spawn(&mut self, at: usize) {
        let flags = self.flags.clone();
        let server = &mut self.servers[at];
        assert!(server.child.is_none(), "{} runs already", server.name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&server.log)
            .expect("a place for the log");
        let child = Command::new(&server.binary)
            .args(["serve", "--governance", "open", "--name", &server.name])
            .args(server.others.arguments())
            .args(flags)
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
        let mut child = self.take(at);
        child.kill().expect("a child may be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Asks a server to end (SIGTERM), and doesn't wait for it.
    pub fn ask_to_stop(&mut self, at: usize) {
        self.signal(at, Signal::TERM);
    }

    /// Stops a server where it is (SIGSTOP).
    pub fn pause(&mut self, at: usize) {
        self.signal(at, Signal::STOP);
    }

    /// Lets a server that was paused go on.
    pub fn resume(&mut self, at: usize) {
        self.signal(at, Signal::CONT);
    }

    fn signal(&self, at: usize, signal: Signal) {
        let child = self.servers[at].child.as_ref().expect("the server runs");
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, signal).expect("a child may be signalled");
    }

    /// Waits until a server that was asked to has ended.
    pub fn await_stopped(&mut self, at: usize) -> ExitStatus {
        let mut child = self.take(at);
        wait::until("the server ends after SIGTERM", STOPPED_WITHIN, || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    fn take(&mut self, at: usize) -> Child {
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

    /// Waits until one of the others leads, as one of them says.
    pub fn await_leader_beside(&self, at: usize) {
        let former = self.servers[at].places.peer.to_string();
        wait::until_true("another server leads", READY_WITHIN, || {
            let others = self.running().filter(|other| *other != at);
            let mut leaders = others.filter_map(|other| self.servers[other].leader());
            leaders.any(|leader| leader != former)
        });
    }

    /// Waits until a server votes, and all that run say so.
    pub fn await_voter(&mut self, at: usize) {
        self.await_ready(at);
        let (name, peer) = (self.name(at).to_owned(), self.servers[at].places.peer.to_string());
        wait::until_true(&format!("{name} votes"), READY_WITHIN, || {
            let of_itself = http::get_json(&format!("http://{}/v1/agent/self", self.http(at)));
            let state = of_itself.map(|itself| itself["Stats"]["raft"]["state"].clone());
            let votes = state.is_some_and(|state| state == "Follower" || state == "Leader");
            votes && self.running().all(|at| self.servers[at].peers().contains(&peer))
        });
    }

    /// Waits until all that run have applied as much, and compares what their states come to. Nobody may be writing.
    ///
    /// # Panics
    /// If two of them differ.
    pub fn must_agree(&self) {
        let runtime = Runtime::new().expect("a runtime");
        let all = wait::until("all have applied as much", READY_WITHIN, || {
            let headers = self.running().map(|at| (at, self.header(&runtime, at)));
            let headers: Vec<_> = headers.collect();
            // What has no request moves the time alone.
            let places: BTreeSet<_> = headers.iter().map(|(_, one)| (one.index, one.time)).collect();
            (places.len() == 1).then_some(headers)
        });
        let digests: BTreeSet<_> = all.iter().map(|(_, header)| header.digest).collect();
        assert_eq!(digests.len(), 1, "{all:?}");
    }

    /// What a server's own state comes to.
    fn header(&self, runtime: &Runtime, at: usize) -> Header {
        let _inside = runtime.enter();
        let client = Client::connect(&self.grpc(at).to_string()).expect("a client of an address");
        runtime.block_on(async {
            let snapshot = client.admin.save_snapshot().await.expect("it runs and serves");
            Header::decode(&snapshot.start().state).expect("a release knows its headers")
        })
    }

    /// A metric of a server.
    pub fn metric(&self, at: usize, name: &str) -> Option<f64> {
        http::metric(self.http(at), name)
    }

    /// A server's name.
    pub fn name(&self, at: usize) -> &str {
        &self.servers[at].name
    }

    /// Where a server's data is.
    pub fn data(&self, at: usize) -> &Path {
        &self.servers[at].data
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
        let count = self.servers.len();
        let addresses = (0..count).map(|step| self.grpc((first + step) % count).to_string());
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

impl Others {
    fn arguments(&self) -> Vec<&str> {
        match self {
            Self::None => Vec::new(),
            Self::Founders(list) => vec!["--initial-cluster", list],
            Self::Seeds(seeds) => vec!["--join", seeds],
        }
    }
}

impl Server {
    fn new(at: usize, data: PathBuf, logs: &Path) -> Self {
        let name = format!("n{}", at + 1);
        Self {
            log: logs.join(format!("{name}.log")),
            name,
            places: Places::free(),
            data,
            others: Others::None,
            binary: spine_process::binary().to_owned(),
            options: Vec::new(),
            child: None,
            gone: false,
        }
    }

    /// The addresses of the servers, as this one says.
    fn peers(&self) -> Vec<String> {
        let peers = http::get_json(&format!("http://{}/v1/status/peers", self.places.http));
        let peers = peers.as_ref().and_then(|peers| peers.as_array());
        let peers = peers.into_iter().flatten().filter_map(|peer| peer.as_str());
        peers.map(ToOwned::to_owned).collect()
    }

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

    /// Some that nobody uses, at this address of the machine.
    pub fn free_at(host: IpAddr) -> Self {
        let Self { http, grpc, peer } = Self::free();
        let [http, grpc, peer] = [http, grpc, peer].map(|place| SocketAddr::new(host, place.port()));
        Self { http, grpc, peer }
    }

    /// Where the native API is served.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }
}
