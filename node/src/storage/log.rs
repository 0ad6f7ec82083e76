//! What a log is to the rest of the node: one ordered stream of writes, each answered once it is durable.
//!
//! Vote and entries go through the same stream, because Raft needs their order kept: a vote that was submitted before
//! an entry is durable before it. Reads see a write as soon as it is submitted; *durable* is what the callback says.
//!
//! Failure is final. Once a write or a flush failed nobody knows what the disk holds, so each later submit fails too
//! and the hook given at creation ends the node. A retry could acknowledge what the disk has already dropped.
//!
//! What is the same for every engine is here as well: the rules of its stream (`record`), the queue of writes (`queue`)
//! and the youngest entries in memory (`tail`). An engine adds how a group reaches the disk, and how it is read back.

mod options;
pub(super) mod queue;
pub(super) mod reading;
pub(super) mod record;
pub(super) mod tail;

use std::fmt::Debug;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use self::options::{LogEngine, LogOptions, UnknownEngine};
use crate::world::lock::DirLock;

/// A place in Raft's log: who led when, and the how-manieth entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Raft's term.
    pub term: u64,
    /// Number of the node that led the term.
    pub leader: u64,
    /// Index in the log, from 0 on, without gaps.
    pub index: u64,
}

/// One entry: its place and its content, which the log doesn't look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log.
    pub position: Position,
    /// Opaque content, at most [`LogStore::payload_bytes_max`] bytes.
    pub payload: Bytes,
}

/// One write to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Entries that follow the last one, in order and without gaps. The first entry of an empty log that was never
    /// purged may have any index.
    Append(Vec<LogEntry>),
    /// Replaces the vote; opaque, at most [`VOTE_BYTES_MAX`] bytes.
    Vote(Bytes),
    /// Saves how far the log is known to be committed. It rides along with the next flush and has none of its own: its
    /// callback is called at once and promises nothing. Ignored where the log doesn't reach so far.
    Committed(Position),
    /// Removes the entries behind `after`, or all of them. Neither committed nor purged entries can be removed so.
    Truncate {
        /// The last entry that stays: an entry of the log, or the purged position.
        after: Option<Position>,
    },
    /// Removes the entries up to and including this position, which may lie beyond the last entry: then the log is
    /// empty and goes on behind it. A position below an earlier purge is ignored.
    Purge {
        /// The last position that goes.
        up_to: Position,
    },
}

/// What a log holds, all submitted writes included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The vote, if one was ever saved.
    pub vote: Option<Bytes>,
    /// The saved committed position: a lower bound of what is committed.
    pub committed: Option<Position>,
    /// Up to here entries are gone.
    pub purged: Option<Position>,
    /// The last entry, or the purged position where no entry follows it.
    pub last: Option<Position>,
    /// Bytes of the log's stream up to now, what is gone included. Its growth says when a checkpoint is due.
    pub stream_bytes: u64,
    /// Bytes of the stream that are still kept.
    pub kept_bytes: u64,
}

/// Longest vote in bytes.
pub const VOTE_BYTES_MAX: usize = 1024;

/// Longest identity in bytes.
pub const IDENTITY_BYTES_MAX: usize = 1024;

/// Called once, when a write is durable or has failed. It runs on the log's own thread (or, for a refusal, in
/// [`LogStore::submit`]) and must not wait: the next flush waits for it.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Called when a log has something to do and has no thread of its own to do it.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A log. Writes are ordered by their submission; any thread may read.
pub trait LogStore: Send + Sync + Debug {
    /// Queues a write and returns at once. `done` is called after all of it is durable, in the order of submission.
    ///
    /// The queue is bounded: see [`when_room`](Self::when_room). A write beyond twice the bound is refused with
    /// [`LogError::Overloaded`] and changes nothing.
    fn submit(&self, write: Write, done: Done);

    /// Calls `ready` as soon as the queue is below its bound, at once if it is now. To be waited for before each
    /// [`submit`](Self::submit), without blocking a thread. Also called when the log has failed or is closed.
    fn when_room(&self, ready: Box<dyn FnOnce() + Send>);

    /// The entries of `range` that the log holds, in order, at most `bytes_max` bytes of payload but at least one
    /// entry if there is one. Recent entries come from memory, older ones from disk: this may wait for it.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError>;

    /// The state, submitted writes included. After an open everything in it is durable.
    fn state(&self) -> LogState;

    /// The state as far as it is durable: what the next open finds at least.
    fn durable(&self) -> LogState;

    /// The identity that was given when the log was created.
    fn identity(&self) -> Bytes;

    /// Longest payload of an entry, in bytes.
    fn payload_bytes_max(&self) -> usize;

    /// Flushes what is queued, confirms it and ends the log's threads. Later submits are refused. May be called again.
    fn close(&self) -> Result<(), LogError>;
}

/// What one flush carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Entries in it.
    pub entries: u64,
    /// Submitted writes that it completed.
    pub writes: u64,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
}

/// Watches the flushes of a log, for metrics. Called on the log's thread; it takes the times itself, with its own
/// clock, so that the log needs none.
pub trait LogObserver: Send + Sync {
    /// A write begins, of which the flush is the end. It may be told twice of the same.
    fn write_begins(&self) {}
    /// The write has returned, the flush begins.
    fn flush_begins(&self) {}
    /// The flush has returned.
    fn flush_ends(&self, _flush: Flush) {}
    /// A segment was begun although no prepared one was ready: flushes are slower until the next.
    fn segment_unprepared(&self) {}
}

/// What a log calls besides the callbacks of its writes.
#[derive(Clone)]
pub struct LogHooks {
    /// Called once, on the log's thread, when a write or flush failed. The node ends.
    pub fatal: Arc<dyn Fn(&LogError) + Send + Sync>,
    /// Watches flushes.
    pub observer: Arc<dyn LogObserver>,
    /// The data directory's lock, where there is one: the log's threads hold it until they write no more.
    pub held: Option<Arc<dyn DirLock>>,
}

impl Debug for LogHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogHooks")
    }
}

impl LogHooks {
    /// Hooks that end with `fatal` and watch nothing.
    pub fn fatal(fatal: impl Fn(&LogError) + Send + Sync + 'static) -> Self {
        struct Blind;
        impl LogObserver for Blind {}
        Self {
            fatal: Arc::new(fatal),
            observer: Arc::new(Blind),
            held: None,
        }
    }
}

/// Why a log can't do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no log in the directory: create one.
    #[error("no log in {0}")]
    Absent(String),
    /// There is a log already.
    #[error("there is a log in {0} already")]
    Exists(String),
    /// The directory has the log of another engine than the one asked for.
    #[error(
        "the log in {dir} was made with --log-engine {found}, and {asked} is asked for: a data directory stays with its \
         engine; start this server with --log-engine {found}, or give it an empty directory and let it join anew"
    )]
    OtherEngine {
        /// Where the log is.
        dir: String,
        /// What it was made with.
        found: LogEngine,
        /// What was asked for.
        asked: LogEngine,
    },
    /// Something that was durable can't be read any more. The node must not go on with this log.
    #[error(
        "the log is damaged: {what} in {file} at byte {offset}; this node must not vote with it: \
         let it rejoin as a new member, or restore its own directory"
    )]
    Damaged {
        /// File name.
        file: String,
        /// Byte in the file.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The log was written by a newer version of this program.
    #[error("{file} has format {found}, this version reads up to {known}")]
    Format {
        /// File name.
        file: String,
        /// Its format.
        found: u32,
        /// The newest known format.
        known: u32,
    },
    /// The caller broke the rules of [`Write`]; the log is as before.
    #[error("write refused: {0}")]
    Refused(String),
    /// More than twice the bound is queued; the log is as before.
    #[error("the log's queue is full")]
    Overloaded,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The disk failed. Final: the node ends.
    #[error("the log's disk failed: {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// The disk has no room. Final: the node ends, and starts again once there is some.
    #[error(
        "the disk is full: {what}: {source}; what was acknowledged is safe; make room, at least 256 MiB, and start this \
         server again if nothing else does"
    )]
    Full {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// A fault of this program: what was being written may be there or not. Final: the node ends.
    #[error("the log's thread panicked: its own message says why")]
    Panicked,
}

impl LogError {
    /// An error of the disk while doing `what`.
    pub fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| {
            let full = matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let source = Arc::new(source);
            if full {
                Self::Full { what, source }
            } else {
                Self::Io { what, source }
            }
        }
    }
}
