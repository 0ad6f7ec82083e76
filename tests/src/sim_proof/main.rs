//! Proof that a simulation repeats: three openraft nodes that talk through tonic over turmoil's network, as one program
//! that takes a seed and prints the digest of everything that happened, in order.
//!
//! `sim-proof SEED [SECONDS [TRACE-FILE]]` simulates SECONDS (60 unless said) of writes under partitions and crashes. Two
//! processes with the same seed have to print the same digest, and another seed another one; `tests/sim_repeats.rs` holds
//! that. If it ever breaks, write two traces and compare them: the first line that differs stands beside the source of chance.
//!
//! What makes it repeat, and what the node itself has to keep to when it is simulated:
//! - turmoil runs every host on one thread, with paused time and seeded message delays and host order;
//! - `--cfg tokio_unstable`, so that turmoil can seed tokio's generator, which decides `select!` and the order of wakes;
//! - openraft takes its chance from `DeterministicRng`, one seed for each start of a node and each request it answers;
//! - no map whose order is random, no `Instant` or `SystemTime`, no thread, and one process for each seed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is its result"
)]

mod client;
mod faults;
mod log;
mod machine;
mod network;
mod scenario;
mod server;
mod types;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if !cfg!(tokio_unstable) {
        eprintln!(
            "sim-proof: built without --cfg tokio_unstable, so nothing would repeat; run `cargo x sim`"
        );
        return ExitCode::FAILURE;
    }
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().and_then(|seed| seed.parse().ok());
    let seconds = arguments.next().map_or(Some(60), |seconds| seconds.parse().ok());
    let (Some(seed), Some(seconds)) = (seed, seconds) else {
        eprintln!("usage: sim-proof SEED [SECONDS [TRACE-FILE]]");
        return ExitCode::from(2);
    };
    match scenario::run(seed, Duration::from_secs(seconds), arguments.next().as_deref()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sim-proof: seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}
