//! Unique additions by several clients, reads of all of them, and at the end a read of every set on every node, both
//! linearizable and of what the node has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::{task::JoinSet, time::sleep};

use super::{Context, Worker};
use crate::{
    client::Session,
    history::{Call, Dialect, Workload},
};

const CLIENTS: u32 = 6;
/// Members of a set, after which a new one is begun: a read stays below a page, and a line of the history readable.
const MEMBERS: u64 = 400;
/// A last read that is not answered is tried again, so often.
const LAST_READS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// How many members were added, over all sets.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    for client in 0..CLIENTS {
        let worker = Worker::new(context, Workload::Set, client.into());
        workers.spawn(work(worker, Arc::clone(&progress)));
    }
    progress
}

fn set(member: u64) -> String {
    format!("s/{}/", member / MEMBERS)
}

async fn work(mut worker: Worker, progress: Arc<Progress>) {
    let context = worker.context.clone();
    while context.pace(&mut worker.rng, CLIENTS).await {
        let dialect = worker.any_dialect();
        let call = match worker.rng.random_range(0..100) {
            0..85 => {
                let member = progress.0.fetch_add(1, Ordering::Relaxed);
                let set = set(member);
                Call::Add { set, member }
            }
            chance => Call::Members {
                set: set(progress.0.load(Ordering::Relaxed)),
                stale: chance >= 95,
                last: false,
            },
        };
        worker.call(dialect, call).await;
    }
}

/// Reads every set on every node, both ways.
pub(super) async fn finish(context: &Context, progress: &Progress) {
    let added = progress.0.load(Ordering::Relaxed);
    let mut session = Session::new(&context.recorder, Workload::Set);
    for node in context.clients() {
        for first in (0..added).step_by(usize::try_from(MEMBERS).unwrap_or(usize::MAX)) {
            for stale in [false, true] {
                let call = Call::Members {
                    set: set(first),
                    stale,
                    last: true,
                };
                for _ in 0..LAST_READS {
                    let answer = session.call(&node, Dialect::Native, call.clone()).await;
                    if answer.is_some() {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
