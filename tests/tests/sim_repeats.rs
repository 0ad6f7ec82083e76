//! The same seed gives the same trace in two processes; another seed gives another one.
//!
//! Run by `cargo x sim`, which builds with `--cfg tokio_unstable`. What is run, and why it repeats: `src/sim_proof/main.rs`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

/// Runs one seed in a process of its own and gives what it printed.
fn simulate(seed: u64) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_sim-proof"))
        .arg(seed.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();
    assert!(
        run.status.success(),
        "seed {seed}: {}\n{printed}",
        String::from_utf8_lossy(&run.stderr)
    );
    printed
}

/// The closing line of a run.
fn digest(printed: &str) -> &str {
    printed
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("digest "))
        .expect("a run closes with its digest")
}

#[test]
fn the_same_seed_repeats_in_another_process() {
    for seed in 1..=5 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed} went two ways");
    }
}

#[test]
fn another_seed_goes_another_way() {
    assert_ne!(digest(&simulate(1)), digest(&simulate(2)));
}
