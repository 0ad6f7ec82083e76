//! The one writer of the log in sled: drain the queue, rows, one flush, all callbacks.
//!
//! As in the segments there is no timer that waits for more: groups grow while a flush runs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use parking_lot::RwLock;

use super::flushed::Flushed;
use super::mark::{Mark, Noted};
use super::recovery::sled_failed;
use super::rows::{self, State};
use super::{GROUP_BYTES_MAX, Trees};
use crate::storage::log::queue::{Shared, Told, Work};
use crate::storage::log::record::Record;
use crate::storage::log::{Done, Flush, LogError, Position};
use crate::storage::sled::db;

/// Rows that are removed in one go: a few milliseconds. More where a group brought more, so that sweeping keeps up.
const SWEEP_ROWS: usize = 512;

/// Writes the log, on the log's own thread.
pub(super) struct Driver {
    /// sled's directory.
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared<Flushed>>,
    pub(super) trees: Trees,
    /// Taken from the readers at the end.
    pub(super) readers: Arc<RwLock<Option<sled::Tree>>>,
    /// sled's file, to be flushed.
    pub(super) file: fs::File,
    pub(super) mark: Mark,
    /// The log with all that was written.
    pub(super) state: State,
    /// Bytes given to sled since the last flush.
    pub(super) unflushed: usize,
    /// The mark was written and not flushed.
    pub(super) mark_behind: bool,
    /// No rows are left that don't count, as far as is known.
    pub(super) swept: bool,
}

/// What one round takes along.
struct Group {
    records: Vec<Record>,
    dones: Vec<Done>,
    /// Bytes to be taken off the queue.
    queued_bytes: usize,
}

impl Driver {
    /// The log's thread.
    pub(super) fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        let _told = Told::new(&shared);
        loop {
            let restless = self.mark_behind || !self.swept;
            match shared.wait(restless, shared.options.confirm_after) {
                Work::Writes => {
                    if !self.round() {
                        break;
                    }
                }
                Work::Idle => {
                    if !self.rest() {
                        break;
                    }
                }
                Work::Close => {
                    self.finish();
                    return;
                }
            }
        }
        // The log has failed: sled is let go of all the same, and whatever it says now changes nothing.
        self.readers.write().take();
    }

    /// Writes and flushes what is queued; `false` if the log has failed.
    fn round(&mut self) -> bool {
        let (submissions, committed) = self.shared.take();
        let mut group = Group {
            records: Vec::new(),
            dones: Vec::new(),
            queued_bytes: 0,
        };
        for submission in submissions {
            group.records.extend(submission.records);
            group.dones.extend(submission.done);
            group.queued_bytes += submission.bytes;
        }
        self.write(group, committed)
    }

    /// What there is time for at leisure: a committed position that found no company, the mark, sweeping.
    fn rest(&mut self) -> bool {
        let committed = self.shared.take_committed();
        if committed.is_some() {
            let alone = Group {
                records: Vec::new(),
                dones: Vec::new(),
                queued_bytes: 0,
            };
            return self.write(alone, committed);
        }
        let rested = self.tidy();
        self.judge(rested, Vec::new())
    }

    fn tidy(&mut self) -> Result<(), LogError> {
        self.sweep(SWEEP_ROWS)?;
        if self.unflushed > 0 {
            self.sync()?;
        }
        if std::mem::take(&mut self.mark_behind) {
            self.mark.flush().map_err(LogError::io("flush the log's mark"))?;
        }
        Ok(())
    }

    /// The orderly end: everything is flushed, sled has let go of its file, and the mark says so.
    fn finish(mut self) {
        while self.shared.with(|view| view.is_queued()) {
            if !self.round() {
                self.readers.write().take();
                return;
            }
        }
        if !self.rest() {
            self.readers.write().take();
            return;
        }
        let Self {
            dir,
            shared,
            trees,
            readers,
            file,
            mark,
            state,
            ..
        } = self;
        readers.write().take();
        drop(trees);
        let noted = Noted {
            sequence: state.sequence,
            closed: true,
        };
        #[expect(clippy::disallowed_methods, reason = "the log's own thread, at its end")]
        let closed = db::wait_until_closed(&file, &thread::sleep)
            .and_then(|()| db::sync_tree(&dir))
            .and_then(|()| mark.note(noted))
            .and_then(|()| mark.flush());
        match closed {
            Ok(()) => shared.closed(),
            Err(error) => shared.fail(&LogError::io("close the log")(error), Vec::new()),
        }
    }

    /// Writes a group and flushes it.
    fn write(&mut self, group: Group, committed: Option<Position>) -> bool {
        let Group {
            mut records,
            dones,
            queued_bytes,
        } = group;
        records.extend(committed.map(Record::Committed));
        self.shared.hooks.observer.write_begins();
        let written = self
            .put_all(&records)
            .and_then(|()| self.flush(&records, dones.len()));
        if let Err(error) = written {
            return self.judge(Err(error), dones);
        }
        self.shared.with(|view| {
            for record in &records {
                view.flushed
                    .step(record)
                    .expect("the same rules judged it when it was submitted");
            }
        });
        self.shared.release(queued_bytes);
        for done in dones {
            done(Ok(()));
        }
        let rows = SWEEP_ROWS.max(2 * records.len());
        let swept = self.sweep(rows);
        self.judge(swept, Vec::new())
    }

    /// A failure is the end of the log.
    fn judge(&self, outcome: Result<(), LogError>, in_flight: Vec<Done>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.shared.fail(&error, in_flight);
                false
            }
        }
    }

    /// Gives the group to sled, its state last.
    fn put_all(&mut self, records: &[Record]) -> Result<(), LogError> {
        for record in records {
            self.state
                .summary
                .step(record)
                .expect("the same rules judged it when it was submitted");
            self.state.stream_end += record.bytes() as u64;
            match record {
                Record::Entry(entry) => {
                    for (key, row) in rows::encode_entry(entry) {
                        self.insert_entry(key, row)?;
                    }
                }
                // Before anything is written over what it cuts off.
                Record::Truncate(after) => {
                    self.put_state()?;
                    self.remove_from(after.map_or(0, |after| after.index + 1))?;
                }
                Record::Purge(_) => self.swept = false,
                Record::Vote(_) | Record::Committed(_) => {}
            }
        }
        self.state.sequence += 1;
        self.put_state()
    }

    fn insert_entry(&mut self, key: Vec<u8>, row: Vec<u8>) -> Result<(), LogError> {
        let bytes = key.len() + row.len();
        if self.unflushed > 0 && self.unflushed + bytes > GROUP_BYTES_MAX {
            self.sync()?;
        }
        self.unflushed += bytes;
        let inserted = self.trees.entries.insert(key, row);
        inserted.map(drop).map_err(sled_failed("write to the log"))
    }

    fn put_state(&self) -> Result<(), LogError> {
        let row = self.state.encode();
        let inserted = self.trees.state.insert(rows::STATE_KEY, row);
        inserted.map(drop).map_err(sled_failed("write to the log"))
    }

    /// Removes the rows of the entries from `index` on. Entries that are truncated were not committed: they are few.
    fn remove_from(&self, index: u64) -> Result<(), LogError> {
        for key in self.trees.entries.range(rows::first_key(index)..).keys() {
            self.trees
                .entries
                .remove(key.map_err(sled_failed("read the log"))?)
                .map_err(sled_failed("truncate the log"))?;
        }
        Ok(())
    }

    /// Makes durable what sled was given.
    fn sync(&mut self) -> Result<(), LogError> {
        self.trees.db.flush().map_err(sled_failed("flush the log"))?;
        self.file.sync_data().map_err(LogError::io("flush the log"))?;
        self.unflushed = 0;
        Ok(())
    }

    fn flush(&mut self, records: &[Record], writes: usize) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let observer = &shared.hooks.observer;
        observer.flush_begins();
        self.sync()?;
        let entries = records.iter().filter(|record| matches!(record, Record::Entry(_)));
        observer.flush_ends(Flush {
            entries: entries.count() as u64,
            writes: writes as u64,
            bytes: records.iter().map(|record| record.bytes() as u64).sum(),
        });
        let noted = Noted {
            sequence: self.state.sequence,
            closed: false,
        };
        self.mark_behind = true;
        self.mark
            .note(noted)
            .map_err(LogError::io("write the log's mark"))
    }

    /// Removes some of the rows before the first entry. The state that makes them not count was written before.
    fn sweep(&mut self, rows_max: usize) -> Result<(), LogError> {
        if self.swept {
            return Ok(());
        }
        let floor = self.state.summary.purged.map_or(0, |purged| purged.index + 1);
        let mut rows = self.trees.entries.range(..rows::first_key(floor));
        // Pages are written anew for what is removed from them: it counts as what is written does.
        for _ in 0..rows_max {
            let Some(row) = rows.next() else {
                self.swept = true;
                break;
            };
            let (key, row) = row.map_err(sled_failed("read the log"))?;
            if self.unflushed > 0 && self.unflushed + row.len() > GROUP_BYTES_MAX {
                break;
            }
            self.unflushed += row.len();
            self.trees
                .entries
                .remove(key)
                .map_err(sled_failed("sweep the log"))?;
        }
        Ok(())
    }
}
