//! The one writer of the log: drain the queue, one write, one flush, all callbacks.
//!
//! There is no timer that waits for more: while a flush runs the queue grows, and the next group takes all of it. So
//! groups grow by themselves under load, and a lone write is flushed at once.

use std::path::PathBuf;
use std::sync::Arc;

use super::contents::{Flushed, LiveSegment, Place};
use super::format::{BLOCK, GROUP_HEADER_BYTES, GroupHeader, SegmentHeader, encode_group, round_up};
use super::spares::{Spares, segment_name};
use crate::storage::log::queue::{Shared, Told, Work};
use crate::storage::log::record::{Record, Summary};
use crate::storage::log::{Done, Flush, LogError, Position};
use crate::world::files::{File, Files, Open};

/// Where segments are begun.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) files: Arc<dyn Files>,
    pub(super) dir: PathBuf,
    pub(super) spares: Arc<Spares>,
    pub(super) segment_bytes: u64,
}

impl Ground {
    /// Begins a segment: in a spare if one is ready, else in an empty file.
    ///
    /// The header is flushed before the file gets its name, so each file with a segment's name has a whole header
    /// that says the same number: no crash shows an old segment as the newest, and a header that can't be read is
    /// damage. Returns also whether the file was prepared.
    pub(super) fn begin(&self, mut header: SegmentHeader) -> Result<(Active, bool), LogError> {
        let (name, how) = match self.spares.take() {
            Some(spare) => (spare, Open::Existing),
            None => (self.spares.unprepared(), Open::New),
        };
        let path = self.dir.join(name);
        let file = self
            .files
            .open(&path, how)
            .map_err(LogError::io("open a new segment"))?;
        header.capacity = self.segment_bytes;
        let prepared = how == Open::Existing;
        if !prepared {
            file.set_len(header.capacity)
                .map_err(LogError::io("extend a new segment"))?;
        }
        file.write_at(&header.encode(), 0)
            .map_err(LogError::io("write a segment header"))?;
        file.sync_data().map_err(LogError::io("flush a segment header"))?;
        let named = self.dir.join(segment_name(header.generation));
        self.files
            .rename(&path, &named)
            .map_err(LogError::io("name a new segment"))?;
        self.files
            .sync_dir(&self.dir)
            .map_err(LogError::io("flush the log's directory"))?;
        let prepared = how == Open::Existing;
        Ok((
            Active {
                file,
                header,
                end: BLOCK,
            },
            prepared,
        ))
    }
}

/// The segment that is being written.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) file: Arc<dyn File>,
    pub(super) header: SegmentHeader,
    /// Where in the file the next group goes.
    pub(super) end: u64,
}

impl Active {
    /// Where the next group stands in the log's stream.
    pub(super) fn stream_end(&self) -> u64 {
        self.header.stream_start + self.end
    }

    pub(super) fn live(&self) -> LiveSegment {
        LiveSegment {
            file: Arc::clone(&self.file),
            seal: self.header.seal(),
            stream_start: self.header.stream_start,
        }
    }
}

/// A group that was written and waits for its flush.
struct Written {
    records: Vec<Record>,
    /// Where in the file each record begins.
    places: Vec<u64>,
    dones: Vec<Done>,
    /// Bytes to be taken off the queue.
    queued_bytes: usize,
    /// Bytes in the file.
    bytes: u64,
}

/// Writes the log. Either the log's own thread runs it, or a simulator does, step by step.
pub struct Driver {
    ground: Ground,
    shared: Arc<Shared<Flushed>>,
    active: Active,
    /// The log with all that was written.
    summary: Summary,
    /// Number of the next group.
    sequence: u64,
    epoch: u64,
    written: Option<Written>,
    /// Whether the last group holds something and no later group says that it was flushed.
    unconfirmed: bool,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(
        ground: Ground,
        shared: Arc<Shared<Flushed>>,
        active: Active,
        sequence: u64,
        epoch: u64,
    ) -> Self {
        let summary = shared.with(|view| view.flushed.contents.summary.clone());
        Self {
            ground,
            shared,
            active,
            summary,
            sequence,
            epoch,
            written: None,
            unconfirmed: false,
            buffer: Vec::new(),
        }
    }

    /// Takes what is queued and writes it, without a flush. `false` if there is nothing to [`flush`](Self::flush).
    ///
    /// # Errors
    /// The disk failed: the log is dead, its callbacks and its fatal hook have been called.
    pub fn write(&mut self) -> Result<bool, LogError> {
        self.run(|driver| {
            if driver.written.is_none() {
                let (submissions, committed) = driver.shared.take();
                if submissions.is_empty() {
                    // A committed position alone waits for company, or for leisure.
                    driver.shared.put_back(committed);
                    return Ok(());
                }
                let mut records = Vec::new();
                let mut dones = Vec::new();
                let mut queued_bytes = 0;
                for submission in submissions {
                    records.extend(submission.records);
                    dones.extend(submission.done);
                    queued_bytes += submission.bytes;
                }
                driver.write_group(records, committed, dones, queued_bytes)?;
            }
            Ok(())
        })?;
        Ok(self.written.is_some())
    }

    /// Flushes what was written and calls the callbacks.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.run(Self::flush_group)
    }

    /// Confirms the last group if it isn't yet, and saves a committed position that found no company: to be called
    /// when nothing was submitted for a while, and before the end.
    ///
    /// Until a later group says that it was flushed, damage to a group looks like a write that was cut off.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn confirm(&mut self) -> Result<(), LogError> {
        self.run(|driver| {
            driver.flush_group()?;
            // Leisure may be over at any moment: what is queued now stays there for the next round.
            let committed = driver.shared.take_committed();
            if driver.unconfirmed || committed.is_some() {
                driver.write_group(Vec::new(), committed, Vec::new(), 0)?;
                driver.flush_group()?;
            }
            Ok(())
        })
    }

    /// Makes spares and gives back segments that aren't needed any more.
    pub fn housekeep(&self) {
        self.ground.spares.work_off();
    }

    /// Flushes what is queued and confirms it: the orderly end.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(&mut self) -> Result<(), LogError> {
        while self.write()? {
            self.flush()?;
        }
        self.confirm()?;
        self.shared.closed();
        Ok(())
    }

    /// The log's thread.
    pub(super) fn serve(mut self) {
        let _told = Told::new(&self.shared);
        loop {
            let outcome = match self
                .shared
                .wait(self.unconfirmed, self.shared.options.confirm_after)
            {
                Work::Writes => self.write().and_then(|_| self.flush()),
                Work::Idle => self.confirm(),
                Work::Close => {
                    // A failure has been told to everybody whom it concerns; `close` reports it once more.
                    let _ = self.finish();
                    return;
                }
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Opens a new epoch with a group of its own, before anything else is written.
    pub(super) fn begin_epoch(&mut self) -> Result<(), LogError> {
        self.epoch += 1;
        self.write_group(Vec::new(), None, Vec::new(), 0)?;
        self.flush_group()
    }

    /// Runs a step; a failure of it is the end of the log.
    fn run(&mut self, step: impl FnOnce(&mut Self) -> Result<(), LogError>) -> Result<(), LogError> {
        if let Some(error) = self.shared.failure() {
            return Err(error);
        }
        step(self).inspect_err(|error| {
            let dones = self.written.take().map_or_else(Vec::new, |written| written.dones);
            self.shared.fail(error, dones);
        })
    }

    /// Writes one group. Sets `written` first, so that no callback is lost on a failure.
    fn write_group(
        &mut self,
        mut records: Vec<Record>,
        committed: Option<Position>,
        dones: Vec<Done>,
        queued_bytes: usize,
    ) -> Result<(), LogError> {
        self.shared.hooks.observer.write_begins();
        self.unconfirmed = !records.is_empty();
        records.extend(committed.map(Record::Committed));
        let written = self.written.insert(Written {
            records,
            places: Vec::new(),
            dones,
            queued_bytes,
            bytes: 0,
        });
        let bytes: usize = written.records.iter().map(Record::bytes).sum();
        if self.active.end + round_up((GROUP_HEADER_BYTES + bytes) as u64) > self.active.header.capacity {
            self.roll()?;
        }
        let written = self.written.as_mut().expect("it was set above");
        for record in &written.records {
            self.summary
                .step(record)
                .expect("the same rules judged it when it was submitted");
        }
        let header = GroupHeader {
            body_bytes: 0,
            records: 0,
            sequence: self.sequence,
            epoch: self.epoch,
            durable_before: self.active.stream_end(),
        };
        let (_, places) = encode_group(
            self.active.header.seal(),
            header,
            self.active.end,
            written.records.iter(),
            &mut self.buffer,
        );
        written.places = places;
        written.bytes = self.buffer.len() as u64;
        self.active
            .file
            .write_at(&self.buffer, self.active.end)
            .map_err(LogError::io("write to the log"))
    }

    fn flush_group(&mut self) -> Result<(), LogError> {
        let Some(written) = &self.written else {
            return Ok(());
        };
        let observer = &self.shared.hooks.observer;
        observer.flush_begins();
        self.active
            .file
            .sync_data()
            .map_err(LogError::io("flush the log"))?;
        let entries = written
            .records
            .iter()
            .filter(|record| matches!(record, Record::Entry(_)))
            .count() as u64;
        observer.flush_ends(Flush {
            entries,
            writes: written.dones.len() as u64,
            bytes: written.bytes,
        });

        let written = self.written.take().expect("it was there above");
        self.sequence += 1;
        self.active.end += written.bytes;
        self.publish(&written.records, &written.places);
        self.shared.release(written.queued_bytes);
        for done in written.dones {
            done(Ok(()));
        }
        Ok(())
    }

    /// Tells readers where the flushed entries lie, and gives back segments that hold none any more.
    fn publish(&self, records: &[Record], places: &[u64]) {
        let generation = self.active.header.generation;
        let retired = self.shared.with(|view| {
            let flushed = &mut view.flushed;
            flushed.stream_end = self.active.stream_end();
            for (record, offset) in records.iter().zip(places) {
                let place = Place {
                    generation,
                    epoch: self.epoch,
                    offset: *offset,
                };
                flushed
                    .contents
                    .step(record, place)
                    .expect("the same rules judged it when it was written");
            }
            let needed = flushed.contents.oldest_generation().unwrap_or(generation);
            let kept = flushed.segments.split_off(&needed);
            std::mem::replace(&mut flushed.segments, kept)
        });
        for generation in retired.into_keys() {
            self.ground.spares.retire(generation);
        }
    }

    /// Goes on in the next segment. All groups so far are flushed.
    fn roll(&mut self) -> Result<(), LogError> {
        let full = &self.active.header;
        let header = SegmentHeader {
            generation: full.generation + 1,
            stream_start: self.active.stream_end(),
            sequence: self.sequence,
            epoch: self.epoch,
            summary: self.summary.clone(),
            ..full.clone()
        };
        let (active, prepared) = self.ground.begin(header)?;
        if !prepared {
            self.shared.hooks.observer.segment_unprepared();
        }
        self.active = active;
        self.shared.with(|view| {
            let flushed = &mut view.flushed;
            flushed
                .segments
                .insert(self.active.header.generation, self.active.live());
            flushed.stream_end = self.active.stream_end();
        });
        Ok(())
    }
}
