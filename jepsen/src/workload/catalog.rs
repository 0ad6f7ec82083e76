//! Services that come, go, hang and fail, while every node is asked again and again who may get traffic.

use std::time::Duration;

use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Context, Worker, instance::Instance};
use crate::{
    client::{NodeClient, Session},
    history::{Call, Dialect, InstanceState, Sight, Workload},
};

const SERVICES: [&str; 2] = ["photo", "video"];
/// Of each service so many instances live through the whole run, and so many don't.
const STEADY: u64 = 2;
const UNSTEADY: u64 = 3;
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const FAILURES: u32 = 2;
/// Each node is asked so often.
const LOOK: Duration = Duration::from_millis(150);
/// How long an instance is up, and how long it is not, in milliseconds: longer than it takes to be noticed.
const UP_MS: std::ops::Range<u64> = 8_000..20_000;
const DOWN_MS: std::ops::Range<u64> = 9_000..16_000;
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) {
    let mut number = 0;
    for service in SERVICES {
        for at in 0..STEADY + UNSTEADY {
            number += 1;
            let worker = Worker::new(context, Workload::Catalog, number);
            let owner = Owner {
                worker,
                service,
                number,
            };
            workers.spawn(owner.run(at < STEADY));
        }
    }
    for node in context.clients() {
        workers.spawn(look(context.clone(), node));
    }
}

/// Who runs instances, one after another.
struct Owner {
    worker: Worker,
    service: &'static str,
    number: u64,
}

impl Owner {
    async fn run(mut self, is_steady: bool) {
        let context = self.worker.context.clone();
        for life in 0.. {
            let id = format!("{}-{}-{life}", self.service, self.number);
            let Ok(instance) = Instance::start(context.harness()).await else {
                sleep(PAUSE).await;
                continue;
            };
            self.saw(&id, InstanceState::Up);
            self.register(&id, &instance).await;
            if is_steady {
                context.stop().await;
                return;
            }
            if !self.live(&id, &instance).await {
                return;
            }
            self.deregister(&id).await;
            // Its address answers for a while after it has left, as that of a drained service does.
            drop(instance);
            if context.is_stopped() {
                return;
            }
        }
    }

    /// Ups and downs. False: it is to stop.
    async fn live(&mut self, id: &str, instance: &Instance) -> bool {
        let context = self.worker.context.clone();
        while self.worker.rng.random_bool(0.8) {
            let up = Duration::from_millis(self.worker.rng.random_range(UP_MS));
            if !context.rest(up).await {
                return false;
            }
            let state = match self.worker.rng.random_range(0..4) {
                0 => InstanceState::Failing,
                1 => InstanceState::Hung,
                2 => InstanceState::Stopped,
                _ => InstanceState::Flapping,
            };
            self.set(id, instance, state);
            let down = Duration::from_millis(self.worker.rng.random_range(DOWN_MS));
            let goes_on = context.rest(down).await;
            self.set(id, instance, InstanceState::Up);
            if !goes_on {
                return false;
            }
        }
        true
    }

    fn set(&self, id: &str, instance: &Instance, state: InstanceState) {
        instance.set(state);
        self.saw(id, state);
    }

    fn saw(&self, id: &str, state: InstanceState) {
        let id = id.to_owned();
        let recorder = &self.worker.context.recorder;
        recorder.saw(Workload::Catalog, "", Sight::Instance { id, state });
    }

    /// Registers at one node, until that says that it is done: the same instance at two nodes would be two.
    async fn register(&mut self, id: &str, instance: &Instance) {
        let call = Call::RegisterInstance {
            service: self.service.to_owned(),
            id: id.to_owned(),
            address: instance.address(),
            interval_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX),
            timeout_ms: u64::try_from(TIMEOUT.as_millis()).unwrap_or(u64::MAX),
            failures: FAILURES,
        };
        let dialect = self.worker.any_dialect();
        let node = self.worker.rng.random_range(0..self.worker.nodes.len());
        loop {
            let Worker { nodes, session, .. } = &mut self.worker;
            let answer = session.call(&nodes[node], dialect, call.clone()).await;
            if answer.is_some() || !self.worker.context.rest(PAUSE).await {
                return;
            }
        }
    }

    /// Deregisters at any node.
    async fn deregister(&mut self, id: &str) {
        loop {
            let call = Call::DeregisterInstance {
                service: self.service.to_owned(),
                id: id.to_owned(),
            };
            let dialect = self.worker.any_dialect();
            let answer = self.worker.call(dialect, call).await;
            if answer.is_some() || !self.worker.context.rest(PAUSE).await {
                return;
            }
        }
    }
}

/// Asks one node who may get traffic, in every way in turn.
async fn look(context: Context, node: NodeClient) {
    let ways = [
        (Dialect::Native, false),
        (Dialect::Consul, true),
        (Dialect::Consul, false),
        (Dialect::Native, true),
    ];
    let ways = ways.iter().flat_map(|way| SERVICES.map(|service| (way, service)));
    let mut session = Session::new(&context.recorder, Workload::Catalog);
    let mut next = Instant::now();
    for ((dialect, stale), service) in ways.cycle() {
        let (service, stale) = (service.to_owned(), *stale);
        session
            .call(&node, *dialect, Call::Passing { service, stale })
            .await;
        next = (next + LOOK).max(Instant::now());
        if !context.rest(next.saturating_duration_since(Instant::now())).await {
            return;
        }
    }
}
