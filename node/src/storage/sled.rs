//! Checkpoints in sled: one database directory for each generation.
//!
//! sled's own `flush` writes and asks the kernel to begin writing back, but makes neither the file's length nor its
//! blocks durable: under power cuts it lost what it had acknowledged, or didn't open again. So a generation is written,
//! flushed, closed, and then all its files and directories are flushed by us. sled can't open a database without
//! writing to it; therefore a generation is always read in a copy, both when it is verified and at a start, and never
//! opened again itself. A crash never meets a sled that counts and is being written.
//!
//! In the directory: `N/` is generation `N`, `current` names the generations that count and where in the log each
//! stands, `read-N/` is a copy being read and worth nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "sled works on the real disk alone; the simulator has memory.rs"
)]

pub(super) mod db;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

use self::db::{guarded, sync, sync_tree};
use super::checkpoint::{
    CheckpointError, Chunk, Engine, Generation, Header, Kept, Loaded, Verifier, check_chunk, check_header,
    newest_good,
};

/// While a generation is written, it is flushed (and the rate kept) after so many bytes: a flush of the log that meets one
/// of these waits for no more.
const FLUSH_BYTES: u64 = 1024 * 1024;

const HEADER_KEY: &[u8] = &[0];
const CHUNK_PREFIX: u8 = 1;
const CURRENT: &str = "current";
const CURRENT_FORMAT: &str = "spine checkpoint 1";

/// How a [`SledEngine`] behaves.
#[derive(Clone)]
pub struct SledOptions {
    /// Bytes of state written per second at most: 256 MiB, so that the log's flushes get between.
    pub bytes_per_second: u64,
    /// Waits; called to keep the rate.
    pub pause: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            bytes_per_second: 256 * 1024 * 1024,
            pause: Arc::new(thread::sleep),
        }
    }
}

impl fmt::Debug for SledOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledOptions")
            .field("bytes_per_second", &self.bytes_per_second)
            .finish_non_exhaustive()
    }
}

/// Checkpoints in sled. See the module's documentation.
#[derive(Debug)]
pub struct SledEngine {
    dir: PathBuf,
    options: SledOptions,
    /// One caller at a time; with it, the generations that were found bad since the start.
    bad: Mutex<BTreeSet<Generation>>,
}

impl SledEngine {
    /// The checkpoints in `dir`, which is made if it isn't there. What a crash left unfinished is removed.
    pub fn open(dir: PathBuf, options: SledOptions) -> Result<Self, CheckpointError> {
        make_dir(&dir).map_err(CheckpointError::io("make the checkpoint directory"))?;
        let engine = Self {
            dir,
            options,
            bad: Mutex::new(BTreeSet::new()),
        };
        engine.remove_unfinished()?;
        Ok(engine)
    }

    fn generation_dir(&self, generation: Generation) -> PathBuf {
        self.dir.join(format!("{:016x}", generation.0))
    }

    /// The generations that count; `None` if `current` can't be read, empty if there was never one.
    fn kept(&self) -> Result<Option<Vec<Kept>>, CheckpointError> {
        match fs::read(self.dir.join(CURRENT)) {
            Ok(text) => Ok(decode_current(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Vec::new())),
            Err(error) => Err(CheckpointError::io("read the name of the current checkpoint")(
                error,
            )),
        }
    }

    /// All generations that have a directory, unfinished ones too, newest first.
    fn on_disk(&self) -> Result<Vec<Generation>, CheckpointError> {
        let mut found = Vec::new();
        for name in self.subdirectories()? {
            if name.len() == 16
                && let Ok(number) = u64::from_str_radix(&name, 16)
            {
                found.push(Generation(number));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    fn subdirectories(&self) -> Result<Vec<String>, CheckpointError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        list().map_err(CheckpointError::io("list the checkpoint directory"))
    }

    /// Removes copies, and generations that never became current.
    fn remove_unfinished(&self) -> Result<(), CheckpointError> {
        for name in self.subdirectories()? {
            if name.starts_with("read-") {
                Self::remove(&self.dir.join(name))?;
            }
        }
        // Without a readable `current` each generation may be the one that is needed.
        let Some(kept) = self.kept()? else { return Ok(()) };
        for generation in self.on_disk()? {
            if !kept.iter().any(|kept| kept.generation == generation) {
                Self::remove(&self.generation_dir(generation))?;
            }
        }
        Ok(())
    }

    fn remove(dir: &Path) -> Result<(), CheckpointError> {
        fs::remove_dir_all(dir).map_err(CheckpointError::io("remove an old checkpoint"))
    }

    /// Writes the database of a generation and makes it durable.
    fn fill(
        &self,
        dir: &Path,
        header: &Header,
        chunks: &mut dyn Iterator<Item = Chunk>,
    ) -> Result<(), CheckpointError> {
        let db = db::open(dir).map_err(CheckpointError::io("open sled"))?;
        let file = fs::File::open(dir.join("db")).map_err(CheckpointError::io("open sled's file"))?;
        let mut pace = Pace {
            options: &self.options,
            unflushed: 0,
        };
        let mut totals = Totals::default();
        let mut previous = None;
        for chunk in chunks {
            check_chunk(&chunk, previous.as_ref())?;
            totals.add(&chunk);
            let (key, value) = encode_chunk(&chunk);
            pace.unflushed += (key.len() + value.len()) as u64;
            db.insert(key, value)
                .map_err(CheckpointError::io("write to sled"))?;
            pace.keep(&db, &file)?;
            previous = Some(chunk.key);
        }
        db.insert(HEADER_KEY, encode_header(header, totals))
            .map_err(CheckpointError::io("write to sled"))?;
        db.flush().map_err(CheckpointError::io("flush sled"))?;
        drop(db);
        db::wait_until_closed(&file, &*self.options.pause)
            .map_err(CheckpointError::io("wait for sled to close"))?;
        check_no_blobs(dir)?;
        sync_tree(dir).map_err(CheckpointError::io("flush a checkpoint"))?;
        sync(&self.dir).map_err(CheckpointError::io("flush the checkpoint directory"))
    }

    /// Reads a generation, in a copy, through `verify`.
    fn load(&self, generation: Generation, verify: &mut Verifier<'_>) -> Result<Header, CheckpointError> {
        let copy = self.dir.join(format!("read-{:016x}", generation.0));
        if copy.exists() {
            Self::remove(&copy)?;
        }
        copy_tree(&self.generation_dir(generation), &copy).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => {
                CheckpointError::NoRoom(format!("copy a checkpoint to read it: {error}"))
            }
            _ => CheckpointError::io("copy a checkpoint to read it")(error),
        })?;
        let outcome = read_back(&copy, generation, verify);
        Self::remove(&copy)?;
        outcome
    }

    /// Makes `kept`, newest first, the generations that count.
    fn switch(&self, kept: &[Kept]) -> Result<(), CheckpointError> {
        let write = || -> io::Result<()> {
            let unfinished = self.dir.join("current.tmp");
            fs::write(&unfinished, encode_current(kept))?;
            sync(&unfinished)?;
            fs::rename(&unfinished, self.dir.join(CURRENT))?;
            sync(&self.dir)
        };
        write().map_err(CheckpointError::io("name the current checkpoint"))
    }
}

impl Engine for SledEngine {
    fn write(
        &self,
        header: &Header,
        chunks: &mut dyn Iterator<Item = Chunk>,
        verify: &mut Verifier<'_>,
    ) -> Result<Generation, CheckpointError> {
        let bad = self.bad.lock();
        check_header(header)?;
        self.remove_unfinished()?;
        let newest = self.on_disk()?.first().copied();
        let kept = self.kept()?.unwrap_or_default();
        let generation = Generation(newest.map_or(0, |newest| newest.0 + 1));
        let dir = self.generation_dir(generation);
        if let Err(error) = self
            .fill(&dir, header, chunks)
            .and_then(|()| self.load(generation, verify))
        {
            // The generation doesn't count; what can't be removed now is removed at the next open.
            let _ = Self::remove(&dir);
            return Err(error);
        }
        let before = kept.iter().find(|kept| !bad.contains(&kept.generation)).copied();
        let kept: Vec<Kept> = [Kept {
            generation,
            log_index: header.log_index,
        }]
        .into_iter()
        .chain(before)
        .collect();
        self.switch(&kept)?;
        self.remove_unfinished()?;
        Ok(generation)
    }

    fn newest_verified(&self, verify: &mut Verifier<'_>) -> Result<Option<Loaded>, CheckpointError> {
        let mut bad = self.bad.lock();
        let candidates: Vec<Generation> = match self.kept()? {
            Some(kept) => kept.iter().map(|kept| kept.generation).collect(),
            None => self.on_disk()?,
        };
        if candidates.is_empty() {
            return Ok(None);
        }
        newest_good(&candidates, &mut bad, |generation| self.load(generation, verify)).map(Some)
    }

    fn log_index_kept(&self) -> Result<Option<u64>, CheckpointError> {
        let bad = self.bad.lock();
        match self.kept()? {
            Some(kept) => {
                let good = kept.iter().filter(|kept| !bad.contains(&kept.generation));
                Ok(good.map(|kept| kept.log_index).min())
            }
            // Where they stand isn't known before the next checkpoint: keep everything.
            None => Ok(Some(0)),
        }
    }
}

/// Keeps the rate, and sled's unflushed bytes bounded.
struct Pace<'a> {
    options: &'a SledOptions,
    unflushed: u64,
}

impl Pace<'_> {
    fn keep(&mut self, db: &sled::Db, file: &fs::File) -> Result<(), CheckpointError> {
        if self.unflushed < FLUSH_BYTES {
            return Ok(());
        }
        db.flush().map_err(CheckpointError::io("flush sled"))?;
        file.sync_data()
            .map_err(CheckpointError::io("flush a checkpoint"))?;
        let nanos =
            u128::from(self.unflushed) * 1_000_000_000 / u128::from(self.options.bytes_per_second.max(1));
        (self.options.pause)(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        self.unflushed = 0;
        Ok(())
    }
}

/// What all chunks together come to, so that a missing one is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    chunks: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, chunk: &Chunk) {
        self.chunks += 1;
        self.bytes += (chunk.key.len() + chunk.value.len()) as u64;
    }
}

/// Reads the database in `dir` through `verify`.
fn read_back(
    dir: &Path,
    generation: Generation,
    verify: &mut Verifier<'_>,
) -> Result<Header, CheckpointError> {
    let damaged = |what: &str| CheckpointError::damaged(generation, what);
    let db = db::open(dir).map_err(|error| damaged(&error))?;
    let row = guarded(|| db.get(HEADER_KEY)).map_err(|error| damaged(&error))?;
    let (header, expected) = row
        .and_then(|row| decode_header(&row))
        .ok_or_else(|| damaged("its header can't be read"))?;
    let mut reader = Reader {
        rows: db.range([CHUNK_PREFIX]..),
        generation,
        expected,
        found: Totals::default(),
        ended: false,
    };
    verify(&header, &mut reader).map_err(|reason| damaged(&reason))?;
    // A verifier that stopped early hasn't seen all: the rest must be there as well.
    for chunk in reader.by_ref() {
        chunk?;
    }
    Ok(header)
}

/// The chunks of a database, each checked.
struct Reader {
    rows: sled::Iter,
    generation: Generation,
    expected: Totals,
    found: Totals,
    ended: bool,
}

impl Reader {
    fn read(&mut self) -> Result<Option<Chunk>, CheckpointError> {
        let damaged = |what: String| CheckpointError::damaged(self.generation, what);
        match guarded(|| self.rows.next().transpose()).map_err(damaged)? {
            Some((key, value)) => {
                let chunk = decode_chunk(&key, &value)
                    .ok_or_else(|| damaged(format!("chunk {} can't be read", self.found.chunks)))?;
                self.found.add(&chunk);
                Ok(Some(chunk))
            }
            None if self.found == self.expected => Ok(None),
            None => Err(damaged(format!(
                "it has {:?} and should have {:?}",
                self.found, self.expected
            ))),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Chunk, CheckpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Row of a chunk: its key behind a prefix; a CRC-32C over key and value, and the value.
fn encode_chunk(chunk: &Chunk) -> (Vec<u8>, Vec<u8>) {
    let mut key = Vec::with_capacity(1 + chunk.key.len());
    key.put_u8(CHUNK_PREFIX);
    key.put_slice(&chunk.key);
    let mut value = Vec::with_capacity(4 + chunk.value.len());
    value.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&key), &chunk.value));
    value.put_slice(&chunk.value);
    (key, value)
}

fn decode_chunk(key: &[u8], row: &[u8]) -> Option<Chunk> {
    let mut value = row;
    let checksum = value.try_get_u32_le().ok()?;
    let whole = checksum == crc32c::crc32c_append(crc32c::crc32c(key), value);
    whole.then(|| Chunk {
        key: Bytes::copy_from_slice(&key[1..]),
        value: Bytes::copy_from_slice(value),
    })
}

/// Row of the header: a CRC-32C over what follows, the log index, count and bytes of the chunks, the caller's part.
fn encode_header(header: &Header, totals: Totals) -> Vec<u8> {
    let mut row = Vec::new();
    row.put_u32_le(0);
    row.put_u64_le(header.log_index);
    row.put_u64_le(totals.chunks);
    row.put_u64_le(totals.bytes);
    row.put_slice(&header.meta);
    let checksum = crc32c::crc32c(&row[4..]);
    row[..4].copy_from_slice(&checksum.to_le_bytes());
    row
}

fn decode_header(row: &[u8]) -> Option<(Header, Totals)> {
    let mut rest = row;
    let checksum = rest.try_get_u32_le().ok()?;
    if checksum != crc32c::crc32c(rest) {
        return None;
    }
    let log_index = rest.try_get_u64_le().ok()?;
    let totals = Totals {
        chunks: rest.try_get_u64_le().ok()?,
        bytes: rest.try_get_u64_le().ok()?,
    };
    Some((
        Header {
            log_index,
            meta: Bytes::copy_from_slice(rest),
        },
        totals,
    ))
}

/// `current`: a first line, one line per generation that counts, newest first, and a CRC-32C over those lines.
fn encode_current(kept: &[Kept]) -> String {
    let mut text = format!("{CURRENT_FORMAT}\n");
    for Kept {
        generation,
        log_index,
    } in kept
    {
        let _ = writeln!(text, "{} {log_index}", generation.0);
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text + &format!("crc {checksum:08x}\n")
}

fn decode_current(text: &[u8]) -> Option<Vec<Kept>> {
    let text = std::str::from_utf8(text).ok()?;
    let (lines, checksum) = text.strip_suffix('\n')?.rsplit_once("\ncrc ")?;
    let lines = &text[..=lines.len()];
    if u32::from_str_radix(checksum, 16).ok()? != crc32c::crc32c(lines.as_bytes()) {
        return None;
    }
    let mut lines = lines.lines();
    if lines.next()? != CURRENT_FORMAT {
        return None;
    }
    lines
        .map(|line| {
            let (generation, log_index) = line.split_once(' ')?;
            Some(Kept {
                generation: Generation(generation.parse().ok()?),
                log_index: log_index.parse().ok()?,
            })
        })
        .collect()
}

/// Says whether sled put values into files of their own, which it never flushes: then the checkpoint couldn't be trusted.
fn check_no_blobs(dir: &Path) -> Result<(), CheckpointError> {
    match db::blobs(dir).map_err(CheckpointError::io("look for sled's blobs"))? {
        0 => Ok(()),
        count => Err(CheckpointError::io("write to sled")(format!("{count} blobs"))),
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Makes a directory and its missing parents, durably.
fn make_dir(dir: &Path) -> io::Result<()> {
    use crate::world::files::{Files, OsFiles};
    OsFiles.create_dir(dir)
}
