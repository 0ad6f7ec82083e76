//! Keys that change, and everybody who wants to be told: streams that stay, streams that move from node to node and go on
//! where they were, and Consul's blocking queries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use spine_client::{Batch, Client, Error, Topic, WatchStream, proto};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Context, Worker};
use crate::{
    client::{NodeClient, Session, row, text},
    history::{Call, Dialect, KeyEvent, Out, Recorder, Sight, Workload},
};

const PREFIX: &str = "w/";
const WRITERS: u32 = 4;
/// Keys of each of the two halves, which are deleted as a whole now and then.
const KEYS: u32 = 4;
/// How long watchers may take to be told everything, when all is well again.
const ARRIVED_WITHIN: Duration = Duration::from_mins(1);
/// How often a stream says that nothing happened.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long a stream that moves stays at a node, in milliseconds.
const STAY_MS: std::ops::Range<u64> = 1_000..6_000;
/// How long blocking queries wait, in milliseconds.
const WAIT_MS: std::ops::Range<u64> = 1_000..8_000;
const PAUSE: Duration = Duration::from_millis(100);

/// What is watched, and how far the watchers are to come before they may go.
#[derive(Debug)]
pub(super) struct Progress {
    workload: Workload,
    prefix: &'static str,
    target: AtomicU64,
}

impl Progress {
    fn new(workload: Workload, prefix: &'static str) -> Arc<Self> {
        Arc::new(Self {
            workload,
            prefix,
            target: AtomicU64::new(0),
        })
    }
}

/// Watches a prefix for another workload: a stream at each node.
pub(super) fn follow(
    context: &Context,
    workers: &mut JoinSet<()>,
    workload: Workload,
    prefix: &'static str,
) -> Arc<Progress> {
    let progress = Progress::new(workload, prefix);
    for (number, node) in (1..).zip(context.clients()) {
        let watcher = Watcher {
            number,
            servers: vec![(node.node.clone(), node.native.client().clone())],
            moves: false,
            recorder: context.recorder.clone(),
            rng: context.rng(workload, 100 + number),
            progress: Arc::clone(&progress),
        };
        workers.spawn(watcher.run());
    }
    progress
}

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) -> Arc<Progress> {
    let progress = Progress::new(Workload::Watch, PREFIX);
    for writer in 0..WRITERS {
        let worker = Worker::new(context, Workload::Watch, writer.into());
        workers.spawn(write(worker, u64::from(writer)));
    }
    let mut number = 0;
    let mut watcher = |servers, moves| {
        number += 1;
        let watcher = Watcher {
            number,
            servers,
            moves,
            recorder: context.recorder.clone(),
            rng: context.rng(Workload::Watch, 100 + number),
            progress: Arc::clone(&progress),
        };
        workers.spawn(watcher.run());
    };
    for node in context.clients() {
        watcher(vec![(node.node.clone(), node.native.client().clone())], false);
    }
    for _ in 0..context.nodes() {
        let servers = context.clients().into_iter();
        let servers = servers.map(|node| (node.node.clone(), node.native.client().clone()));
        watcher(servers.collect(), true);
    }
    if let Ok(client) = Client::connect(&context.grpc_addresses()) {
        watcher(vec![("any".to_owned(), client)], false);
    }
    let mut number = 1_000;
    for node in context.clients() {
        for (key, recurse) in [("w/a1", false), ("w/b2", false), (PREFIX, true)] {
            number += 1;
            let query = Query {
                watcher: number,
                node: node.clone(),
                key,
                recurse,
            };
            workers.spawn(query.run(context.clone(), context.rng(Workload::Watch, number)));
        }
    }
    progress
}

/// Changes keys.
async fn write(mut worker: Worker, number: u64) {
    let context = worker.context.clone();
    let mut written = 0_u64;
    while context.pace(&mut worker.rng, WRITERS).await {
        let half = if worker.rng.random_bool(0.5) { 'a' } else { 'b' };
        let key = format!("{PREFIX}{half}{}", worker.rng.random_range(1..=KEYS));
        let (dialect, call) = match worker.rng.random_range(0..100) {
            0..12 => (worker.mostly_native(), Call::Delete { key }),
            12..15 => {
                let prefix = format!("{PREFIX}{half}");
                (worker.mostly_native(), Call::DeletePrefix { prefix })
            }
            15..22 => {
                let (prefix, stale) = (PREFIX.to_owned(), worker.rng.random_bool(0.3));
                (worker.any_dialect(), Call::List { prefix, stale })
            }
            _ => {
                written += 1;
                let value = format!("{number}.{written}");
                (worker.any_dialect(), Call::Write { key, value })
            }
        };
        worker.call(dialect, call).await;
    }
}

/// Tells the watchers how far they have to come, by a last change.
pub(super) async fn finish(context: &Context, progress: &Progress) {
    let mut session = Session::new(&context.recorder, progress.workload);
    let nodes = context.clients();
    let until = Instant::now() + ARRIVED_WITHIN;
    for attempt in 0.. {
        let node = &nodes[attempt % nodes.len()];
        let call = Call::Write {
            key: format!("{}end", progress.prefix),
            value: attempt.to_string(),
        };
        if let Some(Out::Written {
            index: Some(index), ..
        }) = session.call(node, Dialect::Native, call).await
        {
            progress.target.store(index, Ordering::Relaxed);
            return;
        }
        if Instant::now() > until {
            // Nobody can write, which the cluster's checker says; the watchers may go.
            progress.target.store(1, Ordering::Relaxed);
            return;
        }
        sleep(PAUSE).await;
    }
}

/// A stream, or one stream after another.
struct Watcher {
    number: u64,
    /// The servers by name. One that moves goes round.
    servers: Vec<(String, Client)>,
    moves: bool,
    recorder: Recorder,
    rng: StdRng,
    progress: Arc<Progress>,
}

impl Watcher {
    async fn run(mut self) {
        let mut place: Option<u64> = None;
        let mut patience: Option<Instant> = None;
        loop {
            let at = self.rng.random_range(0..self.servers.len());
            let (name, client) = self.servers[at].clone();
            let mut request = client
                .watch
                .topics([Topic::prefix(self.progress.prefix)])
                .with_before()
                .progress_every(PROGRESS);
            if let Some(place) = place {
                request = request.after(place);
            }
            match request.start().await {
                Ok(stream) => {
                    let from = stream.index();
                    self.saw(
                        &name,
                        Sight::WatchStart {
                            watcher: self.number,
                            prefix: self.progress.prefix.to_owned(),
                            from,
                            resumed: place.is_some(),
                        },
                    );
                    if self.read(&name, stream, &mut place, &mut patience).await {
                        return;
                    }
                }
                Err(Error::Compacted { .. }) => place = None,
                Err(_) => sleep(PAUSE).await,
            }
            if self.may_go(place, &mut patience) {
                return;
            }
        }
    }

    /// Reads until it is told to go (true), or moves on.
    async fn read(
        &mut self,
        name: &str,
        mut stream: WatchStream,
        place: &mut Option<u64>,
        patience: &mut Option<Instant>,
    ) -> bool {
        let stay = Duration::from_millis(self.rng.random_range(STAY_MS));
        let leave = Instant::now()
            + if self.moves {
                stay
            } else {
                Duration::from_hours(24)
            };
        *place = Some(stream.index());
        loop {
            if self.may_go(*place, patience) {
                return true;
            }
            let next = tokio::select! {
                biased;
                () = sleep_until(leave) => break,
                next = timeout(PROGRESS, stream.next()) => next,
            };
            match next {
                // Nothing yet: time to look whether it may go.
                Err(_) => {}
                Ok(Ok(batch)) => {
                    *place = Some(batch.index);
                    self.tell(name, batch);
                }
                Ok(Err(error)) => {
                    let is_compacted = matches!(error, Error::Compacted { .. });
                    self.end(name, &error.to_string());
                    if is_compacted {
                        *place = None;
                    }
                    return false;
                }
            }
        }
        self.end(name, "it moves on");
        false
    }

    /// Whether it was told all that it was to be told, or has waited long enough for it.
    fn may_go(&self, place: Option<u64>, patience: &mut Option<Instant>) -> bool {
        let target = self.progress.target.load(Ordering::Relaxed);
        if target == 0 {
            return false;
        }
        let until = *patience.get_or_insert_with(|| Instant::now() + ARRIVED_WITHIN);
        place.is_some_and(|place| place >= target) || Instant::now() > until
    }

    fn tell(&self, name: &str, batch: Batch) {
        let Batch { events, index } = batch;
        let events = events.into_iter().filter_map(key_event).collect();
        let watcher = self.number;
        self.saw(
            name,
            Sight::WatchBatch {
                watcher,
                index,
                events,
            },
        );
    }

    fn end(&self, name: &str, error: &str) {
        let (watcher, error) = (self.number, error.to_owned());
        self.saw(name, Sight::WatchEnd { watcher, error });
    }

    fn saw(&self, name: &str, sight: Sight) {
        self.recorder.saw(self.progress.workload, name, sight);
    }
}

pub(super) fn key_event(event: proto::Event) -> Option<KeyEvent> {
    let proto::event::Change::Key(change) = event.change? else {
        return None;
    };
    Some(KeyEvent {
        index: event.index,
        key: text(&change.key),
        before: change.before.as_ref().map(row),
        after: change.after.as_ref().map(row),
    })
}

/// Blocking queries of one key or prefix at one node, one after another.
struct Query {
    watcher: u64,
    node: NodeClient,
    key: &'static str,
    recurse: bool,
}

impl Query {
    async fn run(self, context: Context, mut rng: StdRng) {
        let mut session = Session::new(&context.recorder, Workload::Watch);
        let mut behind = 0;
        while !context.is_stopped() {
            let call = Call::Block {
                watcher: self.watcher,
                key: self.key.to_owned(),
                recurse: self.recurse,
                index: behind,
                wait_ms: rng.random_range(WAIT_MS),
            };
            match session.call(&self.node, Dialect::Consul, call).await {
                Some(Out::Changed { index, .. }) => behind = index,
                _ => {
                    if !context.rest(PAUSE).await {
                        return;
                    }
                }
            }
        }
    }
}
