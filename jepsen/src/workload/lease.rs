//! Leases that are renewed at several nodes for a while, then left alone or revoked, and clients that look, until it is
//! gone, whether each is there, and its keys. Streams tell how the keys went.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Context, Worker,
    loan::{Loan, prepare},
    watch::{self, Progress},
};
use crate::history::{Call, Out, Workload};

const PREFIX: &str = "l/";
const CLIENTS: u64 = 8;
/// Keys of a lease.
const KEYS: usize = 3;
/// Between two looks, in milliseconds.
const LOOK_MS: std::ops::Range<u64> = 60..250;
/// How long one that is not renewed is looked at, beyond its time to live.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) -> Arc<Progress> {
    for client in 0..CLIENTS {
        let worker = Worker::new(context, Workload::Lease, client);
        workers.spawn(work(worker));
    }
    watch::follow(context, workers, Workload::Lease, PREFIX)
}

async fn work(mut worker: Worker) {
    let context = worker.context.clone();
    if !prepare(&context).await {
        return;
    }
    while context.rest(pause(&mut worker, 0..500)).await {
        let Some(loan) = worker.borrow(0, true).await else {
            continue;
        };
        let (lease, dialect) = (loan.lease.clone(), worker.any_dialect());
        let keys = (0..KEYS).map(|key| format!("{}{key}", below(&lease))).collect();
        worker.call(dialect, Call::Attach { lease, keys }).await;
        if !live(&mut worker, loan).await {
            return;
        }
    }
}

/// From its keys to its end. False: the workload is told to stop.
async fn live(worker: &mut Worker, mut loan: Loan) -> bool {
    let context = worker.context.clone();
    for _ in 0..worker.rng.random_range(0..5) {
        let share = worker.rng.random_range(0.2..0.6);
        let renewal = loan.confirmed + loan.ttl.mul_f64(share);
        while Instant::now() < renewal {
            look(worker, &loan).await;
            let pause = pause(worker, LOOK_MS);
            if !context.rest(pause).await {
                return false;
            }
        }
        if !worker.renew(&mut loan).await {
            break;
        }
    }
    if worker.rng.random_bool(0.15) {
        let lease = loan.lease.clone();
        let dialect = worker.any_dialect();
        worker.call(dialect, Call::Revoke { lease }).await;
    }
    let until = loan.confirmed + loan.ttl + PATIENCE;
    let mut gone = 0;
    // Once more than needed: it might come back.
    while gone < 3 && Instant::now() < until {
        gone += u32::from(look(worker, &loan).await);
        let pause = pause(worker, LOOK_MS);
        if !context.rest(pause).await {
            return false;
        }
    }
    true
}

/// Asks for the lease, or for its keys. Whether it is gone.
async fn look(worker: &mut Worker, loan: &Loan) -> bool {
    let dialect = worker.any_dialect();
    let call = match worker.rng.random_range(0..10) {
        0..5 => Call::Alive {
            lease: loan.lease.clone(),
            stale: false,
        },
        chance => Call::List {
            prefix: below(&loan.lease),
            stale: chance == 9,
        },
    };
    match worker.call(dialect, call).await {
        Some(Out::Lives { alive }) => !alive,
        _ => false,
    }
}

/// Where its keys are.
fn below(lease: &str) -> String {
    format!("{PREFIX}{lease}/")
}

fn pause(worker: &mut Worker, ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(worker.rng.random_range(ms))
}
