//! A node: storage, Raft, state and registry, put together, started and stopped. No listeners: those are the
//! [`server`](crate)'s, and an embedder needs none.
//!
//! Several nodes may run in one process; nothing here is global.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use spine_api::{Context, Registry, hub::Hub};
use spine_core::{Command, Dialect, Member, NodeName, RULES_KNOWN, limits};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    condition::{self, Condition},
    digests::{
        Marks,
        peers::{self, Asking, Comparing},
    },
    forward::{
        link::Remote,
        service::{ForwardService, Service},
    },
    leader::{HistoryKept, Policy, Quota, RulesHold},
    limits::CHECKPOINT_ASKS_MAX,
    members::{
        self,
        changes::Members,
        replace::{self, Replaced},
        steward,
    },
    metrics_sink::NodeMetrics,
    peer::{Links, Port, Services, Waiting},
    raft::{
        Applied, Consensus, Gate, Ground, Leader, Peer, TransferError,
        bootstrap::{Opened, StartError},
        identity::Identity,
        keeper::{Keeper, Newest},
        roster::Roster,
    },
    registry::{About, NodeRegistry, Parts},
    start::{Start, Started, stay_known},
    storage::log::{LogOptions, LogStore},
    tasks::{Fatal, Task},
    world::{World, home::Lodging, lock::DirLock, net::Listener},
};

/// States from other nodes that wait to be made durable: they come one at a time.
const STATES_RECEIVED_MAX: usize = 1;
/// At a stop, requests on their way have so long to be answered.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// At a stop, the last checkpoint has so long to be written.
const LAST_CHECKPOINT_WITHIN: Duration = Duration::from_mins(1);

/// What one node of several is told.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Where it listens for the others.
    pub port: PeerPort,
    /// All that are to found the cluster on its first start, this node included, with the addresses at which each
    /// reaches the others; empty: this node alone.
    pub founders: Vec<Peer>,
    /// Peer addresses of servers of a cluster: an empty directory joins it instead of founding one, and a member looks for
    /// the others there too.
    pub join: Vec<String>,
    /// A member whose place this node takes when it joins: once this one votes, that one is removed.
    pub replace: Option<String>,
}

/// A port for peers.
#[derive(Clone, Debug)]
pub enum PeerPort {
    /// Bound when the node starts.
    At(SocketAddr),
    /// Bound already.
    Bound(Arc<dyn Listener>),
}

/// What a node is told about itself.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its name; also its node's name in the catalog.
    pub name: NodeName,
    /// The datacenter's name.
    pub datacenter: Arc<str>,
    /// Its directory, for it alone.
    pub data_dir: PathBuf,
    /// The host part of the addresses at which clients reach it.
    pub host: Arc<str>,
    /// Its address for peers; empty when off.
    pub peer_address: Arc<str>,
    /// Its part among several; `None`: it is a cluster of its own.
    pub peers: Option<PeerSettings>,
    /// Its address for Consul's API; empty when off.
    pub http_address: Arc<str>,
    /// Its address for the native API; empty when off.
    pub grpc_address: Arc<str>,
    /// What of the keys' history is kept while it leads.
    pub history: HistoryKept,
    /// When newer rules are raised while it leads.
    pub rules_hold: RulesHold,
    /// How large the state may become while it leads.
    pub quota: Quota,
    /// Sizes of the log.
    pub log: LogOptions,
    /// Bytes of log that are kept for members that are behind, beside what the checkpoints need.
    pub log_kept_for_members: u64,
}

impl NodeSettings {
    /// Bytes of log kept for members that are behind, unless told otherwise.
    pub const LOG_KEPT_FOR_MEMBERS: u64 = 1 << 30;

    /// A node of this name in `data_dir`, with the usual settings and no addresses.
    pub fn new(name: NodeName, data_dir: PathBuf) -> Self {
        Self {
            name,
            datacenter: "dc1".into(),
            data_dir,
            host: "127.0.0.1".into(),
            peer_address: "".into(),
            peers: None,
            http_address: "".into(),
            grpc_address: "".into(),
            history: HistoryKept::default(),
            rules_hold: RulesHold::default(),
            quota: Quota::default(),
            log: LogOptions::default(),
            log_kept_for_members: Self::LOG_KEPT_FOR_MEMBERS,
        }
    }

    /// This node, as the others find it.
    pub(crate) fn this(&self) -> Peer {
        Peer {
            name: self.name.to_string(),
            address: self.peer_address.to_string(),
        }
    }

    /// The member that this node replaces, if it came to do so.
    fn replaced(&self, opened: &Opened) -> Option<Replaced> {
        let name = self.peers.as_ref()?.replace.as_deref()?;
        let replaced = Replaced::of(opened.joined.as_ref(), name);
        if replaced.is_none() {
            tracing::warn!(
                name,
                "there was no such member when this server was taken in: none is replaced"
            );
        }
        replaced
    }

    fn about(&self, identity: Identity, log: &dyn LogStore) -> About {
        About {
            name: self.name.clone(),
            datacenter: self.datacenter.clone(),
            identity,
            policy: Policy {
                history: self.history,
                rules_hold: self.rules_hold,
                quota: self.quota,
            },
            entry_bytes_max: log.payload_bytes_max().min(limits::ENTRY_BYTES_MAX) as u64,
        }
    }

    fn member(&self, identity: &Identity) -> Member {
        Member {
            name: self.name.clone(),
            id: identity.node,
            node_uuid: identity.catalog_uuid(),
            host: self.host.clone(),
            peer_address: self.peer_address.clone(),
            http_address: self.http_address.clone(),
            grpc_address: self.grpc_address.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            rules: RULES_KNOWN,
        }
    }
}

/// A running node.
///
/// It is ended by [`stop`](Self::stop), in order, or by [`halt`](Self::halt), at once. One that is dropped ends as well, at
/// once and in the background: its tasks, its threads, and whatever it had open; who still has its [`registry`](Self::registry)
/// is told that it is shutting down. The directory is its own until the last write there is over, for which the next start
/// waits a little.
pub struct Node {
    /// First, so that nobody takes for a failure that the rest ends.
    tasks: Tasks,
    door: Door,
    consensus: Arc<Consensus>,
    /// Where peers are answered, if there are any.
    port: Option<Port>,
    lodging: Lodging,
    log: Arc<dyn LogStore>,
    identity: Identity,
    boot_number: u64,
    fatal: Fatal,
    submitting: Task,
    keeping: Task,
    stop_keeping: oneshot::Sender<()>,
    /// What reads take.
    reading: [Task; 2],
    members: Arc<Members>,
    condition: Arc<Condition>,
    marks: Arc<Marks>,
    /// Last; who may still write there has it, too.
    _lock: Arc<dyn DirLock>,
}

/// What a node does of itself.
struct Tasks {
    announcing: Option<Task>,
    /// Watches Raft, and ends the node with it.
    _watching: Task,
    /// Compares digests with the others.
    _comparing: Task,
    /// Asks the others how they do, and gives leadership away if this node's disk is far slower.
    _looking: Task,
    /// Looks after the members while this node leads.
    _stewarding: Task,
    /// Tells the others what is durable here, if there are any.
    _telling: Option<Task>,
    /// Has the member removed whose place this node takes, if it was told of one.
    replacing: Option<Task>,
}

/// What others use a node by, and may have for longer than the node is. Dropped, it is shut.
struct Door {
    registry: Arc<NodeRegistry>,
    links: Arc<Links>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.registry.close();
        self.links.close();
    }
}

impl Node {
    /// Opens what is in the data directory, or makes a first start there, and begins to run. It serves once
    /// [`ready`](Self::ready) says so.
    ///
    /// One node of several waits here for the others: on a first start for all of them, on every other for one.
    ///
    /// # Errors
    /// [`StartError`] says what doesn't fit and what to do.
    pub async fn start(
        settings: NodeSettings,
        world: World,
        metrics: Arc<dyn NodeMetrics>,
    ) -> Result<Self, StartError> {
        Self::start_waiting(settings, world, metrics, &Waiting::default()).await
    }

    /// As [`start`](Self::start), and `waiting` tells meanwhile for whom.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_waiting(
        settings: NodeSettings,
        world: World,
        metrics: Arc<dyn NodeMetrics>,
        waiting: &Waiting,
    ) -> Result<Self, StartError> {
        let fatal = Fatal::default();
        let condition = Arc::new(Condition::new(world.clock.clone()));
        let start = Start {
            settings: &settings,
            world: &world,
            metrics: &metrics,
            condition: &condition,
            fatal: &fatal,
            waiting,
        };
        let started = start.run().await?;
        say_opened(&started.opened);
        let replaced = settings.replaced(&started.opened);
        let mut node = Self::begin(started, &settings, world, (metrics, condition), fatal).await?;
        node.tasks.replacing = replaced.map(|replaced| node.take_place(replaced));
        Ok(node)
    }

    fn take_place(&self, replaced: Replaced) -> Task {
        let (consensus, members) = (self.consensus.clone(), self.members.clone());
        let taking = replace::run(consensus, members, self.identity, replaced);
        self.fatal.spawn("taking another's place", taking)
    }

    /// Runs what may take part.
    async fn begin(
        started: Started,
        settings: &NodeSettings,
        world: World,
        (metrics, condition): (Arc<dyn NodeMetrics>, Arc<Condition>),
        fatal: Fatal,
    ) -> Result<Self, StartError> {
        let (opened, links) = (started.opened, started.links);
        let (services, gate, lodging) = (started.services, started.gate, started.lodging);
        let (boot_number, founding) = (opened.starts.present().number, begins(&opened, settings.this()));
        let (identity, log, loaded) = (opened.identity, opened.log, opened.loaded);
        let hub = Arc::new(Hub::new(loaded.applied.state.clone()));
        let (hand_over_state, received) = mpsc::channel(STATES_RECEIVED_MAX);
        let marks = Arc::new(Marks::default());
        let consensus = Consensus::start(Ground {
            identity,
            boot_number,
            founding,
            links: links.clone(),
            gate: gate.clone(),
            log: log.clone(),
            applied: loaded.applied.clone(),
            marks: marks.clone(),
            hub: hub.clone(),
            home: world.raft_home,
            runtime: lodging.handle().clone(),
            rng: world.rng.clone(),
            received: hand_over_state,
            metrics: metrics.clone(),
        })
        .await?;
        let asking = Asking::new(links.clone(), identity, boot_number);
        let comparing = Comparing::new(asking, consensus.clone(), marks.clone(), metrics.clone());
        let me = (identity, boot_number);
        let looking = condition::steward::run(&links, me, &consensus, &condition, &metrics);
        let members = Members::new(consensus.clone(), links.clone(), identity, boot_number);
        let members = Arc::new(members);
        let (ask_checkpoint, asks) = mpsc::channel(CHECKPOINT_ASKS_MAX);
        let parts = Parts {
            hub,
            consensus: consensus.clone(),
            way: Arc::new(Remote::new(links.clone(), identity, boot_number)),
            checkpoints: ask_checkpoint,
            members: members.clone(),
            condition: condition.clone(),
            clock: world.clock.clone(),
            rng: world.rng.clone(),
            metrics: metrics.clone(),
        };
        let (registry, submitter, reading) = NodeRegistry::new(settings.about(identity, &*log), parts);
        services.raft.begin(consensus.service());
        let told = (&marks, &condition);
        answer_nodes(&services, identity, &gate, &registry, &members, told);
        let keeper = Keeper {
            consensus: consensus.clone(),
            checkpoints: opened.checkpoints,
            identity,
            log: log.clone(),
            newest: Newest::of(&loaded),
            asks,
            received,
            kept_for_members: settings.log_kept_for_members,
            clock: world.clock.clone(),
            metrics,
            home: world.raft_home,
        };
        let (stop_keeping, stop) = oneshot::channel();
        let member = settings.member(&identity);
        let tasks = Tasks {
            announcing: Some(fatal.spawn("announcing this node", announce(registry.clone(), member))),
            _watching: fatal.spawn("watching Raft", watch_raft(consensus.clone(), fatal.clone())),
            _comparing: fatal.spawn("comparing digests", compare(comparing, fatal.clone())),
            _looking: fatal.spawn("looking after the disks", looking),
            _stewarding: fatal.spawn("looking after the members", steward::run(consensus.clone())),
            _telling: started
                .recognized
                .map(|recognized| stay_known(recognized, log.clone(), consensus.leader(), &members, &fatal)),
            replacing: None,
        };
        Ok(Self {
            tasks,
            door: Door { registry, links },
            submitting: fatal.spawn("making entries", submitter),
            keeping: fatal.spawn("writing checkpoints", keeper.run(stop)),
            reading,
            members,
            condition,
            marks,
            consensus,
            port: started.port,
            lodging,
            log,
            identity,
            boot_number,
            fatal,
            stop_keeping,
            _lock: opened.lock,
        })
    }

    /// The way in.
    pub fn registry(&self) -> Arc<dyn Registry> {
        self.door.registry.clone()
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How often it was started on this data.
    pub fn boot_number(&self) -> u64 {
        self.boot_number
    }

    /// How it and the other nodes do.
    pub fn condition(&self) -> Arc<Condition> {
        self.condition.clone()
    }

    /// What its state came to at the newest moments at which nodes compare theirs.
    pub fn marks(&self) -> Arc<Marks> {
        self.marks.clone()
    }

    /// What is applied here, as it changes.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.consensus.applied()
    }

    /// Who leads, as it changes.
    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.consensus.leader()
    }

    /// Who is in its cluster, as far as it is committed; `None` before it was told.
    pub fn roster(&self) -> Option<Roster> {
        self.consensus.roster(self.identity.cluster)
    }

    /// Hands leadership to the voter whose log has come furthest.
    ///
    /// # Errors
    /// It doesn't lead, or nobody takes it.
    pub async fn hand_over(&self) -> Result<Leader, TransferError> {
        self.consensus.transfer().await
    }

    /// The first index that its log holds, or would hold; what lies before is in the checkpoints.
    pub fn log_begins(&self) -> u64 {
        self.log.state().purged.map_or(0, |purged| purged.index + 1)
    }

    /// Where it listens for peers.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.port.as_ref().map(Port::address)
    }

    /// Whether it has caught up and serves.
    pub fn is_ready(&self) -> bool {
        *self.door.registry.ready().borrow()
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// Why it never will.
    pub async fn ready(&self) -> Result<(), Arc<str>> {
        let mut ready = self.door.registry.ready();
        tokio::select! {
            result = ready.wait_for(|ready| *ready) => {
                result.map(|_| ()).map_err(|_| "the node has ended".into())
            }
            reason = self.fatal.told() => Err(reason),
        }
    }

    /// Waits until the node can't go on, and says why: the disk failed, or something happened that must not happen.
    /// The process is to end then, with an error.
    pub async fn fatal(&self) -> Arc<str> {
        self.fatal.told().await
    }

    /// Whether what ended it is a refusal: started again on this directory, it would be refused at once.
    pub fn is_refused(&self) -> bool {
        self.fatal.is_refusal()
    }

    /// Waits until it has left its cluster by its own wish: it is to be stopped then.
    pub async fn left(&self) {
        self.members.departure().left().await;
    }

    /// Ends in order: hands leadership over, answers what is on its way, writes a checkpoint if that is worth it, closes the
    /// log.
    ///
    /// # Errors
    /// The log could not be closed in order; what was acknowledged is durable all the same.
    pub async fn stop(mut self) -> Result<(), StartError> {
        drop(self.tasks.announcing.take());
        // Requests still come in meanwhile: what isn't proposed yet goes on to whoever leads then.
        match self.hand_over().await {
            Ok(leader) => tracing::info!(leader = leader.name, "another node leads now"),
            Err(TransferError::NotLeader) => {}
            Err(error) => tracing::info!(%error, "leadership was not handed over"),
        }
        self.door.registry.close();
        if timeout(DRAIN_WITHIN, self.submitting.finished()).await.is_err() {
            tracing::warn!("requests on their way were not answered in time");
        }
        let _ = self.stop_keeping.send(());
        if timeout(LAST_CHECKPOINT_WITHIN, self.keeping.finished())
            .await
            .is_err()
        {
            tracing::warn!("the last checkpoint was not written in time; the log holds what it would have");
        }
        drop(self.tasks);
        drop(self.port);
        close(&self.consensus, self.lodging, self.log).await
    }

    /// Ends at once: nothing is answered any more and no checkpoint is begun, as in a crash, but that the directory can be
    /// used again when this returns. Where a checkpoint is being written, that is when its write is over: nobody can stop
    /// that, so nobody waits for it here, and the next start does, a little.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub async fn halt(self) -> Result<(), StartError> {
        drop((self.tasks, self.reading));
        self.submitting.end().await;
        self.keeping.end().await;
        drop((self.port, self.door));
        close(&self.consensus, self.lodging, self.log).await
    }
}

async fn close(consensus: &Consensus, lodging: Lodging, log: Arc<dyn LogStore>) -> Result<(), StartError> {
    consensus.stop().await;
    let home = lodging.home();
    lodging.end().await;
    let closed = home.blocking(move || log.close()).await;
    closed
        .map_err(|error| StartError::Io {
            what: "closing the log",
            source: error,
        })?
        .map_err(Into::into)
}

/// All voters, if this node is the one that begins the cluster's log.
fn begins(opened: &Opened, this: Peer) -> Option<BTreeMap<u64, Peer>> {
    let node = opened.identity.node;
    if opened.joined.is_some() {
        return None;
    }
    match &opened.founding {
        Some(founding) => founding.is_begun_by(node).then(|| founding.members.clone()),
        None => Some(BTreeMap::from([(node, this)])),
    }
}

/// Says in the replicated state that this node is there, until it has been heard. First it catches up: from then on checks
/// are assigned to it.
async fn announce(registry: Arc<NodeRegistry>, member: Member) {
    let name = member.name.clone();
    let command = Command::MemberUp(member);
    while registry.ready().wait_for(|ready| *ready).await.is_ok() {
        match registry
            .propose(&Context::new(Dialect::Internal), command.clone())
            .await
        {
            Ok(applied) => {
                if let Err(rejection) = applied.result {
                    tracing::error!(%name, %rejection, "this node can't be a member");
                }
                return;
            }
            Err(spine_api::Error::ShuttingDown) => return,
            Err(error) => tracing::debug!(%error, "this node is not announced yet"),
        }
        tokio::time::sleep(ANNOUNCE_AGAIN).await;
    }
}

const ANNOUNCE_AGAIN: Duration = Duration::from_millis(200);

/// From here on the others are answered what takes a node that runs.
fn answer_nodes(
    services: &Services,
    identity: Identity,
    gate: &Arc<dyn Gate>,
    registry: &Arc<NodeRegistry>,
    members: &Arc<Members>,
    (marks, condition): (&Arc<Marks>, &Arc<Condition>),
) {
    let membership = members::service::service(members.clone(), identity, gate.clone());
    services.membership.begin(membership);
    let telling = peers::service(identity, gate.clone(), marks.clone());
    services.digests.begin(telling);
    let telling = condition::peers::service(identity, gate.clone(), condition.clone());
    services.condition.begin(telling);
    let forward = Service::new(registry.clone(), identity, gate.clone());
    services.forward.begin(ForwardService::new(forward));
}

fn say_opened(opened: &Opened) {
    tracing::info!(
        identity = %opened.identity,
        boot_number = opened.starts.present().number,
        generation = opened.loaded.generation.0,
        index = %opened.loaded.applied.state.index(),
        "storage opened"
    );
}

async fn compare(comparing: Comparing, fatal: Fatal) {
    fatal.tell(comparing.run().await);
}

async fn watch_raft(consensus: Arc<Consensus>, fatal: Fatal) {
    fatal.tell(format!("raft has ended: {}", consensus.ended().await));
}
