//! A small file beside sled's: how far the log had been flushed, and whether it was closed in order.
//!
//! sled cuts what it finds torn without a word, and would cut as quietly what had been durable. So the number of each
//! group is written here once it is flushed; where sled comes back with less, that is damage and no torn tail. The file
//! is flushed at leisure and at the end only: an older number that survives a power cut is true as well.

#![expect(clippy::disallowed_methods, reason = "it lies beside sled, on the real disk")]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::storage::sled::db;

/// Its name.
pub(in crate::storage) const NAME: &str = "mark";
const MAGIC: &[u8; 8] = b"SPINESLM";
const BYTES: usize = 24;

/// The file.
#[derive(Debug)]
pub(super) struct Mark(fs::File);

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// The last group that was flushed, at least.
    pub(super) sequence: u64,
    /// The log was closed in order, and all that was written is flushed.
    pub(super) closed: bool,
}

impl Noted {
    /// Less than a sector: it is written whole or not at all.
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16] = u8::from(self.closed);
        let checksum = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let sequence = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        let noted = Self {
            sequence,
            closed: *bytes.get(16)? == 1,
        };
        (noted.encode() == bytes).then_some(noted)
    }
}

/// Whether there is one in `dir`: it is the last thing that is made.
pub(super) fn exists(dir: &Path) -> io::Result<bool> {
    fs::exists(dir.join(NAME))
}

impl Mark {
    /// Makes one, durably.
    pub(super) fn create(dir: &Path, noted: Noted) -> io::Result<Self> {
        let draft = dir.join("mark.new");
        fs::write(&draft, noted.encode())?;
        db::sync(&draft)?;
        fs::rename(&draft, dir.join(NAME))?;
        db::sync(dir)?;
        Ok(Self::open(dir)?.0)
    }

    /// Opens the one that is there and says what it says; `None` if it can't be read.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Option<Noted>)> {
        let path = dir.join(NAME);
        let noted = Noted::decode(&fs::read(&path)?);
        let file = fs::File::options().write(true).open(&path)?;
        Ok((Self(file), noted))
    }

    /// Notes, without a flush.
    pub(super) fn note(&self, noted: Noted) -> io::Result<()> {
        self.0.write_all_at(&noted.encode(), 0)
    }

    /// Makes what was noted durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
