//! What every use of sled here has in common: how a database is opened and closed, and what sled leaves to us.
//!
//! sled's own `flush` writes and asks the kernel to begin writing back, but makes neither the file's length nor its
//! blocks durable; and it panics at some damage that it doesn't expect.

#![expect(clippy::disallowed_methods, reason = "sled works on the real disk alone")]

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// Records above a quarter of this go to files of their own, which sled never flushes; ours are far below.
pub(in crate::storage) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// sled's page cache.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// How long sled may take to let go of a database that was closed.
const CLOSE_ATTEMPTS: u32 = 500;
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// Opens or makes the database in `dir`.
pub(in crate::storage) fn open(dir: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    guarded(|| config.open())
}

/// Runs a call of sled that may meet a damaged file.
pub(in crate::storage) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked over it".to_owned()),
    }
}

/// Opens the file that sled keeps its data in, to flush it.
pub(in crate::storage) fn data_file(dir: &Path) -> io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(dir.join("db"))
}

/// Waits for sled's threads to let go of a database that was dropped: only then is what we flush the last word.
pub(in crate::storage) fn wait_until_closed(file: &fs::File, pause: &dyn Fn(Duration)) -> io::Result<()> {
    for _ in 0..CLOSE_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return file.unlock(),
            Err(fs::TryLockError::WouldBlock) => pause(CLOSE_PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("it holds on to its file"))
}

/// How many values sled has put into files of their own, which it never flushes. None of ours is so large.
pub(in crate::storage) fn blobs(dir: &Path) -> io::Result<usize> {
    match fs::read_dir(dir.join("blobs")) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Flushes a file or the entries of a directory.
pub(in crate::storage) fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Flushes all files and directories under `dir`, and `dir`.
pub(in crate::storage) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(dir)
}
