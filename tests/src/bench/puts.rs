//! Puts to a cluster of three servers by ever more clients, each of which sends its next put when the last one is
//! answered: rate, latency, and what the servers' processors do for each put; with either engine of the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::Client;
use spine_tests::cluster::{Cluster, SERVERS};
use tokio::task::JoinSet;

use crate::{Done, load::Figures, server::Usage, table::Table};

/// What keeps the servers' log.
const ENGINES: [&str; 2] = ["segment", "sled"];
const CLIENTS: [usize; 4] = [1, 10, 100, 1000];
/// Clients share connections when there are more of them.
const CONNECTIONS_MAX: usize = 99;
const VALUE_BYTES: usize = 256;

/// How long each number of clients is measured, and how often.
pub(crate) struct Cell {
    runs: usize,
    warm_up: Duration,
    measured: Duration,
}

impl Cell {
    pub(crate) const WHOLE: Self = Self {
        runs: 3,
        warm_up: Duration::from_secs(10),
        measured: Duration::from_secs(20),
    };
    pub(crate) const QUICK: Self = Self {
        runs: 3,
        warm_up: Duration::from_secs(2),
        measured: Duration::from_secs(8),
    };
    pub(crate) const SMOKE: Self = Self {
        runs: 1,
        warm_up: Duration::from_millis(500),
        measured: Duration::from_secs(1),
    };
}

/// Measures each engine, and each number of clients, on a cluster of its own. The engines take turns, so that what the
/// machine does beside comes to both.
pub(crate) fn measure(cell: &Cell) -> Done {
    let mut tables = ENGINES.map(|engine| (engine, Table::default()));
    for run in 1..=cell.runs {
        println!("run {run} of {}", cell.runs);
        for clients in CLIENTS {
            for (engine, table) in &mut tables {
                println!(" log in {engine}");
                measure_one(engine, clients, cell, table)?;
            }
        }
    }
    for (engine, table) in tables {
        println!(
            "\n{SERVERS} servers, log in {engine}, values of {VALUE_BYTES} bytes, new keys, clients spread over the \
             servers\n{table}"
        );
    }
    Ok(())
}

fn measure_one(engine: &str, clients: usize, cell: &Cell, table: &mut Table) -> Done {
    let place = tempfile::tempdir()?;
    let cluster = Cluster::start_with(place.path(), &["--log-engine", engine]);
    let (figures, cpu_seconds) = tokio::runtime::Runtime::new()?.block_on(put(&cluster, clients, cell))?;
    table.add(format!("{clients} clients: puts/s"), figures.rate());
    table.add(format!("{clients} clients: p50, ms"), figures.percentile_ms(50));
    table.add(format!("{clients} clients: p99, ms"), figures.percentile_ms(99));
    table.add(
        format!("{clients} clients: CPU of all servers per put, us"),
        cpu_seconds * 1e6 / figures.count(),
    );
    Ok(())
}

/// The puts of the measured time, and the processor time that the servers took for them.
async fn put(cluster: &Cluster, clients: usize, cell: &Cell) -> Done<(Figures, f64)> {
    let connections = (0..clients.min(CONNECTIONS_MAX))
        .map(|at| Client::connect(&cluster.grpc(at % SERVERS).to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    let (counts, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let client = connections[client % connections.len()].clone();
        let (counts, over, next) = (counts.clone(), over.clone(), next.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let key = format!("bench/{:012}", next.fetch_add(1, Ordering::Relaxed));
                let sent = Instant::now();
                client.kv.put(key, vec![b'v'; VALUE_BYTES]).await?;
                if counts.load(Ordering::Relaxed) {
                    latencies.push(sent.elapsed());
                }
            }
            Ok::<_, spine_client::Error>(latencies)
        });
    }
    tokio::time::sleep(cell.warm_up).await;
    let (began, before) = (Instant::now(), cpu_seconds(cluster)?);
    counts.store(true, Ordering::Relaxed);
    tokio::time::sleep(cell.measured).await;
    over.store(true, Ordering::Relaxed);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu_seconds(cluster)?);
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.append(&mut done??);
    }
    Ok((Figures::new(seconds, latencies), after - before))
}

fn cpu_seconds(cluster: &Cluster) -> Done<f64> {
    let ids = (0..SERVERS).filter_map(|at| cluster.process_id(at));
    ids.map(|id| Ok(Usage::of(id)?.cpu_seconds)).sum()
}
