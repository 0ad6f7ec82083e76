//! Three nodes in one process, on loopback addresses of their own.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use spine_api::{AdminCommand, Context, Registry};
use spine_core::{Dialect, NodeName, State, snapshot};
use spine_node::{
    Node, NodeSettings, World,
    metrics_sink::NodeMetrics,
    node::{PeerPort, PeerSettings},
    raft::{Applied, Peer},
    storage::segment::LogOptions,
};
use tokio::time::timeout;

/// A condition is waited for so long; each takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    members: Vec<Member>,
    _directory: tempfile::TempDir,
}

struct Member {
    settings: NodeSettings,
    node: Option<Node>,
    counts: Arc<Counts>,
}

impl Member {
    async fn begin(&self, world: World) -> Node {
        let node = Node::start(self.settings.clone(), world, self.counts.clone());
        timeout(PATIENCE, node).await.expect("it starts").unwrap()
    }
}

/// What is counted of a node, over all its lives.
#[derive(Default)]
struct Counts {
    installed: AtomicUsize,
}

impl NodeMetrics for Counts {
    fn installed(&self) {
        self.installed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A loopback address that no other test of this machine uses: ports taken from it can't be taken by others before
/// they are bound.
fn own_host() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = process.to_be_bytes();
    Ipv4Addr::new(127, 1 + (number % 250) as u8, high, low.clamp(1, 254))
}

impl Cluster {
    /// Three nodes that have founded a cluster.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with other settings.
    pub async fn start_with(change: impl Fn(&mut NodeSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = own_host();
        let peers: Vec<Peer> = (0..3)
            .map(|number| Peer {
                name: format!("n{number}"),
                address: format!("{host}:{}", 8300 + number),
            })
            .collect();
        let members = peers.iter().map(|peer| {
            let mut settings = settings(directory.path().join(&peer.name), peer, peers.clone());
            change(&mut settings);
            Member {
                settings,
                node: None,
                counts: Arc::default(),
            }
        });
        let mut cluster = Self {
            members: members.collect(),
            _directory: directory,
        };
        // Together: each waits for the others.
        let starts = cluster.members.iter().map(|member| member.begin(World::real()));
        let nodes = futures::future::join_all(starts).await;
        for (member, node) in cluster.members.iter_mut().zip(nodes) {
            member.node = Some(node);
        }
        cluster
    }

    pub async fn revive(&mut self, number: usize) {
        self.revive_in(number, World::real()).await;
    }

    pub async fn revive_in(&mut self, number: usize, world: World) {
        let member = &mut self.members[number];
        member.node = Some(member.begin(world).await);
    }

    /// How often a node has taken a state that came whole.
    pub fn installed(&self, number: usize) -> usize {
        self.members[number].counts.installed.load(Ordering::Relaxed)
    }

    /// Ends a node as a crash would.
    pub async fn halt(&mut self, number: usize) {
        let node = self.members[number].node.take().expect("it runs");
        node.halt().await.unwrap();
    }

    /// Ends a node in order.
    pub async fn stop_one(&mut self, number: usize) {
        let node = self.members[number].node.take().expect("it runs");
        node.stop().await.unwrap();
    }

    /// Where a node keeps its data.
    pub fn directory(&self, number: usize) -> &std::path::Path {
        &self.members[number].settings.data_dir
    }

    pub fn node(&self, number: usize) -> &Node {
        self.members[number].node.as_ref().expect("it runs")
    }

    pub fn registry(&self, number: usize) -> Arc<dyn Registry> {
        self.node(number).registry()
    }

    /// Waits until these nodes agree on one of them as their leader.
    pub async fn leader_among(&self, numbers: &[usize]) -> usize {
        let agreed = async {
            loop {
                let named = numbers.iter().map(|number| {
                    let leader = self.node(*number).leader().borrow().clone();
                    leader.map(|leader| (leader.name, leader.term))
                });
                let named: Vec<_> = named.collect();
                let first = named[0].clone();
                let leader = numbers.iter().find(|number| {
                    first
                        .as_ref()
                        .is_some_and(|(name, _)| *name == format!("n{number}"))
                });
                if let Some(leader) = leader
                    && named.iter().all(|name| *name == first)
                {
                    return *leader;
                }
                let mut next = self.node(numbers[0]).leader();
                // Another may be the one that changes.
                let _ = timeout(Duration::from_millis(10), next.changed()).await;
            }
        };
        timeout(PATIENCE, agreed).await.expect("they agree on a leader")
    }

    /// Waits until these nodes have applied what the first of them has by now, and compares their digests there.
    pub async fn until_equal(&self, numbers: &[usize]) {
        let mut wanted = 0;
        let mut states: Vec<State> = Vec::new();
        let equal = async {
            loop {
                for number in numbers {
                    let applied = self.reached(*number, wanted).await;
                    wanted = wanted.max(applied.position.map_or(0, |position| position.index));
                    states.push(applied.state);
                }
                if states.iter().all(|state| state.index() == states[0].index()) {
                    return;
                }
                states.clear();
            }
        };
        timeout(PATIENCE, equal)
            .await
            .expect("they come to the same position");
        let digest = snapshot::Header::of(&states[0]).digest;
        for (number, state) in numbers.iter().zip(&states) {
            assert_eq!(snapshot::Header::of(state).digest, digest, "node {number}");
        }
    }

    /// Waits until a node's state has so many bytes.
    pub async fn until_state(&self, number: usize, bytes: u64) {
        let mut applied = self.node(number).applied();
        let large = applied.wait_for(|applied| applied.state.bytes() > bytes);
        timeout(PATIENCE, large).await.expect("in time").expect("it runs");
    }

    /// Writes a checkpoint.
    pub async fn checkpoint(&self, number: usize) {
        let cx = Context::new(Dialect::Internal);
        self.registry(number)
            .admin(&cx, AdminCommand::Checkpoint)
            .await
            .unwrap();
    }

    /// Waits until a node's log has no more what comes after `index`.
    pub async fn until_purged(&self, number: usize, index: u64) {
        let purged = async {
            let mut look = tokio::time::interval(Duration::from_millis(10));
            while self.node(number).log_begins() <= index + 1 {
                look.tick().await;
            }
        };
        timeout(PATIENCE, purged).await.expect("it is purged");
    }

    async fn reached(&self, number: usize, index: u64) -> Applied {
        let mut applied = self.node(number).applied();
        let reached = applied.wait_for(|applied| applied.reaches(index)).await;
        reached.expect("it runs").clone()
    }

    pub async fn stop(mut self) {
        let nodes = self.members.iter_mut().filter_map(|member| member.node.take());
        for stopped in futures::future::join_all(nodes.map(Node::stop)).await {
            stopped.unwrap();
        }
    }
}

fn settings(path: PathBuf, peer: &Peer, founders: Vec<Peer>) -> NodeSettings {
    let mut settings = NodeSettings::new(NodeName::parse(&peer.name).unwrap(), path);
    settings.log = LogOptions {
        segment_bytes: 4 << 20,
        spares: 1,
        ..LogOptions::default()
    };
    settings.peer_address = peer.address.as_str().into();
    settings.peers = Some(PeerSettings {
        port: PeerPort::At(peer.address.parse().unwrap()),
        founders,
    });
    settings
}
