//! What callers and the log's thread share: the queue of writes, the entries in memory, and where the others lie.
//!
//! One lock guards it all. It is held for moves in memory only, never over a read, a write or a flush of a file, and
//! never over a callback. [`submitted`](View::submitted) and [`tail`](View::tail) are ahead of
//! [`flushed`](View::flushed) by what is queued: an index that the tail doesn't hold is always flushed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::contents::{Contents, Summary};
use super::format::{Record, Seal};
use super::tail::Tail;
use super::{LogOptions, Wake};
use crate::storage::log::{Done, LogError, LogHooks, LogState, Position, Write};
use crate::world::files::File;

/// A queued write, or a part of a long one.
pub(super) struct Submission {
    pub(super) records: Vec<Record>,
    /// Length of the records on disk.
    pub(super) bytes: usize,
    /// The greatest committed position that was submitted behind it and before the next one.
    pub(super) committed: Option<Position>,
    /// Missing on all parts of a long write but the last.
    pub(super) done: Option<Done>,
}

/// Whether the log takes writes.
#[derive(Debug)]
enum Phase {
    Open,
    Closing,
    Closed,
    Failed(LogError),
}

/// A segment that holds entries, or may yet.
#[derive(Clone, Debug)]
pub(super) struct LiveSegment {
    pub(super) file: Arc<dyn File>,
    pub(super) seal: Seal,
    pub(super) stream_start: u64,
}

/// What there is to do for the log's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Writes,
    Idle,
    Close,
}

pub(super) struct View {
    /// The log with all that was submitted.
    submitted: Summary,
    pub(super) tail: Tail,
    queue: VecDeque<Submission>,
    /// Bytes in the queue and in the group being flushed.
    queued_bytes: usize,
    /// Committed position that was submitted while the queue was empty.
    committed: Option<Position>,
    /// The log as flushed, for finding entries that the tail doesn't hold.
    pub(super) flushed: Contents,
    pub(super) segments: BTreeMap<u64, LiveSegment>,
    /// Where the stream ends, as flushed.
    pub(super) stream_end: u64,
    phase: Phase,
    room_waiters: Vec<Box<dyn FnOnce() + Send>>,
}

impl View {
    pub(super) fn new(
        flushed: Contents,
        tail: Tail,
        segments: BTreeMap<u64, LiveSegment>,
        stream_end: u64,
    ) -> Self {
        Self {
            submitted: flushed.summary.clone(),
            tail,
            queue: VecDeque::new(),
            queued_bytes: 0,
            committed: None,
            flushed,
            segments,
            stream_end,
            phase: Phase::Open,
            room_waiters: Vec::new(),
        }
    }

    /// The indexes that the log holds.
    pub(super) fn indexes(&self) -> std::ops::Range<u64> {
        match (self.submitted.first, self.submitted.last) {
            (Some(first), Some(last)) => first..last.index + 1,
            _ => 0..0,
        }
    }

    fn log_state(&self, summary: Summary) -> LogState {
        let Summary {
            vote,
            committed,
            purged,
            first: _,
            last,
        } = summary;
        let kept_from = self.segments.values().next();
        let kept_from = kept_from.map_or(0, |segment| segment.stream_start);
        LogState {
            vote,
            committed,
            purged,
            last,
            stream_bytes: self.stream_end,
            kept_bytes: self.stream_end - kept_from,
        }
    }

    fn refusal(&self) -> Option<LogError> {
        match &self.phase {
            Phase::Open => None,
            Phase::Closing | Phase::Closed => Some(LogError::Closed),
            Phase::Failed(error) => Some(error.clone()),
        }
    }

    /// Remembers a committed position behind what was submitted before it.
    fn commit(&mut self, position: Position) -> bool {
        let news = self
            .submitted
            .committed
            .is_none_or(|known| known.index < position.index);
        if !news || !self.submitted.reaches(position.index) {
            return false;
        }
        self.submitted.committed = Some(position);
        match self.queue.back_mut() {
            Some(submission) => submission.committed = Some(position),
            None => self.committed = Some(position),
        }
        true
    }

    /// Judges the records and takes all of them or none.
    fn admit(&mut self, records: &[Record]) -> Result<(), &'static str> {
        let mut submitted = self.submitted.clone();
        for record in records {
            submitted.step(record)?;
        }
        self.submitted = submitted;
        for record in records {
            match record {
                Record::Entry(entry) => self.tail.push(entry.clone()),
                Record::Truncate(after) => self.tail.truncate(after.map_or(0, |after| after.index + 1)),
                Record::Purge(up_to) => self.tail.purge(up_to.index + 1),
                Record::Vote(_) | Record::Committed(_) => {}
            }
        }
        Ok(())
    }

    /// The lowest index that is still queued: entries below it are flushed.
    fn unflushed_first(&self) -> u64 {
        let first = |submission: &Submission| match submission.records.first() {
            Some(Record::Entry(entry)) => Some(entry.position.index),
            _ => None,
        };
        self.queue.iter().filter_map(first).min().unwrap_or(u64::MAX)
    }

    fn has_room(&self, queue_bytes: usize) -> bool {
        self.queued_bytes < queue_bytes || !matches!(self.phase, Phase::Open)
    }
}

/// See the module's documentation.
pub(super) struct Shared {
    view: Mutex<View>,
    /// Signals the log's thread: a write, or the wish to close.
    work: Condvar,
    /// The same for a driver without a thread.
    wake: Option<Wake>,
    pub(super) options: LogOptions,
    pub(super) hooks: LogHooks,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(view: View, options: LogOptions, hooks: LogHooks, wake: Option<Wake>) -> Self {
        Self {
            view: Mutex::new(view),
            work: Condvar::new(),
            wake,
            options,
            hooks,
        }
    }

    /// Runs `f` on the view, under the lock.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut View) -> T) -> T {
        f(&mut self.view.lock())
    }

    /// Queues a write, or answers it at once.
    pub(super) fn submit(&self, write: Write, done: Done) {
        match self.enqueue(write, done) {
            None => self.signal(),
            Some((done, answer)) => done(answer),
        }
    }

    fn enqueue(&self, write: Write, done: Done) -> Option<(Done, Result<(), LogError>)> {
        let mut view = self.view.lock();
        if let Some(error) = view.refusal() {
            return Some((done, Err(error)));
        }
        let records: Vec<Record> = match write {
            Write::Append(entries) => entries.into_iter().map(Record::Entry).collect(),
            Write::Vote(vote) => vec![Record::Vote(vote)],
            Write::Truncate { after } => vec![Record::Truncate(after)],
            Write::Purge { up_to } => vec![Record::Purge(up_to)],
            Write::Committed(position) => {
                if view.commit(position) {
                    drop(view);
                    self.signal();
                }
                return Some((done, Ok(())));
            }
        };
        if let Err(error) = self.check_bounds(&view, &records) {
            return Some((done, Err(error)));
        }
        if let Err(reason) = view.admit(&records) {
            return Some((done, Err(LogError::Refused(reason.to_owned()))));
        }
        for submission in in_parts(records, self.options.group_bytes, done) {
            view.queued_bytes += submission.bytes;
            view.queue.push_back(submission);
        }
        None
    }

    fn check_bounds(&self, view: &View, records: &[Record]) -> Result<(), LogError> {
        let payload_max = self.options.payload_bytes_max();
        let too_long = |record: &Record| matches!(record, Record::Entry(e) if e.payload.len() > payload_max);
        if records.iter().any(too_long) {
            return Err(LogError::Refused(format!(
                "an entry has more than {payload_max} bytes"
            )));
        }
        let bytes: usize = records.iter().map(Record::bytes).sum();
        let full = view.queued_bytes + bytes > 2 * self.options.queue_bytes;
        if full && view.queued_bytes > 0 {
            Err(LogError::Overloaded)
        } else {
            Ok(())
        }
    }

    pub(super) fn when_room(&self, ready: Box<dyn FnOnce() + Send>) {
        let ready = self.with(|view| {
            if view.has_room(self.options.queue_bytes) {
                return Some(ready);
            }
            view.room_waiters.push(ready);
            None
        });
        if let Some(ready) = ready {
            ready();
        }
    }

    pub(super) fn state(&self) -> LogState {
        self.with(|view| view.log_state(view.submitted.clone()))
    }

    pub(super) fn durable(&self) -> LogState {
        self.with(|view| view.log_state(view.flushed.summary.clone()))
    }

    /// Asks the log's thread to finish what is queued and end.
    pub(super) fn begin_close(&self) {
        self.with(|view| {
            if matches!(view.phase, Phase::Open) {
                view.phase = Phase::Closing;
            }
        });
        self.signal();
        self.wake_room_waiters();
    }

    /// All is flushed.
    pub(super) fn closed(&self) {
        self.with(|view| {
            if !matches!(view.phase, Phase::Failed(_)) {
                view.phase = Phase::Closed;
            }
        });
    }

    /// The error that the log failed with.
    pub(super) fn failure(&self) -> Option<LogError> {
        self.with(|view| match &view.phase {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Open | Phase::Closing | Phase::Closed => None,
        })
    }

    /// Waits until there is something to do: writes first, then the wish to close, then, if `restless`, leisure.
    pub(super) fn wait(&self, restless: bool, idle_after: Duration) -> Work {
        let mut view = self.view.lock();
        loop {
            if !view.queue.is_empty() {
                return Work::Writes;
            }
            if matches!(view.phase, Phase::Closing) {
                return Work::Close;
            }
            if !restless && view.committed.is_none() {
                self.work.wait(&mut view);
            } else if self.work.wait_for(&mut view, idle_after).timed_out() && view.queue.is_empty() {
                return Work::Idle;
            }
        }
    }

    /// Takes queued writes of at most `group_bytes` together, but at least one, and the committed position behind them.
    pub(super) fn take(&self) -> (Vec<Submission>, Option<Position>) {
        self.with(|view| {
            let mut taken = Vec::new();
            let mut bytes = 0;
            let mut committed = view.committed.take();
            while let Some(submission) = view
                .queue
                .pop_front_if(|submission| bytes == 0 || bytes + submission.bytes <= self.options.group_bytes)
            {
                bytes += submission.bytes;
                committed = submission.committed.or(committed);
                taken.push(submission);
            }
            (taken, committed)
        })
    }

    /// Takes the committed position that found no company, and leaves what is queued.
    pub(super) fn take_committed(&self) -> Option<Position> {
        self.with(|view| view.committed.take())
    }

    /// Gives back a committed position that was taken without company.
    pub(super) fn put_back(&self, committed: Option<Position>) {
        self.with(|view| match view.queue.back_mut() {
            // A later submission carries it just as well, and a later position replaces it.
            Some(submission) => submission.committed = submission.committed.or(committed),
            None => view.committed = view.committed.or(committed),
        });
    }

    /// Accounts for `bytes` of the queue that were flushed, and drops from memory what needn't be there any more.
    pub(super) fn release(&self, bytes: usize) {
        self.with(|view| {
            view.queued_bytes -= bytes;
            if view.tail.exceeds(self.options.tail_bytes) {
                let flushed = view.unflushed_first();
                view.tail.evict(self.options.tail_bytes, flushed);
            }
        });
        self.wake_room_waiters();
    }

    /// The disk failed: nothing will be written any more.
    pub(super) fn fail(&self, error: &LogError, in_flight: Vec<Done>) {
        let queued = self.with(|view| {
            view.phase = Phase::Failed(error.clone());
            std::mem::take(&mut view.queue)
        });
        (self.hooks.fatal)(error);
        for done in in_flight
            .into_iter()
            .chain(queued.into_iter().filter_map(|submission| submission.done))
        {
            done(Err(error.clone()));
        }
        self.wake_room_waiters();
    }

    fn wake_room_waiters(&self) {
        let waiters = self.with(|view| {
            if view.has_room(self.options.queue_bytes) {
                std::mem::take(&mut view.room_waiters)
            } else {
                Vec::new()
            }
        });
        for ready in waiters {
            ready();
        }
    }

    fn signal(&self) {
        self.work.notify_one();
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

/// Cuts a write that is longer than a group should be; its callback goes with the last part.
fn in_parts(records: Vec<Record>, group_bytes: usize, done: Done) -> Vec<Submission> {
    let empty = || Submission {
        records: Vec::new(),
        bytes: 0,
        committed: None,
        done: None,
    };
    let mut parts = Vec::new();
    let mut part = empty();
    for record in records {
        let bytes = record.bytes();
        if part.bytes > 0 && part.bytes + bytes > group_bytes {
            parts.push(std::mem::replace(&mut part, empty()));
        }
        part.bytes += bytes;
        part.records.push(record);
    }
    part.done = Some(done);
    parts.push(part);
    parts
}
