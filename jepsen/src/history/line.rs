//! The lines of a history.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::transaction::Transaction;
use crate::clock::Micros;

/// One sequence of operations of which each begins after the one before has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Process(pub u64);

/// What the clients do in a run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Reads, writes, deletions and compare-and-set of single keys.
    Register,
    /// Unique additions, and reads of all of them.
    Set,
    /// Watches and blocking queries of keys that change.
    Watch,
    /// Services that come, go, hang and fail, and who is told to use them.
    Catalog,
    /// Transactions that read lists and append to them.
    Append,
    /// Locks, whose holders write to what they guard.
    Lock,
    /// Leases that are renewed, or not, and the keys that hang on them.
    Lease,
    /// Keys that change while the state is saved, and what is restored.
    Backup,
    /// Always on: samples of every node.
    Cluster,
}

impl Workload {
    /// Its name on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Set => "set",
            Self::Watch => "watch",
            Self::Catalog => "catalog",
            Self::Append => "append",
            Self::Lock => "lock",
            Self::Lease => "lease",
            Self::Backup => "backup",
            Self::Cluster => "cluster",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a request was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// The native gRPC API, through the client library.
    Native,
    /// Consul's HTTP API.
    Consul,
}

/// A line: a moment and what happened at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When.
    pub t: Micros,
    /// What.
    #[serde(flatten)]
    pub line: Line,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Line {
    /// A process begins an operation.
    Invoke {
        /// The process.
        p: Process,
        /// The workload that it belongs to.
        w: Workload,
        /// The node that it asks.
        node: String,
        /// How.
        dialect: Dialect,
        /// For what.
        #[serde(flatten)]
        call: Call,
    },
    /// Its operation was answered.
    Ok {
        /// The process.
        p: Process,
        /// The answer.
        out: Out,
    },
    /// Its operation had no effect and never will.
    Fail {
        /// The process.
        p: Process,
        /// Why.
        error: String,
    },
    /// Its operation may have had an effect, or may yet.
    Unknown {
        /// The process.
        p: Process,
        /// Why.
        error: String,
    },
    /// Something was seen.
    Saw {
        /// The workload that it belongs to.
        w: Workload,
        /// The node that showed it; empty: the harness itself.
        node: String,
        /// What.
        #[serde(flatten)]
        sight: Sight,
    },
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Call {
    /// Read a key.
    Read {
        /// The key.
        key: String,
        /// What the node has, however old.
        stale: bool,
    },
    /// Store a value. No two writes of a run store the same value under the same key.
    Write {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Store a value if nobody has changed the key since it was read.
    Cas {
        /// The key.
        key: String,
        /// What was read.
        expect: Expect,
        /// The value.
        value: String,
    },
    /// Delete a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Delete all keys that begin so.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
    /// Read all keys that begin so.
    List {
        /// The prefix.
        prefix: String,
        /// What the node has, however old.
        stale: bool,
    },
    /// Ask for a key, or all keys that begin so, and wait until that has changed since an index.
    Block {
        /// Who asks: one watcher asks again and again, each time behind the index of its last answer.
        watcher: u64,
        /// The key or prefix.
        key: String,
        /// Whether it is a prefix.
        recurse: bool,
        /// The index of the last answer; 0: answer at once.
        index: u64,
        /// How long to wait at most.
        wait_ms: u64,
    },
    /// Add a member to a set.
    Add {
        /// The set.
        set: String,
        /// The member, unique in its set.
        member: u64,
    },
    /// Read all members of a set.
    Members {
        /// The set.
        set: String,
        /// What the node has, however old.
        stale: bool,
        /// Nobody adds any more, nothing is broken any more, and the node has had time to catch up.
        last: bool,
    },
    /// Register an instance with a health check.
    RegisterInstance {
        /// The service.
        service: String,
        /// The instance.
        id: String,
        /// Where it serves, and is probed.
        address: SocketAddr,
        /// How often it is probed.
        interval_ms: u64,
        /// How long a probe may take.
        timeout_ms: u64,
        /// How many failures in a row make it critical.
        failures: u32,
    },
    /// Deregister it.
    DeregisterInstance {
        /// The service.
        service: String,
        /// The instance.
        id: String,
    },
    /// Ask which instances of a service may get traffic.
    Passing {
        /// The service.
        service: String,
        /// What the node has, however old.
        stale: bool,
    },
    /// Read and append to lists, all at once or not at all.
    Transact(Transaction),
    /// Make a lease.
    Grant {
        /// Its id, a UUID; empty: the server draws one, as Consul's do.
        lease: String,
        /// It ends so long after its last renewal.
        ttl_ms: u64,
        /// When it ends, nobody takes its locks for so long.
        lock_delay_ms: u64,
        /// Whether keys whose lock it holds are deleted when it ends.
        deletes: bool,
    },
    /// Renew it.
    Renew {
        /// Which.
        lease: String,
    },
    /// End it.
    Revoke {
        /// Which.
        lease: String,
    },
    /// Ask whether it is there.
    Alive {
        /// Which.
        lease: String,
        /// What the node has, however old.
        stale: bool,
    },
    /// Store keys that end with a lease, all at once.
    Attach {
        /// The lease.
        lease: String,
        /// The keys, which nobody else stores.
        keys: Vec<String>,
    },
    /// Take a lock.
    Acquire {
        /// The lock.
        lock: String,
        /// The lease that is to hold it.
        lease: String,
        /// Whether it is a lock with a queue, which is waited for; else it is a key's.
        queue: bool,
        /// How long to wait at most.
        wait_ms: u64,
    },
    /// Give a lock back.
    Release {
        /// The lock.
        lock: String,
        /// The lease that holds it.
        lease: String,
        /// As for its acquisition.
        queue: bool,
    },
    /// Save the whole state in a file.
    Save {
        /// The file.
        file: PathBuf,
        /// What the node has, however old.
        stale: bool,
    },
}

/// What a compare-and-set expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The index of the key's last change, which is what is sent; 0: there is no such key.
    pub index: u64,
    /// The value that was read together with it, which is what a checker that doubts indexes goes by.
    pub value: Option<String>,
}

/// What is answered. Indexes are absent where the dialect doesn't state them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Out {
    /// To a read.
    Row {
        /// The key's row; `None`: there is no such key.
        row: Option<Row>,
        /// The index of the state that was read.
        applied: Option<u64>,
    },
    /// To a write, a compare-and-set or an addition; to a revocation, a release, or to keys on a lease: not done where
    /// there was no such lease, or it did not hold the lock.
    Written {
        /// Whether it was done: false only where the condition did not hold.
        done: bool,
        /// The index of the request.
        index: Option<u64>,
    },
    /// To a deletion.
    Deleted {
        /// How many keys.
        count: Option<u64>,
        /// The index of the request.
        index: Option<u64>,
    },
    /// To a list.
    Rows {
        /// The rows, by key.
        rows: Vec<Row>,
        /// The index of the state that was read.
        applied: Option<u64>,
    },
    /// To a blocking query.
    Changed {
        /// The index to wait behind next.
        index: u64,
        /// The rows, by key.
        rows: Vec<Row>,
    },
    /// To a read of a set.
    Members {
        /// The members, in order.
        members: Vec<u64>,
        /// The index of the state that was read.
        applied: Option<u64>,
    },
    /// To a registration or deregistration.
    Registered {
        /// The index at which it holds.
        index: Option<u64>,
    },
    /// To the question for passing instances: their ids, in order.
    Passing {
        /// The ids.
        ids: Vec<String>,
    },
    /// To a transaction.
    Transacted {
        /// The lists that were read, a list for each reading step.
        lists: Vec<Vec<u64>>,
        /// The index of the request, or of the state that was read.
        index: Option<u64>,
    },
    /// To the making of a lease.
    Granted {
        /// Its id.
        lease: String,
        /// It ends so long after its last renewal: what was asked for, or longer.
        ttl_ms: u64,
    },
    /// To a renewal, and to the question whether a lease is there.
    Lives {
        /// Whether it is there, and was renewed.
        alive: bool,
    },
    /// To the taking of a lock.
    Acquired {
        /// The fencing number; `None`: others hold it.
        fence: Option<u64>,
        /// The index at which it was taken.
        index: Option<u64>,
    },
    /// To the saving of the state.
    Saved {
        /// The newest index in it.
        index: u64,
        /// Its revision.
        revision: u64,
    },
}

/// A key's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The index of its last change.
    pub modify: u64,
}

/// What is seen without an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Sight {
    /// A watcher opened a stream.
    WatchStart {
        /// The watcher.
        watcher: u64,
        /// The keys watched.
        prefix: String,
        /// Changes behind this index are told.
        from: u64,
        /// Whether that is where the watcher's last stream ended, so that together they are without a gap.
        resumed: bool,
    },
    /// Its stream told something.
    WatchBatch {
        /// The watcher.
        watcher: u64,
        /// Everything up to this index has been told.
        index: u64,
        /// The events, in the order told.
        events: Vec<KeyEvent>,
    },
    /// Its stream broke off, or was left.
    WatchEnd {
        /// The watcher.
        watcher: u64,
        /// Why.
        error: String,
    },
    /// An instance's process is made to behave otherwise.
    Instance {
        /// The instance.
        id: String,
        /// What it does from now on.
        state: InstanceState,
    },
    /// Somebody wrote to what a lock guards, which the harness keeps.
    Guarded {
        /// The lock.
        lock: String,
        /// The lease that holds it, or held it: writers may be late.
        lease: String,
        /// The fencing number shown.
        fence: u64,
        /// Whether the write was taken: not where a greater number had been shown before.
        accepted: bool,
    },
    /// What was saved in a file was restored, and a server began a cluster of its own with it.
    Restored {
        /// The file.
        file: PathBuf,
        /// What the server holds of the workload's keys.
        rows: Vec<Row>,
        /// The index of the state that was read.
        applied: u64,
        /// The index and the revision of a first write.
        next: (u64, u64),
        /// What a watch from the index of the snapshot was told; `None`: that what lies between is gone.
        told: Option<Vec<KeyEvent>>,
    },
    /// It was not restored.
    NotRestored {
        /// The file.
        file: PathBuf,
        /// Why.
        error: String,
    },
    /// What a node knows of itself.
    Status {
        /// The term of the consensus protocol.
        term: u64,
        /// The newest index applied.
        index: u64,
        /// Who leads, as far as it knows; empty: nobody.
        leader: String,
        /// Whether it serves.
        ready: bool,
    },
    /// All that a node holds at the end, as a checksum made by the harness.
    Content {
        /// The newest index applied.
        index: u64,
        /// The checksum over keys, instances and checks.
        checksum: String,
    },
    /// No fault is made from now on, and the last one has been undone.
    FaultsOver,
}

/// One change that a watch told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The request that did it.
    pub index: u64,
    /// The key.
    pub key: String,
    /// The row before; `None`: the key is new.
    pub before: Option<Row>,
    /// The row after; `None`: the key is gone.
    pub after: Option<Row>,
}

/// How an instance answers the probes of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// With 200.
    Up,
    /// With 500.
    Failing,
    /// Not at all: it accepts the connection and says nothing.
    Hung,
    /// Its port is closed.
    Stopped,
    /// Now so, now so: nothing is promised about it.
    Flapping,
}
