//! The cluster under test: processes of the real binary, each on a host, a disk and with a wall clock of its own.
//!
//! [`Cluster`] starts and ends them; [`process`] is one of them, [`disk`] and [`fake_clock`] are what it lives on. All
//! of it blocks: it is used by the one thread that breaks things, beside the clients' runtime.
//!
//! Only a sealed process can have a cluster ([`crate::sealed`]): its hosts, mounts and servers end with it.

pub mod disk;
pub mod fake_clock;
pub mod process;

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, Endpoints};
use crate::net::{Host, Network, Node};
use crate::sealed;
use disk::Ext4;
use fake_clock::FakeClock;
use process::{Data, Server};

/// What cluster is wanted.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is something that a cluster has, or has not"
)]
pub struct Spec {
    /// The binary under test.
    pub binary: PathBuf,
    /// How many nodes.
    pub nodes: u8,
    /// Each node's data is on a disk of its own, whose power can be cut.
    pub own_disks: bool,
    /// Each node has a wall clock of its own, which can be set.
    pub own_clocks: bool,
    /// Its members change: there is one more server, to join and to go.
    pub changes: bool,
    /// Flushes do nothing (strace answers in the kernel's place): a planted defect, which power cuts have to show.
    pub without_flushes: bool,
    /// Where logs, disks and data are.
    pub directory: PathBuf,
    /// Decides which packets a lossy link loses.
    pub seed: u64,
}

/// Servers on a network of their own.
#[derive(Debug)]
pub struct Cluster {
    // Before the network, so that processes end before their hosts do.
    servers: Vec<Server>,
    /// One that is no member, but may become one for a while.
    guest: Option<Server>,
    /// The members are not the founders any more, or not where they were.
    is_changed: bool,
    network: Network,
}

/// Time that a node may take to serve, at its first start or any later one, on a loaded machine.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Time that an orderly end may take: as much as the server's own drain.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(12);

/// Bytes of a node's disk. Its file is sparse.
const DISK_BYTES: u64 = 2 * 1024 * 1024 * 1024;

impl Cluster {
    /// Starts it, and waits until every node serves.
    ///
    /// # Errors
    /// The process isn't sealed, something needed isn't there, or a node doesn't come up; what it said is told.
    pub fn start(spec: &Spec) -> io::Result<Self> {
        if !sealed::is_inside() {
            return Err(io::Error::other("a cluster needs namespaces of its own"));
        }
        fs::create_dir_all(&spec.directory)?;
        let servers: io::Result<Vec<Server>> =
            Node::first(spec.nodes).map(|node| server(spec, node)).collect();
        let guest = spec.changes.then(|| server(spec, Node(spec.nodes + 1)));
        let mut cluster = Self {
            servers: servers?,
            guest: guest.transpose()?,
            is_changed: false,
            network: Network::start(spec.nodes + u8::from(spec.changes), spec.seed)?,
        };
        let nodes = cluster.nodes();
        for node in &nodes {
            cluster.start_node(*node)?;
        }
        let start = Instant::now();
        for node in nodes {
            cluster.await_ready(node, READY_WITHIN.saturating_sub(start.elapsed()))?;
        }
        Ok(cluster)
    }

    /// Where its clients find it.
    pub fn endpoints(&self) -> Endpoints {
        let nodes = self.servers.iter().map(|server| Endpoint {
            name: server.node().to_string(),
            http: server.http(),
            grpc: server.grpc(),
        });
        Endpoints {
            nodes: nodes.collect(),
            harness: Host::Clients.address().into(),
        }
    }

    /// All nodes, in the order of their numbers.
    pub fn nodes(&self) -> Vec<Node> {
        self.servers.iter().map(Server::node).collect()
    }

    /// The network between them.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// One of the nodes.
    pub fn server(&self, node: Node) -> &Server {
        let mut all = self.servers.iter().chain(&self.guest);
        all.find(|server| server.node() == node).expect(KNOWN)
    }

    /// The same, to end or start it.
    pub fn server_mut(&mut self, node: Node) -> &mut Server {
        let mut all = self.servers.iter_mut().chain(&mut self.guest);
        all.find(|server| server.node() == node).expect(KNOWN)
    }

    /// The one more server, of a cluster whose members change.
    pub fn guest(&self) -> Node {
        self.guest.as_ref().expect("it was asked for").node()
    }

    /// From now on nodes are started to look for the others where they are, whatever the founders' list says.
    pub fn begin_changes(&mut self) {
        self.is_changed = true;
    }

    /// Starts a node that doesn't run.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start_node(&mut self, node: Node) -> io::Result<()> {
        let others = self.servers.iter().filter(|server| server.node() != node);
        let others: Vec<SocketAddr> = others.map(Server::peer).collect();
        let mut all = self.servers.iter_mut().chain(&mut self.guest);
        let server = all.find(|server| server.node() == node).expect(KNOWN);
        if self.is_changed {
            server.set_seeds(&others);
        }
        server.start(&self.network)
    }

    /// Waits until a node serves.
    ///
    /// # Errors
    /// It ended by itself or doesn't serve within `deadline`: with its last words.
    pub fn await_ready(&mut self, node: Node, deadline: Duration) -> io::Result<Duration> {
        let server = self.server_mut(node);
        let start = Instant::now();
        while start.elapsed() < deadline {
            if server.await_ready(LOOK).is_some() {
                return Ok(start.elapsed());
            }
            if let Some(status) = server.ended_by_itself()? {
                let said = server.last_words(20);
                return Err(io::Error::other(format!("{node} ended with {status}:\n{said}")));
            }
        }
        let said = server.last_words(20);
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{node} doesn't serve within {deadline:?}:\n{said}"),
        ))
    }

    /// The node that leads: of those that think so, the one with the newest term.
    pub fn leader(&self) -> Option<Node> {
        let leading = self.servers.iter().filter(|server| !server.is_paused());
        let leading = leading.filter_map(|server| Some((server.leads()?, server.node())));
        leading.max().map(|(_, node)| node)
    }

    /// What befell nodes although nobody did it: they ended, or one of their threads panicked. Each is told once, with the
    /// last words.
    ///
    /// # Errors
    /// The kernel doesn't tell about a child.
    pub fn mishaps(&mut self) -> io::Result<Vec<String>> {
        let mut mishaps = Vec::new();
        for server in self.servers.iter_mut().chain(&mut self.guest) {
            mishaps.extend(server.new_panics());
            if let Some(status) = server.ended_by_itself()? {
                let (node, said) = (server.node(), server.last_words(20));
                mishaps.push(format!("{node} ended by itself with {status}:\n{said}"));
            }
        }
        Ok(mishaps)
    }

    /// Asks all nodes to end; kills those that don't.
    ///
    /// # Errors
    /// A process can't be signalled.
    pub fn stop(&mut self) -> io::Result<()> {
        for server in self.servers.iter_mut().chain(&mut self.guest) {
            server.stop(STOPPED_WITHIN)?;
        }
        Ok(())
    }
}

const KNOWN: &str = "nodes are those of `Cluster::nodes`, and the guest";

/// Between two looks whether a node that is waited for still runs.
const LOOK: Duration = Duration::from_millis(500);

fn server(spec: &Spec, node: Node) -> io::Result<Server> {
    let place = spec.directory.join(node.to_string());
    fs::create_dir_all(&place)?;
    let data = if spec.own_disks {
        Data::Disk(Ext4::create(&place, DISK_BYTES)?)
    } else {
        Data::Directory(place.join("data"))
    };
    let clock = spec.own_clocks.then(|| FakeClock::new(place.join("clock")));
    let clock = clock.transpose()?;
    Ok(Server::new(node, spec, data, clock))
}

/// The binary under test: `SPINE_BIN`, or else `spine` where cargo puts it, beside the harness or, of a test, above it.
///
/// # Errors
/// It isn't there.
pub fn binary() -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    let named = env::var_os("SPINE_BIN").map(PathBuf::from);
    let built = own.ancestors().skip(1).take(2).map(|place| place.join("spine"));
    let found = match named {
        Some(path) => path.is_file().then_some(path),
        None => built.into_iter().find(|path| path.is_file()),
    };
    found.map(fs::canonicalize).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no binary to test: cargo build --bin spine, or set SPINE_BIN",
        )
    })?
}
