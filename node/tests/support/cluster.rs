//! Three nodes in one process, or as many as join, on loopback addresses of their own.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use spine_api::{AdminCommand, Context, Registry};
use spine_core::{Dialect, GetKey, MemberStatus, NodeName, Query, State, snapshot};
use spine_node::{
    Node, NodeSettings, World,
    metrics_sink::NodeMetrics,
    node::{PeerPort, PeerSettings},
    raft::{Applied, Peer, bootstrap::StartError},
    storage::segment::LogOptions,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

/// A condition is waited for so long; each takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    members: Vec<Member>,
    host: Ipv4Addr,
    directory: tempfile::TempDir,
}

struct Member {
    settings: NodeSettings,
    node: Option<Node>,
    counts: Arc<Counts>,
}

impl Member {
    async fn begin(&self, world: World) -> Node {
        self.try_begin(world).await.unwrap()
    }

    async fn try_begin(&self, world: World) -> Result<Node, StartError> {
        let node = Node::start(self.settings.clone(), world, self.counts.clone());
        timeout(PATIENCE, node).await.expect("it starts or not")
    }

    fn peers(&mut self) -> &mut PeerSettings {
        self.settings.peers.as_mut().expect("it has a port")
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
        Self::start_many(3, change).await
    }

    /// One node that has founded a cluster, with a port for others.
    pub async fn start_one() -> Self {
        Self::start_many(1, |_| {}).await
    }

    async fn start_many(count: usize, change: impl Fn(&mut NodeSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = own_host();
        let peers: Vec<Peer> = (0..count).map(|number| peer(host, number)).collect();
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
            host,
            directory,
        };
        // Together: each waits for the others.
        let starts = cluster.members.iter().map(|member| member.begin(World::real()));
        let nodes = futures::future::join_all(starts).await;
        for (member, node) in cluster.members.iter_mut().zip(nodes) {
            member.node = Some(node);
        }
        cluster
    }

    /// Another node joins, and is taken in when this returns.
    pub async fn join(&mut self) {
        self.join_many(1).await;
    }

    /// Others join at once, and are taken in when this returns.
    pub async fn join_many(&mut self, count: usize) {
        let first = self.members.len();
        for number in first..first + count {
            let newcomer = self.newcomer(&peer(self.host, number).name, number);
            self.members.push(newcomer);
        }
        let starts = self.members[first..]
            .iter()
            .map(|member| member.begin(World::real()));
        let nodes = futures::future::join_all(starts).await;
        for (member, node) in self.members[first..].iter_mut().zip(nodes) {
            member.node = Some(node);
        }
    }

    /// Another node joins, and is taken in when this returns, but says that it is where nobody is: it gets no entries.
    pub async fn join_unreachable(&mut self) {
        let mut newcomer = self.newcomer(&peer(self.host, self.members.len()).name, self.members.len());
        newcomer.settings.peer_address = format!("{}:1", self.host).into();
        newcomer.node = Some(newcomer.begin(World::real()).await);
        self.members.push(newcomer);
    }

    /// Another node wants to join under a name.
    pub async fn join_as(&mut self, name: &str) -> Result<(), StartError> {
        let newcomer = self.newcomer(name, self.members.len());
        newcomer.try_begin(World::real()).await.map(drop)
    }

    fn newcomer(&self, name: &str, number: usize) -> Member {
        let peer = Peer {
            name: name.to_owned(),
            ..peer(self.host, number)
        };
        let path = self.directory.path().join(format!("{number}-{name}"));
        let mut newcomer = Member {
            settings: settings(path, &peer, Vec::new()),
            node: None,
            counts: Arc::default(),
        };
        newcomer.peers().join = self.seeds();
        newcomer
    }

    /// Where the nodes that run are.
    fn seeds(&self) -> Vec<String> {
        let running = self.members.iter().filter(|member| member.node.is_some());
        running
            .map(|member| member.settings.peer_address.to_string())
            .collect()
    }

    /// Wipes the directory of a node that doesn't run; it is to join the others when it is started again.
    pub fn wipe(&mut self, number: usize) {
        std::fs::remove_dir_all(self.directory(number)).unwrap();
        let seeds = self.seeds();
        self.members[number].peers().join = seeds;
    }

    /// Starts a node that may be refused.
    pub async fn try_revive(&mut self, number: usize) -> Result<(), StartError> {
        let node = self.members[number].try_begin(World::real()).await?;
        self.members[number].node = Some(node);
        Ok(())
    }

    /// Waits until a node's state names these servers.
    pub async fn until_members(&self, number: usize, names: &[String]) {
        let mut names = names.to_vec();
        names.sort();
        let mut applied = self.node(number).applied();
        let named = applied.wait_for(|applied| {
            let members = applied.state.members();
            members
                .map(|member| member.name.to_string())
                .eq(names.iter().cloned())
        });
        timeout(PATIENCE, named).await.expect("in time").expect("it runs");
    }

    /// Waits until a node's state says that the leader has lost a server.
    pub async fn until_lost(&self, number: usize, name: &str) {
        let name = NodeName::parse(name).unwrap();
        let mut applied = self.node(number).applied();
        let lost = |applied: &Applied| applied.state.liveness_of(&name).status == MemberStatus::Failed;
        let lost = applied.wait_for(lost);
        timeout(PATIENCE, lost).await.expect("in time").expect("it runs");
    }

    /// From now on a node is not told where to look for the others.
    pub fn forget_seeds(&mut self, number: usize) {
        self.members[number].peers().join.clear();
    }

    /// Waits until those that run say that these vote, and nobody else is a member.
    pub async fn until_voters(&self, names: &[String]) {
        let mut wanted: Vec<_> = names.iter().map(|name| (name.clone(), true)).collect();
        wanted.sort();
        let voted = async {
            let mut look = tokio::time::interval(Duration::from_millis(10));
            loop {
                look.tick().await;
                let running = self.members.iter().filter_map(|member| member.node.as_ref());
                let mut rosters = running.map(|node| {
                    let seats = node.roster().map(|roster| roster.seats).unwrap_or_default();
                    let mut seats: Vec<_> = seats
                        .into_values()
                        .map(|seat| (seat.peer.name, seat.votes))
                        .collect();
                    seats.sort();
                    seats
                });
                if rosters.all(|seats| seats == wanted) {
                    return;
                }
            }
        };
        timeout(PATIENCE, voted).await.expect("they vote");
    }

    /// Waits until a node's registry says so of who votes and who learns.
    pub async fn until_votes(&self, number: usize, votes: &BTreeMap<u64, bool>) {
        let registry = self.registry(number);
        let said = async {
            let mut look = tokio::time::interval(Duration::from_millis(10));
            while registry.votes() != *votes {
                look.tick().await;
            }
        };
        timeout(PATIENCE, said).await.expect("it says so");
    }

    /// Waits until a node serves.
    pub async fn until_ready(&self, number: usize) {
        let ready = timeout(PATIENCE, self.node(number).ready()).await;
        ready.expect("it serves in time").unwrap();
    }

    /// What a node has applied.
    pub fn state(&self, number: usize) -> State {
        self.node(number).applied().borrow().state.clone()
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

    /// Drops a node, which ends it as well.
    pub fn drop_one(&mut self, number: usize) {
        self.members[number].node.take().expect("it runs");
    }

    /// What a node is told about itself.
    pub fn settings(&self, number: usize) -> &NodeSettings {
        &self.members[number].settings
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
        // On a busy machine that takes longer than a request may.
        let cx = Context {
            deadline: Instant::now() + PATIENCE,
            ..Context::new(Dialect::Internal)
        };
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

fn peer(host: Ipv4Addr, number: usize) -> Peer {
    Peer {
        name: format!("n{number}"),
        address: format!("{host}:{}", 8300 + number),
    }
}

/// Somebody who writes key after key, and goes on whatever happens.
pub struct Writer {
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<usize>,
    writing: JoinHandle<Written>,
}

/// What was acknowledged.
pub struct Written {
    prefix: String,
    numbers: Vec<usize>,
    /// The longest time between two acknowledgements.
    pub longest_gap: Duration,
}

impl Writer {
    /// Begins to write `PREFIX/0` and so on.
    pub fn start(prefix: &str, registry: Arc<dyn Registry>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tell, acknowledged) = watch::channel(0);
        let prefix = prefix.to_owned();
        let writing = tokio::spawn(async move {
            let (mut numbers, mut longest_gap) = (Vec::new(), Duration::ZERO);
            let mut last = Instant::now();
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let command = super::put(&format!("{prefix}/{number}"), number.to_string());
                if registry.propose(&super::cx(), command).await.is_ok() {
                    longest_gap = longest_gap.max(last.elapsed());
                    last = Instant::now();
                    numbers.push(number);
                    tell.send_replace(numbers.len());
                }
            }
            Written {
                prefix,
                numbers,
                longest_gap,
            }
        });
        Self {
            stop,
            acknowledged,
            writing,
        }
    }

    /// Waits until so many more are acknowledged.
    pub async fn until_more(&self, count: usize) {
        let mut acknowledged = self.acknowledged.clone();
        let wanted = *acknowledged.borrow() + count;
        let more = acknowledged.wait_for(|count| *count >= wanted);
        timeout(PATIENCE, more)
            .await
            .expect("writes are acknowledged")
            .unwrap();
    }

    pub async fn stop(self) -> Written {
        self.stop.send_replace(true);
        self.writing.await.unwrap()
    }
}

impl Written {
    /// Looks for all of it in a state.
    pub fn are_in(&self, state: &State) {
        for number in &self.numbers {
            let key = format!("{}/{number}", self.prefix);
            let row = GetKey(key.clone().into()).ask(state).value;
            let value = row.map(|row| row.value.to_vec());
            assert_eq!(
                value,
                Some(number.to_string().into_bytes()),
                "{key} was acknowledged"
            );
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
        join: Vec::new(),
        replace: None,
    });
    settings
}
