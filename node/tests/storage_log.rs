//! What a log promises: of both engines, on the disk of the machine and, where they can, on the simulated one.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use spine_node::storage::log::{LogEntry, LogError, LogHooks, LogOptions, LogStore, Position, Write};
use spine_node::storage::segment::LogPlace;
use spine_node::storage::sled_log::SledLogPlace;
use spine_node::world::files::{Files, OsFiles};

// The disk of the simulator, which lives where the simulator does.
#[path = "../../tests/src/disk.rs"]
#[allow(unreachable_pub, dead_code)]
mod disk;

const SALT: u64 = 7;

/// Where a log is, and what keeps it.
enum Ground {
    Segments { files: Arc<dyn Files>, dir: PathBuf },
    Sled { dir: PathBuf },
}

impl Ground {
    fn exists(&self) -> Result<bool, LogError> {
        match self {
            Self::Segments { files, dir } => place(files, dir).exists(),
            Self::Sled { dir } => sled_place(dir).exists(),
        }
    }

    fn try_create(&self, hooks: LogHooks) -> Result<Arc<dyn LogStore>, LogError> {
        let identity = Bytes::from_static(b"me");
        Ok(match self {
            Self::Segments { files, dir } => {
                let place = LogPlace {
                    hooks,
                    ..place(files, dir)
                };
                Arc::new(place.create(identity, SALT)?.start()?)
            }
            Self::Sled { dir } => {
                let place = SledLogPlace {
                    hooks,
                    ..sled_place(dir)
                };
                Arc::new(place.create(&identity)?)
            }
        })
    }

    fn try_open(&self) -> Result<Arc<dyn LogStore>, LogError> {
        Ok(match self {
            Self::Segments { files, dir } => Arc::new(place(files, dir).open()?.start()?),
            Self::Sled { dir } => Arc::new(sled_place(dir).open()?),
        })
    }

    fn create(&self) -> Arc<dyn LogStore> {
        self.try_create(hooks()).unwrap()
    }

    fn reopen(&self) -> Arc<dyn LogStore> {
        self.try_open().unwrap()
    }
}

/// Runs `test` on a log of each engine, on each disk that it works on.
fn on_each_log(test: impl Fn(&Ground)) {
    on_each_disk(|files, dir| {
        test(&Ground::Segments {
            files,
            dir: dir.to_owned(),
        });
    });
    let dir = tempfile::tempdir().unwrap();
    test(&Ground::Sled {
        dir: dir.path().join("log-sled"),
    });
}

/// Runs `test` on each disk.
fn on_each_disk(test: impl Fn(Arc<dyn Files>, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(Arc::new(OsFiles), &dir.path().join("log"));
    test(Arc::new(disk::SimDisk::new()), Path::new("/node/log"));
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 * 1024,
        tail_bytes: 4096,
        ..LogOptions::default()
    }
}

fn hooks() -> LogHooks {
    LogHooks::fatal(|error| panic!("the log failed: {error}"))
}

fn place(files: &Arc<dyn Files>, dir: &Path) -> LogPlace {
    LogPlace {
        files: Arc::clone(files),
        dir: dir.to_owned(),
        options: options(),
        hooks: hooks(),
    }
}

fn sled_place(dir: &Path) -> SledLogPlace {
    SledLogPlace {
        dir: dir.to_owned(),
        options: options(),
        hooks: hooks(),
    }
}

/// Submits and waits for the answer.
fn write(log: &dyn LogStore, write: Write) -> Result<(), LogError> {
    let (sender, answer) = mpsc::channel();
    log.submit(write, Box::new(move |outcome| sender.send(outcome).unwrap()));
    answer.recv().unwrap()
}

fn at(term: u64, index: u64) -> Position {
    Position {
        term,
        leader: 1,
        index,
    }
}

fn entry(term: u64, index: u64) -> LogEntry {
    let payload = Bytes::from(format!("{term}/{index} ").repeat(20));
    LogEntry {
        position: at(term, index),
        payload,
    }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<LogEntry> {
    indexes.map(|index| entry(term, index)).collect()
}

fn all(log: &dyn LogStore) -> Vec<LogEntry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

#[test]
fn entries_and_vote_survive_a_restart() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Vote(Bytes::from_static(b"vote"))).unwrap();
        for index in 0..1000 {
            write(&*log, Write::Append(vec![entry(1, index)])).unwrap();
        }
        write(&*log, Write::Committed(at(1, 900))).unwrap();
        assert_eq!(all(&*log), entries(1, 0..1000));
        log.close().unwrap();
        let before = log.state();

        let log = ground.reopen();
        assert_eq!(log.identity(), Bytes::from_static(b"me"));
        assert_eq!(all(&*log), entries(1, 0..1000));
        assert_eq!(log.state().vote, Some(Bytes::from_static(b"vote")));
        assert_eq!(log.state().committed, Some(at(1, 900)));
        assert_eq!(log.state().last, before.last);
    });
}

#[test]
fn reads_stop_at_the_bound_and_give_what_there_is() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Append(entries(1, 0..100))).unwrap();
        let one = entry(1, 50).payload.len();
        assert_eq!(log.read(50..60, 3 * one).unwrap(), entries(1, 50..53));
        assert_eq!(log.read(50..60, 0).unwrap(), entries(1, 50..51), "at least one");
        assert_eq!(log.read(95..200, usize::MAX).unwrap(), entries(1, 95..100));
        assert_eq!(log.read(200..300, usize::MAX).unwrap(), []);
        write(&*log, Write::Purge { up_to: at(1, 49) }).unwrap();
        assert_eq!(log.read(0..60, usize::MAX).unwrap(), entries(1, 50..60));
    });
}

#[test]
fn a_shorter_truth_replaces_a_longer_suffix_for_good() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Append(entries(1, 0..500))).unwrap();
        write(
            &*log,
            Write::Truncate {
                after: Some(at(1, 99)),
            },
        )
        .unwrap();
        write(&*log, Write::Append(entries(2, 100..110))).unwrap();
        let expected: Vec<_> = entries(1, 0..100)
            .into_iter()
            .chain(entries(2, 100..110))
            .collect();
        assert_eq!(all(&*log), expected);
        log.close().unwrap();
        let log = ground.reopen();
        assert_eq!(all(&*log), expected);
        assert_eq!(log.state().last, Some(at(2, 109)));
    });
}

#[test]
fn purging_gives_segments_back_and_keeps_the_vote() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Vote(Bytes::from_static(b"old term"))).unwrap();
        for start in (0..20_000).step_by(100) {
            write(&*log, Write::Append(entries(1, start..start + 100))).unwrap();
            if start > 0 {
                write(
                    &*log,
                    Write::Purge {
                        up_to: at(1, start - 1),
                    },
                )
                .unwrap();
            }
        }
        log.close().unwrap();
        assert!(log.state().kept_bytes < 200_000, "{:?}", log.state());
        assert!(log.state().stream_bytes > 2_000_000);
        if let Ground::Segments { files, dir } = ground {
            let files_left = files.list(dir).unwrap();
            assert!(files_left.len() < 10, "{files_left:?}");
        }
        let log = ground.reopen();
        assert_eq!(log.state().vote, Some(Bytes::from_static(b"old term")));
        assert_eq!(all(&*log), entries(1, 19_900..20_000));
    });
}

#[test]
fn purging_beyond_the_end_lets_the_log_go_on_behind_a_snapshot() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Append(entries(1, 0..10))).unwrap();
        write(&*log, Write::Purge { up_to: at(4, 1000) }).unwrap();
        assert_eq!(all(&*log), []);
        assert_eq!(log.state().last, Some(at(4, 1000)));
        assert!(matches!(
            write(&*log, Write::Append(entries(4, 10..11))),
            Err(LogError::Refused(_))
        ));
        write(&*log, Write::Append(entries(4, 1001..1003))).unwrap();
        log.close().unwrap();
        assert_eq!(all(&*ground.reopen()), entries(4, 1001..1003));
    });
}

#[test]
fn what_breaks_the_rules_is_refused_and_changes_nothing() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Append(entries(3, 0..10))).unwrap();
        write(&*log, Write::Committed(at(3, 4))).unwrap();
        let before = log.state();
        let huge = Bytes::from(vec![0; log.payload_bytes_max() + 1]);
        for bad in [
            Write::Append(entries(3, 11..12)),
            Write::Append(entries(2, 10..11)),
            Write::Append(vec![entry(3, 10), entry(3, 12)]),
            Write::Append(vec![LogEntry {
                position: at(3, 10),
                payload: huge,
            }]),
            Write::Append(vec![entry(3, u64::MAX)]),
            Write::Truncate {
                after: Some(at(3, 3)),
            },
            Write::Truncate {
                after: Some(at(3, 10)),
            },
            Write::Truncate {
                after: Some(at(3, u64::MAX)),
            },
            Write::Truncate { after: None },
            Write::Purge {
                up_to: at(3, u64::MAX),
            },
            Write::Vote(Bytes::from(vec![0; 2000])),
        ] {
            assert!(
                matches!(write(&*log, bad.clone()), Err(LogError::Refused(_))),
                "{bad:?}"
            );
        }
        write(&*log, Write::Committed(at(3, 10))).unwrap();
        assert_eq!(log.state(), before);
        assert_eq!(all(&*log), entries(3, 0..10));
    });
}

#[test]
fn a_write_is_read_as_soon_as_it_is_submitted() {
    on_each_disk(|files, dir| {
        let opened = place(&files, dir).create(Bytes::new(), SALT).unwrap();
        let (log, mut driver) = opened.driven(Arc::new(|| {})).unwrap();
        let (sender, answers) = mpsc::channel();
        for index in 0..200 {
            let sender = sender.clone();
            log.submit(
                Write::Append(vec![entry(1, index)]),
                Box::new(move |_| sender.send(index).unwrap()),
            );
        }
        assert_eq!(all(&log), entries(1, 0..200));
        assert!(driver.write().unwrap());
        assert_eq!(
            answers.try_iter().count(),
            0,
            "nothing is acknowledged before the flush"
        );
        driver.finish().unwrap();
        assert_eq!(
            answers.try_iter().collect::<Vec<_>>(),
            (0..200).collect::<Vec<_>>()
        );
        assert_eq!(all(&log), entries(1, 0..200));
    });
}

#[test]
fn the_queue_is_bounded() {
    on_each_disk(|files, dir| {
        let mut place = place(&files, dir);
        place.options.queue_bytes = 10_000;
        let (log, mut driver) = place
            .create(Bytes::new(), SALT)
            .unwrap()
            .driven(Arc::new(|| {}))
            .unwrap();
        let (sender, answers) = mpsc::channel();
        for index in 0..1000 {
            let sender = sender.clone();
            log.submit(
                Write::Append(vec![entry(1, index)]),
                Box::new(move |outcome| sender.send(outcome.is_ok()).unwrap()),
            );
        }
        let refused = answers.try_iter().filter(|ok| !ok).count();
        assert!((800..990).contains(&refused), "{refused}");
        let (room, has_room) = mpsc::channel();
        log.when_room(Box::new(move || room.send(()).unwrap()));
        assert!(has_room.try_recv().is_err());
        driver.write().unwrap();
        driver.flush().unwrap();
        has_room.recv().unwrap();
        assert_eq!(all(&log).len(), 1000 - refused);
    });
}

/// It found the log at leisure, and was submitted before the log had said so.
#[test]
fn a_write_that_comes_while_the_log_confirms_is_not_lost() {
    on_each_disk(|files, dir| {
        let opened = place(&files, dir).create(Bytes::new(), SALT).unwrap();
        let (log, mut driver) = opened.driven(Arc::new(|| {})).unwrap();
        let (sender, answer) = mpsc::channel();
        log.submit(
            Write::Append(entries(1, 0..1)),
            Box::new(move |outcome| sender.send(outcome).unwrap()),
        );
        driver.confirm().unwrap();
        assert!(answer.try_recv().is_err(), "it has not been written");
        driver.write().unwrap();
        driver.flush().unwrap();
        answer.recv().unwrap().unwrap();
        assert_eq!(all(&log).len(), 1);
    });
}

#[test]
fn a_panic_of_its_thread_is_the_end_of_the_log() {
    on_each_log(|ground| {
        let (sender, told) = mpsc::channel();
        let hooks = LogHooks::fatal(move |error| sender.send(error.clone()).unwrap());
        let log = ground.try_create(hooks).unwrap();
        log.submit(
            Write::Append(entries(1, 0..1)),
            Box::new(|_| panic!("a callback that panics takes the thread with it")),
        );
        assert!(matches!(told.recv().unwrap(), LogError::Panicked));
        assert!(matches!(
            write(&*log, Write::Append(entries(1, 1..2))),
            Err(LogError::Panicked)
        ));
        assert!(matches!(log.close(), Err(LogError::Panicked)));
    });
}

#[test]
fn there_is_a_log_or_there_is_none() {
    on_each_log(|ground| {
        assert!(!ground.exists().unwrap());
        assert!(matches!(ground.try_open(), Err(LogError::Absent(_))));
        ground.create().close().unwrap();
        assert!(ground.exists().unwrap());
        assert!(matches!(ground.try_create(hooks()), Err(LogError::Exists(_))));
    });
}

#[test]
fn a_closed_log_refuses_writes_and_still_reads() {
    on_each_log(|ground| {
        let log = ground.create();
        write(&*log, Write::Append(entries(1, 0..10))).unwrap();
        log.close().unwrap();
        log.close().unwrap();
        assert!(matches!(
            write(&*log, Write::Append(entries(1, 10..11))),
            Err(LogError::Closed)
        ));
        assert_eq!(all(&*log), entries(1, 0..10));
    });
}
