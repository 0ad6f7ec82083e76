//! Writes that fill the log, so that a power cut has something to lose, and that are a check of their own.
//!
//! A writer writes ever higher numbers to its key, each in a value of many bytes. After the cut the number there must not
//! lie below the last one acknowledged, nor above the last one attempted. A write of unknown outcome may still come to
//! pass after later ones, so the writer goes on with a fresh key.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::endpoint::Endpoints;
use crate::http;

/// Keys begin so; no workload uses them.
const PREFIX: &str = "ballast/";

/// Writers beside each other: there is always a write in flight.
const WRITERS: usize = 3;

/// Bytes of a value.
const VALUE_BYTES: usize = 48 * 1024;

/// Time for the answer to a write.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time in which the cluster has to answer a read after a fault.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// Between two attempts that fail at once.
const PAUSE: Duration = Duration::from_millis(100);

/// What was written in the whole run.
#[derive(Debug, Default)]
pub(super) struct Ballast {
    known: Arc<Known>,
    losses: Vec<String>,
}

/// What is known of all keys.
#[derive(Debug, Default)]
struct Known {
    keys: Mutex<Vec<Bounds>>,
    in_flight: AtomicUsize,
}

/// Between which numbers a key's must lie; 0: it may be absent.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    acknowledged: u64,
    attempted: u64,
}

/// Writers at work. Dropping this ends them.
#[derive(Debug)]
pub(super) struct Writing {
    ends: Arc<AtomicBool>,
    known: Arc<Known>,
    threads: Vec<JoinHandle<()>>,
}

impl Ballast {
    /// Writes until what this gives is dropped.
    pub(super) fn write_to(&self, endpoints: &Endpoints) -> Writing {
        let ends = Arc::new(AtomicBool::new(false));
        let nodes: Vec<SocketAddr> = endpoints.nodes.iter().map(|node| node.http).collect();
        let threads = (0..WRITERS).map(|writer| {
            let (known, ends, nodes) = (Arc::clone(&self.known), Arc::clone(&ends), nodes.clone());
            thread::spawn(move || {
                for node in nodes.iter().cycle().skip(writer) {
                    if ends.load(SeqCst) {
                        break;
                    }
                    known.write(*node, &ends);
                }
            })
        });
        Writing {
            threads: threads.collect(),
            known: Arc::clone(&self.known),
            ends,
        }
    }

    /// Reads every key through some node, while nobody writes.
    pub(super) fn check(&mut self, endpoints: &Endpoints) {
        let keys = self.known.keys.lock().clone();
        let keys = keys.into_iter().enumerate();
        let mut nodes: VecDeque<SocketAddr> = endpoints.nodes.iter().map(|node| node.http).collect();
        // A key without an acknowledgement may hold anything that was attempted, or nothing.
        for (key, bounds) in keys.filter(|(_, bounds)| bounds.acknowledged > 0) {
            let Bounds {
                acknowledged,
                attempted,
            } = bounds;
            match read(key, &mut nodes) {
                Some(found) if (acknowledged..=attempted).contains(&found) => {}
                Some(found) => self.losses.push(format!(
                    "{PREFIX}{key} holds {found}; {acknowledged} was acknowledged, {attempted} the last attempted"
                )),
                None => {
                    self.losses.push(format!(
                        "{PREFIX}{key} can't be read {READ_WITHIN:?} after the power came back"
                    ));
                    return;
                }
            }
        }
    }

    /// Broken promises since the last call.
    pub(super) fn losses(&mut self) -> Vec<String> {
        std::mem::take(&mut self.losses)
    }
}

impl Writing {
    /// No further write is begun.
    pub(super) fn end(&self) {
        self.ends.store(true, SeqCst);
    }

    /// Whether a write has been sent and not been answered.
    pub(super) fn in_flight(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PAUSE {
            if self.known.in_flight.load(SeqCst) > 0 {
                return true;
            }
        }
        false
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.end();
        for thread in self.threads.drain(..) {
            // If it panicked, its message is already on standard error.
            let _ = thread.join();
        }
    }
}

impl Known {
    /// Writes to a key of its own by this node, until told to end or an outcome is unknown.
    fn write(&self, node: SocketAddr, ends: &AtomicBool) {
        let key = {
            let mut keys = self.keys.lock();
            keys.push(Bounds::default());
            keys.len() - 1
        };
        for number in 1.. {
            if ends.load(SeqCst) {
                return;
            }
            self.keys.lock()[key].attempted = number;
            self.in_flight.fetch_add(1, SeqCst);
            let answer = http::put(node, &path(key), value(number).as_bytes(), PATIENCE);
            self.in_flight.fetch_sub(1, SeqCst);
            match answer {
                Ok(answer) if answer.is_success() && answer.text().trim() == "true" => {
                    self.keys.lock()[key].acknowledged = number;
                }
                _ => return thread::sleep(PAUSE),
            }
        }
    }
}

/// A number, and behind it what no disk can compress.
fn value(number: u64) -> String {
    let mut value = format!("{number} ");
    let mut noise = number;
    while value.len() < VALUE_BYTES {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(number | 1);
        let _ = write!(value, "{noise:016x}");
    }
    value
}

/// The number under a key, by a linearizable read of the first node that gives it; 0: there is none. A node that
/// doesn't is put last.
fn read(key: usize, nodes: &mut VecDeque<SocketAddr>) -> Option<u64> {
    let start = Instant::now();
    let path = format!("{}?raw&consistent", path(key));
    while start.elapsed() < READ_WITHIN {
        match http::get(*nodes.front()?, &path, PATIENCE) {
            Ok(answer) if answer.is_success() => {
                return answer
                    .text()
                    .split(' ')
                    .next()
                    .and_then(|number| number.parse().ok());
            }
            Ok(answer) if answer.status == 404 => return Some(0),
            _ => {
                nodes.rotate_left(1);
                thread::sleep(PAUSE);
            }
        }
    }
    None
}

fn path(key: usize) -> String {
    format!("/v1/kv/{PREFIX}{key}")
}
