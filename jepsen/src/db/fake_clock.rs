//! A node's own wall clock, by libfaketime: its calls for the time of day pass through a library that adds what a file
//! says. The monotonic clock stays the kernel's, as when an administrator or NTP sets a machine's clock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// One that is right, kept in `file`.
    ///
    /// # Errors
    /// The library isn't installed, or the file can't be written.
    pub fn new(file: PathBuf) -> io::Result<Self> {
        let library = library().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "libfaketime isn't installed (Debian: libfaketime)",
            )
        })?;
        let clock = Self { library, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// From now on the clock is wrong by so many seconds.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn set(&self, seconds: i64) -> io::Result<()> {
        // At once, since the library reads it at any moment.
        let written = self.file.with_extension("new");
        fs::write(&written, format!("{seconds:+}\n"))?;
        fs::rename(&written, &self.file)
    }

    /// What makes a process live by it.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", path(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.file)),
            // Looks again after a second at the latest; every call would cost the node a file.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

/// Where Debian puts the library, made for programs with threads.
fn library() -> Option<PathBuf> {
    let by_architecture = fs::read_dir("/usr/lib").ok()?.flatten();
    by_architecture
        .map(|directory| directory.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
}
