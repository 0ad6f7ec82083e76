//! The binary `spine`: reads the command line, starts the runtime, ends with an exit code.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where the program speaks to people"
)]

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use indicatif::ProgressDrawTarget;
use mimalloc::MiMalloc;
use spine_node::{
    World,
    cli::{self, ClientCommand, Exit, Streams},
    config::{Config, HostPort, Mode, Options},
    server::{Places, Server, systemd},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A registry for services: register, find, watch, check
#[derive(Debug, Parser)]
#[command(name = "spine", version, arg_required_else_help = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server for development: one command, everything on, open, on this machine alone
    Dev(Serving),
    /// Run a server
    Serve(Serving),
    /// Run a server that joins a cluster: `serve --join`, for an empty data directory
    Join(Joining),
    #[command(flatten)]
    Client(ClientCommand),
}

/// How to run a server. Each option may also stand in the environment or in the file named by --config; a flag wins over
/// the environment, that over the file.
#[derive(Args, Debug)]
struct Serving {
    /// A TOML file with any of the options below, named as the flags without the dashes in front
    #[arg(long, env = "SPINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Which cluster to join, and how to run the server.
#[derive(Args, Debug)]
struct Joining {
    /// Peer addresses of servers of the cluster
    #[arg(required = true, value_name = "HOST:PORT", value_delimiter = ',')]
    servers: Vec<HostPort>,
    #[command(flatten)]
    serving: Serving,
}

impl Joining {
    fn into_serving(self) -> Serving {
        let Self { servers, mut serving } = self;
        serving.options.join.get_or_insert_default().extend(servers);
        serving
    }
}

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            // Help and version are errors to clap, with exit code 0; a wrong command line ends with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let exit = match program.command {
        Command::Dev(serving) => serve(Mode::Dev, serving),
        Command::Serve(serving) => serve(Mode::Serve, serving),
        Command::Join(joining) => serve(Mode::Serve, joining.into_serving()),
        Command::Client(command) => client(command),
    };
    exit.into()
}

/// Runs a command for a running cluster: one task, one thread.
fn client(command: ClientCommand) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Error, &error),
    };
    let terminal = io::IsTerminal::is_terminal(&io::stdout());
    let mut streams = Streams {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        input: &mut io::stdin(),
        terminal,
        // Which draws nothing where stderr is no terminal.
        progress: &ProgressDrawTarget::stderr,
    };
    runtime.block_on(cli::run(command, Program::command(), &mut streams))
}

fn serve(mode: Mode, serving: Serving) -> Exit {
    let Serving {
        config: file,
        options,
    } = serving;
    let config = match Config::resolve(mode, options, file.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(Exit::Usage, &error),
    };
    if let Err(error) = telemetry::init_logging(config.log_format) {
        return fail(Exit::Usage, &error);
    }
    raise_open_files();
    // Listeners, dialects and probes share this runtime; Raft has one of its own, which never waits for them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("spine")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(error) => fail(Exit::Error, &error),
    }
}

async fn run(config: Config) -> Exit {
    // Asked for before the start, so that a signal during it is not lost.
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return fail(Exit::Error, &error),
        };
    let server = tokio::select! {
        started = Server::start(config.clone(), World::real()) => match started {
            Ok(server) => server,
            Err(error) => return fail(error.exit(), &error),
        },
        _ = terminate.recv() => return Exit::Ok,
        _ = interrupt.recv() => return Exit::Ok,
    };
    introduce(&config, server.places());
    systemd::ready();
    let watchdog = tokio::spawn(systemd::watchdog(server.registry()));
    tokio::select! {
        // The node has said why in the log; its data is as a crash would leave it, which the next start repairs.
        error = server.fatal() => return fail(error.exit(), &error),
        () = server.left() => tracing::info!("this server has left its cluster"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    systemd::stopping();
    watchdog.abort();
    // Who asks twice doesn't want to wait.
    let stopped = tokio::select! {
        stopped = server.stop() => stopped,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    match stopped {
        Ok(()) => Exit::Ok,
        Err(error) => fail(Exit::Error, &error),
    }
}

/// Says where everything is, and what a developer must know.
fn introduce(config: &Config, places: &Places) {
    let Config { name, mode, .. } = config;
    println!("spine {} · server {name} · ready", env!("CARGO_PKG_VERSION"));
    if let Some(http) = places.http {
        println!("  Consul HTTP API  http://{http}/v1/");
        println!("  web UI           http://{http}/ui/");
        println!("  metrics, health  http://{http}/metrics  /readyz  /livez");
    }
    if let Some(https) = places.https {
        println!("  HTTPS            https://{https}/v1/  /ui/  /metrics  /readyz  /livez");
    }
    if let Some(socket) = &places.http_socket {
        println!("  Unix socket      unix://{}", socket.display());
    }
    if let Some(grpc) = places.grpc {
        println!("  native gRPC      {grpc}");
    }
    if let Some(peer) = places.peer {
        println!("  other servers    {peer}");
    }
    let kept = if config.data_dir.is_some() {
        "kept"
    } else {
        "temporary, removed at the end"
    };
    println!("  data             {} ({kept})", places.data_dir.display());
    match config.default_service_ttl {
        Some(ttl) => println!(
            "  services         one that registers without checks and repeats it is removed {ttl} after the last time \
             (--default-service-ttl)"
        ),
        None => println!("  services         stay until they are deregistered (--default-service-ttl off)"),
    }
    println!("  governance       open: everybody who reaches a port may do everything");
    let https = config.https.as_ref().map(|https| &https.endpoint);
    let outside = [
        config.http.as_ref(),
        https,
        config.grpc.as_ref(),
        config.peer.as_ref(),
    ]
    .into_iter()
    .flatten()
    .any(|endpoint| !endpoint.is_loopback());
    match (outside, mode) {
        (true, _) => {
            println!("  listening        BEYOND THIS MACHINE: whoever reaches it may change everything");
        }
        (false, Mode::Dev) => println!("  listening        on this machine alone"),
        (false, Mode::Serve) => {}
    }
}

/// Each connection is an open file, and the usual soft limit of 1024 is soon reached. The hard limit is what the
/// administrator allows.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "can't raise the number of open files");
    }
}

fn fail(exit: Exit, error: &dyn std::error::Error) -> Exit {
    eprintln!("error: {error}");
    exit
}
