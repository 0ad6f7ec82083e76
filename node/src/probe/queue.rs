//! What is due when.

use std::{cmp::Reverse, collections::BinaryHeap};

use spine_core::CheckKey;
use tokio::time::Instant;

/// Work on checks, by when it is due. One queue of small entries instead of a timer for each check.
///
/// An entry is not taken out when its check changes; its `life` no longer fits then, and whoever takes it drops it.
#[derive(Debug, Default)]
pub(super) struct Queue(BinaryHeap<Reverse<Due>>);

/// An entry of the queue. Entries of one moment come in the order of their checks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) check: CheckKey,
    pub(super) life: u64,
    pub(super) work: Work,
}

/// What to do with a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Run it.
    Run,
    /// Propose its status again, which did not succeed.
    Report,
}

impl Queue {
    pub(super) fn push(&mut self, due: Due) {
        self.0.push(Reverse(due));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse(due)| due.at)
    }

    /// The next one, if it is due by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }

    /// Takes out what `keep` doesn't want.
    pub(super) fn retain(&mut self, keep: impl Fn(&Due) -> bool) {
        self.0.retain(|Reverse(due)| keep(due));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
