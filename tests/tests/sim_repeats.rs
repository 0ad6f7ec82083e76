//! The same seed gives the same trace in two processes; another seed gives another one.
//!
//! Run by `cargo x sim`, which builds with `--cfg tokio_unstable`. What is run: `src/sim_proof/main.rs`, openraft and tonic
//! alone, and why that repeats; `src/sim/main.rs`, the whole node.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

/// Runs a program with one seed in a process of its own and gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output().unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();
    assert!(
        run.status.success(),
        "{arguments:?}: {printed}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    printed
}

fn prove(seed: u64) -> String {
    run(env!("CARGO_BIN_EXE_sim-proof"), &[&seed.to_string()])
}

/// The whole node, without what it cost.
fn simulate(seed: u64, more: &[&str]) -> String {
    let seed = seed.to_string();
    let arguments = [&["--seed", &seed, "--seconds", "40"], more].concat();
    let printed = run(env!("CARGO_BIN_EXE_sim"), &arguments);
    let (told, _cost) = printed.split_once("; cost ").unwrap();
    told.to_owned()
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
        assert_eq!(prove(seed), prove(seed), "seed {seed} went two ways");
    }
}

#[test]
fn another_seed_goes_another_way() {
    assert_ne!(digest(&prove(1)), digest(&prove(2)));
}

#[test]
fn the_same_seed_repeats_with_the_whole_node() {
    for (seed, nodes) in [(1, "1"), (2, "3"), (3, "3"), (4, "5")] {
        let nodes = ["--nodes", nodes];
        let (one, other) = (simulate(seed, &nodes), simulate(seed, &nodes));
        assert_eq!(one, other, "seed {seed} went two ways");
    }
}

#[test]
fn the_same_seed_repeats_while_members_come_and_go() {
    for seed in [1, 2] {
        let (one, other) = (simulate(seed, &["--life"]), simulate(seed, &["--life"]));
        assert_eq!(one, other, "seed {seed} went two ways");
    }
}
