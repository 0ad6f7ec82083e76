//! What the clients do. Each workload works until it is told to stop, through all faults, and then, when the cluster has
//! had time to heal, looks once more at what must be there.
//!
//! What a client does is drawn from the seed; when the answers come is not, so a run repeats in kind, not to the letter.

mod append;
mod backup;
mod catalog;
mod cluster;
mod instance;
mod lease;
mod loan;
mod lock;
mod register;
mod set;
mod watch;

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::watch as channel, task::JoinSet, time::sleep};

use crate::{
    client::{NodeClient, Session},
    endpoint::Endpoints,
    history::{Call, Dialect, Out, Recorder, Workload},
};

pub(crate) use self::append::transaction;
pub use self::backup::BACKUPS;
pub use self::cluster::{await_caught_up, await_same_content};

/// What every client needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where everything is written down.
    pub recorder: Recorder,
    /// The clients of each node. Each worker has connections of its own.
    endpoints: Arc<Endpoints>,
    /// Operations a second of one workload, over all of its clients.
    rate: u32,
    seed: u64,
    /// Where files may be left.
    directory: Arc<Path>,
    stopped: channel::Receiver<bool>,
}

/// Tells workloads to stop.
#[derive(Debug)]
pub struct Stop(channel::Sender<bool>);

impl Stop {
    /// Every client ends when its present operation has.
    pub fn now(&self) {
        self.0.send_replace(true);
    }
}

impl Context {
    /// Clients of these nodes that write into this history, and leave other files in this directory.
    pub fn new(
        recorder: Recorder,
        endpoints: Endpoints,
        rate: u32,
        seed: u64,
        directory: &Path,
    ) -> (Self, Stop) {
        let (sender, stopped) = channel::channel(false);
        let context = Self {
            recorder,
            endpoints: Arc::new(endpoints),
            rate: rate.max(1),
            seed,
            directory: directory.into(),
            stopped,
        };
        (context, Stop(sender))
    }

    /// Clients of every node, over connections of their own.
    pub fn clients(&self) -> Vec<NodeClient> {
        self.endpoints.nodes.iter().map(NodeClient::new).collect()
    }

    /// The native addresses of all nodes, as one client of all of them takes them.
    fn grpc_addresses(&self) -> String {
        let addresses = self.endpoints.nodes.iter().map(|node| node.grpc.to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// An address of this process that the nodes reach.
    fn harness(&self) -> IpAddr {
        self.endpoints.harness
    }

    fn nodes(&self) -> usize {
        self.endpoints.nodes.len()
    }

    /// Chance for one worker, the same in every run with this seed.
    fn rng(&self, workload: Workload, worker: u64) -> StdRng {
        let place = (workload as u64 + 1) << 32 | worker;
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place)
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until the workloads are told to stop.
    async fn stop(&self) {
        let mut stopped = self.stopped.clone();
        // An error says that nobody is left who could tell.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Waits before the next operation of one of so many workers; false: it is to stop instead.
    async fn pace(&self, rng: &mut StdRng, workers: u32) -> bool {
        let mean = f64::from(workers) / f64::from(self.rate);
        // As if users came independently of each other: now several at once, now nobody.
        let pause = -mean * rng.random_range(f64::EPSILON..1.0_f64).ln();
        self.rest(Duration::from_secs_f64(pause.min(10.0 * mean))).await
    }

    /// Waits; false: it is to stop instead.
    async fn rest(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop() => false,
            () = sleep(pause) => true,
        }
    }
}

/// What is left to do when the faults are over and the workload has stopped.
#[derive(Debug)]
pub struct Running {
    workload: Workload,
    workers: JoinSet<()>,
    context: Context,
    set: Option<Arc<set::Progress>>,
    watch: Option<Arc<watch::Progress>>,
    append: Option<Arc<append::Lists>>,
}

/// Begins a workload.
pub fn start(workload: Workload, context: &Context) -> Running {
    let mut running = Running {
        workload,
        workers: JoinSet::new(),
        context: context.clone(),
        set: None,
        watch: None,
        append: None,
    };
    let workers = &mut running.workers;
    match workload {
        Workload::Register => register::start(context, workers),
        Workload::Set => running.set = Some(set::start(context, workers)),
        Workload::Watch => running.watch = Some(watch::start(context, workers)),
        Workload::Catalog => catalog::start(context, workers),
        Workload::Append => running.append = Some(append::start(context, workers)),
        Workload::Lock => lock::start(context, workers),
        Workload::Lease => running.watch = Some(lease::start(context, workers)),
        Workload::Backup => backup::start(context, workers),
        Workload::Cluster => cluster::start(context, workers),
    }
    running
}

impl Running {
    /// Waits for the workers, which were told to stop, and looks for the last time. To be called when the nodes have
    /// caught up.
    ///
    /// # Errors
    /// A worker panicked: the name of the workload and what it said.
    pub async fn finish(mut self) -> Result<(), String> {
        if let Some(progress) = &self.watch {
            watch::finish(&self.context, progress).await;
        }
        while let Some(ended) = self.workers.join_next().await {
            ended.map_err(|error| format!("{}: {error}", self.workload))?;
        }
        if let Some(progress) = &self.set {
            set::finish(&self.context, progress).await;
        }
        if let Some(lists) = &self.append {
            append::finish(&self.context, lists).await;
        }
        if self.workload == Workload::Lock {
            lock::finish(&self.context).await;
        }
        Ok(())
    }
}

/// A worker: a client with a node of its own, which it leaves now and then.
struct Worker {
    context: Context,
    nodes: Vec<NodeClient>,
    home: usize,
    session: Session,
    rng: StdRng,
}

impl Worker {
    fn new(context: &Context, workload: Workload, number: u64) -> Self {
        let mut rng = context.rng(workload, number);
        Self {
            nodes: context.clients(),
            home: rng.random_range(0..context.nodes()),
            session: Session::new(&context.recorder, workload),
            context: context.clone(),
            rng,
        }
    }

    /// Asks its own node, or another one.
    async fn call(&mut self, dialect: Dialect, call: Call) -> Option<Out> {
        if self.rng.random_bool(0.3) {
            self.home = self.rng.random_range(0..self.nodes.len());
        }
        self.session.call(&self.nodes[self.home], dialect, call).await
    }

    fn any_dialect(&mut self) -> Dialect {
        if self.rng.random_bool(0.5) {
            Dialect::Native
        } else {
            Dialect::Consul
        }
    }

    /// The native dialect, which says what became of a request in full, mostly.
    fn mostly_native(&mut self) -> Dialect {
        if self.rng.random_bool(0.9) {
            Dialect::Native
        } else {
            Dialect::Consul
        }
    }
}
