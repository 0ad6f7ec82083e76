//! One `spine serve`: its command line, its process, and what that says of itself.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::Spec;
use super::disk::Ext4;
use super::fake_clock::FakeClock;
use crate::http;
use crate::net::{Host, Network, Node};

/// A node under test, running or not. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    node: Node,
    binary: PathBuf,
    /// Founders, this one among them; empty: a server of its own.
    initial_cluster: String,
    /// Where others are whose cluster it joins, or comes back to; empty: it goes by the founders.
    seeds: String,
    /// Where the others reach it; it may move.
    peer_port: u16,
    /// Others may join it.
    is_open: bool,
    data: Data,
    clock: Option<FakeClock>,
    without_flushes: bool,
    log: PathBuf,
    /// Bytes of the log that were searched for panics.
    log_looked_at: usize,
    child: Option<Child>,
}

/// Where its data is.
#[derive(Debug)]
pub(super) enum Data {
    /// On a disk of its own.
    Disk(Ext4),
    /// On the machine's.
    Directory(PathBuf),
}

/// Ports, the same on each node: each has an address of its own.
const HTTP: u16 = 8500;
const GRPC: u16 = 8502;
const PEER: u16 = 8300;

/// Time for an answer of a node that is well.
const PATIENCE: Duration = Duration::from_millis(800);

/// Time between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

impl Server {
    /// `node` of the cluster wanted. It isn't started.
    pub(super) fn new(node: Node, spec: &Spec, data: Data, clock: Option<FakeClock>) -> Self {
        let founders = Node::first(spec.nodes).map(|node| format!("{node}={}", address(node, PEER)));
        let founders: Vec<String> = founders.collect();
        let is_alone = spec.nodes == 1;
        Self {
            node,
            binary: spec.binary.clone(),
            initial_cluster: if is_alone {
                String::new()
            } else {
                founders.join(",")
            },
            seeds: String::new(),
            peer_port: PEER,
            is_open: spec.changes || !is_alone,
            data,
            clock,
            without_flushes: spec.without_flushes,
            log: spec.directory.join(format!("{node}.log")),
            log_looked_at: 0,
            child: None,
        }
    }

    /// Who it is.
    pub fn node(&self) -> Node {
        self.node
    }

    /// Consul's HTTP API.
    pub fn http(&self) -> SocketAddr {
        address(self.node, HTTP)
    }

    /// The native gRPC API.
    pub fn grpc(&self) -> SocketAddr {
        address(self.node, GRPC)
    }

    /// Where the other nodes reach it.
    pub fn peer(&self) -> SocketAddr {
        address(self.node, self.peer_port)
    }

    /// From its next start on the others reach it elsewhere.
    pub fn move_elsewhere(&mut self) {
        self.peer_port += 1;
    }

    /// From its next start on it looks for the others at these addresses.
    pub(super) fn set_seeds(&mut self, seeds: &[SocketAddr]) {
        let seeds: Vec<String> = seeds.iter().map(SocketAddr::to_string).collect();
        self.seeds = seeds.join(",");
    }

    /// Its data is lost.
    ///
    /// # Errors
    /// It runs, or the disk fails.
    pub fn wipe(&self) -> io::Result<()> {
        if self.child.is_some() {
            return Err(io::Error::other(format!("{} runs", self.node)));
        }
        match fs::remove_dir_all(self.data_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn data_dir(&self) -> PathBuf {
        match &self.data {
            // Not the mount point itself, where ext4 has its `lost+found`.
            Data::Disk(disk) => disk.path().join("data"),
            Data::Directory(directory) => directory.clone(),
        }
    }

    /// Its disk, if it has one of its own.
    pub fn disk(&self) -> Option<&Ext4> {
        match &self.data {
            Data::Disk(disk) => Some(disk),
            Data::Directory(_) => None,
        }
    }

    /// Its wall clock, if that can be set.
    pub fn clock(&self) -> Option<&FakeClock> {
        self.clock.as_ref()
    }

    /// Starts the process; [`Server::await_ready`] waits until it serves.
    pub(super) fn start(&mut self, network: &Network) -> io::Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(log, "--- {} is started", self.node)?;
        let mut command = self.command();
        // Not in the harness' group: what a terminal sends there is not meant for it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(network.spawn(Host::Node(self.node), &mut command)?);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.program();
        command
            .args(["serve", "--governance", "open"])
            .args(["--name", &self.node.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--http-addr", &self.http().to_string()])
            .args(["--grpc-addr", &self.grpc().to_string()]);
        if self.is_open {
            command.args(["--peer-addr", &self.peer().to_string()]);
        }
        if !self.seeds.is_empty() {
            command.args(["--join", &self.seeds]);
        } else if !self.initial_cluster.is_empty() {
            command.args(["--initial-cluster", &self.initial_cluster]);
        }
        if let Some(clock) = &self.clock {
            command.envs(clock.environment());
        }
        command
    }

    fn program(&self) -> Command {
        if !self.without_flushes {
            return Command::new(&self.binary);
        }
        let mut strace = Command::new("strace");
        // As a grandchild (-D), so that the process that is killed is the node.
        strace.args(["-D", "--seccomp-bpf", "-f", "-qq", "-o", "/dev/null"]);
        strace.args([
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            "inject=fsync,fdatasync:retval=0",
        ]);
        strace.arg("--").arg(&self.binary);
        strace
    }

    /// Whether it was started and not ended by us.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did so by itself since it was started.
    pub fn ended_by_itself(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    /// Waits until it has ended by itself; `None`: it runs on.
    pub fn await_end(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let ended = self.ended_by_itself()?;
            if ended.is_some() || start.elapsed() > within {
                return Ok(ended);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends it as the kernel does, without a word. Gives what it ended with; `None` if it didn't run.
    pub fn kill(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        child.kill()?;
        child.wait().map(Some)
    }

    /// Asks it to end (SIGTERM), and kills it if that takes longer than `within`. Gives what it ended with.
    pub fn stop(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < within {
            let Some(child) = &mut self.child else {
                return Ok(None);
            };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(Some(status));
            }
            std::thread::sleep(PAUSE);
        }
        self.kill()
    }

    /// Stops it in its tracks (SIGSTOP). Gives whether it stands still.
    pub fn pause(&self) -> io::Result<bool> {
        self.signal(Signal::STOP)?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.is_paused() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(false)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it stands still, by the kernel's word.
    pub fn is_paused(&self) -> bool {
        let status = self.child.as_ref().and_then(|child| {
            let status = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
            // `PID (NAME) STATE …`, and the name may hold anything.
            let (_, behind) = status.rsplit_once(") ")?;
            behind.chars().next()
        });
        status == Some('T')
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.child {
            Some(child) => Ok(kill_process(Pid::from_child(child), signal)?),
            None => Ok(()),
        }
    }

    /// Waits until it serves, and gives how long that took; `None` if it doesn't within `deadline`.
    pub fn await_ready(&self, deadline: Duration) -> Option<Duration> {
        let start = Instant::now();
        loop {
            if self.is_ready() {
                return Some(start.elapsed());
            }
            if start.elapsed() >= deadline {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether it says that it has caught up and serves.
    pub fn is_ready(&self) -> bool {
        http::get(self.http(), "/readyz", PATIENCE).is_ok_and(|answer| answer.is_success())
    }

    /// The term that it leads, if it thinks that it leads.
    pub fn leads(&self) -> Option<u64> {
        let [is_leader, term] = self.metrics(["spine_raft_is_leader", "spine_raft_term"])?;
        (is_leader == 1).then_some(term)
    }

    /// Bytes that it has flushed to its log since it was started.
    pub fn log_bytes(&self) -> Option<u64> {
        let [bytes] = self.metrics(["spine_log_flushed_bytes_total"])?;
        Some(bytes)
    }

    fn metrics<const N: usize>(&self, names: [&str; N]) -> Option<[u64; N]> {
        let answer = http::get(self.http(), "/metrics", PATIENCE).ok()?;
        let value = |name: &str| {
            let mut lines = answer.text().lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        let mut values = [0; N];
        for (place, name) in values.iter_mut().zip(names) {
            *place = value(name)?;
        }
        Some(values)
    }

    /// What its wall clock shows, as it dates its metrics.
    pub fn wall_clock(&self) -> Option<SystemTime> {
        let answer = http::get(self.http(), "/v1/agent/metrics", PATIENCE).ok()?;
        let metrics: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        humantime::parse_rfc3339_weak(metrics["Timestamp"].as_str()?).ok()
    }

    /// Panics of its threads since the last call: it may go on without them, and nobody would notice.
    pub(super) fn new_panics(&mut self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let new = log.get(self.log_looked_at..).unwrap_or_default();
        let (node, lines) = (self.node, new.lines().collect::<Vec<_>>());
        let panics = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains("panicked at"));
        let panics = panics.map(|(place, line)| {
            let message = lines.get(place + 1).copied().unwrap_or_default();
            format!("{node}: {line} {message}")
        });
        let panics = panics.collect();
        self.log_looked_at = log.len();
        panics
    }

    /// The last lines of its log.
    pub fn last_words(&self, lines: usize) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.lines().count().saturating_sub(lines);
        log.lines().skip(from).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{}: {line}", self.node);
            text
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn address(node: Node, port: u16) -> SocketAddr {
    SocketAddr::from((Host::Node(node).address(), port))
}
