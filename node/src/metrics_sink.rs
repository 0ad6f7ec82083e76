//! What a node tells of itself while it runs, to whoever counts it. Every method has a body that does nothing, so that
//! an embedder counts what it likes.

use std::time::Duration;

use spine_core::Dialect;

/// Receives what a node has to tell. Methods must not wait.
pub trait NodeMetrics: Send + Sync + 'static {
    /// A flush of the log took this long and carried so many entries and bytes.
    fn flushed(&self, _took: Duration, _entries: u64, _bytes: u64) {}

    /// A log segment was begun although none was prepared: flushes are slower until the next.
    fn segment_unprepared(&self) {}

    /// An entry of so many requests was applied.
    fn applied(&self, _requests: usize) {}

    /// A state begins to come whole from another node, or goes on coming after it broke off.
    fn install_begun(&self) {}

    /// A state came whole from another node and took the place of this one's.
    fn installed(&self) {}

    /// A request to change something was answered.
    fn request(&self, _request: Request) {}

    /// A checkpoint was written.
    fn checkpointed(&self, _took: Duration) {}

    /// A checkpoint could not be written; it is tried again.
    fn checkpoint_failed(&self) {}

    /// This node gave leadership away because of its disk.
    fn stepped_aside(&self) {}

    /// A peer's state is not this node's.
    fn digest_differs(&self) {}
}

/// A request to change something, answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The way in.
    pub dialect: Dialect,
    /// The command's name.
    pub command: &'static str,
    /// How it ended.
    pub ended: Ended,
    /// From coming in to the answer.
    pub took: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    /// It was applied.
    Applied,
    /// The cluster's rules refused it.
    Refused,
    /// It was not proposed.
    NotProposed,
    /// Whether it is applied is not known.
    Unknown,
}

impl Ended {
    /// The label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::NotProposed => "not_proposed",
            Self::Unknown => "unknown",
        }
    }
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted;

impl NodeMetrics for Uncounted {}
