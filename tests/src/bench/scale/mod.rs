//! What a cluster of three bears: a million keys with history, a snapshot of them under load, ten thousand instances that
//! report and as many clients that watch.
//!
//! Each part has a cluster of its own, and each may be run alone. The load runs on the servers' own machine and takes its
//! share of the processors.

mod callers;
mod fanout;
mod install;
mod keys;
mod said;
mod waiters;

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use spine_client::Client;
use spine_tests::cluster::{Cluster, SERVERS};
use tokio::runtime::Runtime;

use self::{
    callers::{Callers, Pace},
    said::Said,
};
use crate::{Done, server::Usage, table::Table};

/// A call that waits long is a figure, not an error.
const PATIENCE: Duration = Duration::from_mins(1);

/// How much is done.
pub(crate) struct Plan {
    /// Keys, and how many puts overwrite one of them.
    keys: usize,
    overwritten: usize,
    value_bytes: usize,
    writers: usize,
    /// Puts a second of a load that leaves the servers room.
    steady_rate: u32,
    /// Their size where they go on until each server has written a checkpoint under them; 0: none is waited for, and a
    /// server that joins may find all it needs in the log.
    checkpoint_bytes: usize,
    /// What comes before and after that which is measured.
    phase: Duration,
    /// Services, and instances of each; each reports every `heartbeat`.
    services: usize,
    instances: usize,
    heartbeat: Duration,
    /// Watch streams: half of them on services, half on keys.
    watchers: usize,
    /// Blocking queries on one service.
    queries: usize,
    /// So often each of the three kinds of change is made, one every `change_every`.
    changes: usize,
    change_every: Duration,
}

impl Plan {
    pub(crate) const WHOLE: Self = Self {
        keys: 1_000_000,
        overwritten: 200_000,
        value_bytes: 100,
        writers: 512,
        steady_rate: 1_000,
        checkpoint_bytes: 1 << 10,
        phase: Duration::from_secs(10),
        services: 100,
        instances: 100,
        heartbeat: Duration::from_secs(10),
        watchers: 10_000,
        queries: 1_000,
        changes: 40,
        change_every: Duration::from_millis(500),
    };
    /// A few thousand of each. Values are large, so that there are checkpoints and a log that begins behind one.
    pub(crate) const QUICK: Self = Self {
        keys: 3_000,
        overwritten: 1_000,
        value_bytes: 16 << 10,
        writers: 64,
        steady_rate: 500,
        checkpoint_bytes: 16 << 10,
        phase: Duration::from_secs(2),
        services: 100,
        instances: 20,
        watchers: 2_000,
        queries: 200,
        changes: 5,
        change_every: Duration::from_millis(200),
        ..Self::WHOLE
    };
    /// Not for figures: whether it all goes through, on the debug build.
    pub(crate) const SMOKE: Self = Self {
        keys: 1_000,
        overwritten: 200,
        value_bytes: 100,
        writers: 32,
        steady_rate: 50,
        checkpoint_bytes: 0,
        phase: Duration::from_millis(500),
        services: 10,
        instances: 10,
        watchers: 100,
        queries: 30,
        changes: 2,
        change_every: Duration::from_millis(100),
        ..Self::QUICK
    };
}

/// A part that may be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Keys,
    Install,
    Fanout,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Keys, Self::Install, Self::Fanout];

    /// The part with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.to_string() == name)
    }

    fn measure(self, ground: &mut Ground<'_>) -> Done {
        match self {
            Self::Keys => keys::measure(ground),
            Self::Install => install::measure(ground),
            Self::Fanout => fanout::measure(ground),
        }
    }

    /// What was done, for whoever reads the table.
    fn title(self, plan: &Plan) -> String {
        let Plan {
            keys,
            value_bytes,
            overwritten,
            writers,
            steady_rate,
            checkpoint_bytes,
            instances,
            services,
            heartbeat,
            watchers,
            queries,
            ..
        } = plan;
        match self {
            Self::Keys => format!(
                "{keys} keys of {value_bytes} bytes by {writers} writers, {overwritten} puts on top; then {steady_rate} \
                 puts/s of {checkpoint_bytes} bytes until each server has written a checkpoint"
            ),
            Self::Install => format!(
                "{keys} keys of {value_bytes} bytes; a server whose disk was lost joins, under {steady_rate} puts/s \
                 and under {writers} writers flat out"
            ),
            Self::Fanout => format!(
                "{} instances of {services} services with a heartbeat each {heartbeat:?}, {watchers} watch streams, \
                 {queries} blocking queries on a service of {}",
                instances * services,
                waiters::QUERIED_INSTANCES
            ),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys => "keys",
            Self::Install => "install",
            Self::Fanout => "fanout",
        })
    }
}

/// Measures these parts, one after the other.
pub(crate) fn measure(plan: &Plan, parts: &[Part]) -> Done {
    raise_open_files();
    for part in parts {
        println!("{part}");
        let began = Instant::now();
        let (place, runtime) = (tempfile::tempdir()?, Runtime::new()?);
        let mut ground = Ground {
            plan,
            cluster: Cluster::start(place.path()),
            runtime: &runtime,
            table: Table::default(),
        };
        part.measure(&mut ground)?;
        println!(
            "\n{SERVERS} servers; {}; {:.0} s in all\n{}",
            part.title(plan),
            began.elapsed().as_secs_f64(),
            ground.table
        );
    }
    Ok(())
}

/// What a part works on. Its steps are plain functions, which wait for servers and for calls; the calls run beside them.
struct Ground<'a> {
    plan: &'a Plan,
    cluster: Cluster,
    runtime: &'a Runtime,
    table: Table,
}

impl Ground<'_> {
    /// Where the native API of all servers is.
    fn servers(&self) -> Vec<SocketAddr> {
        (0..SERVERS).map(|at| self.cluster.grpc(at)).collect()
    }

    /// Writers over all servers.
    fn writers(
        &self,
        pace: Pace,
        value_bytes: usize,
        key: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Callers {
        Callers::writers(self.servers(), self.plan.writers, pace, value_bytes, key)
    }

    /// A client of one server.
    fn client(&self, at: usize) -> Done<Client> {
        let _entered = self.runtime.enter();
        let address = self.cluster.grpc(at).to_string();
        Ok(Client::builder(&address).deadline(PATIENCE).build()?)
    }

    /// What each server has used up to now.
    fn usages(&self) -> Done<Vec<Usage>> {
        let ids = (0..SERVERS).filter_map(|at| self.cluster.process_id(at));
        ids.map(Usage::of).collect()
    }

    /// Processor time of all servers up to now.
    fn cpu_seconds(&self) -> Done<f64> {
        Ok(self.usages()?.iter().map(|usage| usage.cpu_seconds).sum())
    }

    /// Adds the memory of each server.
    fn add_memory(&mut self, when: &str) -> Done {
        for usage in self.usages()? {
            self.table
                .add(format!("memory of a server {when}, MiB"), usage.rss_mib);
        }
        Ok(())
    }

    /// What each server has said.
    fn said(&self) -> Vec<Said> {
        Said::of_all(&self.cluster)
    }

    /// A server that follows; the one behind the leader.
    fn follower(&self) -> usize {
        (self.cluster.leader() + 1) % SERVERS
    }
}

/// Each blocking query has a connection.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it may not be raised, a connection that is refused says so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}
