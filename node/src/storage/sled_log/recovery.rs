//! Opening the log in sled: what is there, and whether it is all that was durable.
//!
//! sled brings itself back and says nothing of what it dropped. So its file is made durable as it is before sled sees
//! it, and then everything is read: the state's row must be of the group that the mark names, or a later one, and each
//! entry that it counts must be there, whole and in its place.

#![expect(clippy::disallowed_methods, reason = "sled works on the real disk alone")]

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use bytes::Bytes;

use super::Trees;
use super::mark::{Mark, Noted};
use super::rows::{self, FORMAT, State};
use crate::storage::log::record::{RECORD_HEADER_BYTES, Record, Summary};
use crate::storage::log::tail::Tail;
use crate::storage::log::{LogEntry, LogError};
use crate::storage::sled::db;

/// How much of sled's file is written anew at once.
const SETTLE_BYTES: usize = 1024 * 1024;

/// A log as found.
pub(super) struct Found {
    pub(super) trees: Trees,
    pub(super) mark: Mark,
    pub(super) identity: Bytes,
    pub(super) state: State,
    pub(super) tail: Tail,
    /// Index and bytes of each entry.
    pub(super) lengths: Vec<(u64, u64)>,
}

/// Opens and checks the log in `dir`, whose sled is in `sled_dir`. When this returns, what it found is durable.
pub(super) fn recover(dir: &Path, sled_dir: &Path, tail_bytes: usize) -> Result<Found, LogError> {
    let (mark, noted) = Mark::open(dir).map_err(LogError::io("read the log's mark"))?;
    let noted = noted.ok_or_else(|| damaged("the mark beside it can't be read"))?;
    if !noted.closed {
        settle(sled_dir).map_err(LogError::io("flush the log as found"))?;
    }
    let open = Noted {
        closed: false,
        ..noted
    };
    mark.note(open)
        .and_then(|()| mark.flush())
        .map_err(LogError::io("write the log's mark"))?;
    let db = db::open(sled_dir).map_err(|error| damaged(&error))?;
    let trees = Trees::open(db).map_err(|error| damaged(&error))?;
    let identity = read_identity(&trees)?;
    let state = read_state(&trees)?;
    if state.sequence < noted.sequence {
        return Err(damaged(&format!(
            "it ends with group {}, and group {} had been flushed",
            state.sequence, noted.sequence
        )));
    }
    let (tail, lengths) = read_entries(&trees, &state.summary, tail_bytes)?;
    if let Some(committed) = state.summary.committed
        && !state.summary.reaches(committed.index)
    {
        let what = format!("it ends before the committed entry {}", committed.index);
        return Err(damaged(&what));
    }
    remove_behind(&trees, &state.summary)?;
    let blobs = db::blobs(sled_dir).map_err(LogError::io("look for sled's blobs"))?;
    if blobs > 0 {
        return Err(damaged(&format!("sled put {blobs} rows into files of their own")));
    }
    trees.db.flush().map_err(sled_failed("flush the log as found"))?;
    db::sync_tree(sled_dir)
        .and_then(|()| db::sync(dir))
        .map_err(LogError::io("flush the log as found"))?;
    Ok(Found {
        trees,
        mark,
        identity,
        state,
        tail,
        lengths,
    })
}

/// Waits until sled's file is nobody's, writes it anew, with the same bytes, and flushes it: where a flush failed and ended the node, the system may
/// hold pages that it takes for clean and that never reached the disk. A flush alone would say "done".
fn settle(sled_dir: &Path) -> io::Result<()> {
    let file = db::data_file(sled_dir)?;
    db::wait_until_closed(&file, &thread::sleep)?;
    let mut buffer = vec![0; SETTLE_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            break;
        }
        file.write_all_at(&buffer[..read], offset)?;
        offset += read as u64;
    }
    db::sync_tree(sled_dir)
}

fn read_identity(trees: &Trees) -> Result<Bytes, LogError> {
    let row = db::guarded(|| trees.state.get(rows::IDENTITY_KEY)).map_err(|error| damaged(&error))?;
    match row.and_then(|row| rows::decode_identity(&row)) {
        Some((_, Some(identity))) => Ok(identity),
        Some((found, None)) => Err(LogError::Format {
            file: FILE.to_owned(),
            found,
            known: FORMAT,
        }),
        None => Err(damaged("its identity can't be read")),
    }
}

fn read_state(trees: &Trees) -> Result<State, LogError> {
    let row = db::guarded(|| trees.state.get(rows::STATE_KEY)).map_err(|error| damaged(&error))?;
    row.and_then(|row| State::decode(&row))
        .ok_or_else(|| damaged("its state can't be read"))
}

/// Reads every entry that counts: those that belong into memory, and the lengths of all.
fn read_entries(
    trees: &Trees,
    summary: &Summary,
    tail_bytes: usize,
) -> Result<(Tail, Vec<(u64, u64)>), LogError> {
    let mut tail = Tail::default();
    let mut lengths = Vec::new();
    let (Some(first), Some(last)) = (summary.first, summary.last) else {
        return Ok((tail, lengths));
    };
    // The same rules as for a stream: in order, without gaps, no term below the one before.
    let mut replayed = Summary::default();
    let mut rows = trees
        .entries
        .range(rows::first_key(first)..rows::first_key(last.index + 1));
    for index in first..=last.index {
        let entry = read_entry(&mut rows, index)?;
        let record = Record::Entry(entry.clone());
        replayed
            .step(&record)
            .map_err(|reason| damaged(&format!("entry {index} is impossible: {reason}")))?;
        lengths.push((index, (RECORD_HEADER_BYTES + entry.payload.len()) as u64));
        tail.push(entry);
        tail.evict(tail_bytes, u64::MAX);
    }
    if replayed.last != Some(last) {
        return Err(damaged("its last entry is another than it should be"));
    }
    Ok((tail, lengths))
}

fn read_entry(rows: &mut sled::Iter, index: u64) -> Result<LogEntry, LogError> {
    let mut failure = None;
    let entry = rows::decode_entry(index, || {
        db::guarded(|| rows.next().transpose()).unwrap_or_else(|error| {
            failure = Some(error);
            None
        })
    });
    match (entry, failure) {
        (Some(entry), _) => Ok(entry),
        (None, Some(error)) => Err(damaged(&error)),
        (None, None) => Err(damaged(&format!("entry {index} is missing or can't be read"))),
    }
}

/// Removes what a group left that was cut off: rows behind the last entry.
fn remove_behind(trees: &Trees, summary: &Summary) -> Result<(), LogError> {
    let end = summary.next().unwrap_or(0);
    for key in trees.entries.range(rows::first_key(end)..).keys() {
        let key = key.map_err(sled_failed("read the log"))?;
        trees
            .entries
            .remove(key)
            .map_err(sled_failed("remove what was cut off"))?;
    }
    Ok(())
}

const FILE: &str = "sled";

/// Something that was durable isn't there any more.
pub(super) fn damaged(what: &str) -> LogError {
    LogError::Damaged {
        file: FILE.to_owned(),
        offset: 0,
        what: what.to_owned(),
    }
}

/// sled could not do what was asked: final, as a failure of the disk is.
pub(super) fn sled_failed<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> LogError {
    move |error| LogError::io(what)(io::Error::other(error.to_string()))
}
