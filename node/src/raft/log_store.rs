//! openraft's log and vote on [`LogStore`].
//!
//! Everything that is written goes down in the order in which openraft asks for it, and only a vote or a truncation is
//! waited for here: entries are acknowledged by the callback that the log's own thread calls after its flush. Raft's
//! thread never waits for a disk: entries that are not applied yet stay decoded in [`Recent`], and what is older is read
//! on a blocking thread.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

use futures::{Stream, StreamExt, future, stream};
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    types::{LogEntry, LogId, RaftVote, Types},
    wire,
};
use crate::{
    limits::{RECENT_BYTES_MAX, RECENT_ENTRIES_MAX},
    storage::log::{LogEntry as StoredEntry, LogError, LogStore, Write},
    world::RaftHome,
};

/// Payload bytes read from the log at once.
const READ_BYTES: usize = 1 << 20;

/// The log as openraft sees it. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct RaftLog {
    store: Arc<dyn LogStore>,
    recent: Arc<Mutex<Recent>>,
    home: RaftHome,
}

impl RaftLog {
    /// openraft's view of `store`.
    pub(super) fn new(store: Arc<dyn LogStore>, home: RaftHome) -> Self {
        Self {
            store,
            recent: Arc::default(),
            home,
        }
    }

    async fn submit(&self, write: Write, done: impl FnOnce(Result<(), LogError>) + Send + 'static) {
        let (ready, room) = oneshot::channel();
        self.store.when_room(Box::new(move || {
            let _ = ready.send(());
        }));
        // A log that has ended drops the sender; then the submit itself is refused and says why.
        let _ = room.await;
        self.store.submit(write, Box::new(done));
    }

    /// Submits a write of which only the order matters. Should it fail, the log's own hook ends the node.
    async fn submit_in_order(&self, write: Write) {
        self.submit(write, |result| {
            if let Err(error) = result {
                tracing::error!(%error, "the log refused a write");
            }
        })
        .await;
    }

    async fn submit_and_wait(&self, write: Write) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.submit(write, move |result| {
            let _ = done.send(result);
        })
        .await;
        match durable.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log ended before the write was durable")),
        }
    }

    /// The entries of `range` that there are, at most about `bytes_max` bytes, at least one if there is one.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        if let Some(entries) = self.recent.lock().read(&range, bytes_max) {
            return Ok(entries);
        }
        let store = self.store.clone();
        let entries = self
            .home
            .blocking(move || store.read(range, bytes_max))
            .await?
            .map_err(io::Error::other)?;
        entries
            .into_iter()
            .map(|entry| wire::decode_entry(entry).map_err(io::Error::other))
            .collect()
    }

    /// What of `range` the log holds at this moment.
    ///
    /// An error if the log has refused entries: openraft learns of that later, and would take what isn't there for
    /// applied.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> io::Result<Range<u64>> {
        // Both as of one moment: an append goes to the log first and then here, a truncation the other way round.
        let recent = self.recent.lock();
        let (given, state) = (recent.end(), self.store.state());
        drop(recent);
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        let end = state.last.map_or(0, |last| last.index + 1);
        if given > end {
            return Err(io::Error::other("the log has refused entries"));
        }
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(from.max(first)..to.min(end))
    }

    /// The entries of `range`, read as they are asked for.
    fn stream(&self, range: Range<u64>) -> impl Stream<Item = io::Result<LogEntry>> + Send + 'static {
        let chunks = stream::unfold((self.clone(), range), |(log, range)| async move {
            if range.is_empty() {
                return None;
            }
            let chunk = log.read(range.clone(), READ_BYTES).await;
            let next = match chunk.as_ref().map(|entries| entries.last()) {
                Ok(Some(last)) => last.log_id.index + 1..range.end,
                // Nothing, or an error, is the last item.
                Ok(None) | Err(_) => range.end..range.end,
            };
            Some((chunk, (log, next)))
        });
        chunks.flat_map(|chunk| {
            let items = match chunk {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(items)
        })
    }
}

impl RaftLogReader<Types> for RaftLog {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<LogEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        match self.clamp(&range) {
            Ok(range) => self.stream(range).left_stream(),
            Err(error) => stream::once(future::ready(Err(error))).right_stream(),
        }
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let stream = self.stream(self.clamp(&range)?);
        stream.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.read(start..end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        let vote = self.store.state().vote;
        vote.map(|bytes| wire::decode_vote(&bytes).map_err(io::Error::other))
            .transpose()
    }
}

impl RaftLogStorage<Types> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.store.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(wire::log_id),
            last_log_id: state.last.map(wire::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.submit_and_wait(Write::Vote(wire::encode_vote(vote))).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.submit_in_order(Write::Committed(wire::position(&committed)))
                .await;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.store.state().committed.map(wire::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let stored = entries.iter().map(|entry| StoredEntry {
            position: wire::position(&entry.log_id),
            payload: wire::encode_payload(&entry.payload),
        });
        let write = Write::Append(stored.collect());
        self.submit(write, move |result| {
            callback.io_completed(result.map_err(io::Error::other));
        })
        .await;
        self.recent.lock().append(entries);
        Ok(())
    }

    /// Rare, so it is waited for: what a follower says after it has dropped entries must not outlive them in a crash.
    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.recent.lock().truncate(last.map_or(0, |last| last.index + 1));
        let after = last.as_ref().map(wire::position);
        self.submit_and_wait(Write::Truncate { after }).await
    }

    async fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        self.recent.lock().purge(up_to.index + 1);
        self.submit_in_order(Write::Purge {
            up_to: wire::position(&up_to),
        })
        .await;
        Ok(())
    }
}

/// The newest entries, in order and without gaps, up to the last one of the log.
#[derive(Debug, Default)]
struct Recent {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Recent {
    fn append(&mut self, entries: Vec<LogEntry>) {
        for entry in entries {
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
        while self.bytes > RECENT_BYTES_MAX || self.entries.len() > RECENT_ENTRIES_MAX {
            self.drop_first();
        }
    }

    /// Behind the last one; 0 if there is none.
    fn end(&self) -> u64 {
        self.entries.back().map_or(0, |last| last.log_id.index + 1)
    }

    /// Drops the entries from `end` on.
    fn truncate(&mut self, end: u64) {
        while let Some(last) = self.entries.pop_back_if(|entry| entry.log_id.index >= end) {
            self.bytes -= size(&last);
        }
    }

    /// Drops the entries before `first`.
    fn purge(&mut self, first: u64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.log_id.index < first)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.entries.pop_front() {
            self.bytes -= size(&first);
        }
    }

    /// The beginning of `range`; `None` if it is older than what is kept.
    fn read(&self, range: &Range<u64>, bytes_max: usize) -> Option<Vec<LogEntry>> {
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let entries = self.entries.iter().skip(skip);
        let fitting = entries.take_while(|entry| {
            let earlier = bytes;
            bytes += size(entry);
            entry.log_id.index < range.end && (earlier == 0 || bytes <= bytes_max)
        });
        Some(fitting.cloned().collect())
    }
}

/// What an entry counts against the bounds.
fn size(entry: &LogEntry) -> usize {
    /// A membership is rare, a blank entry has no bytes; both take a place.
    const SMALL: usize = 64;
    match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.len().max(SMALL),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => SMALL,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::EntryPayload;

    use super::*;
    use crate::{
        limits::{RECENT_BYTES_MAX, RECENT_ENTRIES_MAX},
        raft::types::Payload,
        storage::log::Position,
    };

    fn entry(index: u64, bytes: usize) -> LogEntry {
        let log_id = wire::log_id(Position {
            term: 1,
            leader: 0,
            index,
        });
        LogEntry {
            log_id,
            payload: EntryPayload::Normal(Payload(Bytes::from(vec![1; bytes]))),
        }
    }

    fn indexes(entries: Option<Vec<LogEntry>>) -> Option<Vec<u64>> {
        entries.map(|entries| entries.iter().map(|entry| entry.log_id.index).collect())
    }

    #[test]
    fn recent_gives_what_it_has_and_says_what_it_has_not() {
        let mut recent = Recent::default();
        assert_eq!(indexes(recent.read(&(0..5), 1000)), None);
        recent.append((3..9).map(|index| entry(index, 100)).collect());
        assert_eq!(indexes(recent.read(&(2..5), 1000)), None);
        assert_eq!(indexes(recent.read(&(3..5), 1000)), Some(vec![3, 4]));
        assert_eq!(indexes(recent.read(&(3..9), 250)), Some(vec![3, 4]));
        assert_eq!(indexes(recent.read(&(3..9), 1)), Some(vec![3]), "at least one");
        recent.truncate(6);
        recent.purge(4);
        assert_eq!(indexes(recent.read(&(4..9), 1000)), Some(vec![4, 5]));
        assert_eq!(recent.bytes, 200);
    }

    #[test]
    fn recent_drops_its_oldest_above_so_many_bytes() {
        let mut recent = Recent::default();
        let fitting = RECENT_BYTES_MAX >> 20;
        let count = fitting as u64 + 8;
        recent.append((0..count).map(|index| entry(index, 1 << 20)).collect());
        assert_eq!((recent.entries.len(), recent.bytes), (fitting, RECENT_BYTES_MAX));
        assert_eq!(indexes(recent.read(&(7..9), 1)), None, "it is read from the log");
        assert_eq!(indexes(recent.read(&(8..9), 1)), Some(vec![8]));
    }

    #[test]
    fn recent_drops_its_oldest_above_so_many_entries() {
        let mut recent = Recent::default();
        let count = RECENT_ENTRIES_MAX as u64 + 8;
        recent.append((0..count).map(|index| entry(index, 1)).collect());
        assert_eq!(recent.entries.len(), RECENT_ENTRIES_MAX);
        assert_eq!(indexes(recent.read(&(7..9), 1)), None, "it is read from the log");
        assert_eq!(indexes(recent.read(&(8..9), 1)), Some(vec![8]));
    }
}
