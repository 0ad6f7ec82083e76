//! Measures the log alone: `cargo run --release -p spine-node --example log_bench -- [DIR] [SECONDS]`.
//!
//! Entries of 300 bytes, 64 to a flush: 64 are submitted, and the next 64 when all are acknowledged. Then as many as
//! the queue takes. Prints entries a second, and how long a flush took.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spine_node::storage::log::{Flush, LogEntry, LogHooks, LogObserver, LogStore, Position, Write};
use spine_node::storage::segment::{LogOptions, LogPlace, SegmentLog};
use spine_node::world::files::OsFiles;

const PAYLOAD_BYTES: usize = 300;

/// Entries that are kept; more are purged, so that segments are recycled.
const ENTRIES_KEPT: u64 = 500_000;

#[derive(Default)]
struct Stopwatch {
    begun: Mutex<Option<Instant>>,
    flushes: Mutex<Vec<(Duration, Flush)>>,
    unprepared: Mutex<u32>,
}

impl LogObserver for Stopwatch {
    fn flush_begins(&self) {
        *self.begun.lock().unwrap() = Some(Instant::now());
    }

    fn flush_ends(&self, flush: Flush) {
        let took = self.begun.lock().unwrap().take().unwrap().elapsed();
        self.flushes.lock().unwrap().push((took, flush));
    }

    fn segment_unprepared(&self) {
        *self.unprepared.lock().unwrap() += 1;
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let scratch = tempfile::tempdir().unwrap();
    let dir = arguments
        .next()
        .map_or_else(|| scratch.path().to_owned(), PathBuf::from)
        .join("log_bench");
    let time = Duration::from_secs(arguments.next().map_or(5, |seconds| seconds.parse().unwrap()));
    let stopwatch = Arc::new(Stopwatch::default());
    let mut hooks = LogHooks::fatal(|error| panic!("{error}"));
    hooks.observer = Arc::clone(&stopwatch) as Arc<dyn LogObserver>;
    let place = LogPlace {
        files: Arc::new(OsFiles),
        dir: dir.clone(),
        options: LogOptions::default(),
        hooks,
    };
    let log = place
        .create(Bytes::from_static(b"bench"), 1)
        .unwrap()
        .start()
        .unwrap();

    println!(
        "{:<22} {:>10} {:>8} {:>8} {:>8} {:>9} {:>11}",
        "", "entries/s", "a flush", "p50 ms", "p99 ms", "max ms", "unprepared"
    );
    report("64 a flush", &log, &stopwatch, time, |log, next| {
        submit_and_wait(log, next, 64, 1)
    });
    report("1 a flush", &log, &stopwatch, time, |log, next| {
        submit_and_wait(log, next, 1, 1)
    });
    report("1000 in flight", &log, &stopwatch, time, |log, next| {
        submit_and_wait(log, next, 16, 1000)
    });
    log.close().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

fn report(
    name: &str,
    log: &SegmentLog,
    stopwatch: &Stopwatch,
    time: Duration,
    load: impl Fn(&SegmentLog, u64) -> u64,
) {
    stopwatch.flushes.lock().unwrap().clear();
    *stopwatch.unprepared.lock().unwrap() = 0;
    let first = log.state().last.map_or(0, |last| last.index + 1);
    let mut next = first;
    let start = Instant::now();
    while start.elapsed() < time {
        next = load(log, next);
        purge(log, next);
    }
    let rate = (next - first) as f64 / start.elapsed().as_secs_f64();
    let flushes = stopwatch.flushes.lock().unwrap();
    let mut times: Vec<f64> = flushes
        .iter()
        .map(|(took, _)| took.as_secs_f64() * 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{name:<22} {rate:>10.0} {:>8.1} {:>8.2} {:>8.2} {:>9.2} {:>11}",
        (next - first) as f64 / times.len() as f64,
        at(0.5),
        at(0.99),
        at(1.0),
        stopwatch.unprepared.lock().unwrap()
    );
}

/// Submits `rounds` times `count` entries, each a write of its own, and waits for all. Returns the next index.
fn submit_and_wait(log: &SegmentLog, first: u64, count: u64, rounds: u64) -> u64 {
    let (sender, acknowledged) = mpsc::channel();
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let end = first + count * rounds;
    for index in first..end {
        let entry = LogEntry {
            position: Position {
                term: 1,
                leader: 1,
                index,
            },
            payload: payload.clone(),
        };
        let sender = sender.clone();
        log.submit(
            Write::Append(vec![entry]),
            Box::new(move |outcome| {
                outcome.unwrap();
                sender.send(()).unwrap();
            }),
        );
        if index - first >= 1000 {
            acknowledged.recv().unwrap();
        }
    }
    drop(sender);
    acknowledged.iter().count();
    end
}

fn purge(log: &SegmentLog, next: u64) {
    if next > 2 * ENTRIES_KEPT && next.is_multiple_of(1024) {
        let up_to = Position {
            term: 1,
            leader: 1,
            index: next - ENTRIES_KEPT,
        };
        log.submit(Write::Purge { up_to }, Box::new(|outcome| outcome.unwrap()));
    }
}
