//! The youngest entries in memory, bounded by bytes: replication and apply read what was just written.

use std::collections::VecDeque;

use crate::storage::log::LogEntry;

/// What an entry costs in memory beside its payload, in bytes.
const ENTRY_OVERHEAD: usize = 64;

/// The last entries of the log without a gap. Entries that aren't flushed yet are always among them.
#[derive(Debug, Default)]
pub(in crate::storage) struct Tail {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Tail {
    pub(in crate::storage) fn push(&mut self, entry: LogEntry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
    }

    /// Index of the oldest entry in memory; those before it are on disk.
    pub(in crate::storage) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.position.index)
    }

    /// The entries from `index` on. `index` must not lie before [`first`](Self::first).
    pub(in crate::storage) fn from(&self, index: u64) -> impl Iterator<Item = &LogEntry> {
        let skipped = self.first().map_or(0, |first| index.saturating_sub(first));
        self.entries
            .iter()
            .skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Drops the entries from `end` on.
    pub(in crate::storage) fn truncate(&mut self, end: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.position.index >= end) {
            self.bytes -= weight(&entry);
        }
    }

    /// Drops the entries below `first`.
    pub(in crate::storage) fn purge(&mut self, first: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.position.index < first) {
            self.bytes -= weight(&entry);
        }
    }

    /// Whether there is more in memory than there should be.
    pub(in crate::storage) fn exceeds(&self, bytes_max: usize) -> bool {
        self.bytes > bytes_max
    }

    /// Drops the oldest entries below `flushed` until no more than `bytes_max` remain.
    pub(in crate::storage) fn evict(&mut self, bytes_max: usize, flushed: u64) {
        while self.exceeds(bytes_max)
            && let Some(entry) = self.entries.pop_front_if(|entry| entry.position.index < flushed)
        {
            self.bytes -= weight(&entry);
        }
    }
}

fn weight(entry: &LogEntry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD
}
