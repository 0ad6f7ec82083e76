//! The log under power cuts at every step, on a disk that loses, tears and reorders what was not flushed.
//!
//! A naive model follows what was submitted and what was acknowledged. After each crash the log must open, and hold
//! what it held after some prefix of the submitted steps that covers all acknowledged ones.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use spine_node::storage::log::{LogEntry, LogError, LogHooks, LogStore, Position, Write};
use spine_node::storage::segment::{Driver, LogOptions, LogPlace, SegmentLog};

#[path = "../../tests/src/disk.rs"]
#[allow(unreachable_pub, dead_code)]
mod disk;

use disk::{Faults, Rng, SimDisk};

const DIR: &str = "/node/log";

fn place(disk: &SimDisk) -> LogPlace {
    LogPlace {
        files: Arc::new(disk.clone()),
        dir: PathBuf::from(DIR),
        options: LogOptions {
            segment_bytes: 64 * 1024,
            spares: 1,
            tail_bytes: 8 * 1024,
            queue_bytes: 16 * 1024 * 1024,
            group_bytes: 8 * 1024,
            ..LogOptions::default()
        },
        hooks: LogHooks::fatal(|_| {}),
    }
}

/// The log, told naively.
#[derive(Clone, Default, PartialEq)]
struct Naive {
    vote: Option<Bytes>,
    purged: Option<Position>,
    last: Option<Position>,
    entries: BTreeMap<u64, LogEntry>,
}

impl std::fmt::Debug for Naive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let indexes = (self.entries.keys().next(), self.entries.keys().last());
        write!(
            f,
            "vote {:?}, purged {:?}, last {:?}, entries {indexes:?}",
            self.vote, self.purged, self.last
        )
    }
}

/// A submitted change that is durable as a whole or not at all.
#[derive(Clone, Debug)]
enum Change {
    Entry(LogEntry),
    Vote(Bytes),
    Truncate(Position),
    Purge(Position),
}

impl Naive {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Entry(entry) => {
                self.entries.insert(entry.position.index, entry.clone());
                self.last = Some(entry.position);
            }
            Change::Vote(vote) => self.vote = Some(vote.clone()),
            Change::Truncate(after) => {
                self.entries.retain(|index, _| *index <= after.index);
                self.last = Some(*after);
            }
            Change::Purge(up_to) => {
                self.entries.retain(|index, _| *index > up_to.index);
                self.purged = Some(*up_to);
                if self.entries.is_empty() {
                    self.last = Some(*up_to);
                }
            }
        }
    }

    fn of(log: &SegmentLog) -> Self {
        let state = log.state();
        let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
        Self {
            vote: state.vote,
            purged: state.purged,
            last: state.last,
            entries: entries
                .into_iter()
                .map(|entry| (entry.position.index, entry))
                .collect(),
        }
    }
}

/// A running log beside its model.
struct Node {
    disk: SimDisk,
    log: SegmentLog,
    driver: Driver,
    rng: Rng,
    /// What was found at the last open, and what was submitted since.
    base: Naive,
    changes: Vec<Change>,
    now: Naive,
    /// How many of the changes are acknowledged.
    acked: Arc<AtomicUsize>,
    committed: Option<Position>,
    /// The committed position found at the last open.
    committed_base: Option<Position>,
    term: u64,
}

impl Node {
    /// Starts on `disk`: opens the log or creates it. `None` if the power was cut meanwhile.
    fn start(disk: &SimDisk, rng: &Rng) -> Result<Option<Self>, String> {
        let opened = match place(disk).exists() {
            Ok(true) => place(disk).open(),
            Ok(false) => place(disk).create(Bytes::from_static(b"identity"), 99),
            Err(error) => Err(error),
        };
        let running = opened.and_then(|opened| opened.driven(Arc::new(|| {})));
        let (log, driver) = match running {
            Ok(running) => running,
            Err(_) if disk.is_off() => return Ok(None),
            Err(error) => return Err(format!("does not open: {error}")),
        };
        if log.identity() != b"identity".as_slice() {
            return Err("the identity is another".to_owned());
        }
        let base = Naive::of(&log);
        let committed = log.state().committed;
        Ok(Some(Self {
            disk: disk.clone(),
            log,
            driver,
            rng: rng.clone(),
            now: base.clone(),
            term: base.last.map_or(1, |last| last.term),
            base,
            changes: Vec::new(),
            acked: Arc::new(AtomicUsize::new(0)),
            committed,
            committed_base: committed,
        }))
    }

    fn submit(&mut self, write: Write, changes: Vec<Change>) {
        for change in &changes {
            self.now.apply(change);
        }
        self.changes.extend(changes);
        let (acked, upto) = (Arc::clone(&self.acked), self.changes.len());
        self.log.submit(
            write,
            Box::new(move |outcome| match outcome {
                Ok(()) => assert!(
                    acked.swap(upto, Ordering::Relaxed) <= upto,
                    "callbacks out of order"
                ),
                Err(LogError::Io { .. } | LogError::Full { .. }) => {}
                Err(error) => panic!("refused: {error}"),
            }),
        );
    }

    /// One step of the workload.
    fn act(&mut self) {
        match self.rng.below(100) {
            0..25 => self.append(),
            25..30 => self.vote(),
            30..37 => self.commit(),
            37..40 => self.truncate(),
            40..45 => self.purge(),
            45..70 => drop(self.driver.write()),
            70..95 => drop(self.driver.flush()),
            95..98 => self.rest(),
            _ => self.driver.housekeep(),
        }
    }

    fn append(&mut self) {
        if self.rng.one_in(10) {
            self.term += 1;
        }
        let count = if self.rng.one_in(8) {
            60
        } else {
            1 + self.rng.below(4)
        };
        let first = self.now.last.map_or(0, |last| last.index + 1);
        let entries = (first..first + count)
            .map(|index| {
                let length = if self.rng.one_in(40) {
                    12_000
                } else {
                    self.rng.below(700)
                };
                self.entry(index, length)
            })
            .collect();
        self.submit_entries(entries);
    }

    /// An entry like no other, of `length` bytes and 8.
    fn entry(&mut self, index: u64, length: u64) -> LogEntry {
        let mut payload = self.rng.next_u64().to_le_bytes().to_vec();
        payload.resize(8 + usize::try_from(length).unwrap(), b'x');
        let position = Position {
            term: self.term,
            leader: self.term % 3,
            index,
        };
        LogEntry {
            position,
            payload: Bytes::from(payload),
        }
    }

    fn submit_entries(&mut self, entries: Vec<LogEntry>) {
        let changes = entries.iter().cloned().map(Change::Entry).collect();
        self.submit(Write::Append(entries), changes);
    }

    fn vote(&mut self) {
        let vote = Bytes::copy_from_slice(&self.rng.next_u64().to_le_bytes());
        self.submit(Write::Vote(vote.clone()), vec![Change::Vote(vote)]);
    }

    /// An entry that may be truncated after, purged or committed.
    fn some_position(&mut self, from: u64) -> Option<Position> {
        let candidates: Vec<Position> = self
            .now
            .entries
            .range(from..)
            .map(|(_, entry)| entry.position)
            .collect();
        let count = candidates.len() as u64;
        (count > 0).then(|| candidates[usize::try_from(self.rng.below(count)).unwrap()])
    }

    fn floor(&self) -> u64 {
        self.committed
            .into_iter()
            .chain(self.now.purged)
            .map(|position| position.index)
            .max()
            .unwrap_or(0)
    }

    fn commit(&mut self) {
        let floor = self.floor();
        if let Some(position) = self.some_position(floor) {
            self.committed = Some(position);
            self.log.submit(Write::Committed(position), Box::new(|_| {}));
        }
    }

    fn truncate(&mut self) {
        let floor = self.floor();
        if let Some(after) = self.some_position(floor) {
            self.term += 1;
            self.submit(
                Write::Truncate { after: Some(after) },
                vec![Change::Truncate(after)],
            );
        }
    }

    fn purge(&mut self) {
        let Some(mut up_to) = self.some_position(0) else {
            return;
        };
        if self.rng.one_in(10) {
            up_to = Position {
                term: self.term,
                leader: 0,
                index: self.now.last.unwrap().index + 5,
            };
        }
        self.submit(Write::Purge { up_to }, vec![Change::Purge(up_to)]);
    }

    /// All is flushed and confirmed.
    fn rest(&mut self) {
        while matches!(self.driver.write(), Ok(true)) {
            drop(self.driver.flush());
        }
        if !self.disk.is_off() {
            drop(self.driver.confirm());
        }
    }

    /// Compares what `found` holds with what the model allows.
    fn check(&self, found: &Node) -> Result<(), String> {
        let acked = self.acked.load(Ordering::Relaxed);
        let mut model = self.base.clone();
        for change in &self.changes[..acked] {
            model.apply(change);
        }
        let mut matches = model == found.base;
        for change in &self.changes[acked..] {
            if matches {
                break;
            }
            model.apply(change);
            matches = model == found.base;
        }
        if !matches {
            return Err(format!(
                "lost: {acked} of {} changes were acknowledged; found {:?}",
                self.changes.len(),
                found.base
            ));
        }
        let index = |position: Option<Position>| position.map(|position| position.index);
        let found_committed = index(found.committed_base);
        if found_committed < index(self.committed_base) || found_committed > index(self.committed) {
            return Err(format!("committed is {found_committed:?}"));
        }
        Ok(())
    }
}

/// What goes wrong between a start and the next.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The power is cut at the `n`th operation of the disk.
    Power(u64),
    /// The process is killed after `n` steps; the disk lives on.
    Kill(u64),
}

/// Runs the workload until it is stopped, starts again, compares; once for each stop.
fn run(seed: u64, faults: Faults, stops: &[Stop]) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new();
    let mut before: Option<Node> = None;
    for stop in stops {
        disk.set_faults(faults);
        let count = match stop {
            Stop::Power(operation) => {
                disk.crash_at(*operation);
                1_000_000
            }
            Stop::Kill(steps) => *steps,
        };
        rng.next_u64();
        let started = Node::start(&disk, &rng)?;
        if let Some(mut node) = started {
            if let Some(before) = &before {
                before.check(&node)?;
            }
            for _ in 0..count {
                if disk.is_off() {
                    break;
                }
                node.act();
            }
            before = Some(node);
        }
        if matches!(stop, Stop::Power(_)) {
            disk = disk.after_crash(&mut rng);
        }
    }
    disk.set_faults(Faults::default());
    let node = Node::start(&disk, &rng)?.ok_or("the power is on")?;
    before.map_or(Ok(()), |before| before.check(&node))
}

fn assert_runs(seed: u64, stops: &[Stop]) {
    if let Err(error) = run(seed, Faults::default(), stops) {
        panic!("seed {seed}, {stops:?}: {error}");
    }
}

/// Every operation of a workload that appends, truncates, purges, rolls over and recycles; then every operation of
/// the start after it.
#[test]
fn a_power_cut_at_each_step_loses_nothing_acknowledged() {
    const OPERATIONS: u64 = 600;
    let whole = SimDisk::new();
    let mut node = Node::start(&whole, &Rng::new(1)).unwrap().unwrap();
    while whole.operations() < OPERATIONS {
        node.act();
    }
    let state = node.log.state();
    assert!(
        state.stream_bytes - state.kept_bytes > 256 * 1024,
        "segments are recycled meanwhile: {state:?}"
    );

    for operation in 0..OPERATIONS {
        assert_runs(1, &[Stop::Power(operation)]);
    }
    for seed in 0..10 {
        for operation in 0..12 {
            assert_runs(
                seed,
                &[
                    Stop::Power(400),
                    Stop::Power(operation),
                    Stop::Power(operation / 2),
                ],
            );
            assert_runs(seed, &[Stop::Kill(1000), Stop::Power(operation)]);
        }
    }
}

#[test]
fn many_power_cuts_and_kills_in_a_row_lose_nothing_acknowledged() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed * 7919);
        let stops: Vec<Stop> = (0..12)
            .map(|_| {
                if rng.one_in(4) {
                    Stop::Kill(rng.below(400))
                } else {
                    Stop::Power(rng.below(250))
                }
            })
            .collect();
        assert_runs(seed, &stops);
    }
}

/// Groups of one size that are torn one after the other at one place: what is left of the first must not pass for a
/// part of the second, though all of its records stand where the second's would.
#[test]
fn remains_of_a_torn_group_never_complete_another() {
    // A record of half a block, so that records stand at the same places although each start writes a block before.
    const LENGTH: u64 = 2048 - 36 - 8;
    for seed in 0..2000 {
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::new();
        let mut before = Node::start(&disk, &rng).unwrap().unwrap();
        for _ in 0..4 {
            before.term += 1;
            let entries = (0..4).map(|index| before.entry(index, LENGTH)).collect();
            before.submit_entries(entries);
            assert!(before.driver.write().unwrap());
            disk.cut_power();
            disk = disk.after_crash(&mut rng);
            rng.next_u64();
            let node = Node::start(&disk, &rng).unwrap().unwrap();
            before
                .check(&node)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            before = node;
            if before.now.last.is_some() {
                break;
            }
        }
    }
}

/// The same test sees a disk that doesn't flush: a test that can't fail proves nothing.
#[test]
fn without_flushes_the_test_reports_loss() {
    let faults = Faults {
        skip_sync: true,
        ..Faults::default()
    };
    let losses = (0..50)
        .filter(|seed| run(*seed, faults, &[Stop::Power(300)]).is_err())
        .count();
    assert!(
        losses > 25,
        "only {losses} of 50 runs without flushes lost anything"
    );
}

/// A failed flush ends the log for good, and a start afterwards reports nothing that a power cut could take back.
#[test]
fn a_failed_flush_is_final() {
    for seed in 0..100 {
        let disk = SimDisk::new();
        let mut rng = Rng::new(seed);
        let mut node = Node::start(&disk, &rng).unwrap().unwrap();
        for _ in 0..300 {
            node.act();
        }
        node.rest();
        disk.set_faults(Faults {
            fail_sync: true,
            ..Faults::default()
        });
        node.append();
        assert!(node.driver.write().and_then(|_| node.driver.flush()).is_err());
        disk.set_faults(Faults::default());
        node.append();
        assert!(
            node.driver.write().is_err(),
            "the disk is well again, the log isn't"
        );
        assert!(matches!(node.log.close(), Err(LogError::Io { .. })));

        let again = Node::start(&disk, &rng).unwrap().unwrap();
        node.check(&again).unwrap();
        let found = Node::start(&disk.after_crash(&mut rng), &rng).unwrap().unwrap();
        assert_eq!(found.base, again.base, "seed {seed}");
    }
}

#[test]
fn a_full_disk_ends_the_log_without_losing_what_it_has() {
    let disk = SimDisk::new();
    let rng = Rng::new(5);
    let mut node = Node::start(&disk, &rng).unwrap().unwrap();
    for _ in 0..500 {
        node.act();
    }
    node.rest();
    disk.set_faults(Faults {
        full: true,
        ..Faults::default()
    });
    node.append();
    let full = node.driver.write().and_then(|_| node.driver.flush());
    assert!(matches!(full, Err(LogError::Full { .. })), "{full:?}");
    disk.set_faults(Faults::default());
    let again = Node::start(&disk, &rng).unwrap().unwrap();
    node.check(&again).unwrap();
}

/// Rot anywhere in a log that was closed in order is refused, or was in bytes that mean nothing.
#[test]
fn damage_to_what_was_durable_is_refused() {
    let mut refused = 0;
    for seed in 0..60 {
        let disk = SimDisk::new();
        let mut rng = Rng::new(seed);
        let mut node = Node::start(&disk, &rng).unwrap().unwrap();
        for _ in 0..200 {
            node.act();
        }
        node.driver.finish().unwrap();
        let names = spine_node::world::files::Files::list(&disk, Path::new(DIR)).unwrap();
        let segments: Vec<&String> = names.iter().filter(|name| name.contains(".log")).collect();
        for _ in 0..40 {
            let segment = segments[usize::try_from(rng.below(segments.len() as u64)).unwrap()];
            let path = Path::new(DIR).join(segment);
            let whole = disk.contents(&path).unwrap();
            let mut rotten = whole.clone();
            match rng.below(3) {
                0 => {
                    let at = usize::try_from(rng.below(whole.len() as u64)).unwrap();
                    rotten[at] ^= 1 << rng.below(8);
                }
                1 => {
                    let block = usize::try_from(rng.below(whole.len() as u64 / 512)).unwrap() * 512;
                    rotten[block..block + 512].fill(0);
                }
                _ => rotten.truncate(usize::try_from(rng.below(whole.len() as u64)).unwrap()),
            }
            let copy = disk.after_crash(&mut rng);
            copy.put(&path, &rotten);
            match place(&copy)
                .open()
                .and_then(|opened| opened.driven(Arc::new(|| {})))
            {
                Ok((log, _driver)) => assert_eq!(Naive::of(&log), node.now, "seed {seed}, {segment}"),
                Err(LogError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        for segment in &segments[..segments.len() - 1] {
            let copy = disk.after_crash(&mut rng);
            spine_node::world::files::Files::remove(&copy, &Path::new(DIR).join(segment)).unwrap();
            if let Ok((log, _driver)) = place(&copy)
                .open()
                .and_then(|opened| opened.driven(Arc::new(|| {})))
            {
                assert_eq!(Naive::of(&log), node.now, "seed {seed}: {segment} was missing");
            }
        }
    }
    assert!(refused > 500, "{refused}");
}
