//! Which engine keeps the log, and its sizes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What keeps the log. A data directory stays with the engine that it was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogEngine {
    /// Our own pre-zeroed segment files: [`segment`](crate::storage::segment).
    #[default]
    Segment,
    /// sled: [`sled_log`](crate::storage::sled_log).
    Sled,
}

impl fmt::Display for LogEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment => "segment",
            Self::Sled => "sled",
        })
    }
}

/// A word that names no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log engine: segment or sled is wanted")]
pub struct UnknownEngine(String);

impl FromStr for LogEngine {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        match text {
            "segment" => Ok(Self::Segment),
            "sled" => Ok(Self::Sled),
            _ => Err(UnknownEngine(text.to_owned())),
        }
    }
}

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// By what. Whoever opens a log of one engine himself knows, and this is not looked at.
    pub engine: LogEngine,
    /// Length of a segment file in bytes: a multiple of 4 KiB from 64 KiB to 1 GiB. 64 MiB, so that beginning a
    /// segment is rare and filling one with zeros takes well below a second. The sled engine has no such files, and takes
    /// from it how long an entry may be.
    pub segment_bytes: u64,
    /// How many files are kept ready to become segments. One is enough as long as a file is filled faster than a
    /// segment; the second comes from a segment that the log needs no more, and covers a burst.
    pub spares: usize,
    /// Payload bytes kept in memory for reads: 32 MiB, several times what followers lag behind in health. Entries that
    /// aren't flushed are kept beyond it.
    pub tail_bytes: usize,
    /// Bytes that may wait in the queue: 32 MiB, far above what a flush takes along.
    pub queue_bytes: usize,
    /// Bytes of one group: 4 MiB, so that a flush stays short for those who wait. At most a quarter of a segment, and
    /// 1 MiB in sled.
    pub group_bytes: usize,
    /// Leisure after which the last group is confirmed.
    pub confirm_after: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            engine: LogEngine::default(),
            segment_bytes: 64 * 1024 * 1024,
            spares: 2,
            tail_bytes: 32 * 1024 * 1024,
            queue_bytes: 32 * 1024 * 1024,
            group_bytes: 4 * 1024 * 1024,
            confirm_after: Duration::from_millis(50),
        }
    }
}

impl LogOptions {
    /// Longest payload of an entry: a quarter of a segment, so that no segment is left half empty for one.
    pub fn payload_bytes_max(&self) -> usize {
        self.segment_quarter() - 1024
    }

    pub(in crate::storage) fn segment_quarter(&self) -> usize {
        usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX)
    }
}
