//! One process for each data directory.

use std::{
    fmt::Debug,
    fs,
    io::{self, Write},
    path::Path,
};

use rustix::fs::FlockOperation;

/// Holds a data directory for as long as it lives.
pub trait DirLock: Send + Sync + Debug {}

/// Locks data directories.
pub trait DirLocks: Send + Sync + Debug {
    /// Takes the directory, or says that somebody else has it ([`io::ErrorKind::WouldBlock`]).
    fn lock(&self, directory: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// Locks of the file system, which end with the process however it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDirLocks;

impl DirLocks for OsDirLocks {
    #[expect(
        clippy::disallowed_methods,
        reason = "a lock is no data: nothing of it needs to survive"
    )]
    fn lock(&self, directory: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut file = fs::File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(directory.join("lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // For the person who wonders whose lock it is; nothing reads it.
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(OsDirLock { _file: file }))
    }
}

/// The system releases the lock when the last descriptor of the file is closed.
#[derive(Debug)]
struct OsDirLock {
    _file: fs::File,
}

impl DirLock for OsDirLock {}
