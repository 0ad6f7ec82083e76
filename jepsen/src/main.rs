//! `spine-jepsen`: the command line of the harness.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};
use spine_jepsen::{
    db, doctor,
    endpoint::{Endpoint, Endpoints},
    history::Workload,
    matrix::Cell,
    report,
    run::{self, Plan},
    schedule::{Kind, Schedule},
    sealed, self_test,
};

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
    /// Check the history of a run again, without a cluster
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
    /// What the clients do, all at the same time
    #[arg(long, value_delimiter = ',', default_value = "register,set,watch,catalog")]
    workload: Vec<Workload>,
    /// What is done to the cluster: `kill`, `pause`, `partition`, `power_cut`, `clock`, `restart`,
    /// `membership`; `none`: nothing
    #[arg(long, value_delimiter = ',', default_value = "none")]
    fault: Vec<String>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// How long faults are made, as 60s or 2m
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Operations a second, over all clients of a workload
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Decides the schedule and what each client does
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The run's directory, which must not be there yet; else one is made in jepsen-results
    #[arg(long)]
    directory: Option<PathBuf>,
    /// A cluster that runs already, instead of one of our own: NAME=HTTP/GRPC,…, each HOST:PORT. No faults then
    #[arg(long, value_delimiter = ',', value_parser = endpoint)]
    attach: Vec<Endpoint>,
    /// Plant a defect: the nodes' flushes do nothing. Power cuts must show it
    #[arg(long)]
    without_flushes: bool,
}

#[derive(Debug, Args)]
struct Matrix {
    /// Only these workloads
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "register,set,watch,catalog,append,lock,lease,backup"
    )]
    workload: Vec<Workload>,
    /// Only these faults
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "kill,pause,partition,power_cut,clock,restart,membership"
    )]
    fault: Vec<String>,
    /// All workloads at the same time: a cell for each fault
    #[arg(long)]
    together: bool,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// How long each cell
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Operations a second, over all clients of a workload
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Decides all schedules
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The matrix's directory; cells that are in it already, of the same binary, are not run again
    #[arg(long, default_value = "jepsen-results/matrix")]
    resume: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Run(run) => conclude(run.run()),
        Command::Replay { directory } => conclude(run::replay(&directory).map_err(Into::into)),
        Command::Matrix(matrix) => conclude(matrix.run()),
        Command::Doctor => examine(),
        Command::SelfTest { seed } => self_test(seed),
    }
}

/// Prints the table. Success only if all is well.
fn conclude(rows: Result<Vec<report::Row>, Box<dyn Error>>) -> ExitCode {
    match rows {
        Ok(rows) => {
            print!("{}", report::table(&rows));
            if report::all_ok(&rows) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("spine-jepsen: {error}");
            ExitCode::from(2)
        }
    }
}

impl Run {
    fn run(self) -> Result<Vec<report::Row>, Box<dyn Error>> {
        let faults = kinds(&self.fault)?;
        let attached = attached(self.attach);
        if attached.is_some() && !faults.is_empty() {
            return Err("a cluster that runs already is not broken: leave --fault or --attach out".into());
        }
        if attached.is_none() {
            sealed::enter()?;
        }
        let directory = match self.directory {
            Some(directory) => directory,
            None => Path::new("jepsen-results").join(format!("{}-seed-{}", unix_seconds(), self.seed)),
        };
        if directory.exists() {
            return Err(format!("{} is there already", directory.display()).into());
        }
        let nodes = attached
            .as_ref()
            .and_then(|cluster| u8::try_from(cluster.nodes.len()).ok());
        let plan = Plan {
            workloads: self.workload.into_iter().collect(),
            faults,
            nodes: nodes.unwrap_or(self.nodes),
            time: self.time,
            rate: self.rate,
            seed: self.seed,
            directory,
            binary: match attached {
                // Whatever runs there: this program stands for it, as the other end of the line.
                Some(_) => std::env::current_exe()?,
                None => db::binary()?,
            },
            attached,
            without_flushes: self.without_flushes,
        };
        print!(
            "{}",
            Schedule::draw(plan.seed, &plan.faults, plan.nodes, plan.time)
        );
        println!("writing to {}", plan.directory.display());
        Ok(run::run(&plan)?)
    }
}

impl Matrix {
    fn run(self) -> Result<Vec<report::Row>, Box<dyn Error>> {
        let faults: Vec<String> = kinds(&self.fault)?.iter().map(ToString::to_string).collect();
        let workloads: Vec<String> = self.workload.iter().map(ToString::to_string).collect();
        let workloads = if self.together {
            vec![workloads.join(",")]
        } else {
            workloads
        };
        let mut rows = Vec::new();
        for fault in &faults {
            for workload in &workloads {
                let cell = Cell {
                    directory: self
                        .resume
                        .join(format!("{fault}-{}", workload.replace(',', "+"))),
                    arguments: vec![
                        format!("--workload={workload}"),
                        format!("--fault={fault}"),
                        format!("--nodes={}", self.nodes),
                        format!("--time={}", humantime::format_duration(self.time)),
                        format!("--rate={}", self.rate),
                        format!("--seed={}", self.seed),
                    ],
                };
                rows.extend(cell.result(&db::binary()?)?);
            }
        }
        Ok(rows)
    }
}

fn kinds(names: &[String]) -> Result<Vec<Kind>, String> {
    let names = names.iter().filter(|name| *name != "none");
    names.map(|name| name.parse()).collect()
}

fn attached(nodes: Vec<Endpoint>) -> Option<Endpoints> {
    let harness = nodes.first()?.http.ip();
    Some(Endpoints { nodes, harness })
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let parse = || {
        let (name, addresses) = text.split_once('=')?;
        let (http, grpc) = addresses.split_once('/')?;
        Some(Endpoint {
            name: name.to_owned(),
            http: http.parse().ok()?,
            grpc: grpc.parse().ok()?,
        })
    };
    parse().ok_or_else(|| format!("{text:?} is not NAME=HTTP/GRPC"))
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
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
