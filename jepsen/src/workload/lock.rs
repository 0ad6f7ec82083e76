//! Locks: those with a queue, and those of keys, which are Consul's. Who holds one writes to what it guards and shows its
//! fencing number; now and then a holder is late, as if it had stood still: it renews nothing and writes all the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Context, Worker,
    loan::{Loan, prepare},
};
use crate::history::{Call, Dialect, Out, Recorder, Sight, Workload};

const CLIENTS: u64 = 8;
/// The locks, and whether each has a queue.
const LOCKS: [(&str, bool); 4] = [("q/1", true), ("q/2", true), ("k/1", false), ("k/2", false)];
/// How long a lock with a queue is waited for, in milliseconds.
const WAIT_MS: std::ops::Range<u64> = 200..3_000;
/// How often a key's lock is tried.
const ATTEMPTS: u32 = 12;
/// How long a lock is held, in milliseconds.
const HOLD_MS: std::ops::Range<u64> = 100..1_200;
/// How long a late holder goes on beyond the end of its lease.
const LATE: Duration = Duration::from_secs(2);
/// Lock delays, in milliseconds.
const DELAY_MS: std::ops::Range<u64> = 0..500;
/// Between two writes, or two attempts, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 40..150;
/// In the end every lock is free within this time: leases live no longer, and elections are over.
const FREE_WITHIN: Duration = Duration::from_secs(20);
/// Between two last attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// What the locks guard: of each, the greatest number that was shown.
#[derive(Debug)]
struct Guarded {
    shown: Mutex<BTreeMap<&'static str, u64>>,
    recorder: Recorder,
}

impl Guarded {
    /// Somebody writes. It is written down before the next one does.
    fn write(&self, lock: &'static str, lease: &str, fence: u64) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let greatest = shown.entry(lock).or_default();
        let accepted = fence >= *greatest;
        *greatest = fence.max(*greatest);
        let sight = Sight::Guarded {
            lock: lock.to_owned(),
            lease: lease.to_owned(),
            fence,
            accepted,
        };
        self.recorder.saw(Workload::Lock, "", sight);
    }
}

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) {
    let guarded = Arc::new(Guarded {
        shown: Mutex::default(),
        recorder: context.recorder.clone(),
    });
    for client in 0..CLIENTS {
        let worker = Worker::new(context, Workload::Lock, client);
        let guarded = Arc::clone(&guarded);
        workers.spawn(async move { Holder { worker, guarded }.work().await });
    }
}

struct Holder {
    worker: Worker,
    guarded: Arc<Guarded>,
}

impl Holder {
    async fn work(mut self) {
        let context = self.worker.context.clone();
        if !prepare(&context).await {
            return;
        }
        while context.rest(self.pause()).await {
            let (lock, queue) = LOCKS[self.worker.rng.random_range(0..LOCKS.len())];
            let delay = self.worker.rng.random_range(DELAY_MS);
            let Some(mut loan) = self.worker.borrow(delay, false).await else {
                continue;
            };
            if let Some(fence) = self.acquire(lock, queue, &mut loan).await {
                self.hold(lock, fence, &mut loan).await;
                if self.worker.rng.random_bool(0.6) {
                    self.release(lock, queue, &loan).await;
                }
            }
            // Or it ends by itself, and the lock with it.
            if context.is_stopped() || self.worker.rng.random_bool(0.7) {
                self.worker.give_back(loan).await;
            }
        }
    }

    async fn acquire(&mut self, lock: &str, queue: bool, loan: &mut Loan) -> Option<u64> {
        let context = self.worker.context.clone();
        let attempts = if queue { 1 } else { ATTEMPTS };
        for _ in 0..attempts {
            let dialect = if queue {
                Dialect::Native
            } else {
                self.worker.any_dialect()
            };
            let call = Call::Acquire {
                lock: lock.to_owned(),
                lease: loan.lease.clone(),
                queue,
                wait_ms: if queue {
                    self.worker.rng.random_range(WAIT_MS)
                } else {
                    0
                },
            };
            match self.worker.call(dialect, call).await? {
                Out::Acquired {
                    fence: Some(fence), ..
                } => return Some(fence),
                _ if queue => {}
                _ => {
                    let is_due = loan.confirmed.elapsed() > loan.ttl / 3;
                    if !context.rest(self.pause()).await || (is_due && !self.worker.renew(loan).await) {
                        return None;
                    }
                }
            }
        }
        None
    }

    async fn hold(&mut self, lock: &'static str, fence: u64, loan: &mut Loan) {
        let context = self.worker.context.clone();
        let is_late = self.worker.rng.random_bool(0.15);
        let until = if is_late {
            loan.confirmed + loan.ttl + LATE
        } else {
            Instant::now() + Duration::from_millis(self.worker.rng.random_range(HOLD_MS))
        };
        while Instant::now() < until {
            if !is_late {
                if loan.confirmed.elapsed() > loan.ttl / 3 && !self.worker.renew(loan).await {
                    return;
                }
                if loan.confirmed.elapsed() >= loan.ttl {
                    return;
                }
            }
            self.guarded.write(lock, &loan.lease, fence);
            if !context.rest(self.pause()).await {
                return;
            }
        }
    }

    async fn release(&mut self, lock: &str, queue: bool, loan: &Loan) {
        let dialect = if queue {
            Dialect::Native
        } else {
            self.worker.any_dialect()
        };
        let call = Call::Release {
            lock: lock.to_owned(),
            lease: loan.lease.clone(),
            queue,
        };
        self.worker.call(dialect, call).await;
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.worker.rng.random_range(PAUSE_MS))
    }
}

/// Takes every lock once more: none may be held for ever by somebody who is gone.
pub(super) async fn finish(context: &Context) {
    let mut worker = Worker::new(context, Workload::Lock, CLIENTS);
    for (lock, queue) in LOCKS {
        let until = Instant::now() + FREE_WITHIN;
        let mut loan: Option<Loan> = None;
        while Instant::now() < until {
            let Some(held) = &mut loan else {
                loan = worker.borrow(0, false).await;
                if loan.is_none() {
                    sleep(AGAIN).await;
                }
                continue;
            };
            if held.confirmed.elapsed() > held.ttl / 3 && !worker.renew(held).await {
                loan = None;
                continue;
            }
            let call = Call::Acquire {
                lock: lock.to_owned(),
                lease: held.lease.clone(),
                queue,
                wait_ms: if queue { 500 } else { 0 },
            };
            if let Some(Out::Acquired { fence: Some(_), .. }) = worker.call(Dialect::Native, call).await {
                break;
            }
            sleep(AGAIN).await;
        }
        if let Some(loan) = loan {
            worker.give_back(loan).await;
        }
    }
}
