//! The bytes of the log: they stay as they are, and no bytes make an open panic.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use spine_node::storage::log::{LogEntry, LogError, LogHooks, LogStore, Position, Write};
use spine_node::storage::segment::{LogOptions, LogPlace};

#[path = "../../tests/src/disk.rs"]
#[allow(unreachable_pub, dead_code)]
mod disk;

use disk::{Rng, SimDisk};

const SEGMENT: &str = "/log/0000000000000001.log";
const SALT: u64 = 0x0123_4567_89ab_cdef;

fn place(disk: &SimDisk) -> LogPlace {
    LogPlace {
        files: Arc::new(disk.clone()),
        dir: PathBuf::from("/log"),
        options: LogOptions {
            segment_bytes: 64 * 1024,
            spares: 0,
            ..LogOptions::default()
        },
        hooks: LogHooks::fatal(|_| {}),
    }
}

fn at(term: u64, index: u64) -> Position {
    Position {
        term,
        leader: 7,
        index,
    }
}

/// A small log with every kind of record, in several groups.
fn example() -> SimDisk {
    let disk = SimDisk::new();
    let opened = place(&disk)
        .create(Bytes::from_static(b"cluster 1, node 2"), SALT)
        .unwrap();
    let (log, mut driver) = opened.driven(Arc::new(|| {})).unwrap();
    let entry = |term, index, payload: &'static [u8]| LogEntry {
        position: at(term, index),
        payload: Bytes::from_static(payload),
    };
    let groups = [
        vec![
            Write::Vote(Bytes::from_static(b"vote for 7")),
            Write::Truncate { after: None },
        ],
        vec![
            Write::Append(vec![entry(1, 0, b"a"), entry(1, 1, b""), entry(2, 2, b"ccc")]),
            Write::Committed(at(1, 1)),
        ],
        vec![
            Write::Truncate {
                after: Some(at(1, 1)),
            },
            Write::Append(vec![entry(3, 2, b"dd")]),
        ],
        vec![Write::Purge { up_to: at(1, 0) }],
    ];
    for group in groups {
        for write in group {
            log.submit(write, Box::new(|outcome| outcome.unwrap()));
        }
        assert!(driver.write().unwrap());
        driver.flush().unwrap();
    }
    driver.finish().unwrap();
    disk
}

/// Bytes as lines of 16, without the lines that hold nothing but zeros.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            writeln!(text, "{:06x} {}", number * 16, hex::encode(line)).unwrap();
        }
    }
    text
}

#[test]
fn the_format_stays_as_it_is() {
    let found = dump(&example().contents(Path::new(SEGMENT)).unwrap());
    assert_eq!(found, include_str!("golden/segment_v1.hex"), "found:\n{found}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut bytes = example().contents(Path::new(SEGMENT)).unwrap();
    bytes[12] = 9;
    seal_header(&mut bytes);
    assert!(matches!(
        open_anything(&bytes),
        Err(LogError::Format {
            found: 9,
            known: 1,
            ..
        })
    ));
}

/// Body of the fuzz target: opens a log whose one segment has these bytes, and reads all of it.
fn open_anything(bytes: &[u8]) -> Result<usize, LogError> {
    let disk = SimDisk::new();
    disk.put(Path::new(SEGMENT), bytes);
    let (log, mut driver) = place(&disk).open()?.driven(Arc::new(|| {}))?;
    let entries = log.read(0..u64::MAX, usize::MAX)?;
    driver.finish()?;
    Ok(entries.len())
}

/// Makes the header's checksum right, so that what is behind it is reached.
fn seal_header(bytes: &mut [u8]) {
    let checksum = crc32c::crc32c(&bytes[12..4096]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes the checksums of the group at `offset` right, as far as its lengths make sense.
fn seal_group(bytes: &mut [u8], offset: usize) {
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (salt, generation) = (number(bytes, 64), number(bytes, 16));
    let epoch = number(bytes, offset + 32);
    let checksum = |place: usize, bytes: &[u8]| {
        let seed: Vec<u8> = [salt, generation, epoch, place as u64]
            .map(u64::to_le_bytes)
            .concat();
        crc32c::crc32c_append(crc32c::crc32c(&seed), bytes)
    };
    let body = u32::from_le_bytes(bytes[offset + 12..offset + 16].try_into().unwrap()) as usize;
    let end = (offset + 64).saturating_add(body).min(bytes.len());
    let mut place = offset + 64;
    while place + 36 <= end {
        let length = u32::from_le_bytes(bytes[place + 4..place + 8].try_into().unwrap()) as usize;
        let Some(next) = (place + 36).checked_add(length).filter(|next| *next <= end) else {
            break;
        };
        let sum = checksum(place, &bytes[place + 4..next]);
        bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
        place = next;
    }
    let sum = checksum(offset, &bytes[offset + 12..offset + 64]);
    bytes[offset + 8..offset + 12].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn no_bytes_make_an_open_panic() {
    let whole = example().contents(Path::new(SEGMENT)).unwrap();
    assert_eq!(open_anything(&whole).unwrap(), 2);
    let mut rng = Rng::new(3);
    let mut opened = 0;
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        // Mostly within what means something: headers, and the first bytes of each group.
        for _ in 0..=rng.below(4) {
            let block = rng.below(7) * 4096;
            let width = if rng.one_in(4) { 4096 } else { 200 };
            let at = usize::try_from(block + rng.below(width)).unwrap();
            bytes[at] = match rng.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << rng.below(8)),
                _ => rng.next_u64().to_le_bytes()[0],
            };
        }
        seal_header(&mut bytes);
        for block in 1..7 {
            if !rng.one_in(8) {
                seal_group(&mut bytes, block * 4096);
            }
        }
        opened += usize::from(open_anything(&bytes).is_ok());
    }
    assert!(opened > 100, "some get through: {opened}");
    for _ in 0..200 {
        let length = usize::try_from(rng.below(20_000)).unwrap();
        let noise: Vec<u8> = (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        assert!(open_anything(&noise).is_err());
    }
}
