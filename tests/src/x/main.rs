//! `cargo x`: everything that is done to the repository, as one program instead of shell scripts.
//!
//! | command | what it runs |
//! |---|---|
//! | `cargo x check` | formatting, clippy and rustdoc, each with warnings as errors |
//! | `cargo x test` | `cargo test --workspace`: offline, unprivileged; and a program outside the workspace |
//! | `cargo x python` | the tests of `client/python` in an environment of their own |
//! | `cargo x compat` | unmodified clients of others, both tutorials and the demo, against the built binary |
//! | `cargo x upgrade` | clusters of earlier releases, built from the history, upgraded under load |
//! | `cargo x faults` | kills, partitions and power cuts (root: namespaces, loop devices) |
//! | `cargo x sim` | seeds of the node's simulation, and the proof that a seed repeats |
//! | `cargo x sim [--life] --seed N [--trace]`, `--seeds A..B` | one seed, or many: `tests/src/sim/options.rs` has the rest |
//! | `cargo x sim --breaks [NAME…]` | whether it finds the defects planted in `tests/sim/breaks`, built one after another |
//! | `cargo x ci` | all of it, and closes with the totals |
//! | `cargo x bench [--quick]` | what a node costs, on the release build; `tests/src/bench/main.rs` has the rest |
//!
//! A stage that lacks its privilege or a component fails and says which. Nothing here skips: an ignored or skipped test
//! counts as a failure, so a green run means that everything named above has run.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod breaks;
mod debian;
mod install;
mod run;
mod stages;
mod tally;
mod workspace;

use std::process::ExitCode;

use run::Stage;
use workspace::Workspace;

/// One subcommand of `cargo x`.
struct Command {
    name: &'static str,
    purpose: &'static str,
    stages: fn(&Workspace) -> Vec<Stage>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "check",
        purpose: "formatting, clippy, rustdoc; warnings are errors",
        stages: stages::check,
    },
    Command {
        name: "test",
        purpose: "every test that needs neither network nor privilege",
        stages: stages::test,
    },
    Command {
        name: "python",
        purpose: "the tests of client/python",
        stages: stages::python,
    },
    Command {
        name: "compat",
        purpose: "real clients of others, both tutorials and the demo",
        stages: stages::compat,
    },
    Command {
        name: "upgrade",
        purpose: "earlier releases, built from the history, upgraded under load",
        stages: stages::upgrade,
    },
    Command {
        name: "faults",
        purpose: "kills, partitions and power cuts (root)",
        stages: stages::faults,
    },
    Command {
        name: "sim",
        purpose: "seeds of the simulation, and that each repeats; with --seed N or --seeds A..B just those",
        stages: stages::sim,
    },
    Command {
        name: "ci",
        purpose: "all of the above",
        stages: stages::ci,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        return misused();
    };
    let command = COMMANDS.iter().find(|command| command.name == name);
    let is_known = match command {
        Some(command) => rest.is_empty() || command.name == "sim",
        None => name == "bench",
    };
    if !is_known {
        return misused();
    }
    let workspace = match Workspace::read() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("cargo x: {error}");
            return ExitCode::FAILURE;
        }
    };
    let stages = match command {
        Some(_) if rest.first().is_some_and(|first| first == "--breaks") => {
            match breaks::stages(&workspace, &rest[1..]) {
                Ok(stages) => stages,
                Err(error) => {
                    eprintln!("cargo x: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        Some(_) if !rest.is_empty() => stages::simulate(&workspace, rest),
        Some(command) => (command.stages)(&workspace),
        None => stages::bench(&workspace, rest),
    };
    let tally = run::all(stages);
    println!("{tally}");
    if tally.is_green() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn misused() -> ExitCode {
    eprintln!("usage: cargo x COMMAND\n");
    for command in COMMANDS {
        eprintln!("  {:8} {}", command.name, command.purpose);
    }
    eprintln!(
        "  {:8} what a node costs, on the release build; --quick: at most ten minutes",
        "bench"
    );
    ExitCode::from(2)
}
