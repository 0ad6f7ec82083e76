//! Files that wait to become segments, made ready off the log's thread.
//!
//! A spare is either new, filled with zeros by really writing them, or an old segment that isn't needed any more. In
//! both its blocks are allocated and written, so a flush needn't go through the file system's journal; `fallocate`
//! alone gains nothing, because its first writes are journaled too.
//!
//! Filling one competes with the log's own flushes for the disk, so it is done only while none is ready, and in small
//! pieces with rests between them. Once a checkpoint lets the log go, old segments are as many as new ones are needed.
//!
//! Names: `N.log` is segment `N`, `N.spare` waits, `N.tmp` is being filled and worth nothing.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::world::files::{Files, Open};

/// Zeros are written in pieces of this size, each flushed before the next: a flush of the log that meets one waits for
/// no more. (8 MiB took 10 to 15 ms, which showed in the slowest hundredth of all puts.)
const PIECE_BYTES: u64 = 1024 * 1024;

/// Between two pieces the log's own flushes have the disk for themselves.
const REST: Duration = Duration::from_millis(4);

/// What a file in the log's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Segment(u64),
    Spare(u64),
    Unfinished,
    Unknown,
}

impl Kind {
    pub(super) fn of(name: &str) -> Self {
        let number = |stem: &str| {
            (stem.len() == 16)
                .then(|| u64::from_str_radix(stem, 16).ok())
                .flatten()
        };
        if let Some(n) = name.strip_suffix(".log").and_then(number) {
            Self::Segment(n)
        } else if let Some(n) = name.strip_suffix(".spare").and_then(number) {
            Self::Spare(n)
        } else if name.strip_suffix(".tmp").and_then(number).is_some() {
            Self::Unfinished
        } else {
            Self::Unknown
        }
    }
}

/// Name of a segment's file.
pub(super) fn segment_name(generation: u64) -> String {
    format!("{generation:016x}.log")
}

fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

fn unfinished_name(number: u64) -> String {
    format!("{number:016x}.tmp")
}

/// Something to be done off the log's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Fill a new file.
    Prepare,
    /// Make a spare of segment `generation`, or remove it if there are enough.
    Retire { generation: u64 },
}

/// The spares, and the jobs around them.
#[derive(Debug)]
pub(super) struct Spares {
    files: Arc<dyn Files>,
    dir: PathBuf,
    segment_bytes: u64,
    /// How many spares to keep; of new ones there is one at most.
    wanted: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<String>,
    /// At most one `Prepare` and one `Retire` per segment on disk.
    jobs: VecDeque<Job>,
    /// Number for the next file to be made.
    next: u64,
    closed: bool,
}

impl Spares {
    /// Takes stock of `names`, the files in `dir`: keeps spares of the right length and removes the rest of them.
    pub(super) fn open(
        files: Arc<dyn Files>,
        dir: PathBuf,
        segment_bytes: u64,
        wanted: usize,
        names: &[String],
    ) -> io::Result<Self> {
        let mut state = State::default();
        for name in names {
            match Kind::of(name) {
                Kind::Spare(number) => {
                    state.next = state.next.max(number.saturating_add(1));
                    let fits = files.open(&dir.join(name), Open::Existing)?.len()? == segment_bytes;
                    if fits && state.ready.len() < wanted {
                        state.ready.push_back(name.clone());
                    } else {
                        files.remove(&dir.join(name))?;
                    }
                }
                Kind::Unfinished => files.remove(&dir.join(name))?,
                Kind::Segment(_) | Kind::Unknown => {}
            }
        }
        let spares = Self {
            files,
            dir,
            segment_bytes,
            wanted,
            state: Mutex::new(state),
            work: Condvar::new(),
        };
        Ok(spares)
    }

    /// A file to become a segment, if one is ready, and orders the next.
    pub(super) fn take(&self) -> Option<String> {
        let mut state = self.state.lock();
        let taken = state.ready.pop_front();
        self.order(&mut state);
        taken
    }

    /// A name for a file that is made without preparation.
    pub(super) fn unprepared(&self) -> String {
        let mut state = self.state.lock();
        state.next += 1;
        unfinished_name(state.next - 1)
    }

    /// Makes one ready now, unless one is.
    pub(super) fn have_one(&self) -> io::Result<()> {
        if self.state.lock().ready.is_empty() {
            return self.prepare(Duration::ZERO);
        }
        Ok(())
    }

    /// Segment `generation` isn't needed any more. The record that frees it has been flushed.
    pub(super) fn retire(&self, generation: u64) {
        self.state.lock().jobs.push_back(Job::Retire { generation });
        self.work.notify_one();
    }

    /// Orders what is missing to have enough ready.
    pub(super) fn replenish(&self) {
        self.order(&mut self.state.lock());
    }

    fn order(&self, state: &mut State) {
        if self.is_short(state) && !state.jobs.contains(&Job::Prepare) {
            state.jobs.push_back(Job::Prepare);
            self.work.notify_one();
        }
    }

    /// Whether one is to be made.
    fn is_short(&self, state: &State) -> bool {
        self.wanted > 0 && state.ready.is_empty()
    }

    /// Does what is to be done, without rests, until there is nothing.
    ///
    /// A failure here costs speed or space and loses nothing, so the log goes on; a disk that really fails will show
    /// it in a write of the log.
    pub(super) fn work_off(&self) {
        while let Some(job) = self.next_job() {
            self.run(job, Duration::ZERO);
        }
    }

    /// Does what is to be done, until [`close`](Self::close).
    pub(super) fn serve(&self) {
        loop {
            let job = {
                let mut state = self.state.lock();
                loop {
                    if state.closed {
                        return;
                    }
                    if let Some(job) = state.jobs.pop_front() {
                        break job;
                    }
                    self.work.wait(&mut state);
                }
            };
            self.run(job, REST);
        }
    }

    /// Ends [`serve`](Self::serve), also in the middle of filling a file.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        if state.closed {
            None
        } else {
            state.jobs.pop_front()
        }
    }

    fn run(&self, job: Job, rest: Duration) {
        let outcome = match job {
            Job::Prepare => self.prepare(rest),
            Job::Retire { generation } => self.recycle(generation),
        };
        if let Err(error) = outcome {
            tracing::warn!(?job, %error, "a log file could not be made ready");
        }
    }

    fn prepare(&self, rest: Duration) -> io::Result<()> {
        let number = {
            let mut state = self.state.lock();
            if !self.is_short(&state) {
                return Ok(());
            }
            state.next += 1;
            state.next - 1
        };
        let unfinished = self.dir.join(unfinished_name(number));
        match self.fill(&unfinished, rest) {
            Ok(true) => {}
            Ok(false) => return self.files.remove(&unfinished),
            Err(error) => {
                // Best effort: whatever stays is removed at the next open.
                let _ = self.files.remove(&unfinished);
                return Err(error);
            }
        }
        let name = spare_name(number);
        self.files.rename(&unfinished, &self.dir.join(&name))?;
        self.state.lock().ready.push_back(name);
        Ok(())
    }

    /// Writes a file full of zeros; `false` if it was closed in between.
    fn fill(&self, path: &Path, rest: Duration) -> io::Result<bool> {
        let file = self.files.open(path, Open::New)?;
        let zeros = vec![0; usize::try_from(PIECE_BYTES.min(self.segment_bytes)).expect("at most 1 MiB")];
        let mut offset = 0;
        while offset < self.segment_bytes {
            if self.is_closed_after(rest) {
                return Ok(false);
            }
            let length = (self.segment_bytes - offset).min(PIECE_BYTES);
            file.write_at(&zeros[..usize::try_from(length).expect("at most 1 MiB")], offset)?;
            file.sync_data()?;
            offset += length;
        }
        Ok(true)
    }

    /// Rests, and says whether [`close`](Self::close) was called.
    fn is_closed_after(&self, rest: Duration) -> bool {
        let mut state = self.state.lock();
        if !rest.is_zero() && !state.closed {
            self.work.wait_for(&mut state, rest);
        }
        state.closed
    }

    /// Renames a segment to a spare, or removes it. The directory is flushed after each, so that segments go in order.
    fn recycle(&self, generation: u64) -> io::Result<()> {
        let segment = self.dir.join(segment_name(generation));
        let fits = self.files.open(&segment, Open::Existing)?.len()? == self.segment_bytes;
        let name = {
            let mut state = self.state.lock();
            let enough = state.ready.len() >= self.wanted;
            state.next += 1;
            (fits && !enough).then(|| spare_name(state.next - 1))
        };
        match &name {
            Some(name) => self.files.rename(&segment, &self.dir.join(name))?,
            None => self.files.remove(&segment)?,
        }
        self.files.sync_dir(&self.dir)?;
        if let Some(name) = name {
            let mut state = self.state.lock();
            state.ready.push_back(name);
            state.jobs.retain(|job| *job != Job::Prepare);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::files::OsFiles;

    const BYTES: u64 = 64 * 1024;

    #[test]
    fn a_file_is_filled_only_while_none_is_ready_and_old_segments_make_up_the_rest() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().to_owned();
        let spares = Spares::open(Arc::new(OsFiles), dir.clone(), BYTES, 2, &[]).expect("an empty directory");
        let ready = || spares.state.lock().ready.len();
        spares.replenish();
        spares.work_off();
        assert_eq!(ready(), 1, "the second is not filled");

        for generation in 0..3 {
            let segment = std::fs::File::create_new(dir.join(segment_name(generation))).expect("a new file");
            segment.set_len(BYTES).expect("room");
            spares.retire(generation);
        }
        spares.work_off();
        assert_eq!(ready(), 2, "one of three old segments is kept");

        assert!(spares.take().is_some());
        assert!(spares.state.lock().jobs.is_empty(), "another one is ready");
        assert!(spares.take().is_some());
        spares.work_off();
        assert_eq!(ready(), 1, "none was, so one is filled");
    }
}
