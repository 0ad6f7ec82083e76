//! `cargo x bench`: what a node costs and how long it takes, measured from outside on the real binary.
//!
//! Each figure is the median of several runs, with the least and the greatest. It judges nothing: machines differ,
//! and a figure is worth something beside another from the same run.
//!
//! | arguments | what is measured |
//! |---|---|
//! | | one server: starts, keys, a fleet that reports |
//! | `--puts` | puts to three servers by ever more clients, with either engine of the log |
//! | `--scale [--only keys\|install\|fanout]` | what three servers bear: see [`scale`] |
//! | `--embedded` | what a registry adds to a program that carries it |
//!
//! `--quick` takes less time, and `--smoke` only tells whether it all goes through.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

mod embedded;
mod load;
mod puts;
mod scale;
mod server;
mod table;

use std::{error::Error, path::PathBuf};

use self::{
    load::{Fleet, Keys},
    server::Server,
    table::Table,
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

const USAGE: &str = "[--puts | --scale [--only keys|install|fanout] | --embedded] [--quick | --smoke]";

/// How much is done, and how often.
struct Plan {
    runs: usize,
    keys: usize,
    writers: usize,
    value_bytes: usize,
    instances: usize,
    /// Each instance reports this often.
    heartbeat_seconds: u64,
    /// For so long the fleet is watched.
    steady_seconds: u64,
}

impl Plan {
    /// Long enough for figures to compare by.
    const WHOLE: Self = Self {
        runs: 5,
        keys: 100_000,
        writers: 64,
        value_bytes: 256,
        instances: 10_000,
        heartbeat_seconds: 10,
        steady_seconds: 30,
    };
    /// At most ten minutes: the same load, fewer runs.
    const QUICK: Self = Self {
        runs: 3,
        steady_seconds: 20,
        ..Self::WHOLE
    };

    /// Not for figures: whether it all goes through. What CI runs, on the debug build.
    const SMOKE: Self = Self {
        runs: 1,
        keys: 10_000,
        instances: 1_000,
        steady_seconds: 5,
        ..Self::WHOLE
    };
}

/// How much of it is done.
#[derive(Clone, Copy)]
enum Size {
    Whole,
    Quick,
    Smoke,
}

impl Size {
    /// The plan for this size.
    fn pick<T>(self, whole: T, quick: T, smoke: T) -> T {
        match self {
            Self::Whole => whole,
            Self::Quick => quick,
            Self::Smoke => smoke,
        }
    }
}

fn main() -> Done {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str).peekable();
    let what = arguments.next_if(|it| ["--puts", "--scale", "--embedded"].contains(it));
    let mut size = Size::Whole;
    let mut parts = scale::Part::ALL.to_vec();
    while let Some(argument) = arguments.next() {
        match argument {
            "--quick" => size = Size::Quick,
            "--smoke" => size = Size::Smoke,
            "--only" if what == Some("--scale") => {
                let part = arguments.next().and_then(scale::Part::named);
                parts = vec![part.ok_or("--only keys, install or fanout")?];
            }
            other => return Err(format!("{other:?} is not understood; usage: bench {USAGE}").into()),
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    provider
        .install_default()
        .map_err(|_| "a TLS provider is there already")?;
    match what {
        Some("--puts") => {
            use puts::Cell;
            puts::measure(&size.pick(Cell::WHOLE, Cell::QUICK, Cell::SMOKE))
        }
        Some("--scale") => {
            use scale::Plan;
            scale::measure(&size.pick(Plan::WHOLE, Plan::QUICK, Plan::SMOKE), &parts)
        }
        Some("--embedded") => embedded::measure(),
        _ => {
            let plan = size.pick(Plan::WHOLE, Plan::QUICK, Plan::SMOKE);
            tokio::runtime::Runtime::new()?.block_on(measure_all(&plan))
        }
    }
}

async fn measure_all(plan: &Plan) -> Done {
    let binary =
        PathBuf::from(std::env::var_os("SPINE_BIN").ok_or("SPINE_BIN must name the binary to measure")?);
    let mut table = Table::default();
    for run in 1..=plan.runs {
        println!("run {run} of {}", plan.runs);
        measure(plan, &binary, &mut table).await?;
    }
    println!(
        "\n{} keys of {} bytes by {} writers, {} instances with a heartbeat each {} s\n{table}",
        plan.keys, plan.value_bytes, plan.writers, plan.instances, plan.heartbeat_seconds
    );
    Ok(())
}

/// One run on a fresh data directory.
async fn measure(plan: &Plan, binary: &std::path::Path, table: &mut Table) -> Done {
    let place = tempfile::tempdir()?;
    let mut server = Server::start(binary, place.path()).await?;
    table.add("first start to ready, ms", server.ready_ms());

    let keys = Keys {
        count: plan.keys,
        value_bytes: plan.value_bytes,
        writers: plan.writers,
    };
    let before = server.usage()?;
    let put = keys.load(&server.grpc).await?;
    let after = server.usage()?;
    table.add("load keys, s", put.seconds);
    table.add("puts/s", put.rate());
    table.add("put p50, ms", put.percentile_ms(50));
    table.add("put p99, ms", put.percentile_ms(99));
    table.add(
        "server CPU per put, us",
        (after.cpu_seconds - before.cpu_seconds) * 1e6 / put.count(),
    );
    table.add("memory after keys, MiB", after.rss_mib);

    let fleet = Fleet {
        size: plan.instances,
        writers: plan.writers,
    };
    let registered = fleet.register(&server.grpc).await?;
    table.add("register instances, s", registered.seconds);
    table.add("registrations/s", registered.rate());
    let before = server.usage()?;
    table.add("memory after instances, MiB", before.rss_mib);
    let beats = fleet
        .heartbeat(&server.grpc, plan.heartbeat_seconds, plan.steady_seconds)
        .await?;
    let after = server.usage()?;
    table.add("heartbeats/s", beats.rate());
    table.add("heartbeat p50, ms", beats.percentile_ms(50));
    table.add("heartbeat p99, ms", beats.percentile_ms(99));
    table.add(
        "CPU under heartbeats, % of a core",
        (after.cpu_seconds - before.cpu_seconds) * 100.0 / beats.seconds,
    );

    server.terminate().await?;
    server = Server::start(binary, place.path()).await?;
    table.add("restart after SIGTERM to ready, ms", server.ready_ms());
    table.add("memory after restart, MiB", server.usage()?.rss_mib);
    server.kill().await?;
    server = Server::start(binary, place.path()).await?;
    table.add("restart after kill -9 to ready, ms", server.ready_ms());
    let found = keys.count(&server.grpc).await?;
    if found != plan.keys as u64 {
        return Err(format!("{found} keys of {} after the restarts", plan.keys).into());
    }
    server.terminate().await
}
