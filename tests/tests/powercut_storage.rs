//! Log and checkpoints under power cuts of a real file system.
//!
//! An ext4 image is mounted, a writer process works on it, and in the middle of a write the file system is shut down
//! without its journal: what was not flushed is lost, as when the power fails. Then the image is mounted again and what
//! is there is compared with what the writer had acknowledged. A cut counts if more than 2 MB were written since the
//! last one and something was in flight. `kill -9` would prove nothing here: the kernel writes on after it.
//!
//! The writer is this same program, told by the environment; all runs in a mount namespace of its own, so that no mount
//! outlives it. Needs root, and fails without.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use spine_node::storage::checkpoint::{CheckpointError, Chunk, Chunks, Engine, Header};
use spine_node::storage::log::{
    LogEngine, LogEntry, LogError, LogHooks, LogOptions, LogStore, Position, Write,
};
use spine_node::storage::segment::LogPlace;
use spine_node::storage::sled::{SledEngine, SledOptions};
use spine_node::storage::sled_log::SledLogPlace;
use spine_node::world::files::OsFiles;
use spine_tests::disk::Rng;
use spine_tests::ext4::Ext4;
use spine_tests::namespace::sealed;

/// Power cuts that must count.
const CUTS: u32 = 30;

/// What must have been written since the last cut, at least.
const BYTES_MIN: u64 = 2_000_000;

/// Length of the disk.
const DISK_BYTES: u64 = 512 * 1024 * 1024;

/// How long the writer may be silent.
const PATIENCE: Duration = Duration::from_mins(1);

/// Set for the writer: what it writes, and where.
const WRITER: &str = "SPINE_POWERCUT_WRITER";
const WRITER_DIR: &str = "SPINE_POWERCUT_DIR";

#[test]
fn the_log_survives_power_cuts() {
    const NAME: &str = "the_log_survives_power_cuts";
    played(NAME, || {
        let tally = campaign(&LogWork(LogEngine::Segment), NAME, Flushes::Real, CUTS);
        assert_eq!(tally.losses, Vec::<String>::new());
    });
}

#[test]
fn the_log_in_sled_survives_power_cuts() {
    const NAME: &str = "the_log_in_sled_survives_power_cuts";
    played(NAME, || {
        let tally = campaign(&LogWork(LogEngine::Sled), NAME, Flushes::Real, CUTS);
        assert_eq!(tally.losses, Vec::<String>::new());
    });
}

#[test]
fn checkpoints_survive_power_cuts() {
    const NAME: &str = "checkpoints_survive_power_cuts";
    played(NAME, || {
        let tally = campaign(&CheckpointWork, NAME, Flushes::Real, CUTS);
        assert_eq!(tally.losses, Vec::<String>::new());
    });
}

/// The same test sees it when flushes do nothing.
#[test]
fn without_flushes_loss_is_reported() {
    const NAME: &str = "without_flushes_loss_is_reported";
    played(NAME, || {
        let logs = [LogWork(LogEngine::Segment), LogWork(LogEngine::Sled)];
        for work in [&logs[0] as &dyn Work, &logs[1], &CheckpointWork] {
            let tally = campaign(work, NAME, Flushes::Skipped, 3);
            assert!(
                !tally.losses.is_empty(),
                "{}: nothing was lost without flushes",
                work.name()
            );
        }
    });
}

/// Runs the scenario sealed off, or, in the writer process, the writer.
fn played(test: &str, scenario: impl FnOnce()) {
    let dir = std::env::var_os(WRITER_DIR).map(PathBuf::from);
    match (std::env::var(WRITER).as_deref(), dir) {
        (Ok("log"), Some(dir)) => LogWork(LogEngine::Segment).write(&dir),
        (Ok("sled log"), Some(dir)) => LogWork(LogEngine::Sled).write(&dir),
        (Ok("checkpoint"), Some(dir)) => CheckpointWork.write(&dir),
        _ => sealed(test, scenario),
    }
}

/// Whether flushes reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushes {
    Real,
    /// strace answers in the kernel's place, and nothing is flushed.
    Skipped,
}

/// Something that writes, and can be checked afterwards.
trait Work {
    fn name(&self) -> &'static str;

    /// The system calls that make its writes durable.
    fn flushes(&self) -> &'static str;

    /// The writer: prints `sent ID` before, `acked ID` after the fact, now and then `bytes TOTAL`, and never ends.
    fn write(&self, dir: &Path);

    /// Opens what is there and compares it with the last acknowledged id. Returns the last id that is there.
    fn check(&self, dir: &Path, acked: Option<u64>) -> Result<Option<u64>, String>;
}

/// The directory that the writer works in.
fn data_on(disk: &Ext4) -> PathBuf {
    disk.path().join("data")
}

/// What came of a campaign.
#[derive(Debug, Default)]
struct Tally {
    cuts: u32,
    void: u32,
    bytes: u64,
    acks: u64,
    losses: Vec<String>,
}

/// Cuts the power `cuts` times on one disk; a loss ends it, since the disk is no measure any more.
fn campaign(work: &dyn Work, test: &str, flushes: Flushes, cuts: u32) -> Tally {
    let place = tempfile::tempdir().unwrap();
    let disk = Ext4::new(place.path(), DISK_BYTES);
    let mut rng = Rng::new(2026);
    let mut tally = Tally::default();
    let mut kept = None;
    while tally.cuts < cuts && tally.losses.is_empty() {
        assert!(tally.void < cuts, "most cuts don't count: {tally:?}");
        disk.mount();
        let target = BYTES_MIN + 1 + rng.below(6_000_000);
        let seen = write_until(work, test, flushes, &disk, target);
        disk.unmount();
        if seen.in_flight() && seen.bytes > BYTES_MIN {
            tally.cuts += 1;
        } else {
            tally.void += 1;
        }
        tally.bytes += seen.bytes;
        tally.acks += seen.acks;
        disk.mount();
        match work.check(&data_on(&disk), seen.acked.max(kept)) {
            Ok(there) => kept = there,
            Err(loss) => tally.losses.push(format!("cut {}: {loss}", tally.cuts)),
        }
        disk.unmount();
    }
    println!(
        "{}, flushes {flushes:?}: {} power cuts that count and {} void, {} acknowledgements, {} MB, losses: {:?}",
        work.name(),
        tally.cuts,
        tally.void,
        tally.acks,
        tally.bytes / 1_000_000,
        tally.losses
    );
    tally
}

/// What the writer said before its power was cut.
#[derive(Debug, Default)]
struct Seen {
    sent: Option<u64>,
    acked: Option<u64>,
    acks: u64,
    bytes: u64,
}

impl Seen {
    fn take(&mut self, line: &str) {
        // The test harness may have begun the line with words of its own.
        let mut words = line.split_whitespace().rev();
        let (Some(number), Some(word)) = (words.next(), words.next()) else {
            return;
        };
        let Ok(number) = number.parse() else { return };
        match word {
            "sent" => self.sent = Some(number),
            "acked" => {
                self.acked = Some(number);
                self.acks += 1;
            }
            "bytes" => self.bytes = number,
            _ => {}
        }
    }

    fn in_flight(&self) -> bool {
        self.sent > self.acked
    }
}

/// Lets the writer work until it has written `target` bytes, then cuts the power.
fn write_until(work: &dyn Work, test: &str, flushes: Flushes, disk: &Ext4, target: u64) -> Seen {
    let mut writer = spawn_writer(work, test, flushes, &data_on(disk));
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(writer.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut seen = Seen::default();
    while seen.bytes < target {
        seen.take(&lines.recv_timeout(PATIENCE).expect("the writer writes"));
    }
    disk.cut_power();
    // What was acknowledged before the cut counts, however late it is read here. After the cut nothing can be.
    let _ = writer.kill();
    for line in lines {
        seen.take(&line);
    }
    writer.wait().unwrap();
    reader.join().unwrap();
    seen
}

fn spawn_writer(work: &dyn Work, test: &str, flushes: Flushes, dir: &Path) -> Child {
    let own = std::env::current_exe().unwrap();
    let mut command = match flushes {
        Flushes::Real => Command::new(own),
        Flushes::Skipped => {
            let calls = work.flushes();
            let mut strace = Command::new("strace");
            // As a grandchild (-D), so that the process that is killed is the writer.
            strace.args(["-D", "--seccomp-bpf", "-f", "-qq", "-o", "/dev/null"]);
            strace.args([
                "-e",
                &format!("trace={calls}"),
                "-e",
                &format!("inject={calls}:retval=0"),
            ]);
            strace.arg("--").arg(own);
            strace
        }
    };
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(WRITER, work.name())
        .env(WRITER_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the writer (under strace, where flushes are skipped) starts")
}

/// Entries and votes into the log; old entries are purged, so that segments are recycled all the time.
struct LogWork(LogEngine);

/// Entries that are kept.
const ENTRIES_KEPT: u64 = 10_000;

/// Entries of one write, writes in flight, and writes between two votes.
const ENTRIES_PER_WRITE: u64 = 8;
const IN_FLIGHT: usize = 32;
const VOTE_EVERY: u64 = 50;

impl LogWork {
    /// Opens the log, or, if it may, creates it.
    fn open(&self, dir: &Path, create: bool) -> Result<Arc<dyn LogStore>, LogError> {
        // Small segments: each stretch between two cuts begins and recycles several.
        let options = LogOptions {
            segment_bytes: 1024 * 1024,
            ..LogOptions::default()
        };
        let hooks = LogHooks::fatal(|_| std::process::exit(3));
        let (dir, identity) = (dir.to_owned(), Bytes::from_static(b"powercut"));
        Ok(match self.0 {
            LogEngine::Segment => {
                let files = Arc::new(OsFiles);
                let place = LogPlace {
                    files,
                    dir,
                    options,
                    hooks,
                };
                let opened = if create && !place.exists()? {
                    place.create(identity, 7)
                } else {
                    place.open()
                };
                Arc::new(opened?.start()?)
            }
            LogEngine::Sled => {
                let place = SledLogPlace { dir, options, hooks };
                Arc::new(if create && !place.exists()? {
                    place.create(&identity)?
                } else {
                    place.open()?
                })
            }
        })
    }

    fn entry(term: u64, index: u64) -> LogEntry {
        LogEntry {
            position: Position {
                term,
                leader: 1,
                index,
            },
            payload: Self::payload(index),
        }
    }

    /// About 300 bytes that follow from the index.
    fn payload(index: u64) -> Bytes {
        let length = 250 + usize::try_from(index % 100).unwrap();
        index.to_le_bytes().into_iter().cycle().take(length).collect()
    }

    fn submit(log: &dyn LogStore, write: Write, said: String, room: mpsc::SyncSender<()>) {
        log.submit(
            write,
            Box::new(move |outcome| {
                if outcome.is_ok() {
                    println!("{said}");
                    let _ = room.send(());
                }
            }),
        );
    }
}

impl Work for LogWork {
    fn name(&self) -> &'static str {
        match self.0 {
            LogEngine::Segment => "log",
            LogEngine::Sled => "sled log",
        }
    }

    /// Ours: what sled calls itself, `sync_file_range`, goes on.
    fn flushes(&self) -> &'static str {
        match self.0 {
            LogEngine::Segment => "fdatasync",
            LogEngine::Sled => "fsync,fdatasync",
        }
    }

    fn write(&self, dir: &Path) {
        let log = self.open(dir, true).unwrap();
        let start = log.state();
        let term = start.last.map_or(1, |last| last.term + 1);
        let mut next = start.last.map_or(0, |last| last.index + 1);
        let (sender, room) = mpsc::sync_channel(2 * IN_FLIGHT);
        for number in 0_u64.. {
            if number >= IN_FLIGHT as u64 {
                room.recv().unwrap();
            }
            let last = next + ENTRIES_PER_WRITE - 1;
            println!("sent {last}");
            let entries = (next..=last).map(|index| Self::entry(term, index)).collect();
            Self::submit(
                &*log,
                Write::Append(entries),
                format!("acked {last}"),
                sender.clone(),
            );
            next = last + 1;
            if number % VOTE_EVERY == 0 {
                // A vote says how far the log was when it was cast, so the check finds a lost one.
                let vote = Bytes::copy_from_slice(&last.to_le_bytes());
                Self::submit(&*log, Write::Vote(vote), format!("acked {last}"), sender.clone());
                room.recv().unwrap();
                println!("bytes {}", log.state().stream_bytes - start.stream_bytes);
                if last > ENTRIES_KEPT {
                    let up_to = log.read(last - ENTRIES_KEPT..last, 1).unwrap()[0].position;
                    log.submit(Write::Purge { up_to }, Box::new(|_| {}));
                }
            }
        }
    }

    fn check(&self, dir: &Path, acked: Option<u64>) -> Result<Option<u64>, String> {
        let log = match self.open(dir, false) {
            Err(LogError::Absent(_)) if acked.is_none() => return Ok(None),
            opened => opened.map_err(|error| error.to_string())?,
        };
        let state = log.state();
        let last = state.last.map(|last| last.index);
        if last < acked {
            return Err(format!("{acked:?} was acknowledged, {last:?} is there"));
        }
        let entries = log
            .read(0..u64::MAX, usize::MAX)
            .map_err(|error| error.to_string())?;
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        if entries.len() as u64 != last.map_or(0, |last| last + 1 - first) {
            return Err(format!("{} entries of {first}..={last:?}", entries.len()));
        }
        if let Some(bad) = entries
            .iter()
            .find(|entry| entry.payload != Self::payload(entry.position.index))
        {
            return Err(format!("entry {} has another content", bad.position.index));
        }
        let vote = state
            .vote
            .map(|vote| u64::from_le_bytes(vote[..].try_into().unwrap()));
        // A vote is cast behind each 50th write; before the first of a new writer there may be a few writes more.
        let votes_behind = (VOTE_EVERY + 10) * ENTRIES_PER_WRITE;
        if acked.is_some_and(|acked| vote.unwrap_or(0) + votes_behind < acked) {
            return Err(format!("{acked:?} was acknowledged, the vote is of {vote:?}"));
        }
        log.close().map_err(|error| error.to_string())?;
        Ok(last)
    }
}

/// One checkpoint after the other.
struct CheckpointWork;

/// Chunks of a checkpoint: about 3 MB together.
const CHUNKS: u64 = 80;

impl CheckpointWork {
    fn chunk(log_index: u64, number: u64) -> Chunk {
        let mut rng = Rng::new(log_index << 16 | number);
        let length = usize::try_from(10_000 + rng.below(54_000)).unwrap();
        let value: Vec<u8> = (0..length.div_ceil(8))
            .flat_map(|_| rng.next_u64().to_le_bytes())
            .collect();
        Chunk {
            key: Bytes::copy_from_slice(&number.to_be_bytes()),
            value: Bytes::from(value),
        }
    }

    fn verify(header: &Header, chunks: &mut Chunks<'_>) -> Result<(), String> {
        let found: Vec<Chunk> = chunks
            .collect::<Result<_, CheckpointError>>()
            .map_err(|error| error.to_string())?;
        let expected: Vec<Chunk> = (0..CHUNKS)
            .map(|number| Self::chunk(header.log_index, number))
            .collect();
        if found == expected {
            Ok(())
        } else {
            Err("another content".to_owned())
        }
    }

    fn engine(dir: &Path) -> Result<SledEngine, CheckpointError> {
        SledEngine::open(dir.to_owned(), SledOptions::default())
    }
}

impl Work for CheckpointWork {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    /// Ours. What sled calls itself, `sync_file_range`, goes on: it isn't enough.
    fn flushes(&self) -> &'static str {
        "fsync,fdatasync"
    }

    fn write(&self, dir: &Path) {
        let engine = Self::engine(dir).unwrap();
        let newest = engine.newest_verified(&mut Self::verify).unwrap();
        let first = newest.map_or(1, |newest| newest.header.log_index + 1);
        let mut bytes = 0;
        for log_index in first.. {
            println!("sent {log_index}");
            let header = Header {
                log_index,
                meta: Bytes::from_static(b"powercut"),
            };
            let mut chunks = (0..CHUNKS).map(|number| {
                let chunk = Self::chunk(log_index, number);
                bytes += chunk.value.len();
                println!("bytes {bytes}");
                chunk
            });
            engine.write(&header, &mut chunks, &mut Self::verify).unwrap();
            println!("acked {log_index}");
        }
    }

    fn check(&self, dir: &Path, acked: Option<u64>) -> Result<Option<u64>, String> {
        let engine = Self::engine(dir).map_err(|error| error.to_string())?;
        let newest = engine
            .newest_verified(&mut Self::verify)
            .map_err(|error| error.to_string())?;
        let there = newest.as_ref().map(|newest| newest.header.log_index);
        if there < acked {
            return Err(format!("{acked:?} was acknowledged, {there:?} is there"));
        }
        match newest {
            Some(newest) if !newest.passed_over.is_empty() => Err(format!("bad: {:?}", newest.passed_over)),
            _ => Ok(there),
        }
    }
}
