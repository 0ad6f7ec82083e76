//! What the flushed log holds, and where in the segments its entries lie.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::format::Seal;
use crate::storage::log::queue;
use crate::storage::log::record::{Record, Summary};
use crate::world::files::File;

/// A run of entries isn't lengthened beyond this, so that reading one entry reads little more.
const RUN_BYTES: u32 = 64 * 1024;

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

/// A segment that holds entries, or may yet.
#[derive(Clone, Debug)]
pub(super) struct LiveSegment {
    pub(super) file: Arc<dyn File>,
    pub(super) seal: Seal,
    pub(super) stream_start: u64,
}

/// What has reached the segments.
#[derive(Debug)]
pub(super) struct Flushed {
    /// The log as flushed, for finding entries that aren't in memory.
    pub(super) contents: Contents,
    pub(super) segments: BTreeMap<u64, LiveSegment>,
    /// Where the stream ends.
    pub(super) stream_end: u64,
}

impl queue::Flushed for Flushed {
    fn summary(&self) -> &Summary {
        &self.contents.summary
    }

    fn stream(&self) -> Range<u64> {
        let oldest = self.segments.values().next();
        oldest.map_or(0, |segment| segment.stream_start)..self.stream_end
    }
}
