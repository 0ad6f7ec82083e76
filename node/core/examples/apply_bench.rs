//! What a put costs in [`State::apply`]: values of 256 bytes under random keys, 64 requests an entry.
//!
//! `cargo run --release -p spine-core --example apply_bench` prints microseconds for each put, of keys that are new
//! and of keys that are there, with and without a clone of the state held after each entry, as the node publishes it.
// It measures and prints; the bans are for the core itself.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::Instant;

use bytes::Bytes;
use spine_core::{Command, Entry, Guard, Put, Repeat, Request, State, Time, WallTime};

const KEYS: u64 = 100_000;
const ENTRY_REQUESTS: usize = 64;
const ROUNDS: u32 = 4;

fn main() {
    let mut state = State::new();
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    println!("new keys: {:.2} us", measure(&mut state, &keys, false));
    for round in 1..ROUNDS {
        // Another order each time.
        let keys: Vec<_> = (0..KEYS)
            .map(|n| key(scatter(n + u64::from(round)) % KEYS))
            .collect();
        println!("old keys: {:.2} us", measure(&mut state, &keys, false));
    }
    let keys: Vec<_> = (0..KEYS).map(|n| key(scatter(n) % KEYS)).collect();
    println!("old keys, published: {:.2} us", measure(&mut state, &keys, true));
    println!("{} bytes of state, digest {:032x}", state.bytes(), state.digest());
}

/// Puts each key once; microseconds a put.
fn measure(state: &mut State, keys: &[Bytes], publish: bool) -> f64 {
    let entries: Vec<_> = keys.chunks(ENTRY_REQUESTS).map(entry).collect();
    let mut published = None;
    let begin = Instant::now();
    for entry in &entries {
        let batch = state.apply(entry);
        assert!(batch.applied.iter().all(|applied| applied.result.is_ok()));
        if publish {
            published = Some(state.clone());
        }
    }
    let spent = begin.elapsed();
    drop(published);
    spent.as_secs_f64() * 1e6 / keys.len() as f64
}

fn entry(keys: &[Bytes]) -> Entry {
    let put = |key: &Bytes| {
        Request::internal(Command::Put(Put {
            key: key.clone(),
            value: Bytes::from(vec![7; 256]),
            flags: 0,
            lease: None,
            guard: Guard::Always,
            repeat: Repeat::Write,
        }))
    };
    Entry {
        time: Time(0),
        wall: WallTime(0),
        requests: keys.iter().map(put).collect(),
    }
}

fn key(number: u64) -> Bytes {
    format!("registry/{:016x}", scatter(number)).into()
}

/// A number far from its neighbours' (Knuth's multiplicative hash).
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}
