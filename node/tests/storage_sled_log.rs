//! The log in sled, beyond what every log promises: long entries, space given back, and what is found at open.

#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "sled works on the real disk alone")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use spine_node::storage::log::{
    LogEngine, LogEntry, LogError, LogHooks, LogOptions, LogStore, Position, Write,
};
use spine_node::storage::place::LogHome;
use spine_node::storage::sled_log::{SledLog, SledLogPlace};
use spine_node::world::World;

fn place(dir: &Path) -> SledLogPlace {
    SledLogPlace {
        dir: dir.to_owned(),
        options: LogOptions {
            tail_bytes: 4096,
            ..LogOptions::default()
        },
        hooks: LogHooks::fatal(|error| panic!("the log failed: {error}")),
    }
}

fn create(dir: &Path) -> SledLog {
    place(dir).create(&Bytes::from_static(b"me")).unwrap()
}

fn write(log: &dyn LogStore, write: Write) {
    let (sender, answer) = mpsc::channel();
    log.submit(write, Box::new(move |outcome| sender.send(outcome).unwrap()));
    answer.recv().unwrap().unwrap();
}

fn at(index: u64) -> Position {
    Position {
        term: 1,
        leader: 1,
        index,
    }
}

fn entry(index: u64, length: usize) -> LogEntry {
    let payload = index.to_le_bytes().into_iter().cycle().take(length).collect();
    LogEntry {
        position: at(index),
        payload,
    }
}

fn entries(indexes: std::ops::Range<u64>, length: usize) -> Vec<LogEntry> {
    indexes.map(|index| entry(index, length)).collect()
}

fn all(log: &dyn LogStore) -> Vec<LogEntry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn entries_of_many_pieces_are_read_back() {
    let place_of = tempfile::tempdir().unwrap();
    let dir = place_of.path().join("log");
    let log = create(&dir);
    let written: Vec<_> = [3_000_000, 0, 61_440, 61_441, 5_000_000]
        .into_iter()
        .zip(0..)
        .map(|(length, index)| entry(index, length))
        .collect();
    write(&log, Write::Append(written.clone()));
    assert_eq!(all(&log), written);
    log.close().unwrap();
    assert_eq!(all(&place(&dir).open().unwrap()), written);
}

#[test]
fn what_is_purged_gives_its_space_back() {
    let place_of = tempfile::tempdir().unwrap();
    let dir = place_of.path().join("log");
    let log = create(&dir);
    let written: u64 = 96 << 20;
    let group = entries(0..64, 16 << 10)
        .iter()
        .map(|entry| entry.payload.len() as u64)
        .sum::<u64>();
    for number in 0..written / group {
        let first = number * 64;
        write(&log, Write::Append(entries(first..first + 64, 16 << 10)));
        if let Some(up_to) = first.checked_sub(1) {
            write(&log, Write::Purge { up_to: at(up_to) });
        }
    }
    let kept = log.state().kept_bytes;
    assert!(kept < 4 << 20, "{kept}");
    log.close().unwrap();
    let on_disk = fs::metadata(dir.join("sled/db")).unwrap().len();
    assert!(on_disk < written / 2, "{on_disk} bytes on disk of {written}");
    let log = place(&dir).open().unwrap();
    let last = log.state().last.unwrap().index;
    assert_eq!(all(&log), entries(last - 63..last + 1, 16 << 10));
}

/// As a kill leaves it: nothing was closed.
#[test]
fn what_was_acknowledged_is_there_without_a_close() {
    let place_of = tempfile::tempdir().unwrap();
    let (dir, image) = (place_of.path().join("log"), place_of.path().join("image"));
    let log = create(&dir);
    for index in 0..50 {
        write(&log, Write::Append(entries(index..index + 1, 3000)));
        write(&log, Write::Vote(Bytes::from(format!("vote {index}"))));
    }
    copy_tree(&dir, &image);
    let found = place(&image).open().unwrap();
    assert_eq!(all(&found), entries(0..50, 3000));
    assert_eq!(found.state().vote, Some(Bytes::from_static(b"vote 49")));
    assert_eq!(found.identity(), Bytes::from_static(b"me"));
}

#[test]
fn a_creation_that_was_cut_off_is_made_anew() {
    let place_of = tempfile::tempdir().unwrap();
    let dir = place_of.path().join("log");
    create(&dir).close().unwrap();
    fs::remove_file(dir.join("mark")).unwrap();
    assert!(!place(&dir).exists().unwrap());
    let log = create(&dir);
    write(&log, Write::Append(entries(0..1, 10)));
}

/// sled brings back what it finds, and doesn't know that there was more.
#[test]
fn an_older_sled_than_the_mark_says_is_refused() {
    let place_of = tempfile::tempdir().unwrap();
    let (dir, old) = (place_of.path().join("log"), place_of.path().join("old"));
    let log = create(&dir);
    write(&log, Write::Append(entries(0..10, 100)));
    log.close().unwrap();
    copy_tree(&dir.join("sled"), &old);
    let log = place(&dir).open().unwrap();
    write(&log, Write::Append(entries(10..11, 100)));
    log.close().unwrap();
    fs::remove_dir_all(dir.join("sled")).unwrap();
    copy_tree(&old, &dir.join("sled"));
    let refused = place(&dir).open().unwrap_err();
    assert!(
        matches!(&refused, LogError::Damaged { what, .. } if what.contains("had been flushed")),
        "{refused}"
    );
}

/// Rot in a log that was closed in order is refused, or was in bytes that mean nothing.
#[test]
fn damage_is_refused() {
    let place_of = tempfile::tempdir().unwrap();
    let dir = place_of.path().join("log");
    let log = create(&dir);
    write(&log, Write::Vote(Bytes::from_static(b"vote")));
    for first in (0..400).step_by(20) {
        write(&log, Write::Append(entries(first..first + 20, 5000)));
    }
    write(&log, Write::Committed(at(300)));
    log.close().unwrap();
    let state = log.state();
    let file = Path::new("sled/db");
    let whole = fs::read(dir.join(file)).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for number in 0..24 {
        let image = place_of.path().join(format!("image {number}"));
        copy_tree(&dir, &image);
        let place_of_damage = written * number / 24 + 13;
        let mut rotten = whole.clone();
        match number % 3 {
            0 => rotten[place_of_damage] ^= 0x10,
            1 => rotten[place_of_damage..]
                .iter_mut()
                .take(512)
                .for_each(|byte| *byte = 0),
            _ => rotten.truncate(place_of_damage),
        }
        fs::write(image.join(file), rotten).unwrap();
        match place(&image).open() {
            Ok(log) => {
                assert_eq!(all(&log), entries(0..400, 5000), "{number}");
                assert_eq!(
                    (log.state().vote, log.state().last),
                    (state.vote.clone(), state.last)
                );
            }
            Err(LogError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 12, "{refused}");
}

#[test]
fn a_mark_that_is_damaged_is_refused() {
    let place_of = tempfile::tempdir().unwrap();
    let dir = place_of.path().join("log");
    create(&dir).close().unwrap();
    let mut mark = fs::read(dir.join("mark")).unwrap();
    mark[9] ^= 1;
    fs::write(dir.join("mark"), mark).unwrap();
    assert!(matches!(place(&dir).open(), Err(LogError::Damaged { .. })));
}

#[test]
fn readers_go_on_while_old_entries_go() {
    let place_of = tempfile::tempdir().unwrap();
    let log = Arc::new(create(&place_of.path().join("log")));
    let over = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (log, over) = (Arc::clone(&log), Arc::clone(&over));
        move || {
            let mut read = 0;
            while !over.load(Ordering::Acquire) {
                let entries = log.read(0..u64::MAX, 100_000).unwrap();
                for entry in &entries {
                    assert_eq!(*entry, self::entry(entry.position.index, 700));
                }
                read += entries.len();
            }
            read
        }
    });
    for first in (0..6000).step_by(50) {
        write(&*log, Write::Append(entries(first..first + 50, 700)));
        if first > 500 {
            write(
                &*log,
                Write::Purge {
                    up_to: at(first - 500),
                },
            );
        }
    }
    over.store(true, Ordering::Release);
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn a_directory_stays_with_its_engine() {
    let home = |dir: &Path, engine| {
        let options = LogOptions {
            engine,
            segment_bytes: 64 << 10,
            ..LogOptions::default()
        };
        LogHome::new(&World::real(), dir, options, LogHooks::fatal(|_| {}))
    };
    let engines = [LogEngine::Segment, LogEngine::Sled];
    for (made_with, other) in [(engines[0], engines[1]), (engines[1], engines[0])] {
        let place_of = tempfile::tempdir().unwrap();
        let dir = place_of.path();
        assert!(!home(dir, made_with).exists().unwrap());
        let log = home(dir, made_with)
            .create(&Bytes::from_static(b"me"), &World::real())
            .unwrap();
        write(&*log, Write::Append(entries(0..3, 100)));
        log.close().unwrap();
        let refused = home(dir, other).exists().unwrap_err();
        let said = format!("was made with --log-engine {made_with}, and {other} is asked for");
        assert!(refused.to_string().contains(&said), "{refused}");
        assert!(home(dir, made_with).exists().unwrap());
        let log = home(dir, made_with).open(&World::real()).unwrap();
        assert_eq!(all(&*log), entries(0..3, 100));
    }
}
