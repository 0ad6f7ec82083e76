//! Raft: one order of entries that survives what happens to servers. openraft is seen in this module alone.
//!
//! ```text
//! propose ──► openraft (a thread of its own) ──► log_store ──► storage::log
//!                 │ committed                                   │ flushed
//!                 ▼                                             ▼
//!           state_machine ──► State::apply ──► hub, answers     acknowledged
//!                 │
//!                 └─ checkpoint ──► storage::checkpoint, then the log behind it goes
//! ```
//!
//! [`bootstrap`] opens what a node has on disk; [`Consensus`] runs on it.

mod append;
pub mod bootstrap;
pub mod checkpoint;
pub mod founding;
mod gate;
pub mod identity;
pub mod keeper;
mod leadership;
mod log_store;
mod membership;
mod network;
mod note;
pub mod recall;
pub mod recovery;
pub mod release;
mod restored;
pub mod roster;
mod rpc;
mod server;
mod snapshot;
pub mod starts;
mod state_machine;
mod types;
pub(crate) mod wire;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    Config, LogIdOptionExt, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, Fatal, InitializeError, RaftError},
    raft::ClientWriteResult,
    rt::deterministic_rng::DeterministicRng,
};
use openraft_rt_tokio::TokioRuntime;
use spine_api::hub::Hub;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

use self::{
    bootstrap::StartError,
    identity::Identity,
    leadership::{Following, Told},
    log_store::RaftLog,
    network::{Network, Ways},
    snapshot::{Intake, Offers},
    state_machine::StateMachine,
    types::{Answer, Payload, SnapshotMeta, Types},
};
pub use self::{
    gate::{Gate, OpenGate, Refusal, admit, header},
    leadership::{Leader, TransferError},
    membership::{Change, ChangeError, Composition, Phase, Standing},
    server::{Answering, RaftService},
    state_machine::Applied,
    types::Peer,
};
use crate::{
    digests::Marks,
    metrics_sink::NodeMetrics,
    peer::Links,
    storage::log::LogStore,
    tasks::Task,
    world::{RaftHome, rng::Rng},
};

/// Raft's intervals, in milliseconds: a follower campaigns 450 to 600 ms after the last word of its leader, for
/// openraft adds its lease, which is the greater bound.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS_MIN: u64 = 150;
const ELECTION_MS_MAX: u64 = 300;
/// The longest that a follower waits: what "election timeout" means everywhere else.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(2 * ELECTION_MS_MAX);
/// Entries in one message to a follower.
const MESSAGE_ENTRIES_MAX: u64 = 2048;

/// What Raft runs on.
pub struct Ground {
    /// Who this node is.
    pub identity: Identity,
    /// How often it was started, this time included.
    pub boot_number: u64,
    /// All voters, on the one node that founds the cluster. A log that was never used waits without it until a leader
    /// sends it something; one that was used doesn't look at it.
    pub founding: Option<BTreeMap<u64, Peer>>,
    /// The ways to the others.
    pub links: Arc<Links>,
    /// Who of them is heard.
    pub gate: Arc<dyn Gate>,
    /// The log.
    pub log: Arc<dyn LogStore>,
    /// The state that the log goes on from.
    pub applied: Applied,
    /// Where marks of it are left.
    pub marks: Arc<Marks>,
    /// Where states are published.
    pub hub: Arc<Hub>,
    /// Where one may wait for a disk.
    pub home: RaftHome,
    /// Where Raft runs.
    pub runtime: Handle,
    /// What its random numbers begin with.
    pub rng: Arc<dyn Rng>,
    /// Who makes states durable that come from other nodes.
    pub received: mpsc::Sender<keeper::Received>,
    /// Who counts.
    pub metrics: Arc<dyn NodeMetrics>,
}

/// Raft, running.
pub struct Consensus {
    raft: Raft<Types, StateMachine>,
    service: RaftService,
    node: u64,
    applied: watch::Receiver<Applied>,
    checkpointed: watch::Sender<Option<SnapshotMeta>>,
    leader: watch::Receiver<Option<Leader>>,
    told: Arc<Told>,
    offers: Arc<Offers>,
    intake: Arc<Intake>,
    links: Arc<Links>,
    /// Held while the members change: one change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Ends when Raft has ended.
    life: tokio::sync::Mutex<Option<Task>>,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Why an entry was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none: it was not proposed.
    #[error("this node does not lead")]
    NotLeader,
    /// It was proposed, and lost its leader: it may or may not be applied.
    #[error("leadership changed before it was committed")]
    Unknown,
    /// Raft has ended: it was not proposed.
    #[error("raft has ended")]
    Ended,
}

/// Why there is no read index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or none.
    #[error("this node does not lead")]
    NotLeader,
    /// Too few voters confirm that this node leads.
    #[error("no quorum confirms the leader")]
    NoQuorum,
    /// Raft has ended.
    #[error("raft has ended")]
    Ended,
}

/// What Raft knows of itself.
#[derive(Clone, Debug)]
pub struct RaftStatus {
    /// What the node is.
    pub role: spine_api::Role,
    /// Who leads.
    pub leader: Option<Peer>,
    /// The term.
    pub term: u64,
    /// The last index in the log.
    pub last_log: u64,
    /// The last index known to be committed.
    pub committed: u64,
    /// The last index applied, by openraft's book.
    pub applied: u64,
    /// The first voters' names.
    pub voters: Vec<String>,
    /// Why it has ended, if it has.
    pub ended: Option<String>,
}

impl Consensus {
    /// Starts Raft and gives back the state as of what the log was known to have committed.
    ///
    /// A single voter campaigns at once.
    pub async fn start(ground: Ground) -> Result<Arc<Self>, StartError> {
        let Ground {
            identity,
            founding,
            gate,
            log,
            applied,
            marks,
            hub,
            home,
            runtime,
            rng,
            received,
            metrics,
            boot_number,
            links,
        } = ground;
        let meta = checkpoint::snapshot_meta(&applied);
        let (checkpointed, told_checkpoint) = watch::channel(meta);
        let offers = Arc::new(Offers::default());
        let (machine, apply_task) = state_machine::pair(
            applied,
            marks,
            hub,
            told_checkpoint,
            offers.clone(),
            log.clone(),
            metrics.clone(),
        );
        // It ends when openraft has let go of the other half.
        tokio::spawn(apply_task.run());
        let applied = machine.applied();
        let told = Arc::new(Told::default());
        let (tell_leader, leader) = watch::channel(None);
        let (tell_raft, raft) = oneshot::channel();
        let log = RaftLog::new(log, home);
        let ways = Ways(Arc::new(Network {
            links: links.clone(),
            identity,
            boot_number,
            told: told.clone(),
            offers: offers.clone(),
            main: Handle::current(),
        }));
        let campaign = gate.may_vote();
        let following = {
            let (told, links, gate) = (told.clone(), links.clone(), gate.clone());
            let applied = applied.clone();
            move |raft| Following {
                raft,
                cluster: identity.cluster,
                told,
                links,
                gate,
                applied,
                tell: tell_leader,
            }
        };
        let life = async move {
            match begin(identity.node, founding, campaign, ways, log, machine).await {
                Ok(raft) => {
                    let _ = tell_raft.send(Ok(raft.clone()));
                    leadership::follow(following(raft)).await;
                }
                Err(error) => {
                    let _ = tell_raft.send(Err(error));
                }
            }
        };
        let life = DeterministicRng::<TokioRuntime>::scope(rng.bits(), life);
        let life = Task::on(&runtime, life);
        let raft = raft
            .await
            .map_err(|_| StartError::Raft("it panicked".to_owned()))??;
        let intake = Arc::new(Intake::new(received, metrics));
        let service = server::service(server::Inner {
            raft: raft.clone(),
            identity,
            gate,
            told: told.clone(),
            rng,
            intake: intake.clone(),
            main: Handle::current(),
        });
        Ok(Arc::new(Self {
            raft,
            service,
            node: identity.node,
            applied,
            checkpointed,
            leader,
            told,
            offers,
            intake,
            links,
            changing: tokio::sync::Mutex::default(),
            life: tokio::sync::Mutex::new(Some(life)),
        }))
    }

    /// What answers the peers, for the port.
    pub fn service(&self) -> RaftService {
        self.service.clone()
    }

    /// Proposes an entry. `answer` is called with what became of its requests, on the task that applies; it is dropped
    /// without being called when Raft ends first.
    pub async fn propose(
        &self,
        entry: Bytes,
        answer: impl FnOnce(Result<Vec<spine_core::Applied>, ProposeError>) + Send + 'static,
    ) -> Result<(), ProposeError> {
        let answer = Answer::new(move |result: ClientWriteResult<Types>| {
            answer(
                result
                    .map(|written| written.data.0)
                    .map_err(|error| propose_error(&error)),
            );
        });
        let written = self.raft.client_write_ff(Payload(entry), Some(answer)).await;
        written.map_err(|_| ProposeError::Ended)
    }

    /// The log index that a linearizable read that begins now must have applied.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        use openraft::errors::LinearizableReadError as E;
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(E::ForwardToLeader(_))) => Err(ReadError::NotLeader),
            Err(RaftError::APIError(E::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadError::Ended),
        }
    }

    /// What is applied, as it changes.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// What Raft knows of itself at this moment.
    pub fn status(&self) -> RaftStatus {
        // A clone: a borrow would hold openraft up.
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members = metrics.membership_config.clone();
        let role = match metrics.state {
            ServerState::Leader => spine_api::Role::Leader,
            ServerState::Follower => spine_api::Role::Follower,
            ServerState::Candidate => spine_api::Role::Candidate,
            ServerState::Learner | ServerState::Shutdown => spine_api::Role::Learner,
        };
        let peer = |id: u64| members.get_node(&id).cloned();
        RaftStatus {
            role,
            leader: metrics.current_leader.and_then(peer),
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.index().unwrap_or(0),
            applied: metrics.last_applied.index().unwrap_or(0),
            voters: members
                .voter_ids()
                .filter_map(peer)
                .map(|peer| peer.name)
                .collect(),
            ended: metrics.running_state.err().map(|error| error.to_string()),
        }
    }

    /// Whether this node leads, by what it knows.
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// The last index known to be committed.
    pub fn committed(&self) -> u64 {
        self.raft
            .metrics()
            .borrow_watched()
            .local_committed
            .index()
            .unwrap_or(0)
    }

    /// Waits until Raft has ended, and says why.
    pub async fn ended(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(error) = metrics.borrow_watched().running_state.clone() {
                return error.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft is gone".to_owned();
            }
        }
    }

    /// Tells openraft of a checkpoint, and lets go of the log up to and with `covered`, but for what members need that are
    /// behind; with `spends_too_much` of it kept already, they get a snapshot instead.
    pub async fn checkpointed(
        &self,
        applied: &Applied,
        covered: Option<u64>,
        spends_too_much: bool,
    ) -> Result<(), ProposeError> {
        let Some(meta) = checkpoint::snapshot_meta(applied) else {
            return Ok(());
        };
        let position = meta.last_log_id;
        self.checkpointed.send_replace(Some(meta));
        let ended = |_: Fatal<Types>| ProposeError::Ended;
        self.raft.trigger().snapshot().await.map_err(ended)?;
        // It is told on another task; purging before it knows would purge less.
        let knows = |metrics: &RaftMetrics<Types>| metrics.snapshot >= position;
        self.raft
            .wait(Some(CHECKPOINT_KNOWN_WITHIN))
            .metrics(knows, "openraft knows the checkpoint")
            .await
            .map_err(|_| ProposeError::Ended)?;
        let covered = if spends_too_much {
            covered
        } else {
            self.unneeded(covered)
        };
        if let Some(covered) = covered {
            self.raft.trigger().purge_log(covered).await.map_err(ended)?;
            // Usually done at once. While a follower is being sent entries that are to go it takes longer, and then
            // nobody waits for it.
            let purged = |metrics: &RaftMetrics<Types>| metrics.purged.index() >= Some(covered);
            let _ = self
                .raft
                .wait(Some(PURGED_WITHIN))
                .metrics(purged, "the log is purged")
                .await;
        }
        Ok(())
    }

    /// How much of the log up to `covered` no other member needs: what they have of it, and what lies before a state that
    /// is being sent. Who needs entries that are gone already needs a snapshot, not the log.
    fn unneeded(&self, covered: Option<u64>) -> Option<u64> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let purged = metrics.purged.index();
        let others = metrics.replication.into_iter().flatten();
        let others = others.filter(|(id, _)| *id != self.node);
        let needing = others
            .map(|(_, matched)| matched.index())
            .filter(|matched| *matched >= purged);
        let offered = self.offers.held().map(Some);
        needing.chain(offered).fold(covered, Option::min)
    }

    /// Lets go of a state that was kept for members that were behind, once none of them fetches it any more, and of a part of
    /// one that has come here and nobody goes on with.
    pub fn let_go(&self) {
        self.offers.held();
        self.intake.let_go();
    }

    /// Ends Raft. What was proposed and isn't answered stays without an answer.
    pub async fn stop(&self) {
        let _ = self.raft.shutdown().await;
        if let Some(life) = self.life.lock().await.take() {
            // It holds Raft, whose metrics never end while it does.
            life.end().await;
        }
    }
}

/// How long openraft may take to notice a checkpoint; it takes less than a heartbeat.
const CHECKPOINT_KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// How long the purge behind a checkpoint is waited for.
const PURGED_WITHIN: Duration = Duration::from_secs(1);

/// Brings openraft up, on its own runtime.
async fn begin(
    node: u64,
    founding: Option<BTreeMap<u64, Peer>>,
    campaign: bool,
    ways: Ways,
    log: RaftLog,
    machine: StateMachine,
) -> Result<Raft<Types, StateMachine>, StartError> {
    let failed = |error: &dyn fmt::Display| StartError::Raft(error.to_string());
    let config = config().validate().map_err(|error| failed(&error))?;
    let raft = Raft::new(node, Arc::new(config), ways, log, machine)
        .await
        .map_err(|error| failed(&error))?;
    raft.runtime_config().elect(campaign);
    if raft.is_initialized().await.map_err(|error| failed(&error))? {
        let voters: Vec<_> = raft.voter_ids().collect();
        if voters == [node] {
            // Nobody else could be elected: there is nothing to wait for.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| failed(&error))?;
        }
        return Ok(raft);
    }
    let Some(founding) = founding else {
        return Ok(raft);
    };
    match raft.initialize(founding).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(raft),
        Err(error) => Err(failed(&error)),
    }
}

fn config() -> Config {
    Config {
        cluster_name: "spine".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        enable_pre_vote: Some(true),
        // A restarted leader must be elected again: its old term's reads may be stale.
        enable_leader_restore: Some(false),
        // Never: a node whose log went back is an old disk.
        allow_log_reversion: Some(false),
        // Checkpoints are made by their bytes, and the log goes when they say so.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        quorum_loss_probe_interval: Some(2 * ELECTION_MS_MAX),
        ..Config::default()
    }
}

fn propose_error(error: &ClientWriteError<Types>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(_) => ProposeError::NotLeader,
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ProposeError::Unknown,
    }
}
