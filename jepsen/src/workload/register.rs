//! Single keys: reads, writes, deletions and compare-and-set by several clients at once, in both dialects.
//!
//! The search for a linearization is short where few operations overlap, so a key is given up after some hundreds of
//! operations, and no more than a handful of clients share one.

use rand::RngExt;
use tokio::task::JoinSet;

use super::{Context, Worker};
use crate::history::{Call, Dialect, Expect, Out, Workload};

/// Keys in use at one time.
const GROUPS: u64 = 4;
/// Clients of one key.
const CLIENTS: u64 = 5;
/// Operations of one client on one key.
const OPERATIONS: u64 = 50;

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) {
    for group in 0..GROUPS {
        workers.spawn(work(context.clone(), group));
    }
}

/// One key after another.
async fn work(context: Context, group: u64) {
    let mut clients = (0..CLIENTS)
        .map(|client| Client::new(&context, group * CLIENTS + client))
        .collect::<Vec<_>>();
    for round in 0.. {
        let mut at_work = JoinSet::new();
        for mut client in clients.drain(..) {
            let key = format!("r/{group}/{round}");
            at_work.spawn(async move {
                client.use_key(&key).await;
                client
            });
        }
        clients = at_work.join_all().await;
        if context.is_stopped() {
            return;
        }
    }
}

struct Client {
    worker: Worker,
    number: u64,
    written: u64,
    /// What it has last read of its present key.
    known: Option<Expect>,
}

impl Client {
    fn new(context: &Context, number: u64) -> Self {
        Self {
            worker: Worker::new(context, Workload::Register, number),
            number,
            written: 0,
            known: None,
        }
    }

    async fn use_key(&mut self, key: &str) {
        self.known = None;
        let context = self.worker.context.clone();
        let workers = u32::try_from(GROUPS * CLIENTS).unwrap_or(u32::MAX);
        for _ in 0..OPERATIONS {
            if !context.pace(&mut self.worker.rng, workers).await {
                return;
            }
            let (dialect, call) = self.next(key.to_owned());
            if let Some(Out::Row { row, .. }) = self.worker.call(dialect, call).await {
                self.known = Some(Expect {
                    index: row.as_ref().map_or(0, |row| row.modify),
                    value: row.map(|row| row.value),
                });
            }
        }
    }

    fn next(&mut self, key: String) -> (Dialect, Call) {
        let dialect = self.worker.any_dialect();
        match self.worker.rng.random_range(0..100) {
            0..35 => (dialect, Call::Read { key, stale: false }),
            35..40 => (dialect, Call::Read { key, stale: true }),
            // Consul doesn't say whether it deleted anything, nor when: little of that.
            40..44 => (self.worker.mostly_native(), Call::Delete { key }),
            44..72 => match self.known.take() {
                Some(expect) => {
                    let value = self.value();
                    (dialect, Call::Cas { key, expect, value })
                }
                None => (dialect, self.write(key)),
            },
            _ => (dialect, self.write(key)),
        }
    }

    fn write(&mut self, key: String) -> Call {
        let value = self.value();
        Call::Write { key, value }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.number, self.written)
    }
}
