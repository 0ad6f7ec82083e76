//! The log: a chain of segment files, written by one thread in flushed groups.
//!
//! ```text
//! submit ──► queue ──► one write ──► one fdatasync ──► callbacks          (driver: the log's thread)
//!    └─────► tail in memory ◄── read ──► older entries from the files     (queue)
//! spares: zero-filled or recycled files, ready to become segments         (a second thread)
//! ```
//!
//! - `format`: the bytes. `contents`: how records change what the log holds, and where entries lie.
//! - `driver`: the writer. `spares`: files being made ready. `recovery`: reading it all back, torn tail or damage.
//! - What callers see meanwhile is the same for every engine: `queue` and `tail` of [`crate::storage::log`].
//!
//! Nothing is ever overwritten in a segment that counts: vote, purge and truncation are records as entries are, for
//! otherwise a longer old suffix could come back. A segment is given back only after the record that frees it was
//! flushed, and each segment's header says again what the log held when it was begun, so that recycling never takes
//! the only vote with it.
//!
//! The log uses no clock and no randomness of its own, and without threads ([`Opened::driven`]) its every step is the
//! caller's: so a simulator runs this very code.

mod contents;
mod driver;
mod format;
mod recovery;
mod spares;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;

use self::contents::{Contents, Flushed, Run};
pub use self::driver::Driver;
use self::driver::{Active, Ground};
use self::format::{BLOCK, CAPACITY_MAX, Seal, SegmentHeader};
use self::spares::{Kind, Spares};
pub use crate::storage::log::LogOptions;
use crate::storage::log::queue::{Shared, View};
use crate::storage::log::reading::{Reading, Step};
use crate::storage::log::record::{Record, Summary};
use crate::storage::log::tail::Tail;
use crate::storage::log::{
    Done, IDENTITY_BYTES_MAX, LogEntry, LogError, LogHooks, LogState, LogStore, Wake, Write,
};
use crate::world::files::{File, Files};

/// A log to be created or opened.
#[derive(Clone, Debug)]
pub struct LogPlace {
    /// The disk.
    pub files: Arc<dyn Files>,
    /// Directory of the log, for it alone.
    pub dir: PathBuf,
    /// Sizes.
    pub options: LogOptions,
    /// What to call.
    pub hooks: LogHooks,
}

impl LogPlace {
    /// Whether there is a log. There is one from the moment that [`create`](Self::create) made its identity durable.
    pub fn exists(&self) -> Result<bool, LogError> {
        Ok(self
            .names()?
            .iter()
            .any(|name| matches!(Kind::of(name), Kind::Segment(_))))
    }

    /// Creates a log that is `identity`'s. When this returns the identity is durable.
    ///
    /// `salt` is a random number: checksums start from it, and nobody outside the node may learn it.
    ///
    /// # Errors
    /// [`LogError::Exists`] if there is one, [`LogError::Refused`] for an identity or options out of bounds.
    pub fn create(self, identity: Bytes, salt: u64) -> Result<Opened, LogError> {
        if identity.len() > IDENTITY_BYTES_MAX {
            return Err(LogError::Refused(format!(
                "an identity has at most {IDENTITY_BYTES_MAX} bytes"
            )));
        }
        if self.exists()? {
            return Err(LogError::Exists(self.dir.display().to_string()));
        }
        self.files
            .create_dir(&self.dir)
            .map_err(LogError::io("make the log's directory"))?;
        let options = checked(self.options.clone())?;
        let names = self.names()?;
        let ground = self.ground(&options, &names)?;
        // Nobody is served yet, so there is time to prepare the first segment here.
        ground.spares.replenish();
        ground.spares.work_off();
        let header = SegmentHeader {
            generation: 1,
            stream_start: 0,
            capacity: 0,
            sequence: 0,
            epoch: 1,
            salt,
            summary: Summary::default(),
            identity,
        };
        let (active, _) = ground.begin(header)?;
        Ok(Opened {
            older: Vec::new(),
            contents: Contents::default(),
            tail: Tail::default(),
            sequence: 0,
            epoch: 1,
            active,
            ground,
            options,
            hooks: self.hooks,
        })
    }

    /// Opens the log: reads it, cuts a torn tail, and makes durable what it found.
    ///
    /// # Errors
    /// [`LogError::Absent`] if there is none, [`LogError::Damaged`] if something that was durable can't be read.
    pub fn open(self) -> Result<Opened, LogError> {
        let options = checked(self.options.clone())?;
        let names = self.names()?;
        let found = recovery::recover(&*self.files, &self.dir, &names, options.tail_bytes)?;
        recovery::settle(&self.files, &self.dir, &found.active, found.last_group)
            .map_err(LogError::io("flush the log as found"))?;
        let ground = self.ground(&options, &names)?;
        for generation in found.leftovers {
            ground.spares.retire(generation);
        }
        Ok(Opened {
            older: found.older,
            contents: found.contents,
            tail: found.tail,
            sequence: found.sequence,
            epoch: found.epoch,
            active: found.active,
            ground,
            options,
            hooks: self.hooks,
        })
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        match self.files.list(&self.dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(LogError::io("list the log's directory")(error)),
        }
    }

    fn ground(&self, options: &LogOptions, names: &[String]) -> Result<Ground, LogError> {
        let spares = Spares::open(
            Arc::clone(&self.files),
            self.dir.clone(),
            options.segment_bytes,
            options.spares,
            names,
        )
        .map_err(LogError::io("take stock of spare segments"))?;
        Ok(Ground {
            files: Arc::clone(&self.files),
            dir: self.dir.clone(),
            spares: Arc::new(spares),
            segment_bytes: options.segment_bytes,
        })
    }
}

/// A log that was created or opened and isn't running yet.
#[derive(Debug)]
pub struct Opened {
    older: Vec<Active>,
    contents: Contents,
    tail: Tail,
    sequence: u64,
    epoch: u64,
    active: Active,
    ground: Ground,
    options: LogOptions,
    hooks: LogHooks,
}

/// Sizes that segments can have.
fn checked(mut options: LogOptions) -> Result<LogOptions, LogError> {
    if !SEGMENT_BYTES.contains(&options.segment_bytes) || !options.segment_bytes.is_multiple_of(BLOCK) {
        return Err(LogError::Refused(format!(
            "segments can't have {} bytes",
            options.segment_bytes
        )));
    }
    options.group_bytes = options.group_bytes.min(options.segment_quarter());
    Ok(options)
}

/// Shortest and longest segment in bytes.
const SEGMENT_BYTES: RangeInclusive<u64> = 64 * 1024..=CAPACITY_MAX;

impl Opened {
    /// Runs the log on threads of its own: one writes and flushes, one makes spares.
    pub fn start(mut self) -> Result<SegmentLog, LogError> {
        let spares = Arc::clone(&self.ground.spares);
        let held = self.hooks.held.take();
        let also_held = held.clone();
        // On a disk that is full the next write might be the last: who finds that out before it is heard disturbs nobody.
        if self.active.end + self.options.segment_bytes / 4 > self.options.segment_bytes {
            spares.have_one().map_err(LogError::io("make room for the log"))?;
        }
        let (log, driver) = self.assemble(None)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the log owns these two threads and joins them in close()"
        )]
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(LogError::io("start the log's threads"))
        };
        let server = Arc::clone(&spares);
        let serve_spares = move || {
            let _held = also_held;
            server.serve();
        };
        let serve = move || {
            let _held = held;
            driver.serve();
        };
        let helper = spawn("spine-log-spare", Box::new(serve_spares))?;
        let writer = spawn("spine-log", Box::new(serve))?;
        *log.threads.lock() = Some(Threads {
            writer,
            helper,
            spares,
        });
        Ok(log)
    }

    /// Runs the log without threads: `wake` is called when there is something to do, and the caller then drives it.
    pub fn driven(self, wake: Wake) -> Result<(SegmentLog, Driver), LogError> {
        self.assemble(Some(wake))
    }

    fn assemble(self, wake: Option<Wake>) -> Result<(SegmentLog, Driver), LogError> {
        let mut segments: BTreeMap<_, _> = self
            .older
            .iter()
            .map(|segment| (segment.header.generation, segment.live()))
            .collect();
        segments.insert(self.active.header.generation, self.active.live());
        let flushed = Flushed {
            contents: self.contents,
            segments,
            stream_end: self.active.stream_end(),
        };
        let view = View::new(flushed, self.tail);
        let identity = self.active.header.identity.clone();
        let shared = Arc::new(Shared::new(view, self.options, self.hooks, wake));
        self.ground.spares.replenish();
        let mut driver = Driver::new(
            self.ground,
            Arc::clone(&shared),
            self.active,
            self.sequence,
            self.epoch,
        );
        driver.begin_epoch()?;
        Ok((
            SegmentLog {
                shared,
                identity,
                threads: Mutex::new(None),
            },
            driver,
        ))
    }
}

/// The log. See the module's documentation.
#[derive(Debug)]
pub struct SegmentLog {
    shared: Arc<Shared<Flushed>>,
    identity: Bytes,
    /// Missing where the caller drives the log, and after [`close`](LogStore::close).
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    helper: JoinHandle<()>,
    spares: Arc<Spares>,
}

impl SegmentLog {
    /// Takes what is in memory, or says where the next entries lie; `None` when the read is complete.
    fn locate(reading: &mut Reading, view: &View<Flushed>) -> Option<(Run, Arc<dyn File>, Seal)> {
        let index = match reading.step(view) {
            Step::Done => return None,
            Step::Disk { from } => from,
        };
        let flushed = &view.flushed;
        let located = flushed.contents.run_of(index).and_then(|run| {
            let segment = flushed.segments.get(&run.generation)?;
            Some((run, Arc::clone(&segment.file), segment.seal))
        });
        Some(located.expect("an entry that isn't in memory was flushed, and its segment is kept"))
    }
}

impl LogStore for SegmentLog {
    fn submit(&self, write: Write, done: Done) {
        self.shared.submit(write, done);
    }

    fn when_room(&self, ready: Box<dyn FnOnce() + Send>) {
        self.shared.when_room(ready);
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut reading = Reading::new(range, bytes_max);
        loop {
            let Some((run, file, seal)) = self.shared.with(|view| Self::locate(&mut reading, view)) else {
                return Ok(reading.taken());
            };
            match read_run(&run, &*file, seal)? {
                Some(entries) => {
                    for entry in &entries {
                        reading.take(entry);
                    }
                }
                // The segment may have been given back between looking it up and reading it.
                None if self
                    .shared
                    .with(|view| view.flushed.contents.run_of(reading.next()))
                    != Some(run) => {}
                None => return Err(run_damaged(&run)),
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
        if let Some(threads) = self.threads.lock().take() {
            threads.spares.close();
            // A callback may hold the last reference to the log: then this is the log's own thread, about to end.
            if threads.writer.thread().id() != thread::current().id() {
                // If it panicked, that is the log's failure.
                let _ = threads.writer.join();
                assert!(
                    threads.helper.join().is_ok(),
                    "the thread that makes spares panicked"
                );
            }
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        if !thread::panicking() {
            // A failure has been told to the fatal hook.
            let _ = self.close();
        }
    }
}

/// Reads the entries of a run; `None` if they aren't there (any more).
fn read_run(run: &Run, file: &dyn File, seal: Seal) -> Result<Option<Vec<LogEntry>>, LogError> {
    let mut buffer = vec![0; usize::try_from(run.bytes).expect("a run fits into a segment")];
    let there = file
        .read_at(&mut buffer, run.offset)
        .map_err(LogError::io("read the log"))?;
    buffer.truncate(there);
    let mut bytes = Bytes::from(buffer);
    let mut place = run.offset;
    let mut entries = Vec::new();
    for index in (run.first..).take(run.count as usize) {
        let Some((Record::Entry(entry), length)) = Record::decode(seal, run.epoch, place, &bytes) else {
            return Ok(None);
        };
        if entry.position.index != index {
            return Ok(None);
        }
        entries.push(entry);
        bytes = bytes.slice(length..);
        place += length as u64;
    }
    Ok(Some(entries))
}

fn run_damaged(run: &Run) -> LogError {
    LogError::Damaged {
        file: spares::segment_name(run.generation),
        offset: run.offset,
        what: format!("entries from {} on can't be read back", run.first),
    }
}
