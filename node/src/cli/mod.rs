//! The commands that speak to a running cluster, over the native API; and [`recover`], for one that doesn't run any more.
//!
//! Each is decode, ask, print: arguments become one or two calls of `spine-client`, the answer becomes rows, and rows
//! become a table or JSON ([`print`](mod@print)). What goes wrong is one line, cause and remedy, and an exit code ([`exit`]).

mod debug;
mod doctor;
mod exit;
mod facts;
mod kv;
mod lease;
mod lock;
mod members;
mod print;
mod progress;
mod recover;
mod rows;
mod service;
mod snapshot;
mod watch;

use std::{
    io::{Read, Write},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressDrawTarget;
use spine_client::{Client, Error};

pub use self::exit::Exit;
use self::exit::Failure;

/// Where the native API of a node on this machine listens.
const ADDR_DEFAULT: &str = "127.0.0.1:8502";

/// A command for a running cluster, or about this program.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List the servers of the cluster, or remove one
    Members(members::Members),
    /// Have a server leave the cluster for good
    Leave(members::Leave),
    /// Read and write keys
    Kv(kv::Kv),
    /// Make, renew and end leases
    Lease(lease::Lease),
    /// Run a command while a lock is held
    Lock(lock::Lock),
    /// Register, find and remove services
    Service(service::Service),
    /// Keep the state of the cluster in a file, and begin a cluster with it
    Snapshot(snapshot::Snapshot),
    /// Go on with the data of one stopped server, when most voters are lost for good
    Recover(recover::Recover),
    /// Print what happens, one JSON event a line
    Watch(watch::Watch),
    /// Find out what is wrong with a cluster, or about to be, and what to do
    Doctor(doctor::Doctor),
    /// Make a file for a report of a defect, without secrets
    Debug(debug::Debug),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Which cluster, as whom, for how long.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// Servers to ask: the native gRPC addresses, HOST:PORT,…
    #[arg(long, env = "SPINE_ADDR", default_value = ADDR_DEFAULT, global = true, value_name = "H:P,…")]
    addr: String,
    /// The credential to show
    #[arg(long, env = "SPINE_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// How long a call may take, as 500ms, 5s or 2m
    #[arg(long, default_value = "5s", value_parser = duration, global = true, value_name = "TIME")]
    timeout: Duration,
    /// Read what the asked server has: it may be behind, and it needs no leader
    #[arg(long, global = true)]
    stale: bool,
}

impl Connection {
    fn client(&self) -> Result<Client, Failure> {
        let client = self.client_of(&self.addr)?;
        Ok(if self.stale { client.stale() } else { client })
    }

    /// A client of other servers, as the same.
    fn client_of(&self, addresses: &str) -> Result<Client, Error> {
        let mut builder = Client::builder(addresses)
            .deadline(self.timeout)
            .wait_for_server(false);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build()
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people
    #[default]
    Table,
    /// JSON, for programs
    Json,
}

/// How to print, as an argument.
#[derive(Args, Clone, Copy, Debug)]
pub struct Printing {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
}

/// Where a command reads and writes; a test hands over its own.
pub struct Streams<'a> {
    /// Answers.
    pub out: &'a mut (dyn Write + Send),
    /// Complaints.
    pub err: &'a mut (dyn Write + Send),
    /// What `kv put KEY -` reads.
    pub input: &'a mut (dyn Read + Send),
    /// Whether people read `out` as it is written.
    pub terminal: bool,
    /// Where bars are drawn for the people who wait.
    pub progress: &'a (dyn Fn() -> ProgressDrawTarget + Send + Sync),
}

/// Runs a command. `program` is the whole command line, of which completion makes a script.
pub async fn run(command: ClientCommand, program: clap::Command, streams: &mut Streams<'_>) -> Exit {
    match dispatch(command, program, streams).await {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            let exit = failure.exit();
            if let Some(line) = failure.line() {
                // Whoever closed stderr doesn't want to know.
                let _ = writeln!(streams.err, "error: {line}");
            }
            exit
        }
    }
}

async fn dispatch(
    command: ClientCommand,
    mut program: clap::Command,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match command {
        ClientCommand::Members(members) => members.run(streams).await,
        ClientCommand::Leave(leave) => leave.run(streams).await,
        ClientCommand::Kv(kv) => kv.run(streams).await,
        ClientCommand::Lease(lease) => lease.run(streams).await,
        ClientCommand::Service(service) => service.run(streams).await,
        ClientCommand::Snapshot(snapshot) => snapshot.run(streams).await,
        ClientCommand::Recover(recover) => recover.run(streams).await,
        ClientCommand::Watch(watch) => watch.run(streams).await,
        ClientCommand::Lock(lock) => lock.run(streams).await,
        ClientCommand::Doctor(doctor) => doctor.run(streams).await,
        ClientCommand::Debug(debug) => debug.run(streams).await,
        ClientCommand::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, "spine", &mut script);
            Ok(streams.out.write_all(&script)?)
        }
        ClientCommand::Version { output } => {
            let version = env!("CARGO_PKG_VERSION");
            match output {
                Format::Table => writeln!(streams.out, "spine {version}")?,
                Format::Json => print::json(streams, &serde_json::json!({ "version": version }))?,
            }
            Ok(())
        }
    }
}

/// Reads a time, such as `500ms`, `5s`, `2m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: 500ms, 5s, 2m or 1h is wanted");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (count, unit) = text.split_at(unit);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    count
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}
