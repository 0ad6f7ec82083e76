//! A log in memory that outlives its node: what a crash leaves behind.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::types::{Entry, LogId, Types, Vote};

/// Vote, entries and committed position of one node. Everything written counts as durable at once; losing unflushed
/// writes is the simulated disk's work, not this proof's.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Entry `i` of the log is at position `i`: nothing is ever purged here.
    entries: Vec<Entry>,
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0
            .lock()
            .expect("the simulation has one thread, so no holder can have panicked and gone on")
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let inner = self.inner();
        let last = u64::try_from(inner.entries.len()).map_err(io::Error::other)?;
        let from = match range.start_bound() {
            Bound::Included(first) => (*first).min(last),
            Bound::Excluded(before) => before.saturating_add(1).min(last),
            Bound::Unbounded => 0,
        };
        let from = usize::try_from(from).map_err(io::Error::other)?;
        let wanted = |entry: &&Entry| range.contains(&entry.log_id.index);
        Ok(inner.entries[from..].iter().take_while(wanted).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_log_id = self.inner().entries.last().map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: None,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.inner().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.inner().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.inner().entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let kept = |entry: &Entry| last.is_some_and(|last| entry.log_id.index <= last.index);
        self.inner().entries.retain(kept);
        Ok(())
    }

    async fn purge(&mut self, _upto: LogId) -> Result<(), io::Error> {
        Err(io::Error::other("this log is never purged: snapshots are off"))
    }
}
