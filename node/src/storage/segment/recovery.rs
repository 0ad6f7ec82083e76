//! Reading the log back at open: what is kept, what is cut as a torn tail, what is refused as damage.
//!
//! The blocks of one flush reach the disk in any order, so after a power cut the last group may be torn anywhere, and
//! that is no fault: nobody was told of it. Anything else that can't be read *was* durable, and a node that went on
//! without it could vote twice or lose what it acknowledged. The two are told apart by what stands behind the bad
//! place: each group says up to where the stream was durable when it was written, and each segment header says it of
//! everything before the segment. Bad at or beyond the highest such offset is tail; bad below it is damage.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::contents::{Contents, Place};
use super::driver::Active;
use super::format::{
    BLOCK, FORMAT, GROUP_HEADER_BYTES, GroupHeader, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader,
    decode_body, round_up,
};
use super::spares::{Kind, segment_name};
use crate::storage::log::LogError;
use crate::storage::log::record::Record;
use crate::storage::log::tail::Tail;
use crate::world::files::{File, Files, Open};

/// How much is read at once in search of groups behind a bad one.
const SEARCH_BYTES: u64 = 1024 * 1024;

/// A log as found on disk.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) contents: Contents,
    pub(super) tail: Tail,
    /// The segments before the newest, oldest first.
    pub(super) older: Vec<Active>,
    pub(super) active: Active,
    /// Number of the next group.
    pub(super) sequence: u64,
    /// The highest epoch found.
    pub(super) epoch: u64,
    /// The last group, to be written once more.
    pub(super) last_group: Option<LastGroup>,
    /// Segments that were given up before, in a crash between two removals.
    pub(super) leftovers: Vec<u64>,
}

/// The bytes of the last group that was found, and where they stand in the newest segment.
#[derive(Debug)]
pub(super) struct LastGroup {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Reads the log in `dir`, which has the files `names`. Writes nothing.
pub(super) fn recover(
    files: &dyn Files,
    dir: &Path,
    names: &[String],
    tail_bytes: usize,
) -> Result<Recovered, LogError> {
    let (mut segments, leftovers) = open_chain(files, dir, names)?;
    let oldest = segments
        .front()
        .ok_or_else(|| LogError::Absent(dir.display().to_string()))?;
    let mut replay = Replay {
        contents: Contents::new(oldest.header.summary.clone()),
        tail: Tail::default(),
        tail_bytes,
        sequence: oldest.header.sequence,
        epoch: oldest.header.epoch,
        last_group: None,
    };
    let mut older = Vec::new();
    let active = loop {
        let mut segment = segments.pop_front().expect("the loop ends at the last one");
        replay.last_group = None;
        segment.end = match segments.front() {
            Some(next) => replay.read_full(&segment, &next.header)?,
            None => replay.read_newest(&segment)?,
        };
        if segments.is_empty() {
            break segment;
        }
        older.push(segment);
    };
    let Replay {
        contents,
        tail,
        sequence,
        epoch,
        last_group,
        ..
    } = replay;
    check_whole(&contents, &active)?;
    Ok(Recovered {
        contents,
        tail,
        older,
        active,
        sequence,
        epoch,
        last_group,
        leftovers,
    })
}

/// Opens the newest segment and those before it without a gap; what lies below a gap had been given up.
fn open_chain(
    files: &dyn Files,
    dir: &Path,
    names: &[String],
) -> Result<(VecDeque<Active>, Vec<u64>), LogError> {
    let mut found: BTreeMap<u64, &str> = BTreeMap::new();
    for name in names {
        if let Kind::Segment(generation) = Kind::of(name) {
            found.insert(generation, name);
        }
    }
    let mut chain: VecDeque<Active> = VecDeque::new();
    while let Some((generation, name)) = found.pop_last() {
        if chain
            .front()
            .is_some_and(|next| next.header.generation != generation + 1)
        {
            found.insert(generation, name);
            break;
        }
        let file = files
            .open(&dir.join(name), Open::Existing)
            .map_err(LogError::io("open a segment"))?;
        let header = read_header(&*file, generation)?;
        if chain
            .front()
            .is_some_and(|next| next.header.identity != header.identity || next.header.salt != header.salt)
        {
            return Err(damaged(generation, 0, "a segment of another log"));
        }
        chain.push_front(Active {
            file,
            header,
            end: BLOCK,
        });
    }
    Ok((chain, found.into_keys().collect()))
}

fn read_header(file: &dyn File, generation: u64) -> Result<SegmentHeader, LogError> {
    let block = read(file, 0, SEGMENT_HEADER_BYTES)?;
    let header = SegmentHeader::decode(&block).map_err(|error| match error {
        HeaderError::Damaged(what) => damaged(generation, 0, what),
        HeaderError::Format(found) => LogError::Format {
            file: segment_name(generation),
            found,
            known: FORMAT,
        },
    })?;
    if header.generation != generation {
        return Err(damaged(generation, 0, "the header of another segment"));
    }
    let length = file.len().map_err(LogError::io("measure a segment"))?;
    if length < header.capacity {
        return Err(damaged(generation, length, "the file is cut off"));
    }
    Ok(header)
}

/// What the replayed stream must add up to.
fn check_whole(contents: &Contents, active: &Active) -> Result<(), LogError> {
    let generation = active.header.generation;
    if let Some(index) = contents.first_missing() {
        return Err(damaged(generation, 0, &format!("entry {index} is in no segment")));
    }
    if let Some(committed) = contents.summary.committed
        && !contents.summary.reaches(committed.index)
    {
        let what = format!("the log ends before the committed entry {}", committed.index);
        return Err(damaged(generation, active.end, &what));
    }
    Ok(())
}

/// The stream as read so far.
struct Replay {
    contents: Contents,
    tail: Tail,
    tail_bytes: usize,
    /// Number of the next group.
    sequence: u64,
    epoch: u64,
    last_group: Option<LastGroup>,
}

impl Replay {
    /// Reads a segment that another one follows: it is whole up to where that one says.
    fn read_full(&mut self, segment: &Active, next: &SegmentHeader) -> Result<u64, LogError> {
        let generation = segment.header.generation;
        let stop = next.stream_start.saturating_sub(segment.header.stream_start);
        let mut offset = BLOCK;
        while offset < stop {
            offset = match self.read_group(segment, offset)? {
                Found::Group { end } => end,
                Found::Stale | Found::Torn { .. } => {
                    return Err(damaged(
                        generation,
                        offset,
                        "a group that was durable can't be read",
                    ));
                }
            };
        }
        let agrees = offset == stop
            && self.sequence == next.sequence
            && self.epoch <= next.epoch
            && self.contents.summary == next.summary;
        if agrees {
            Ok(offset)
        } else {
            Err(damaged(
                generation,
                offset,
                "the segment doesn't lead up to the next one",
            ))
        }
    }

    /// Reads the newest segment: it ends where a group can't be read, unless a later group says that it was durable.
    fn read_newest(&mut self, segment: &Active) -> Result<u64, LogError> {
        let mut offset = BLOCK;
        while offset + BLOCK <= segment.header.capacity {
            match self.read_group(segment, offset)? {
                Found::Group { end } => offset = end,
                Found::Stale => {
                    self.search_behind(segment, offset, offset + BLOCK)?;
                    break;
                }
                Found::Torn { end } => {
                    self.search_behind(segment, offset, end)?;
                    break;
                }
            }
        }
        Ok(offset)
    }

    /// Reads the group at `offset` and takes its records.
    fn read_group(&mut self, segment: &Active, offset: u64) -> Result<Found, LogError> {
        let header = &segment.header;
        let room = header.capacity.saturating_sub(offset);
        let first_block = read(&*segment.file, offset, as_usize(BLOCK.min(room)))?;
        let Some(group) = GroupHeader::decode(header.seal(), offset, &first_block) else {
            return Ok(Found::Stale);
        };
        if group.epoch < self.epoch || round_up(group.bytes()) > room {
            return Ok(Found::Stale);
        }
        if group.sequence != self.sequence {
            return Err(damaged(
                header.generation,
                offset,
                "a group is missing before this one",
            ));
        }
        let end = offset + round_up(group.bytes());
        let bytes = Bytes::from(if end - offset > BLOCK {
            read(&*segment.file, offset, as_usize(end - offset))?
        } else {
            first_block
        });
        let records = bytes
            .get(GROUP_HEADER_BYTES..as_usize(group.bytes()))
            .and_then(|body| {
                let body = bytes.slice_ref(body);
                decode_body(header.seal(), &group, offset + GROUP_HEADER_BYTES as u64, body)
            });
        let Some(records) = records else {
            return Ok(Found::Torn { end });
        };
        for (place, record) in records {
            let place = Place {
                generation: header.generation,
                epoch: group.epoch,
                offset: place,
            };
            self.take(record, place).map_err(|reason| {
                damaged(header.generation, place.offset, &format!("impossible: {reason}"))
            })?;
        }
        self.sequence = group.sequence + 1;
        self.epoch = group.epoch;
        self.last_group = Some(LastGroup {
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(Found::Group { end })
    }

    fn take(&mut self, record: Record, place: Place) -> Result<(), &'static str> {
        self.contents.step(&record, place)?;
        match record {
            Record::Entry(entry) => {
                self.tail.push(entry);
                self.tail.evict(self.tail_bytes, u64::MAX);
            }
            Record::Truncate(after) => self.tail.truncate(after.map_or(0, |after| after.index + 1)),
            Record::Purge(up_to) => self.tail.purge(up_to.index + 1),
            Record::Vote(_) | Record::Committed(_) => {}
        }
        Ok(())
    }

    /// Looks from `from` on for a group that was written when the stream was durable beyond `bad`.
    fn search_behind(&self, segment: &Active, bad: u64, from: u64) -> Result<(), LogError> {
        let header = &segment.header;
        let mut start = from;
        while start < header.capacity {
            let piece = read(
                &*segment.file,
                start,
                as_usize(SEARCH_BYTES.min(header.capacity - start)),
            )?;
            if piece.is_empty() {
                break;
            }
            for (block, offset) in piece
                .chunks(as_usize(BLOCK))
                .zip((start..).step_by(as_usize(BLOCK)))
            {
                let witness = GroupHeader::decode(header.seal(), offset, block).filter(|group| {
                    group.epoch >= self.epoch && group.durable_before > header.stream_start + bad
                });
                if witness.is_some() {
                    let what =
                        format!("a group can't be read that was durable before the one at byte {offset}");
                    return Err(damaged(header.generation, bad, &what));
                }
            }
            start += SEARCH_BYTES;
        }
        Ok(())
    }
}

/// What stands where a group should.
enum Found {
    /// A whole group; the next goes to `end`.
    Group { end: u64 },
    /// Nothing, or what the file held before.
    Stale,
    /// The header of a group that isn't whole; the next would go to `end`.
    Torn { end: u64 },
}

fn read(file: &dyn File, offset: u64, bytes: usize) -> Result<Vec<u8>, LogError> {
    let mut buffer = vec![0; bytes];
    let there = file
        .read_at(&mut buffer, offset)
        .map_err(LogError::io("read the log"))?;
    buffer.truncate(there);
    Ok(buffer)
}

fn damaged(generation: u64, offset: u64, what: &str) -> LogError {
    LogError::Damaged {
        file: segment_name(generation),
        offset,
        what: what.to_owned(),
    }
}

/// Offsets within a segment, which is below 4 GiB.
fn as_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a segment fits into the address space")
}

/// Makes durable what was found: a process may have died between a write and its flush, and what is reported after
/// an open counts as acknowledged.
///
/// The last group is written once more, with the same bytes: where its flush failed and ended the node, the system
/// may hold pages that it takes for clean and that never reached the disk. A flush alone would say "done".
pub(super) fn settle(
    files: &Arc<dyn Files>,
    dir: &Path,
    active: &Active,
    last_group: Option<LastGroup>,
) -> io::Result<()> {
    files.sync_dir(dir)?;
    if let Some(group) = last_group {
        active.file.write_at(&group.bytes, group.offset)?;
    }
    active.file.sync_data()
}
