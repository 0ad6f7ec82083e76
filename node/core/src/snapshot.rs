//! The state as ordered chunks, and back.
//!
//! A snapshot is a stream of rows, each with its length before it, cut into chunks of at most [`CHUNK_BYTES`]
//! wherever the bound falls. Whoever carries the chunks keeps their order and guards each with a checksum; the
//! digest in the header proves the whole.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError},
    id::{Index, Revision},
    limits,
    rules::RULES_KNOWN,
    state::{State, Sums},
    time::Time,
};

/// The format of snapshots that this release writes.
pub const SNAPSHOT_FORMAT: u16 = 1;
/// The greatest length of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;

/// What a snapshot is of, and what its content must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the rows.
    pub format: u16,
    /// The rules in force.
    pub rules: u32,
    /// The newest index.
    pub index: Index,
    /// The key/value store's revision.
    pub revision: Revision,
    /// The cluster time.
    pub time: Time,
    /// The digest of the state.
    pub digest: u128,
}

impl Header {
    /// The header of a state's snapshot.
    pub fn of(state: &State) -> Self {
        Self {
            format: SNAPSHOT_FORMAT,
            rules: state.rules(),
            index: state.index(),
            revision: state.revision(),
            time: state.time(),
            digest: state.digest(),
        }
    }

    /// Refuses what a newer release has written.
    ///
    /// # Errors
    /// [`RestoreError::Newer`].
    pub fn check_known(&self) -> Result<(), RestoreError> {
        if self.format > SNAPSHOT_FORMAT || self.rules > RULES_KNOWN {
            return Err(RestoreError::Newer {
                format: self.format,
                rules: self.rules,
            });
        }
        Ok(())
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_row(self)
    }

    /// The header of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_row(bytes)
    }
}

/// Why chunks are not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by a newer release.
    #[error(
        "snapshot format {format} with rules {rules} is newer than format {SNAPSHOT_FORMAT} with rules {RULES_KNOWN}, the newest that this release reads"
    )]
    Newer {
        /// Its format.
        format: u16,
        /// Its rules.
        rules: u32,
    },
    /// A row can't be read.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// A row is longer than any can be.
    #[error("a row of {0} bytes")]
    RowTooLong(u64),
    /// The stream ends within a row.
    #[error("the snapshot ends within a row")]
    Truncated,
    /// The rows are not those that the header is of.
    #[error("the digest of the rows differs from the header's")]
    DigestDiffers,
}

/// The chunks of a state.
pub fn chunks(state: &State) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut rows = state.rows();
    let mut buffer = Vec::new();
    std::iter::from_fn(move || {
        while buffer.len() < CHUNK_BYTES {
            let Some(row) = rows.next() else { break };
            let length = u32::try_from(row.len()).expect("rows are bounded far below 4 GiB");
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(&row);
        }
        if buffer.is_empty() {
            return None;
        }
        let rest = buffer.split_off(buffer.len().min(CHUNK_BYTES));
        Some(std::mem::replace(&mut buffer, rest))
    })
}

/// Cuts chunks into rows again.
#[derive(Default)]
struct Rows {
    /// What of a row has come so far.
    begun: Vec<u8>,
}

impl Rows {
    /// Hands over each row that ends in this chunk.
    fn push(
        &mut self,
        chunk: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), RestoreError> {
        self.begun.extend_from_slice(chunk);
        let mut rest = &self.begun[..];
        while let Some((length, body)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length);
            if u64::from(length) > 2 * limits::ENTRY_BYTES_MAX as u64 {
                return Err(RestoreError::RowTooLong(length.into()));
            }
            let Some((row, after)) = body.split_at_checked(length as usize) else {
                break;
            };
            take(row)?;
            rest = after;
        }
        let read = self.begun.len() - rest.len();
        self.begun.drain(..read);
        Ok(())
    }

    /// There are no more chunks.
    fn finish(&self) -> Result<(), RestoreError> {
        if self.begun.is_empty() {
            Ok(())
        } else {
            Err(RestoreError::Truncated)
        }
    }
}

/// Builds a state from chunks as they come.
pub struct Restore {
    header: Header,
    state: State,
    rows: Rows,
}

impl Restore {
    /// Begins with the header.
    ///
    /// # Errors
    /// [`RestoreError::Newer`].
    pub fn new(header: Header) -> Result<Self, RestoreError> {
        header.check_known()?;
        Ok(Self {
            header,
            state: State::new(),
            rows: Rows::default(),
        })
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// A row that can't be read.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        self.rows.push(chunk, |row| self.state.load(row))
    }

    /// The state, once all chunks are there.
    ///
    /// # Errors
    /// [`RestoreError::Truncated`], [`RestoreError::DigestDiffers`].
    pub fn finish(self) -> Result<State, RestoreError> {
        self.rows.finish()?;
        if Header::of(&self.state) != self.header {
            return Err(RestoreError::DigestDiffers);
        }
        Ok(self.state)
    }
}

/// Finds out whether chunks hold the state of a header, without building it: adds up what their rows come to.
pub struct Proof {
    header: Header,
    sums: Sums,
    rows: Rows,
}

impl Proof {
    /// Begins with the header.
    ///
    /// # Errors
    /// [`RestoreError::Newer`].
    pub fn new(header: Header) -> Result<Self, RestoreError> {
        header.check_known()?;
        Ok(Self {
            header,
            sums: Sums::default(),
            rows: Rows::default(),
        })
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// A row that can't be read.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        self.rows.push(chunk, |row| self.sums.add(row))
    }

    /// All chunks are there.
    ///
    /// # Errors
    /// [`RestoreError::Truncated`], [`RestoreError::DigestDiffers`].
    pub fn finish(self) -> Result<(), RestoreError> {
        self.rows.finish()?;
        if self.sums.header() == Some(self.header) {
            Ok(())
        } else {
            Err(RestoreError::DigestDiffers)
        }
    }
}
