//! Keys that change, and a client that saves the whole state through one node after another, restores it into a fresh
//! directory, and looks at what a server holds that begins with it.

use std::{path::PathBuf, time::Duration};

use rand::RngExt;
use spine_client::{Error, Topic};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Context, Worker, watch};
use crate::{
    client::{Failure, NodeClient, RESTORED_WITHIN, Restored},
    history::{Call, Dialect, KeyEvent, Out, Row, Sight, Workload},
};

/// Where snapshots are, in the directory of the run.
pub const BACKUPS: &str = "backup";

const PREFIX: &str = "b/";
const WRITERS: u32 = 4;
const KEYS: u32 = 40;
/// Between two snapshots, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 500..2_500;
const PAUSE: Duration = Duration::from_millis(100);
/// What a watch of a restored server is waited for.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) {
    for writer in 0..WRITERS {
        let worker = Worker::new(context, Workload::Backup, writer.into());
        workers.spawn(write(worker, writer));
    }
    let worker = Worker::new(context, Workload::Backup, WRITERS.into());
    workers.spawn(save(worker));
}

/// Changes keys.
async fn write(mut worker: Worker, number: u32) {
    let context = worker.context.clone();
    let mut written = 0_u64;
    while context.pace(&mut worker.rng, WRITERS).await {
        let key = format!("{PREFIX}{}", worker.rng.random_range(0..KEYS));
        let (dialect, call) = match worker.rng.random_range(0..100) {
            0..10 => (Dialect::Native, Call::Delete { key }),
            10..15 => (worker.any_dialect(), Call::Read { key, stale: false }),
            _ => {
                written += 1;
                let value = format!("{number}.{written}");
                (worker.mostly_native(), Call::Write { key, value })
            }
        };
        worker.call(dialect, call).await;
    }
}

/// Saves, restores and looks, again and again.
async fn save(mut worker: Worker) {
    let context = worker.context.clone();
    let directory = context.directory.join(BACKUPS);
    for number in 1.. {
        let pause = Duration::from_millis(worker.rng.random_range(PAUSE_MS));
        // Who can't make a directory here can't write a history either.
        if !context.rest(pause).await || std::fs::create_dir_all(&directory).is_err() {
            return;
        }
        let file = directory.join(format!("{number}.snapshot"));
        let call = Call::Save {
            file: file.clone(),
            stale: worker.rng.random_bool(0.3),
        };
        let Some(Out::Saved { index, .. }) = worker.call(Dialect::Native, call).await else {
            continue;
        };
        let sight = match look(&context, file.clone(), index).await {
            Ok(sight) => {
                // It was as large as the state, and is not needed unless it was not restored.
                let _ = std::fs::remove_file(&file);
                sight
            }
            Err(error) => Sight::NotRestored { file, error },
        };
        context.recorder.saw(Workload::Backup, "restored", sight);
    }
}

/// Restores a snapshot, and looks at what is there.
async fn look(context: &Context, file: PathBuf, index: u64) -> Result<Sight, String> {
    let mut server = Restored::start(&file, context.harness()).await?;
    let node = NodeClient::new(&server.endpoint);
    await_ready(&mut server, &node).await?;
    let (rows, applied) = rows(&node).await?;
    let told = told(&node, index).await?;
    let put = node
        .native
        .client()
        .kv
        .put(format!("{PREFIX}restored"), "yes")
        .await;
    let put = put.map_err(|error| format!("a write: {error}"))?;
    server.end().await.map_err(|error| error.to_string())?;
    Ok(Sight::Restored {
        file,
        rows,
        applied,
        next: (put.index, put.revision),
        told,
    })
}

async fn await_ready(server: &mut Restored, node: &NodeClient) -> Result<(), String> {
    let until = Instant::now() + RESTORED_WITHIN;
    loop {
        let status = node.native.stale().members.server_status().await;
        if status.is_ok_and(|status| status.ready) {
            return Ok(());
        }
        if server.has_ended() {
            return Err("the server that began with it ended".to_owned());
        }
        if Instant::now() > until {
            return Err(format!("it does not serve within {RESTORED_WITHIN:?}"));
        }
        sleep(PAUSE).await;
    }
}

async fn rows(node: &NodeClient) -> Result<(Vec<Row>, u64), String> {
    let call = Call::List {
        prefix: PREFIX.to_owned(),
        stale: false,
    };
    match node.perform(Dialect::Native, &call).await {
        Ok(Out::Rows {
            rows,
            applied: Some(applied),
        }) => Ok((rows, applied)),
        Ok(other) => Err(format!("no list: {other:?}")),
        Err(Failure::Fail(error) | Failure::Unknown(error)) => Err(format!("a list: {error}")),
    }
}

/// What somebody is told who has watched the old cluster up to the index of the snapshot, and now watches this server; `None`:
/// that what lies between is gone.
async fn told(node: &NodeClient, index: u64) -> Result<Option<Vec<KeyEvent>>, String> {
    let request = node.native.client().watch.topics([Topic::prefix(PREFIX)]);
    let request = request.with_before().progress_every(PAUSE * 10);
    let first = async {
        let mut stream = request.after(index).start().await?;
        stream.next().await
    };
    match timeout(TOLD_WITHIN, first).await {
        Ok(Ok(batch)) => Ok(Some(
            batch.events.into_iter().filter_map(watch::key_event).collect(),
        )),
        Ok(Err(Error::Compacted { .. })) => Ok(None),
        Ok(Err(error)) => Err(format!("a watch: {error}")),
        Err(_) => Err("a watch that is told nothing".to_owned()),
    }
}
