//! The steps of a log's stream, and what the log holds after them: the same for every engine.
//!
//! The same rules judge a write when it is submitted, follow it once it is flushed, and judge what is found at open. So
//! a stream that was accepted can be read again, and one that can't is damaged. The bytes here are parts of larger ones,
//! which have the checksums.

use bytes::{Buf, BufMut, Bytes};

use crate::storage::log::{LogEntry, Position, VOTE_BYTES_MAX};

/// Indexes from here on are refused, so that sums of them can't overflow.
pub(in crate::storage) const INDEX_MAX: u64 = 1 << 60;

/// Length of a record beside its payload, in bytes.
pub(in crate::storage) const RECORD_HEADER_BYTES: usize = 36;

/// One step of the log's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Record {
    Entry(LogEntry),
    Vote(Bytes),
    Committed(Position),
    Truncate(Option<Position>),
    Purge(Position),
}

impl Record {
    /// Its length in bytes.
    pub(in crate::storage) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload().len()
    }

    pub(in crate::storage) fn payload(&self) -> &[u8] {
        match self {
            Self::Entry(entry) => &entry.payload,
            Self::Vote(vote) => vote,
            Self::Committed(_) | Self::Truncate(_) | Self::Purge(_) => &[],
        }
    }
}

/// Everything about the log but the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Summary {
    pub(in crate::storage) vote: Option<Bytes>,
    pub(in crate::storage) committed: Option<Position>,
    pub(in crate::storage) purged: Option<Position>,
    /// Index of the first entry, if there is an entry.
    pub(in crate::storage) first: Option<u64>,
    /// The last entry, or `purged` where none follows.
    pub(in crate::storage) last: Option<Position>,
}

impl Summary {
    /// Index of the entry that can be appended next; `None` if any can.
    pub(in crate::storage) fn next(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    /// Whether the log reaches `index`.
    pub(in crate::storage) fn reaches(&self, index: u64) -> bool {
        self.last.is_some_and(|last| index <= last.index)
    }

    /// Takes one record, or says what rule it breaks and stays as it was.
    pub(in crate::storage) fn step(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Entry(entry) => self.append(entry.position),
            Record::Vote(vote) if vote.len() > VOTE_BYTES_MAX => Err("the vote is too long"),
            Record::Vote(vote) => {
                self.vote = Some(vote.clone());
                Ok(())
            }
            Record::Committed(position) => {
                if self.committed.is_none_or(|known| known.index < position.index) {
                    self.committed = Some(*position);
                }
                Ok(())
            }
            Record::Truncate(after) => self.truncate(*after),
            Record::Purge(up_to) => self.purge(*up_to),
        }
    }

    fn append(&mut self, position: Position) -> Result<(), &'static str> {
        if position.index >= INDEX_MAX {
            return Err("the index is absurd");
        }
        if self.next().is_some_and(|next| next != position.index) {
            return Err("an entry doesn't follow the last one");
        }
        if self.last.is_some_and(|last| last.term > position.term) {
            return Err("an entry's term is below that of the one before it");
        }
        self.first.get_or_insert(position.index);
        self.last = Some(position);
        Ok(())
    }

    fn truncate(&mut self, after: Option<Position>) -> Result<(), &'static str> {
        if after.is_some_and(|after| !self.reaches(after.index)) {
            return Err("the log ends before the entry to truncate after");
        }
        let end = after.map_or(0, |after| after.index + 1);
        for kept in [self.committed, self.purged].into_iter().flatten() {
            if end <= kept.index {
                return Err("committed and purged entries can't be truncated");
            }
        }
        self.first = self.first.filter(|first| *first < end);
        self.last = after;
        Ok(())
    }

    fn purge(&mut self, up_to: Position) -> Result<(), &'static str> {
        if up_to.index >= INDEX_MAX {
            return Err("the index is absurd");
        }
        if self.purged.is_some_and(|purged| purged.index >= up_to.index) {
            return Ok(());
        }
        self.purged = Some(up_to);
        if self.last.is_some_and(|last| last.index > up_to.index) {
            self.first = self.first.map(|first| first.max(up_to.index + 1));
        } else {
            self.first = None;
            self.last = Some(up_to);
        }
        Ok(())
    }

    /// Appends its bytes to `out`.
    pub(in crate::storage) fn put(&self, out: &mut Vec<u8>) {
        for position in [self.committed, self.purged, self.last] {
            put_optional_position(out, position);
        }
        out.put_u8(u8::from(self.first.is_some()));
        out.put_u64_le(self.first.unwrap_or(0));
        out.put_u8(u8::from(self.vote.is_some()));
        put_bytes(out, self.vote.as_deref().unwrap_or_default());
    }

    /// Reads what [`put`](Self::put) wrote; `None` if it can't have.
    pub(in crate::storage) fn get(input: &mut &[u8]) -> Option<Self> {
        let committed = get_optional_position(input)?;
        let purged = get_optional_position(input)?;
        let last = get_optional_position(input)?;
        let filled = input.try_get_u8().ok()? == 1;
        let first = input.try_get_u64_le().ok()?;
        let voted = input.try_get_u8().ok()? == 1;
        let vote = get_bytes(input, VOTE_BYTES_MAX)?;
        (first < INDEX_MAX).then(|| Self {
            vote: voted.then_some(vote),
            committed,
            purged,
            first: filled.then_some(first),
            last,
        })
    }
}

pub(in crate::storage) fn put_position(out: &mut impl BufMut, position: Position) {
    out.put_u64_le(position.term);
    out.put_u64_le(position.leader);
    out.put_u64_le(position.index);
}

pub(in crate::storage) fn get_position(input: &mut &[u8]) -> Option<Position> {
    let mut next = || input.try_get_u64_le().ok();
    let position = Position {
        term: next()?,
        leader: next()?,
        index: next()?,
    };
    (position.index < INDEX_MAX).then_some(position)
}

fn put_optional_position(out: &mut impl BufMut, position: Option<Position>) {
    out.put_u8(u8::from(position.is_some()));
    put_position(
        out,
        position.unwrap_or(Position {
            term: 0,
            leader: 0,
            index: 0,
        }),
    );
}

#[expect(clippy::option_option, reason = "the outer one is for bytes that are missing")]
fn get_optional_position(input: &mut &[u8]) -> Option<Option<Position>> {
    let there = input.try_get_u8().ok()? == 1;
    let position = get_position(input)?;
    Some(there.then_some(position))
}

pub(in crate::storage) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("bounded by the caller"));
    out.put_slice(bytes);
}

pub(in crate::storage) fn get_bytes(input: &mut &[u8], bytes_max: usize) -> Option<Bytes> {
    let length = usize::try_from(input.try_get_u32_le().ok()?).ok()?;
    let bytes = input.get(..length).filter(|_| length <= bytes_max)?;
    let bytes = Bytes::copy_from_slice(bytes);
    input.advance(length);
    Some(bytes)
}
