//! Bytes of entries and rows.
//!
//! An entry's bytes begin with a format number; enum variants are only ever appended. bincode is used here and
//! nowhere else, and golden files hold its bytes, so that another encoder can take its place if need be.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

use crate::{command::Entry, limits};

/// The format of entries that this release writes.
pub const ENTRY_FORMAT: u16 = 1;

/// Why bytes are not an entry or a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer release.
    #[error("format {found} is newer than {known}, the newest that this release reads: upgrade this node")]
    Newer {
        /// The format found.
        found: u16,
        /// The newest format known.
        known: u16,
    },
    /// Not what it should be.
    #[error("malformed: {0}")]
    Malformed(String),
}

fn options() -> impl Options {
    // The bound keeps a damaged length from asking for more memory than any honest entry or row needs.
    bincode::DefaultOptions::new()
        .with_varint_encoding()
        .with_limit(2 * limits::ENTRY_BYTES_MAX as u64)
        .reject_trailing_bytes()
}

/// The bytes of an entry.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut bytes = ENTRY_FORMAT.to_le_bytes().to_vec();
    options()
        .serialize_into(&mut bytes, entry)
        .expect("an entry within its bounds can be encoded");
    bytes
}

/// The entry of these bytes.
///
/// # Errors
/// A newer format, or bytes that no release wrote.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let Some((format, body)) = bytes.split_first_chunk() else {
        return Err(DecodeError::Malformed("shorter than its format number".into()));
    };
    match u16::from_le_bytes(*format) {
        ENTRY_FORMAT => decode_row(body),
        0 => Err(DecodeError::Malformed("format 0 does not exist".into())),
        found => Err(DecodeError::Newer {
            found,
            known: ENTRY_FORMAT,
        }),
    }
}

/// The bytes of a row, or of any other part of the state.
pub fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    options()
        .serialize(row)
        .expect("a row within its bounds can be encoded")
}

/// The row of these bytes.
///
/// # Errors
/// Bytes that no release wrote.
pub fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    options()
        .deserialize(bytes)
        .map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// How many bytes [`encode_row`] makes of it.
pub fn encoded_len<T: Serialize>(row: &T) -> u64 {
    options().serialized_size(row).unwrap_or(u64::MAX)
}

/// The hash by which a repeated registration or report is known.
pub fn content_hash<T: Serialize>(content: &T) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&encode_row(content))
}
