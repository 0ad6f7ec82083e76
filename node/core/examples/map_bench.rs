//! What it costs that state is a value: [`Tree`] against a `BTreeMap` under a lock, a million keys with their history.
//!
//! `cargo run --release -p spine-core --example map_bench` runs each map five times, each time in a process of its own
//! (so that memory is counted from nothing), and prints minimum, median and maximum. The figures and what follows from
//! them are in `node/decisions/0001-state-is-a-value.md`.
// It measures and prints; the bans are for the core itself.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::{Bound, Range};
use std::sync::RwLock;
use std::time::Instant;

use bytes::Bytes;
use spine_core::id::Index;
use spine_core::tree::{Stamped, Tree};

const KEYS: usize = 1_000_000;
/// Keys under one prefix.
const GROUP: usize = 10_000;
const OVERWRITES: usize = 300_000;
const READS: usize = 300_000;
/// Puts in one entry, after which the state is published.
const BATCH: usize = 64;
/// Rows of the change log, the oldest of which give way.
const LOG_ROWS: usize = 100_000;
const RUNS: usize = 5;

fn main() {
    let run = |name: &str| match name {
        "tree" => measure::<Trees>(),
        "btree" => measure::<LockedBTreeMaps>(),
        other => panic!("no such map: {other}"),
    };
    match std::env::args().nth(1) {
        Some(name) => run(&name)
            .iter()
            .for_each(|(what, figure)| println!("{what}\t{figure}")),
        None => ["tree", "btree"].iter().for_each(|name| summarize(name)),
    }
}

/// Runs this program anew for each run of one map, and prints its figures side by side.
fn summarize(name: &str) {
    let this = std::env::current_exe().expect("the program that runs has a path");
    let mut figures: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..RUNS {
        let output = std::process::Command::new(&this)
            .arg(name)
            .output()
            .expect("this program can be run again");
        let output = String::from_utf8(output.stdout).expect("it prints text");
        for (line, row) in output.lines().enumerate() {
            let (what, figure) = row.split_once('\t').expect("it prints name and figure");
            if figures.len() == line {
                figures.push((what.to_owned(), Vec::new()));
            }
            figures[line]
                .1
                .push(figure.parse().expect("the figure is a number"));
        }
    }
    println!("{name}: min / median / max of {RUNS} runs");
    for (what, mut runs) in figures {
        runs.sort_by(f64::total_cmp);
        println!(
            "  {what:<48} {:>12.2} / {:>12.2} / {:>12.2}",
            runs[0],
            runs[RUNS / 2],
            runs[RUNS - 1]
        );
    }
}

/// A row as the key table holds it: 64 bytes beside the value's own.
#[derive(Clone)]
struct Row {
    value: Bytes,
    created: Index,
    modified: Index,
    version: u64,
    lease: u64,
}

impl Stamped for Row {
    fn index(&self) -> Index {
        self.modified
    }
}

/// A row of the change log: which key changed.
#[derive(Clone)]
struct Change(#[allow(dead_code, reason = "held for its size")] Bytes);

impl Stamped for Change {
    fn index(&self) -> Index {
        Index(0)
    }
}

/// The questions asked of a table, answered as well as the map can.
trait Table<K, V>: Clone + Default {
    fn insert(&mut self, key: K, value: V);
    fn remove(&mut self, key: &K);
    fn get(&self, key: &K) -> Option<&V>;
    fn count(&self, range: Range<&K>) -> usize;
    fn newest(&self, range: Range<&K>) -> Option<Index>;
    fn page(&self, range: Range<&K>, limit: usize, each: impl FnMut(&V));
}

/// One kind of map, for keys and values of all tables.
trait Kind {
    /// Readers and the writer share one map behind a lock, instead of each holding a version.
    const LOCKED: bool;
    type Map<K: Ord + Clone, V: Clone + Stamped>: Table<K, V>;
}

fn bounds<'a, K>(range: &Range<&'a K>) -> (Bound<&'a K>, Bound<&'a K>) {
    (Bound::Included(range.start), Bound::Excluded(range.end))
}

struct Trees;

impl Kind for Trees {
    const LOCKED: bool = false;
    type Map<K: Ord + Clone, V: Clone + Stamped> = Tree<K, V>;
}

impl<K: Ord + Clone, V: Clone + Stamped> Table<K, V> for Tree<K, V> {
    fn insert(&mut self, key: K, value: V) {
        Self::insert(self, key, value);
    }

    fn remove(&mut self, key: &K) {
        Self::remove(self, key);
    }

    fn get(&self, key: &K) -> Option<&V> {
        Self::get(self, key)
    }

    fn count(&self, range: Range<&K>) -> usize {
        Self::count::<K>(self, bounds(&range))
    }

    fn newest(&self, range: Range<&K>) -> Option<Index> {
        Self::newest::<K>(self, bounds(&range))
    }

    fn page(&self, range: Range<&K>, limit: usize, each: impl FnMut(&V)) {
        self.range::<K>(bounds(&range))
            .take(limit)
            .map(|(_, value)| value)
            .for_each(each);
    }
}

struct LockedBTreeMaps;

impl Kind for LockedBTreeMaps {
    const LOCKED: bool = true;
    type Map<K: Ord + Clone, V: Clone + Stamped> = BTreeMap<K, V>;
}

impl<K: Ord + Clone, V: Clone + Stamped> Table<K, V> for BTreeMap<K, V> {
    fn insert(&mut self, key: K, value: V) {
        Self::insert(self, key, value);
    }

    fn remove(&mut self, key: &K) {
        Self::remove(self, key);
    }

    fn get(&self, key: &K) -> Option<&V> {
        Self::get(self, key)
    }

    fn count(&self, range: Range<&K>) -> usize {
        self.range::<K, _>(bounds(&range)).count()
    }

    fn newest(&self, range: Range<&K>) -> Option<Index> {
        self.range::<K, _>(bounds(&range))
            .map(|(_, value)| value.index())
            .max()
    }

    fn page(&self, range: Range<&K>, limit: usize, each: impl FnMut(&V)) {
        self.range::<K, _>(bounds(&range))
            .take(limit)
            .map(|(_, value)| value)
            .for_each(each);
    }
}

/// The tables that one put writes.
struct Store<M: Kind> {
    rows: M::Map<Bytes, Row>,
    history: M::Map<(Bytes, u64), Row>,
    log: M::Map<u64, Change>,
    index: u64,
}

impl<M: Kind> Store<M> {
    fn new() -> Self {
        Self {
            rows: Default::default(),
            history: Default::default(),
            log: Default::default(),
            index: 0,
        }
    }

    fn version(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            history: self.history.clone(),
            log: self.log.clone(),
            index: self.index,
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.index += 1;
        let now = Index(self.index);
        let (created, version) = self
            .rows
            .get(&key)
            .map_or((now, 0), |row| (row.created, row.version));
        let row = Row {
            value,
            created,
            modified: now,
            version: version + 1,
            lease: 0,
        };
        self.rows.insert(key.clone(), row.clone());
        self.history.insert((key.clone(), self.index), row);
        self.log.insert(self.index, Change(key));
        if let Some(oldest) = self.index.checked_sub(LOG_ROWS as u64) {
            self.log.remove(&oldest);
        }
    }
}

/// All figures of one run.
fn measure<M: Kind>() -> Vec<(String, f64)> {
    let mut figures = Vec::new();
    let mut figure = |what: &str, figure: f64| figures.push((what.to_owned(), figure));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut order: Vec<usize> = (0..KEYS).collect();
    (1..KEYS)
        .rev()
        .for_each(|last| order.swap(last, random.below(last + 1)));

    let lock = RwLock::new(());
    let mut store = Store::<M>::new();
    let mut published = None;
    // Entries of `batch` puts; after each the state is published, or the lock given back.
    let mut apply = |store: &mut Store<M>, keys: &[usize], batch: usize| {
        let time = Instant::now();
        for entry in keys.chunks(batch) {
            let guard = M::LOCKED.then(|| lock.write());
            for n in entry {
                store.put(key(*n), value(*n));
            }
            drop(guard);
            if !M::LOCKED {
                published = Some(store.version());
            }
        }
        per(time, keys.len())
    };
    let memory = resident();
    figure("apply, new key, us", apply(&mut store, &order, BATCH) / 1e3);
    figure(
        "memory, bytes a key with one version of history",
        (resident() - memory) / KEYS as f64,
    );
    let again: Vec<usize> = (0..OVERWRITES).map(|_| random.below(KEYS)).collect();
    figure("apply, old key, us", apply(&mut store, &again, BATCH) / 1e3);
    figure(
        "apply, old key, published after each put, us",
        apply(&mut store, &again, 1) / 1e3,
    );

    let mut read = |what: &str, times: usize, unit: f64, ask: &dyn Fn(&Store<M>, usize)| {
        let time = Instant::now();
        for n in &order[..times] {
            let guard = M::LOCKED.then(|| lock.read());
            ask(&store, *n);
            drop(guard);
        }
        figure(what, per(time, times) / unit);
    };
    read("get, us", READS, 1e3, &|store, n| {
        black_box(store.rows.get(&key(n)).map(|row| row.lease));
    });
    read("page of 100, us", READS / 10, 1e3, &|store, n| {
        let mut bytes = 0;
        store
            .rows
            .page(&key(n)..&key(KEYS), 100, |row| bytes += row.value.len());
        black_box(bytes);
    });
    read("count of 100,000, us", 100, 1e3, &|store, n| {
        let first = n % (KEYS - 100_000);
        assert_eq!(store.rows.count(&key(first)..&key(first + 100_000)), 100_000);
    });
    read(
        "newest Index under a prefix of 10,000, us",
        1_000,
        1e3,
        &|store, n| {
            let first = n / GROUP * GROUP;
            assert!(store.rows.newest(&key(first)..&key(first + GROUP)).is_some());
        },
    );
    read("clone of all tables, us", 5, 1e3, &|store, _| {
        std::mem::forget(black_box(store.version()));
    });
    figures
}

/// 32 bytes, 10,000 of them under each prefix.
fn key(n: usize) -> Bytes {
    Bytes::from(format!("service/{:03}/instance/{:011}", n / GROUP, n))
}

/// 64 bytes.
fn value(n: usize) -> Bytes {
    Bytes::from(format!("{n:064}"))
}

/// Nanoseconds for each of `count`.
fn per(since: Instant, count: usize) -> f64 {
    since.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// Bytes of memory that this process holds.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux tells the size of a process");
    let pages = pages
        .split(' ')
        .nth(1)
        .expect("the second figure is the resident set");
    pages.parse::<f64>().expect("it is a number of pages") * 4096.0
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bound = u64::try_from(bound).expect("a count of keys");
        usize::try_from(self.0 % bound).expect("it is below the bound")
    }
}
