//! The bytes of the log's rows. Pure: no input makes it panic.
//!
//! ```text
//! tree "state"     0          format, identity; written once
//!                  1          number of the last whole group, end of the stream, vote, committed, purged, first, last
//! tree "entries"   index, n   the nth piece of an entry's payload; before the first: its term, leader and length
//! ```
//!
//! Each row begins with a CRC-32C over its key and what follows, and, in the pieces behind the first, over the entry's
//! term and leader as well: an entry that was replaced by a shorter one leaves pieces, which are none of the new one.

use bytes::{Buf, BufMut, Bytes};

use crate::storage::log::record::{INDEX_MAX, Summary, get_bytes, put_bytes};
use crate::storage::log::{IDENTITY_BYTES_MAX, LogEntry, Position};

/// The format that this code writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Bytes of an entry's payload in one row. sled keeps up to 16 rows in a page, and a page far below a quarter of its
/// segment.
pub(super) const PIECE_BYTES: usize = 60 * 1024;

pub(super) const IDENTITY_KEY: &[u8] = &[0];
pub(super) const STATE_KEY: &[u8] = &[1];

/// A row as it goes to sled.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Everything about the log but the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The group that it belongs to; all groups up to it are whole.
    pub(super) sequence: u64,
    /// Bytes of the stream so far.
    pub(super) stream_end: u64,
    pub(super) summary: Summary,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.stream_end);
        self.summary.put(&mut out);
        sealed(STATE_KEY, &[], out)
    }

    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let mut rest = opened(STATE_KEY, &[], row)?;
        Some(Self {
            sequence: rest.try_get_u64_le().ok()?,
            stream_end: rest.try_get_u64_le().ok()?,
            summary: Summary::get(&mut rest)?,
        })
    }
}

pub(super) fn encode_identity(identity: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.put_u32_le(FORMAT);
    put_bytes(&mut out, identity);
    sealed(IDENTITY_KEY, &[], out)
}

/// Format and identity; no identity where the format is another one.
pub(super) fn decode_identity(row: &[u8]) -> Option<(u32, Option<Bytes>)> {
    let mut rest = opened(IDENTITY_KEY, &[], row)?;
    let format = rest.try_get_u32_le().ok()?;
    if format != FORMAT {
        return Some((format, None));
    }
    Some((format, Some(get_bytes(&mut rest, IDENTITY_BYTES_MAX)?)))
}

/// Where the rows of an entry begin; those of the one before it end there.
pub(super) fn first_key(index: u64) -> [u8; 10] {
    key(index, 0)
}

fn key(index: u64, piece: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

/// The rows of an entry.
pub(super) fn encode_entry(entry: &LogEntry) -> impl Iterator<Item = Row> + '_ {
    let Position { term, leader, index } = entry.position;
    let pieces = entry.payload.len().div_ceil(PIECE_BYTES).max(1);
    (0..pieces).map(move |number| {
        let begin = number * PIECE_BYTES;
        let piece = &entry.payload[begin..entry.payload.len().min(begin + PIECE_BYTES)];
        let mut out = Vec::with_capacity(24 + piece.len());
        out.put_u32_le(0);
        if number == 0 {
            out.put_u64_le(term);
            out.put_u64_le(leader);
            out.put_u32_le(
                u32::try_from(entry.payload.len()).expect("bounded at submission, far below 4 GiB"),
            );
        }
        out.put_slice(piece);
        let key = key(
            index,
            u16::try_from(number).expect("bounded at submission, far below 2 GiB"),
        );
        let row = sealed(&key, &owner(number, entry.position), out);
        (key.to_vec(), row)
    })
}

/// The entry at `index`, whose rows `next` gives in the order of their keys; `None` if they don't make one.
pub(super) fn decode_entry<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    index: u64,
    mut next: impl FnMut() -> Option<(K, V)>,
) -> Option<LogEntry> {
    let (found, row) = next()?;
    if found.as_ref() != key(index, 0) || index >= INDEX_MAX {
        return None;
    }
    let mut rest = opened(found.as_ref(), &[], row.as_ref())?;
    let position = Position {
        term: rest.try_get_u64_le().ok()?,
        leader: rest.try_get_u64_le().ok()?,
        index,
    };
    let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
    if rest.len() != length.min(PIECE_BYTES) {
        return None;
    }
    if rest.len() == length {
        return Some(LogEntry {
            position,
            payload: Bytes::copy_from_slice(rest),
        });
    }
    // Grown by what is there: a length that isn't true takes no memory.
    let mut payload = rest.to_vec();
    let mut number = 1;
    while payload.len() < length {
        let (found, row) = next()?;
        if found.as_ref() != key(index, u16::try_from(number).ok()?) {
            return None;
        }
        let piece = opened(found.as_ref(), &owner(number, position), row.as_ref())?;
        if piece.len() != (length - payload.len()).min(PIECE_BYTES) {
            return None;
        }
        payload.extend_from_slice(piece);
        number += 1;
    }
    Some(LogEntry {
        position,
        payload: payload.into(),
    })
}

/// What the checksum of a piece covers beside its key: the first says whose it is, the others are bound to it.
fn owner(number: usize, position: Position) -> Vec<u8> {
    let mut owner = Vec::new();
    if number > 0 {
        owner.put_u64_le(position.term);
        owner.put_u64_le(position.leader);
    }
    owner
}

/// Puts the checksum into the first four bytes of `row`.
fn sealed(key: &[u8], owner: &[u8], mut row: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(key, owner, &row[4..]);
    row[..4].copy_from_slice(&checksum.to_le_bytes());
    row
}

/// What follows the checksum of `row`, if that is right.
fn opened<'a>(key: &[u8], owner: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (found, rest) = row.split_first_chunk()?;
    (u32::from_le_bytes(*found) == checksum(key, owner, rest)).then_some(rest)
}

fn checksum(key: &[u8], owner: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), owner), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, length: usize) -> LogEntry {
        let position = Position {
            term,
            leader: 3,
            index: 9,
        };
        LogEntry {
            position,
            payload: (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect(),
        }
    }

    fn decoded(rows: &[Row]) -> Option<LogEntry> {
        let mut rows = rows.iter().cloned();
        decode_entry(9, || rows.next())
    }

    #[test]
    fn entries_of_every_length_survive_their_rows() {
        for length in [
            0,
            1,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            5 * PIECE_BYTES,
        ] {
            let entry = entry(1, length);
            let rows: Vec<Row> = encode_entry(&entry).collect();
            assert!(rows.iter().all(|(_, row)| row.len() <= 64 * 1024));
            assert_eq!(decoded(&rows), Some(entry), "{length}");
        }
    }

    #[test]
    fn a_piece_that_is_damaged_missing_or_of_another_entry_is_noticed() {
        let rows: Vec<Row> = encode_entry(&entry(2, 3 * PIECE_BYTES)).collect();
        for number in 0..rows.len() {
            let mut damaged = rows.clone();
            let last = damaged[number].1.len() - 1;
            damaged[number].1[last] ^= 1;
            assert_eq!(decoded(&damaged), None);
            let mut missing = rows.clone();
            missing.remove(number);
            assert_eq!(decoded(&missing), None);
        }
        let mut mixed: Vec<Row> = encode_entry(&entry(1, 3 * PIECE_BYTES)).collect();
        mixed[0] = rows[0].clone();
        assert_eq!(decoded(&mixed), None, "the first piece is of another term");
    }

    #[test]
    fn the_state_survives_its_row_and_damage_is_noticed() {
        let state = State {
            sequence: 7,
            stream_end: 1 << 40,
            summary: Summary {
                vote: Some(Bytes::from_static(b"vote")),
                committed: Some(entry(1, 0).position),
                purged: None,
                first: Some(4),
                last: Some(entry(2, 0).position),
            },
        };
        let row = state.encode();
        assert_eq!(State::decode(&row), Some(state));
        for at in 0..row.len() {
            let mut damaged = row.clone();
            damaged[at] ^= 4;
            assert_eq!(State::decode(&damaged), None, "byte {at}");
        }
    }
}
