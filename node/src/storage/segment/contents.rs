//! What the log holds at a point of its stream: the rules by which records change it, and where its entries lie.
//!
//! The same rules judge a write when it is submitted, follow it once it is flushed, and replay the stream at open. So
//! a stream that was accepted can be replayed, and one that can't is damaged.

use std::collections::VecDeque;

use bytes::Bytes;

use super::format::Record;
use crate::storage::log::{Position, VOTE_BYTES_MAX};

/// Indexes from here on are refused, so that sums of them can't overflow.
pub(super) const INDEX_MAX: u64 = 1 << 60;

/// A run of entries isn't lengthened beyond this, so that reading one entry reads little more.
const RUN_BYTES: u32 = 64 * 1024;

/// Everything about the log but the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Position>,
    pub(super) purged: Option<Position>,
    /// Index of the first entry, if there is an entry.
    pub(super) first: Option<u64>,
    /// The last entry, or `purged` where none follows.
    pub(super) last: Option<Position>,
}

impl Summary {
    /// Index of the entry that can be appended next; `None` if any can.
    fn next(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    /// Whether the log reaches `index`.
    pub(super) fn reaches(&self, index: u64) -> bool {
        self.last.is_some_and(|last| index <= last.index)
    }

    /// Takes one record, or says what rule it breaks and stays as it was.
    pub(super) fn step(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Entry(entry) => self.append(entry.position),
            Record::Vote(vote) if vote.len() > VOTE_BYTES_MAX => Err("the vote is too long"),
            Record::Vote(vote) => {
                self.vote = Some(vote.clone());
                Ok(())
            }
            Record::Committed(position) => {
                if self.committed.is_none_or(|known| known.index < position.index) {
                    self.committed = Some(*position);
                }
                Ok(())
            }
            Record::Truncate(after) => self.truncate(*after),
            Record::Purge(up_to) => self.purge(*up_to),
        }
    }

    fn append(&mut self, position: Position) -> Result<(), &'static str> {
        if position.index >= INDEX_MAX {
            return Err("the index is absurd");
        }
        if self.next().is_some_and(|next| next != position.index) {
            return Err("an entry doesn't follow the last one");
        }
        if self.last.is_some_and(|last| last.term > position.term) {
            return Err("an entry's term is below that of the one before it");
        }
        self.first.get_or_insert(position.index);
        self.last = Some(position);
        Ok(())
    }

    fn truncate(&mut self, after: Option<Position>) -> Result<(), &'static str> {
        if after.is_some_and(|after| !self.reaches(after.index)) {
            return Err("the log ends before the entry to truncate after");
        }
        let end = after.map_or(0, |after| after.index + 1);
        for kept in [self.committed, self.purged].into_iter().flatten() {
            if end <= kept.index {
                return Err("committed and purged entries can't be truncated");
            }
        }
        self.first = self.first.filter(|first| *first < end);
        self.last = after;
        Ok(())
    }

    fn purge(&mut self, up_to: Position) -> Result<(), &'static str> {
        if up_to.index >= INDEX_MAX {
            return Err("the index is absurd");
        }
        if self.purged.is_some_and(|purged| purged.index >= up_to.index) {
            return Ok(());
        }
        self.purged = Some(up_to);
        if self.last.is_some_and(|last| last.index > up_to.index) {
            self.first = self.first.map(|first| first.max(up_to.index + 1));
        } else {
            self.first = None;
            self.last = Some(up_to);
        }
        Ok(())
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) generation: u64,
    pub(super) epoch: u64,
    /// First byte in the file.
    pub(super) offset: u64,
}

/// Consecutive entries that lie back to back in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Index of the first entry.
    pub(super) first: u64,
    pub(super) count: u32,
    /// Length on disk; the entries may end before it where the run was truncated.
    pub(super) bytes: u32,
    pub(super) generation: u64,
    pub(super) epoch: u64,
    pub(super) offset: u64,
}

impl Run {
    /// Index behind the last entry.
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    fn continues_at(&self, place: Place, index: u64) -> bool {
        self.generation == place.generation
            && self.epoch == place.epoch
            && self.offset + u64::from(self.bytes) == place.offset
            && self.end() == index
            && self.bytes < RUN_BYTES
    }
}

/// The log as flushed: its summary and where each entry lies.
///
/// Places are kept for runs of entries, not for each: under load a run is 64 KiB, at leisure it is one group, which
/// takes 4 KiB of the file. So a gigabyte of log needs about 10 MB here at the very most.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) summary: Summary,
    /// In the order of indexes, which is that of the stream too.
    runs: VecDeque<Run>,
}

impl Contents {
    /// The log as a segment header tells it, without knowing where its entries lie.
    pub(super) fn new(summary: Summary) -> Self {
        Self {
            summary,
            runs: VecDeque::new(),
        }
    }

    /// Takes one record that lies at `place`.
    pub(super) fn step(&mut self, record: &Record, place: Place) -> Result<(), &'static str> {
        self.summary.step(record)?;
        match record {
            Record::Entry(entry) => {
                let bytes = u32::try_from(record.bytes()).map_err(|_| "an entry is absurdly long")?;
                self.locate(entry.position.index, place, bytes);
            }
            Record::Truncate(after) => self.forget_from(after.map_or(0, |after| after.index + 1)),
            Record::Purge(up_to) => self.forget_below(up_to.index + 1),
            Record::Vote(_) | Record::Committed(_) => {}
        }
        Ok(())
    }

    /// The run that holds `index`.
    pub(super) fn run_of(&self, index: u64) -> Option<Run> {
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = *self.runs.get(after.checked_sub(1)?)?;
        (index < run.end()).then_some(run)
    }

    /// The oldest segment that still holds an entry of the log.
    pub(super) fn oldest_generation(&self) -> Option<u64> {
        self.runs.front().map(|run| run.generation)
    }

    /// The first index that the log should hold and whose place isn't known.
    pub(super) fn first_missing(&self) -> Option<u64> {
        let mut wanted = self.summary.first?;
        let end = self.summary.next()?;
        for run in &self.runs {
            if run.first > wanted {
                break;
            }
            wanted = wanted.max(run.end());
        }
        (wanted < end).then_some(wanted)
    }

    fn locate(&mut self, index: u64, place: Place, bytes: u32) {
        if let Some(run) = self.runs.back_mut()
            && run.continues_at(place, index)
        {
            run.count += 1;
            run.bytes += bytes;
            return;
        }
        let Place {
            generation,
            epoch,
            offset,
        } = place;
        self.runs.push_back(Run {
            first: index,
            count: 1,
            bytes,
            generation,
            epoch,
            offset,
        });
    }

    fn forget_from(&mut self, end: u64) {
        while self.runs.back().is_some_and(|run| run.first >= end) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut()
            && run.end() > end
        {
            run.count = u32::try_from(end - run.first).expect("less than the count it replaces");
        }
    }

    fn forget_below(&mut self, first: u64) {
        while self.runs.front().is_some_and(|run| run.end() <= first) {
            self.runs.pop_front();
        }
    }
}
