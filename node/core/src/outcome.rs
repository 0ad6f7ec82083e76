//! What became of a request. A [`Rejection`] is deterministic: it is the same on every node, and nothing was
//! written.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Instance, Node},
    health::Check,
    id::{CheckId, Index, InstanceId, Key, LeaseId, NameError, NodeName, Revision, SessionId},
    kv::KvRow,
    time::Ttl,
};

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The request's index; a repeated request has the index of its first time.
    pub index: Index,
    /// What it did, or why it did nothing.
    pub result: Result<Outcome, Rejection>,
}

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A key was put, or was there already as it should be.
    Put {
        /// The store's revision after it.
        revision: Revision,
        /// Whether anything changed.
        written: bool,
    },
    /// A guard did not hold: nothing was done.
    GuardFailed {
        /// The store's revision.
        revision: Revision,
    },
    /// Keys were deleted.
    Deleted {
        /// How many.
        count: u64,
        /// The store's revision after it.
        revision: Revision,
    },
    /// History up to a revision is gone.
    Compacted,
    /// A registration holds.
    Registered {
        /// Whether anything changed.
        changed: bool,
    },
    /// A deregistration holds.
    Deregistered {
        /// Whether there was such a thing.
        found: bool,
    },
    /// A check has the status reported.
    CheckUpdated {
        /// Whether the check was made for it (`UpdateSource::ServiceOrImplicit`).
        created: bool,
    },
    /// A lease runs.
    LeaseGranted {
        /// Its id.
        id: LeaseId,
        /// The time to live granted, which may be longer than asked.
        ttl: Ttl,
    },
    /// A lease ended.
    LeaseRevoked {
        /// How many keys went with it.
        keys: u64,
    },
    /// What became of each renewal, in order.
    Renewed(Vec<Renewed>),
    /// What was due has ended.
    Pulsed {
        /// How many rows.
        ended: u64,
        /// Whether more are due: another pulse is needed.
        more: bool,
    },
    /// A request session is open.
    SessionOpened(SessionId),
    /// A member's row holds.
    MemberUp,
    /// The CA root is the active one.
    CaRootSet,
    /// These rules hold.
    RulesRaised(u32),
    /// A repeated request: it was applied at its index; its outcome was too large to keep.
    AlreadyApplied,
    /// A member's status holds.
    MemberStatus {
        /// Whether it was another before.
        changed: bool,
    },
    /// There is a CA root already, and it stays the active one.
    CaRootExists,
    /// A transaction was carried out.
    Txn {
        /// Whether its conditions held: which of its two lists of operations was carried out.
        held: bool,
        /// What each operation of that list did, in order.
        done: Vec<OpDone>,
        /// The store's revision after it.
        revision: Revision,
    },
    /// Operations of a transaction had conditions that are unmet: nothing was done.
    TxnUnmet {
        /// Which of its two lists of operations was tried.
        held: bool,
        /// All of them, in order.
        unmet: Vec<OpUnmet>,
        /// The store's revision.
        revision: Revision,
    },
    /// The member is gone.
    MemberRemoved {
        /// Whether it was there.
        found: bool,
    },
    /// A transaction over the catalog was carried out.
    CatalogTxn {
        /// What each operation did, in order.
        done: Vec<CatalogDone>,
        /// The store's revision after it.
        revision: Revision,
    },
    /// Something was in the way of operations of a transaction over the catalog: nothing was done.
    CatalogTxnUnmet {
        /// All of it, in order.
        unmet: Vec<CatalogOpUnmet>,
    },
    /// The state may hold so many bytes.
    QuotaSet(u64),
}

/// What one operation of a transaction over the catalog did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogDone {
    /// An operation on keys.
    Keys(OpDone),
    /// A node was read or registered.
    Node(Arc<Node>),
    /// An instance was read or registered.
    Instance(Arc<Instance>),
    /// A check was read or registered, and the instance that it judges, if it judges one.
    Check(Arc<Check>, Option<Arc<Instance>>),
    /// A row was removed.
    Removed {
        /// Whether it was there.
        found: bool,
    },
    /// A lease ended.
    LeaseEnded {
        /// Whether it was there.
        found: bool,
    },
}

/// An operation of a transaction over the catalog that can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogOpUnmet {
    /// Its place in the list, from 0.
    pub op: u32,
    /// Why.
    pub why: CatalogUnmet,
}

/// What is in the way of an operation of a transaction over the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogUnmet {
    /// The condition of an operation on keys.
    Keys(Unmet),
    /// There is no such row.
    Absent,
    /// The row is there, and was last changed at this index.
    Changed(Index),
    /// It would be refused as a command of its own.
    Refused(Box<Rejection>),
}

/// What one operation of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpDone {
    /// Keys were read.
    Read {
        /// Keys with their rows, in byte order.
        rows: Vec<(Key, Arc<KvRow>)>,
        /// How many the interval has, whatever the limit.
        count: u64,
        /// Whether the limit left some out.
        more: bool,
    },
    /// A key was put, or its lock taken or given back; or it was there already as it should be.
    Put {
        /// The key's row, without its value.
        row: Arc<KvRow>,
        /// Whether anything changed.
        written: bool,
        /// The fencing number of its lock, if somebody holds it.
        fence: Option<Index>,
    },
    /// Keys were deleted.
    Deleted {
        /// How many.
        count: u64,
    },
    /// A condition held.
    Checked {
        /// The row of the first key that it is of, without its value.
        row: Option<Arc<KvRow>>,
    },
}

/// An operation of a transaction whose condition is unmet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpUnmet {
    /// Its place in the list, from 0.
    pub op: u32,
    /// What is there instead.
    pub why: Unmet,
}

/// What is there instead of what a condition asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unmet {
    /// There is no such key.
    Absent,
    /// The key is there, and was last changed by this.
    Changed {
        /// Its index.
        modify_index: Index,
        /// Its revision.
        mod_revision: Revision,
    },
    /// Nobody holds the key's lock.
    Unlocked,
    /// This lease holds the key's lock.
    Locked(LeaseId),
    /// The lock's last holder was lost so lately that nobody may take it.
    LockDelay,
}

/// What became of one renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewed {
    /// The deadline was moved; it lies this far ahead. A registration that has no deadline yet counts as renewed
    /// too, with `None`.
    Until(Option<Ttl>),
    /// The row differs from what the client sent, or is gone: the full command is needed.
    NotARenewal,
}

/// Why a request was refused; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejection {
    /// A field has a value that it can't have.
    #[error("{0}")]
    Invalid(Arc<str>),
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Larger than allowed.
    #[error("{what} is {size} bytes long, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: Arc<str>,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        limit: u64,
    },
    /// More than allowed.
    #[error("too many {what}: at most {limit} are allowed")]
    TooMany {
        /// Of what there are too many.
        what: Arc<str>,
        /// The bound.
        limit: u64,
    },
    /// No such node.
    #[error("unknown node {0:?}")]
    UnknownNode(NodeName),
    /// No such instance.
    #[error("unknown service ID {0:?}")]
    UnknownInstance(InstanceId),
    /// No such check.
    #[error("unknown check ID {0:?}")]
    UnknownCheck(CheckId),
    /// A status was reported to a check that is not a TTL check.
    #[error("check ID {0:?} does not have associated TTL")]
    NotTtl(CheckId),
    /// An id alone names several things.
    #[error("{id:?} is on several nodes: {}", .nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// The id.
        id: Arc<str>,
        /// The nodes that have it.
        nodes: Vec<NodeName>,
    },
    /// A node's id belongs to another name.
    #[error("node ID {id:?} belongs to node {owner:?}")]
    NodeIdTaken {
        /// The id.
        id: Arc<str>,
        /// The node that has it.
        owner: NodeName,
    },
    /// A probe's result under an outdated assignment.
    #[error("the assignment of check {0:?} is outdated")]
    StaleAssignment(CheckId),
    /// No such lease.
    #[error("lease {0} not found")]
    UnknownLease(LeaseId),
    /// The lease's id is in use.
    #[error("lease {0} already exists")]
    LeaseExists(LeaseId),
    /// The revision is behind the compaction floor.
    #[error("revision {asked} has been compacted; the oldest is {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The compaction floor.
        oldest: Revision,
    },
    /// The revision lies ahead.
    #[error("revision {asked} is in the future; the newest is {newest}")]
    FutureRevision {
        /// The revision asked for.
        asked: Revision,
        /// The store's revision.
        newest: Revision,
    },
    /// The state is as large as it may be.
    #[error("the state holds {used} bytes of {limit}: delete keys or services before writing more")]
    QuotaExceeded {
        /// Bytes in use.
        used: u64,
        /// The bound.
        limit: u64,
    },
    /// No such request session; it was never opened, or has been idle for too long.
    #[error("unknown request session {0}")]
    UnknownSession(SessionId),
    /// The request's outcome was acknowledged and dropped: it was applied once, and is not applied again.
    #[error("request {sequence} of session {session} was answered and acknowledged before")]
    AnsweredBefore {
        /// The session.
        session: SessionId,
        /// The request.
        sequence: u64,
    },
    /// These rules are not known, or lie behind.
    #[error("rules {asked} can't follow rules {current}")]
    RulesUnsupported {
        /// The rules asked for.
        asked: u32,
        /// The rules in force.
        current: u32,
        /// The rules in force again: what else the release knows that applies an entry is no part of an outcome.
        known: u32,
    },
    /// No such member: its name or its id is another's.
    #[error("member {name:?} with ID {id} is not known")]
    UnknownMember {
        /// The name.
        name: NodeName,
        /// The Raft node id.
        id: u64,
    },
    /// A lease can't hang on a check that is critical already.
    #[error("check {0:?} is in critical state")]
    CheckCritical(CheckId),
    /// What is asked for came with rules that are not in force yet.
    #[error("this needs rules {needed}; the cluster is at {current} {}", what_holds(.older))]
    RulesTooLow {
        /// The rules that it needs.
        needed: u32,
        /// The rules in force.
        current: u32,
        /// The servers that don't know them, each with its release.
        older: Vec<(NodeName, Arc<str>)>,
    },
}

/// What a refusal means to the one who is refused: the row of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectionRow {
    /// A word for programs, stable for ever.
    pub code: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Whether the same request may succeed later without being changed.
    pub retry: bool,
}

impl Rejection {
    /// One variant of each kind, for the table and its tests.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub fn row(&self) -> RejectionRow {
        let (code, meaning, remedy, retry) = match self {
            Self::Invalid(_) => (
                "invalid",
                "a field has a value that it can't have",
                "correct the field named",
                false,
            ),
            Self::Name(_) => (
                "invalid_name",
                "a name is empty, too long or has control characters",
                "choose another name",
                false,
            ),
            Self::TooLarge { .. } => (
                "too_large",
                "a part of the request is larger than allowed",
                "make it smaller",
                false,
            ),
            Self::TooMany { .. } => (
                "too_many",
                "a bound on a number of things is reached",
                "remove what is no longer needed",
                true,
            ),
            Self::UnknownNode(_) => (
                "unknown_node",
                "there is no such node",
                "register the node first",
                false,
            ),
            Self::UnknownInstance(_) => (
                "unknown_instance",
                "there is no such instance",
                "register it first; pass its ID, not its name",
                false,
            ),
            Self::UnknownCheck(_) => (
                "unknown_check",
                "there is no such check",
                "register it first; pass its ID, not its name",
                false,
            ),
            Self::NotTtl(_) => (
                "not_ttl",
                "only TTL checks are reported to",
                "register the check with a TTL",
                false,
            ),
            Self::Ambiguous { .. } => (
                "ambiguous",
                "several nodes have this ID",
                "ask the server that took the registration, or use the catalog call, which names the node",
                false,
            ),
            Self::NodeIdTaken { .. } => (
                "node_id_taken",
                "another node has this node ID",
                "deregister the other node, or choose another ID",
                false,
            ),
            Self::StaleAssignment(_) => (
                "stale_assignment",
                "the check changed, or another node probes it",
                "drop the result",
                false,
            ),
            Self::UnknownLease(_) => (
                "unknown_lease",
                "there is no such lease: it ended, or never was",
                "make a new lease",
                false,
            ),
            Self::LeaseExists(_) => (
                "lease_exists",
                "the lease's ID is in use",
                "choose another ID, or let the server choose",
                false,
            ),
            Self::Compacted { .. } => (
                "compacted",
                "history at this revision is gone",
                "read the present state and go on from its revision",
                false,
            ),
            Self::FutureRevision { .. } => (
                "future_revision",
                "the store has not reached this revision",
                "ask for a revision that was seen",
                true,
            ),
            Self::QuotaExceeded { .. } => (
                "quota_exceeded",
                "the state is as large as it may be",
                "deletes are always allowed",
                true,
            ),
            Self::UnknownSession(_) => (
                "unknown_session",
                "the request session is not open",
                "open a new session; whether earlier requests were applied is unknown",
                false,
            ),
            Self::AnsweredBefore { .. } => (
                "answered_before",
                "the request was applied and its answer acknowledged",
                "use a new sequence number for a new request",
                false,
            ),
            Self::RulesUnsupported { .. } => (
                "rules_unsupported",
                "not every server knows these rules",
                "upgrade every server first",
                false,
            ),
            Self::UnknownMember { .. } => (
                "unknown_member",
                "there is no such server, or another has taken its name",
                "look at the list of members",
                false,
            ),
            Self::CheckCritical(_) => (
                "check_critical",
                "a lease can't hang on a check that is critical",
                "wait until the check passes, or leave it out",
                true,
            ),
            Self::RulesTooLow { .. } => (
                "rules_too_low",
                "some server runs a release that doesn't know this",
                "upgrade the servers named; `spine members` shows what each runs",
                true,
            ),
        };
        RejectionRow {
            code,
            meaning,
            remedy,
            retry,
        }
    }

    pub(crate) fn invalid(text: impl Into<Arc<str>>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn too_many(what: &str, limit: usize) -> Self {
        Self::TooMany {
            what: what.into(),
            limit: limit as u64,
        }
    }
}

/// What keeps the rules from being raised: the servers of an older release, each with that.
fn what_holds(older: &[(NodeName, Arc<str>)]) -> String {
    let runs: Vec<_> = older
        .iter()
        .map(|(name, version)| format!("{name} runs {version}"))
        .collect();
    match &runs[..] {
        [] => "until all servers have run the newer release for a while (--rules-hold)".to_owned(),
        [one] => format!("since {one}: upgrade it"),
        several => format!("since {}: upgrade them", several.join(", ")),
    }
}
