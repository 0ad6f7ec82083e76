//! A read in progress: what is in memory, and in between what an engine must fetch from its disk.

use std::ops::Range;

use super::LogEntry;
use super::queue::{Flushed, View};

/// A read in progress.
#[derive(Debug)]
pub(in crate::storage) struct Reading {
    next: u64,
    end: u64,
    bytes_max: usize,
    bytes: usize,
    entries: Vec<LogEntry>,
}

/// What a read does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Step {
    Done,
    /// Entries from this index on are to be read from disk and [taken](Reading::take), at least that one.
    Disk {
        from: u64,
    },
}

impl Reading {
    /// A read of `range`, of at most `bytes_max` bytes of payload but at least one entry if there is one.
    pub(in crate::storage) fn new(range: Range<u64>, bytes_max: usize) -> Self {
        Self {
            next: range.start,
            end: range.end,
            bytes_max,
            bytes: 0,
            entries: Vec::new(),
        }
    }

    /// Takes what is in memory, or says what to read from disk.
    pub(in crate::storage) fn step<F: Flushed>(&mut self, view: &View<F>) -> Step {
        let held = view.indexes();
        if self.entries.is_empty() {
            self.next = self.next.max(held.start);
        }
        self.end = self.end.min(held.end);
        // Entries that vanished while older ones were read (purged or truncated) end the read.
        if self.next >= self.end || self.next < held.start {
            return Step::Done;
        }
        if view.tail.first().is_some_and(|first| first <= self.next) {
            for entry in view.tail.from(self.next) {
                if !self.take(entry) {
                    break;
                }
            }
            return Step::Done;
        }
        Step::Disk { from: self.next }
    }

    /// Takes an entry if it is the next and there is room; `false` if the read is complete.
    pub(in crate::storage) fn take(&mut self, entry: &LogEntry) -> bool {
        if entry.position.index < self.next {
            return true;
        }
        let fits = self.entries.is_empty() || self.bytes + entry.payload.len() <= self.bytes_max;
        if !fits {
            self.end = self.next;
        }
        if self.next >= self.end {
            return false;
        }
        self.next += 1;
        self.bytes += entry.payload.len();
        self.entries.push(entry.clone());
        true
    }

    /// The index that it goes on from.
    pub(in crate::storage) fn next(&self) -> u64 {
        self.next
    }

    /// What it came to.
    pub(in crate::storage) fn taken(self) -> Vec<LogEntry> {
        self.entries
    }
}
