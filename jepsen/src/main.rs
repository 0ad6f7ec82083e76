//! `spine-jepsen`: the command line of the harness.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use spine_jepsen::{doctor, schedule::Kind, sealed, self_test};

/// Break a cluster of real processes and check that it kept its promises
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, use it, break it, check what its clients saw
    Run(Run),
    /// Check the history of a run again
    Replay {
        /// The directory of the run
        directory: PathBuf,
    },
    /// Plant errors in good histories: every one must be found
    SelfTest {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Say which faults this machine can make, and why not the others
    Doctor,
    /// Run every workload under every fault
    Matrix(Matrix),
}

#[derive(Debug, Args)]
struct Run {
    /// What the clients do
    #[arg(long, value_delimiter = ',', default_value = "register")]
    workload: Vec<String>,
    /// What is done to the cluster; `none`: nothing
    #[arg(long, value_delimiter = ',', default_value = "none")]
    fault: Vec<String>,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How long, as 60s or 2m
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Operations a second, over all clients of a workload
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Decides the schedule and what each client does
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the run's directory is made
    #[arg(long, default_value = "jepsen-results")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct Matrix {
    /// How long each cell
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Decides all schedules
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on with a matrix that was interrupted
    #[arg(long)]
    resume: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Doctor => examine(),
        Command::SelfTest { seed } => self_test(seed),
        command => {
            eprintln!("not built yet: {command:?}");
            ExitCode::from(2)
        }
    }
}

fn self_test(seed: u64) -> ExitCode {
    let trials = self_test::run(seed);
    print!("{}", self_test::table(&trials));
    if trials.iter().all(self_test::Trial::passed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what works here; a failure unless all does.
fn examine() -> ExitCode {
    if let Err(error) = sealed::enter() {
        eprintln!("spine-jepsen: {error}");
        return ExitCode::FAILURE;
    }
    let findings = doctor::examine(&std::env::temp_dir());
    print!("{findings}");
    if findings.against(&Kind::ALL).is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
