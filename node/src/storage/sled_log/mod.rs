//! The log in sled (`--log-engine sled`): entries, vote and committed position as rows of one database.
//!
//! ```text
//! submit ──► queue ──► rows into sled ──► its flush, our fdatasync ──► callbacks     (driver: the log's thread)
//!    └─────► tail in memory ◄── read ──► older entries from sled                     (queue)
//! ```
//!
//! - `rows`: the bytes. `driver`: the writer. `recovery`: what is found at open, and whether it is whole.
//! - `mark`: how far it had been flushed, as sled wouldn't know. `flushed`: what is known of it in memory.
//!
//! What is relied on is that sled comes back with a prefix of what it was told, in the order in which it was told. So
//! the row of the state is written *behind* the entries that it makes count, and *before* anything is removed or replaced
//! that it makes not count. Nothing else needs to be atomic; rows that don't count are swept at leisure.
//!
//! What sled doesn't do is done here: its `flush` makes nothing durable, so `fdatasync` follows; a group is short
//! ([`GROUP_BYTES_MAX`]), so that sled can't use a segment again between two of these; its file is flushed before it is
//! opened; and what it comes back with is checked row by row, and against the mark.

#![expect(clippy::disallowed_methods, reason = "sled works on the real disk alone")]

mod driver;
mod flushed;
mod mark;
mod recovery;
mod rows;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::driver::Driver;
use self::flushed::Flushed;
pub(super) use self::mark::NAME as MARK;
use self::mark::{Mark, Noted};
use self::rows::State;
use super::log::queue::{Shared, View};
use super::log::reading::{Reading, Step};
use super::log::tail::Tail;
use super::log::{
    Done, IDENTITY_BYTES_MAX, LogEntry, LogError, LogHooks, LogOptions, LogState, LogStore, Write,
};
use super::sled::db;
use crate::world::files::{Files, OsFiles};

/// Bytes that are given to sled between two flushes, at most. sled writes about three times of it, as it writes pages
/// anew, which stays below one of its segments: and it uses none again before a whole one lies in between.
const GROUP_BYTES_MAX: usize = 1024 * 1024;

/// How often a read looks for an entry that is being replaced meanwhile, before it is called missing.
const READ_ATTEMPTS: u32 = 5;

/// A log in sled, to be created or opened.
#[derive(Clone, Debug)]
pub struct SledLogPlace {
    /// Directory of the log, for it alone, on the machine's disk.
    pub dir: PathBuf,
    /// Sizes; segments and spares don't concern it.
    pub options: LogOptions,
    /// What to call.
    pub hooks: LogHooks,
}

impl SledLogPlace {
    /// Whether there is a log. There is one from the moment that [`create`](Self::create) made its identity durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn exists(&self) -> Result<bool, LogError> {
        mark::exists(&self.dir).map_err(LogError::io("look for the log"))
    }

    /// Creates a log that is `identity`'s and runs it. When this returns the identity is durable.
    ///
    /// # Errors
    /// [`LogError::Exists`] if there is one, [`LogError::Refused`] for an identity out of bounds.
    pub fn create(self, identity: &Bytes) -> Result<SledLog, LogError> {
        if identity.len() > IDENTITY_BYTES_MAX {
            return Err(LogError::Refused(format!(
                "an identity has at most {IDENTITY_BYTES_MAX} bytes"
            )));
        }
        if self.exists()? {
            return Err(LogError::Exists(self.dir.display().to_string()));
        }
        self.make_room()
            .map_err(LogError::io("make the log's directory"))?;
        let db = db::open(&self.sled_dir()).map_err(recovery::sled_failed("make the log"))?;
        let trees = Trees::open(db).map_err(recovery::sled_failed("make the log"))?;
        trees
            .state
            .insert(rows::IDENTITY_KEY, rows::encode_identity(identity))
            .map_err(recovery::sled_failed("write the log's identity"))?;
        trees
            .state
            .insert(rows::STATE_KEY, State::default().encode())
            .map_err(recovery::sled_failed("write the log's state"))?;
        trees.db.flush().map_err(recovery::sled_failed("flush the log"))?;
        db::sync_tree(&self.dir).map_err(LogError::io("flush the log's directory"))?;
        let noted = Noted {
            sequence: 0,
            closed: false,
        };
        let mark = Mark::create(&self.dir, noted).map_err(LogError::io("name the log"))?;
        self.run(
            trees,
            mark,
            identity.clone(),
            State::default(),
            Tail::default(),
            Vec::new(),
        )
    }

    /// Opens the log and runs it: reads it, and makes durable what it found.
    ///
    /// # Errors
    /// [`LogError::Absent`] if there is none, [`LogError::Damaged`] if something that was durable can't be read.
    pub fn open(self) -> Result<SledLog, LogError> {
        if !self.exists()? {
            return Err(LogError::Absent(self.dir.display().to_string()));
        }
        let found = recovery::recover(&self.dir, &self.sled_dir(), self.options.tail_bytes)?;
        self.run(
            found.trees,
            found.mark,
            found.identity,
            found.state,
            found.tail,
            found.lengths,
        )
    }

    fn sled_dir(&self) -> PathBuf {
        self.dir.join("sled")
    }

    /// Makes the directory, without what a creation left that was cut off.
    fn make_room(&self) -> std::io::Result<()> {
        if self.sled_dir().exists() {
            fs::remove_dir_all(self.sled_dir())?;
        }
        OsFiles.create_dir(&self.dir)
    }

    fn run(
        mut self,
        trees: Trees,
        mark: Mark,
        identity: Bytes,
        state: State,
        tail: Tail,
        lengths: Vec<(u64, u64)>,
    ) -> Result<SledLog, LogError> {
        let mut options = self.options.clone();
        options.group_bytes = options.group_bytes.min(GROUP_BYTES_MAX);
        let flushed = Flushed::new(&state, lengths);
        let held = self.hooks.held.take();
        let shared = Arc::new(Shared::new(
            View::new(flushed, tail),
            options,
            self.hooks.clone(),
            None,
        ));
        let file = db::data_file(&self.sled_dir()).map_err(LogError::io("open sled's file"))?;
        let readers = Arc::new(RwLock::new(Some(trees.entries.clone())));
        let driver = Driver {
            dir: self.sled_dir(),
            shared: Arc::clone(&shared),
            trees,
            readers: Arc::clone(&readers),
            file,
            mark,
            state,
            unflushed: 0,
            mark_behind: false,
            // What a crash left may be anywhere before the first entry.
            swept: false,
        };
        let writer = thread::Builder::new()
            .name("spine-log".to_owned())
            .spawn(move || {
                let _held = held;
                driver.serve();
            })
            .map_err(LogError::io("start the log's thread"))?;
        Ok(SledLog {
            shared,
            identity,
            readers,
            writer: Mutex::new(Some(writer)),
        })
    }
}

/// sled, and its trees.
struct Trees {
    db: sled::Db,
    state: sled::Tree,
    entries: sled::Tree,
}

impl Trees {
    fn open(db: sled::Db) -> Result<Self, String> {
        let open = |name: &str| db::guarded(|| db.open_tree(name));
        Ok(Self {
            state: open("state")?,
            entries: open("entries")?,
            db,
        })
    }
}

/// The log. See the module's documentation.
pub struct SledLog {
    shared: Arc<Shared<Flushed>>,
    identity: Bytes,
    /// Where older entries are read; missing once the log is closed, so that sled lets go of its file.
    readers: Arc<RwLock<Option<sled::Tree>>>,
    /// Missing after [`close`](LogStore::close).
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for SledLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledLog").finish_non_exhaustive()
    }
}

impl SledLog {
    /// Reads entries from `from` on from sled into `reading`; `false` if not even the first is there.
    fn read_rows(&self, reading: &mut Reading, from: u64) -> Result<bool, LogError> {
        // Held while reading, so that a close waits for it.
        let readers = self.readers.read();
        let entries = readers.as_ref().ok_or(LogError::Closed)?;
        let end = self.shared.with(|view| view.tail.first()).unwrap_or(u64::MAX);
        let mut rows = entries.range(rows::first_key(from)..rows::first_key(end));
        let mut failure = None;
        let mut index = from;
        loop {
            let entry = rows::decode_entry(index, || match rows.next()? {
                Ok(row) => Some(row),
                Err(error) => {
                    failure = Some(error);
                    None
                }
            });
            if let Some(error) = failure {
                return Err(recovery::sled_failed("read the log")(error));
            }
            match entry {
                Some(entry) if reading.take(&entry) => index += 1,
                Some(_) => return Ok(true),
                None => return Ok(index > from),
            }
        }
    }
}

impl LogStore for SledLog {
    fn submit(&self, write: Write, done: Done) {
        self.shared.submit(write, done);
    }

    fn when_room(&self, ready: Box<dyn FnOnce() + Send>) {
        self.shared.when_room(ready);
    }

    /// After [`close`](LogStore::close) it gives what is in memory alone.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut reading = Reading::new(range, bytes_max);
        let mut missed = 0;
        loop {
            let from = match self.shared.with(|view| reading.step(view)) {
                Step::Done => return Ok(reading.taken()),
                Step::Disk { from } => from,
            };
            if self.read_rows(&mut reading, from)? {
                missed = 0;
                continue;
            }
            // It may have been purged, or replaced, between looking and reading: the next look knows.
            missed += 1;
            if missed == READ_ATTEMPTS {
                return Err(recovery::damaged(&format!("entry {from} can't be read back")));
            }
        }
    }

    fn state(&self) -> LogState {
        self.shared.state()
    }

    fn durable(&self) -> LogState {
        self.shared.durable()
    }

    fn identity(&self) -> Bytes {
        self.identity.clone()
    }

    fn payload_bytes_max(&self) -> usize {
        self.shared.options.payload_bytes_max()
    }

    fn close(&self) -> Result<(), LogError> {
        self.shared.begin_close();
        if let Some(writer) = self.writer.lock().take() {
            // A callback may hold the last reference to the log: then this is the log's own thread, about to end.
            if writer.thread().id() != thread::current().id() {
                // If it panicked, that is the log's failure.
                let _ = writer.join();
            }
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        if !thread::panicking() {
            // A failure has been told to the fatal hook.
            let _ = self.close();
        }
    }
}
