//! What callers and a log's thread share: the queue of writes, the entries in memory, and what is known of the others.
//! It is the front of every engine; what has been flushed, and where it lies, is the engine's own ([`Flushed`]).
//!
//! One lock guards it all. It is held for moves in memory only, never over a read, a write or a flush of a file, and
//! never over a callback. [`submitted`](View::submitted) and [`tail`](View::tail) are ahead of
//! [`flushed`](View::flushed) by what is queued: an index that the tail doesn't hold is always flushed.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::options::LogOptions;
use super::record::{Record, Summary};
use super::tail::Tail;
use super::{Done, LogError, LogHooks, LogState, Position, Wake, Write};

/// What an engine knows of the part of the log that is flushed.
pub(in crate::storage) trait Flushed: fmt::Debug + Send {
    /// The log as flushed.
    fn summary(&self) -> &Summary;

    /// The part of the log's stream that is kept, in bytes from its very beginning: its end is where all that was
    /// flushed ends.
    fn stream(&self) -> Range<u64>;
}

/// A queued write, or a part of a long one.
pub(in crate::storage) struct Submission {
    pub(in crate::storage) records: Vec<Record>,
    /// Length of the records on disk.
    pub(in crate::storage) bytes: usize,
    /// The greatest committed position that was submitted behind it and before the next one.
    pub(in crate::storage) committed: Option<Position>,
    /// Missing on all parts of a long write but the last.
    pub(in crate::storage) done: Option<Done>,
}

/// Whether the log takes writes.
#[derive(Debug)]
enum Phase {
    Open,
    Closing,
    Closed,
    Failed(LogError),
}

/// What there is to do for the log's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Work {
    Writes,
    Idle,
    Close,
}

pub(in crate::storage) struct View<F> {
    /// The log with all that was submitted.
    submitted: Summary,
    pub(in crate::storage) tail: Tail,
    queue: VecDeque<Submission>,
    /// Bytes in the queue and in the group being flushed.
    queued_bytes: usize,
    /// Committed position that was submitted while the queue was empty.
    committed: Option<Position>,
    /// What is flushed, for finding entries that the tail doesn't hold.
    pub(in crate::storage) flushed: F,
    phase: Phase,
    room_waiters: Vec<Box<dyn FnOnce() + Send>>,
}

impl<F: Flushed> View<F> {
    pub(in crate::storage) fn new(flushed: F, tail: Tail) -> Self {
        Self {
            submitted: flushed.summary().clone(),
            tail,
            queue: VecDeque::new(),
            queued_bytes: 0,
            committed: None,
            flushed,
            phase: Phase::Open,
            room_waiters: Vec::new(),
        }
    }

    /// The indexes that the log holds.
    pub(in crate::storage) fn indexes(&self) -> Range<u64> {
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
        let kept = self.flushed.stream();
        LogState {
            vote,
            committed,
            purged,
            last,
            stream_bytes: kept.end,
            kept_bytes: kept.end - kept.start,
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

    /// Whether anything waits to be written.
    pub(in crate::storage) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    fn has_room(&self, queue_bytes: usize) -> bool {
        self.queued_bytes < queue_bytes || !matches!(self.phase, Phase::Open)
    }
}

/// See the module's documentation.
pub(in crate::storage) struct Shared<F> {
    view: Mutex<View<F>>,
    /// Signals the log's thread: a write, or the wish to close.
    work: Condvar,
    /// The same for a driver without a thread.
    wake: Option<Wake>,
    pub(in crate::storage) options: LogOptions,
    pub(in crate::storage) hooks: LogHooks,
}

impl<F> fmt::Debug for Shared<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<F: Flushed> Shared<F> {
    pub(in crate::storage) fn new(
        view: View<F>,
        options: LogOptions,
        hooks: LogHooks,
        wake: Option<Wake>,
    ) -> Self {
        Self {
            view: Mutex::new(view),
            work: Condvar::new(),
            wake,
            options,
            hooks,
        }
    }

    /// Runs `f` on the view, under the lock.
    pub(in crate::storage) fn with<T>(&self, f: impl FnOnce(&mut View<F>) -> T) -> T {
        f(&mut self.view.lock())
    }

    /// Queues a write, or answers it at once.
    pub(in crate::storage) fn submit(&self, write: Write, done: Done) {
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

    fn check_bounds(&self, view: &View<F>, records: &[Record]) -> Result<(), LogError> {
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

    pub(in crate::storage) fn when_room(&self, ready: Box<dyn FnOnce() + Send>) {
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

    pub(in crate::storage) fn state(&self) -> LogState {
        self.with(|view| view.log_state(view.submitted.clone()))
    }

    pub(in crate::storage) fn durable(&self) -> LogState {
        self.with(|view| view.log_state(view.flushed.summary().clone()))
    }

    /// Asks the log's thread to finish what is queued and end.
    pub(in crate::storage) fn begin_close(&self) {
        self.with(|view| {
            if matches!(view.phase, Phase::Open) {
                view.phase = Phase::Closing;
            }
        });
        self.signal();
        self.wake_room_waiters();
    }

    /// All is flushed.
    pub(in crate::storage) fn closed(&self) {
        self.with(|view| {
            if !matches!(view.phase, Phase::Failed(_)) {
                view.phase = Phase::Closed;
            }
        });
    }

    /// The error that the log failed with.
    pub(in crate::storage) fn failure(&self) -> Option<LogError> {
        self.with(|view| match &view.phase {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Open | Phase::Closing | Phase::Closed => None,
        })
    }

    /// Waits until there is something to do: writes first, then the wish to close, then, if `restless`, leisure.
    pub(in crate::storage) fn wait(&self, restless: bool, idle_after: Duration) -> Work {
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
    pub(in crate::storage) fn take(&self) -> (Vec<Submission>, Option<Position>) {
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
    pub(in crate::storage) fn take_committed(&self) -> Option<Position> {
        self.with(|view| view.committed.take())
    }

    /// Gives back a committed position that was taken without company.
    pub(in crate::storage) fn put_back(&self, committed: Option<Position>) {
        self.with(|view| match view.queue.back_mut() {
            // A later submission carries it just as well, and a later position replaces it.
            Some(submission) => submission.committed = submission.committed.or(committed),
            None => view.committed = view.committed.or(committed),
        });
    }

    /// Accounts for `bytes` of the queue that were flushed, and drops from memory what needn't be there any more.
    pub(in crate::storage) fn release(&self, bytes: usize) {
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
    pub(in crate::storage) fn fail(&self, error: &LogError, in_flight: Vec<Done>) {
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

/// Held by a log's thread: if that panics, the log is dead, and nobody would notice.
pub(in crate::storage) struct Told<F: Flushed>(Arc<Shared<F>>);

impl<F: Flushed> Told<F> {
    pub(in crate::storage) fn new(shared: &Arc<Shared<F>>) -> Self {
        Self(Arc::clone(shared))
    }
}

impl<F: Flushed> Drop for Told<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&LogError::Panicked, Vec::new());
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
