//! What is known in memory of the log in sled: its summary, and about how many bytes of it are kept.

use std::collections::VecDeque;
use std::ops::Range;

use super::rows::State;
use crate::storage::log::queue;
use crate::storage::log::record::{Record, Summary};

/// The stream is remembered at about this distance: how much is kept need not be known better.
const STEP_BYTES: u64 = 64 * 1024;

/// What is flushed.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    summary: Summary,
    /// Bytes of the stream so far.
    stream_end: u64,
    /// Where in the stream some entries begin: index and byte, both rising.
    steps: VecDeque<(u64, u64)>,
}

impl Flushed {
    /// The log as found, with the length of each of its entries, in order.
    pub(super) fn new(state: &State, lengths: Vec<(u64, u64)>) -> Self {
        let mut flushed = Self {
            summary: state.summary.clone(),
            stream_end: state.stream_end,
            steps: VecDeque::new(),
        };
        let kept: u64 = lengths.iter().map(|(_, bytes)| bytes).sum();
        let mut place = state.stream_end.saturating_sub(kept);
        for (index, bytes) in lengths {
            flushed.remember(index, place);
            place += bytes;
        }
        flushed
    }

    /// Takes one record that is flushed.
    pub(super) fn step(&mut self, record: &Record) -> Result<(), &'static str> {
        self.summary.step(record)?;
        match record {
            Record::Entry(entry) => self.remember(entry.position.index, self.stream_end),
            Record::Truncate(after) => {
                let end = after.map_or(0, |after| after.index + 1);
                while self.steps.pop_back_if(|(index, _)| *index >= end).is_some() {}
            }
            Record::Purge(up_to) => {
                // The last one that lies at or before the first entry stays.
                let behind =
                    |next: Option<&(u64, u64)>| next.is_some_and(|(index, _)| *index <= up_to.index + 1);
                while behind(self.steps.get(1)) {
                    self.steps.pop_front();
                }
                if self.summary.first.is_none() {
                    self.steps.clear();
                }
            }
            Record::Vote(_) | Record::Committed(_) => {}
        }
        self.stream_end += record.bytes() as u64;
        Ok(())
    }

    fn remember(&mut self, index: u64, place: u64) {
        if self
            .steps
            .back()
            .is_none_or(|(_, last)| place >= last + STEP_BYTES)
        {
            self.steps.push_back((index, place));
        }
    }
}

impl queue::Flushed for Flushed {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn stream(&self) -> Range<u64> {
        let begin = self.steps.front().map_or(self.stream_end, |(_, place)| *place);
        begin..self.stream_end
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::log::queue::Flushed as _;
    use crate::storage::log::{LogEntry, Position};

    fn at(index: u64) -> Position {
        Position {
            term: 1,
            leader: 1,
            index,
        }
    }

    fn entry(index: u64) -> Record {
        Record::Entry(LogEntry {
            position: at(index),
            payload: Bytes::from(vec![0; 1000]),
        })
    }

    #[test]
    fn what_is_kept_follows_purge_and_truncation_about() {
        let mut flushed = Flushed::default();
        for index in 0..1000 {
            flushed.step(&entry(index)).unwrap();
        }
        assert_eq!(flushed.stream(), 0..1_036_000);
        flushed.step(&Record::Purge(at(499))).unwrap();
        let kept = flushed.stream();
        assert!(
            (518_000..518_000 + STEP_BYTES + 2_000).contains(&(kept.end - kept.start)),
            "{kept:?}"
        );
        flushed.step(&Record::Truncate(Some(at(599)))).unwrap();
        flushed.step(&entry(600)).unwrap();
        flushed.step(&Record::Purge(at(5000))).unwrap();
        let kept = flushed.stream();
        assert_eq!(kept.start, kept.end, "all of it is gone");
    }

    #[test]
    fn a_log_that_was_found_counts_its_entries() {
        let mut before = Flushed::default();
        for index in 0..300 {
            before.step(&entry(index)).unwrap();
        }
        let state = State {
            sequence: 1,
            stream_end: before.stream_end,
            summary: before.summary.clone(),
        };
        let found = Flushed::new(&state, (0..300).map(|index| (index, 1036)).collect());
        assert_eq!(found.stream(), before.stream());
        assert_eq!(found.steps, before.steps);
    }
}
