//! The bytes of a segment file. Pure: no file is touched here, and no input makes it panic.
//!
//! ```text
//! block 0      segment header: generation, stream offset, epoch, salt, vote, committed, purged, last, identity
//! block 1..    groups, each from a 4 KiB boundary on:
//!              group header (64 bytes), then records of 36 bytes and a payload each; the rest of the block is zero
//! ```
//!
//! All numbers are little-endian. Every checksum is a CRC-32C that starts from the log's *salt*, a random number that
//! never leaves the node: a client who writes the image of a group into a value can't forge one. Group headers and
//! records are also bound to their segment's generation and their own place, so that what a recycled file held before
//! never reads as new.
//!
//! The *epoch* is raised and flushed at each open, before anything else is written. Where a torn tail was cut and is
//! written over, blocks that are left of it carry a lower epoch and don't pass for parts of the new group.

use bytes::{Buf, BufMut, Bytes};

use crate::storage::log::record::{
    RECORD_HEADER_BYTES, Record, Summary, get_bytes, get_position, put_bytes, put_position,
};
use crate::storage::log::{IDENTITY_BYTES_MAX, LogEntry, Position};

/// Groups start on multiples of this; the segment header fills one.
pub(super) const BLOCK: u64 = 4096;

/// Length of the segment header in bytes.
pub(super) const SEGMENT_HEADER_BYTES: usize = 4096;

/// Length of a group header in bytes: less than the smallest sector, so it is written whole or not at all.
pub(super) const GROUP_HEADER_BYTES: usize = 64;

/// The format that this code writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// No segment is longer, in bytes.
pub(super) const CAPACITY_MAX: u64 = 1 << 30;

/// No counter ever gets here: what says so isn't ours.
const NUMBER_MAX: u64 = 1 << 60;

const SEGMENT_MAGIC: &[u8; 8] = b"SPINELOG";
const GROUP_MAGIC: &[u8; 8] = b"SPINEGRP";

/// Rounds up to the next block boundary.
pub(super) fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// The first block of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Number of the segment, also in its file name; each has one more than the segment before it.
    pub(super) generation: u64,
    /// Where byte 0 of this file stands in the log's stream. All of the stream before it was durable.
    pub(super) stream_start: u64,
    /// Length of the file. No group ends behind it, and a shorter file was cut off.
    pub(super) capacity: u64,
    /// Sequence number of the first group.
    pub(super) sequence: u64,
    /// Epoch of the first group, at least.
    pub(super) epoch: u64,
    /// Where checksums start from.
    pub(super) salt: u64,
    /// What the log held when the segment was begun. As each segment says it, older ones can go: with them the only
    /// vote of a quiet term would go too.
    pub(super) summary: Summary,
    pub(super) identity: Bytes,
}

/// Why a segment header can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged(&'static str),
    Format(u32),
}

impl SegmentHeader {
    /// One block.
    pub(super) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.identity.len() <= IDENTITY_BYTES_MAX, "checked at creation");
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32_le(0);
        out.put_u32_le(FORMAT);
        for number in [
            self.generation,
            self.stream_start,
            self.capacity,
            self.sequence,
            self.epoch,
            self.salt,
        ] {
            out.put_u64_le(number);
        }
        self.summary.put(&mut out);
        put_bytes(&mut out, &self.identity);
        out.resize(SEGMENT_HEADER_BYTES, 0);
        let checksum = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        use HeaderError::{Damaged, Format};
        if block.len() < SEGMENT_HEADER_BYTES {
            return Err(Damaged("the segment header is cut off"));
        }
        let block = &block[..SEGMENT_HEADER_BYTES];
        let mut input = block;
        let mut magic = [0; 8];
        input.copy_to_slice(&mut magic);
        if &magic != SEGMENT_MAGIC {
            return Err(Damaged("no segment header"));
        }
        if input.get_u32_le() != crc32c::crc32c(&block[12..]) {
            return Err(Damaged("the segment header's checksum is wrong"));
        }
        let format = input.get_u32_le();
        if format != FORMAT {
            return Err(Format(format));
        }
        Self::decode_fields(input).ok_or(Damaged("the segment header makes no sense"))
    }

    fn decode_fields(mut input: &[u8]) -> Option<Self> {
        let mut next = || input.try_get_u64_le().ok();
        let (generation, stream_start, capacity) = (next()?, next()?, next()?);
        let (sequence, epoch, salt) = (next()?, next()?, next()?);
        let summary = Summary::get(&mut input)?;
        let identity = get_bytes(&mut input, IDENTITY_BYTES_MAX)?;
        // Sums of these are taken; numbers near the end of u64 can only be nonsense.
        let sane = [generation, stream_start, capacity, sequence, epoch]
            .iter()
            .all(|n| *n < NUMBER_MAX);
        (sane && (BLOCK..=CAPACITY_MAX).contains(&capacity)).then(|| Self {
            generation,
            stream_start,
            capacity,
            sequence,
            epoch,
            salt,
            summary,
            identity,
        })
    }

    /// What binds a checksum to this segment.
    pub(super) fn seal(&self) -> Seal {
        Seal {
            salt: self.salt,
            generation: self.generation,
        }
    }
}

/// What binds the checksums of groups and records to their log and segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    salt: u64,
    generation: u64,
}

impl Seal {
    /// Checksum of `bytes` written in `epoch` at byte `offset` of the file.
    fn checksum(self, epoch: u64, offset: u64, bytes: &[u8]) -> u32 {
        let mut place = [0; 32];
        let numbers = [self.salt, self.generation, epoch, offset];
        for (field, number) in place.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
    }
}

/// Head of the records of one flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    /// Length of the records in bytes.
    pub(super) body_bytes: u32,
    /// Count of records; none in a group that only confirms the one before it.
    pub(super) records: u32,
    /// Number of the group, one more than that of the group before it, across segments.
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    /// All of the stream before this offset was durable when the group was written.
    pub(super) durable_before: u64,
}

impl GroupHeader {
    /// Length of header and records in bytes, without what fills the block.
    pub(super) fn bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.body_bytes)
    }

    /// Writes the header into the first bytes of `out`, for byte `offset` of the file.
    fn encode_into(&self, seal: Seal, offset: u64, out: &mut [u8]) {
        let mut rest = &mut out[..GROUP_HEADER_BYTES];
        rest.put_slice(GROUP_MAGIC);
        rest.put_u32_le(0);
        rest.put_u32_le(self.body_bytes);
        rest.put_u64_le(seal.generation);
        rest.put_u64_le(self.sequence);
        rest.put_u64_le(self.epoch);
        rest.put_u64_le(self.durable_before);
        rest.put_u64_le(offset);
        rest.put_u32_le(self.records);
        rest.put_u32_le(0);
        let checksum = seal.checksum(self.epoch, offset, &out[12..GROUP_HEADER_BYTES]);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header at byte `offset` of the file, if there is a whole one that was written there for this segment.
    pub(super) fn decode(seal: Seal, offset: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..GROUP_HEADER_BYTES)?;
        let mut input = bytes;
        let mut magic = [0; 8];
        input.copy_to_slice(&mut magic);
        if &magic != GROUP_MAGIC {
            return None;
        }
        let checksum = input.get_u32_le();
        let body_bytes = input.get_u32_le();
        let generation = input.get_u64_le();
        let (sequence, epoch, durable_before) = (input.get_u64_le(), input.get_u64_le(), input.get_u64_le());
        let place = input.get_u64_le();
        let records = input.get_u32_le();
        let ours = generation == seal.generation
            && place == offset
            && [sequence, epoch, durable_before].iter().all(|n| *n < NUMBER_MAX)
            && checksum == seal.checksum(epoch, offset, &bytes[12..]);
        ours.then_some(Self {
            body_bytes,
            records,
            sequence,
            epoch,
            durable_before,
        })
    }
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => 1,
            Self::Vote(_) => 2,
            Self::Committed(_) => 3,
            Self::Truncate(Some(_)) => 4,
            Self::Truncate(None) => 5,
            Self::Purge(_) => 6,
        }
    }

    fn position(&self) -> Position {
        match self {
            Self::Entry(entry) => entry.position,
            Self::Committed(position) | Self::Truncate(Some(position)) | Self::Purge(position) => *position,
            Self::Vote(_) | Self::Truncate(None) => Position {
                term: 0,
                leader: 0,
                index: 0,
            },
        }
    }

    /// Appends the record to `out`; `offset` is where it will stand in the file.
    fn encode(&self, seal: Seal, epoch: u64, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let payload = self.payload();
        let length =
            u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB at submission");
        out.put_u32_le(0);
        out.put_u32_le(length);
        out.put_u8(self.kind());
        out.put_bytes(0, 3);
        put_position(out, self.position());
        out.put_slice(payload);
        let checksum = seal.checksum(epoch, offset, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The record at the start of `bytes`, which stand at `offset` of the file, and its length; `None` if it isn't
    /// whole. Payloads share the memory of `bytes`.
    pub(super) fn decode(seal: Seal, epoch: u64, offset: u64, bytes: &Bytes) -> Option<(Self, usize)> {
        let mut input = bytes.get(..RECORD_HEADER_BYTES)?;
        let checksum = input.get_u32_le();
        let length = RECORD_HEADER_BYTES.checked_add(usize::try_from(input.get_u32_le()).ok()?)?;
        let whole = bytes.get(..length)?;
        if checksum != seal.checksum(epoch, offset, &whole[4..]) {
            return None;
        }
        let kind = input.get_u8();
        input.advance(3);
        let position = get_position(&mut input)?;
        let payload = || bytes.slice(RECORD_HEADER_BYTES..length);
        let record = match kind {
            1 => Self::Entry(LogEntry {
                position,
                payload: payload(),
            }),
            2 => Self::Vote(payload()),
            3 => Self::Committed(position),
            4 => Self::Truncate(Some(position)),
            5 => Self::Truncate(None),
            6 => Self::Purge(position),
            _ => return None,
        };
        Some((record, length))
    }
}

/// Builds the bytes of one group for byte `offset` of a file: header, records, zeros up to the next block.
///
/// Returns the header and where in the file each record begins.
pub(super) fn encode_group<'a>(
    seal: Seal,
    mut header: GroupHeader,
    offset: u64,
    records: impl Iterator<Item = &'a Record>,
    out: &mut Vec<u8>,
) -> (GroupHeader, Vec<u64>) {
    out.clear();
    out.resize(GROUP_HEADER_BYTES, 0);
    let mut places = Vec::new();
    for record in records {
        let place = offset + out.len() as u64;
        places.push(place);
        record.encode(seal, header.epoch, place, out);
    }
    header.body_bytes = u32::try_from(out.len() - GROUP_HEADER_BYTES)
        .expect("a group fits into a segment, which is below 4 GiB");
    header.records =
        u32::try_from(places.len()).expect("each record has bytes, and those were counted above");
    header.encode_into(seal, offset, out);
    out.resize(
        usize::try_from(round_up(out.len() as u64)).expect("it was a usize"),
        0,
    );
    (header, places)
}

/// The records of a group's body, with where in the file each begins; `None` unless all are whole and fill the body.
pub(super) fn decode_body(
    seal: Seal,
    header: &GroupHeader,
    offset: u64,
    mut body: Bytes,
) -> Option<Vec<(u64, Record)>> {
    let mut records = Vec::new();
    let mut place = offset;
    while !body.is_empty() {
        let (record, length) = Record::decode(seal, header.epoch, place, &body)?;
        records.push((place, record));
        body.advance(length);
        place += length as u64;
    }
    (records.len() as u64 == u64::from(header.records)).then_some(records)
}
