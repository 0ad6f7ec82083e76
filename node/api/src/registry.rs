//! The door: all that a dialect knows of the cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_core::{
    Applied, Command, Dialect, Index, NodeName, Rejection, Renewal, Renewed, RequestId, State, Time,
};
use tokio::{sync::watch, time::Instant};

use crate::hub::Hub;

/// What every dialect asks of the cluster. Reading and watching are built on [`Registry::view`] and
/// [`Registry::hub`] once for all, in [`crate::read`].
///
/// Duties of an implementation:
/// - `propose` answers after the command is durable on a majority and applied on this node, so that the next read
///   here shows it. Where that is not known when the deadline comes, it says [`Error::Unknown`], never "failed".
/// - `view` gives a state at least as new as the consistency asks.
/// - The hub's state is never older than one that `view` gave.
/// - `ready` says of itself, and within seconds, that this node has lost its cluster: who waits here for something to happen
///   relies on that.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Changes the state. A command that repeats what is there already (a heartbeat, a TTL report) travels as a
    /// renewal, many of them in one entry; its outcome is then [`Outcome::Renewed`](spine_core::Outcome::Renewed)
    /// with one item. A refusal by the core is in [`Applied::result`], or already here when it was seen before
    /// proposing.
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error>;

    /// Moves a deadline.
    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error>;

    /// A state that is fresh enough for `cx.consistency`.
    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error>;

    /// Where the newest state is published and waited for.
    fn hub(&self) -> &Hub;

    /// What this node knows of itself. Local, never waits.
    fn status(&self) -> NodeStatus;

    /// Whether this node serves, as it changes: [`NodeStatus::ready`].
    fn ready(&self) -> watch::Receiver<bool>;

    /// Which servers vote (`true`) and which only learn, by Raft node id, as the newest entry of this node's log has it. Who
    /// is not in it is not known of. Local, never waits.
    fn votes(&self) -> BTreeMap<u64, bool> {
        BTreeMap::new()
    }

    /// Administers the cluster.
    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error>;
}

/// Who asks, how, and until when.
#[derive(Clone, Debug)]
pub struct Context {
    /// The way in.
    pub dialect: Dialect,
    /// The credential as it came; never logged.
    pub credential: Option<Credential>,
    /// The client's address.
    pub peer: Option<Arc<str>>,
    /// When the client no longer waits for the answer.
    pub deadline: Instant,
    /// How fresh a read must be.
    pub consistency: Consistency,
    /// The client's number for the one command that this call proposes: proposed again under it, it is not applied
    /// again.
    pub request: Option<RequestId>,
}

impl Context {
    /// A request by `dialect` with the usual deadline.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            credential: None,
            peer: None,
            deadline: Instant::now() + crate::limits::REQUEST_DEADLINE,
            consistency: Consistency::default(),
            request: None,
        }
    }

    /// The same with time of its own, for what comes after a wait that may have outlasted the deadline.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self {
            deadline: Instant::now() + crate::limits::REQUEST_DEADLINE,
            ..self.clone()
        }
    }
}

/// A secret that came with a request. It has no way to be printed.
#[derive(Clone)]
pub struct Credential(pub Arc<str>);

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Linearizable: all that was acknowledged before the read began is in it.
    #[default]
    Linearizable,
    /// What this node has applied, which may be behind.
    Stale,
}

/// Why there is no answer. Says what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No leader is known, or none confirmed in time: nothing was proposed. Safe to retry.
    #[error("no cluster leader")]
    NoLeader,
    /// The command was proposed, and no answer came in time: it may take effect, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(Arc<str>),
    /// A read did not get there before its deadline.
    #[error("deadline exceeded while {0}")]
    Deadline(Arc<str>),
    /// The cluster's rules refuse it; nothing was written.
    #[error(transparent)]
    Refused(#[from] Rejection),
    /// Too much is waiting already. Safe to retry later.
    #[error("too many {what}: at most {limit} at once")]
    Overloaded {
        /// What there is too much of.
        what: Arc<str>,
        /// The bound.
        limit: u64,
    },
    /// The node is stopping. Safe to retry on another.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// This release can't do that.
    #[error("not supported: {0}")]
    Unsupported(Arc<str>),
    /// There is no server of this name.
    #[error("no server is named {0:?}")]
    NoMember(Arc<str>),
    /// The cluster could not go on; nothing was done. Says why and what to do.
    #[error("{0}")]
    Unsafe(Arc<str>),
}

/// What a node is in its cluster at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It orders the writes.
    Leader,
    /// It follows.
    Follower,
    /// It asks for votes; or it led, and most voters no longer answer it.
    Candidate,
    /// It follows without a vote.
    #[default]
    Learner,
}

/// What this node knows of itself and its cluster.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// This node's name.
    pub name: NodeName,
    /// Its Raft node id.
    pub node_id: u64,
    /// The cluster's id, a UUID.
    pub cluster_id: Arc<str>,
    /// The datacenter's name.
    pub datacenter: Arc<str>,
    /// Its role.
    pub role: Role,
    /// The leader's name, if one is known; a leader that hears of no majority knows of none.
    pub leader: Option<NodeName>,
    /// Since when the leader was last heard; zero on the leader itself, unless it hears of no majority: since when it was.
    pub last_contact: Option<Duration>,
    /// Raft's term.
    pub term: u64,
    /// The last log position written.
    pub last_log: u64,
    /// The last log position committed.
    pub committed: u64,
    /// The last log position applied.
    pub applied: u64,
    /// The newest index applied.
    pub index: Index,
    /// The cluster time applied.
    pub time: Time,
    /// The rules in force.
    pub rules: u32,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Bytes of state beyond which what makes it grow is refused.
    pub state_quota: u64,
    /// Whether it is ready to serve: it has caught up with what it knew to be committed, has not been without a leader
    /// for long since, and its disk takes what it is given.
    pub ready: bool,
}

/// Administration.
#[derive(Clone, Debug)]
pub enum AdminCommand {
    /// Write a checkpoint now.
    Checkpoint,
    /// Remove a server for good.
    RemoveMember {
        /// Its name.
        name: Arc<str>,
        /// Even if too few of those who remain answer.
        forced: bool,
    },
    /// Remove this server for good, and end it.
    Leave,
    /// Have another server lead in this one's place.
    Transfer {
        /// Its name; without one, whose log has come furthest.
        name: Option<Arc<str>>,
    },
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum AdminOutcome {
    /// A checkpoint holds everything up to this log position.
    Checkpointed {
        /// The log position.
        position: u64,
    },
    /// The server is a member no longer.
    Removed {
        /// Its Raft node id.
        id: u64,
    },
    /// This server is a member no longer, and ends.
    Left,
    /// Another server leads.
    Transferred {
        /// Its name.
        name: Arc<str>,
    },
}
