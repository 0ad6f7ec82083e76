//! Ten thousand instances that report, ten thousand streams that watch, a thousand blocking queries on one service: what
//! that costs at rest, how soon each is told of a change, and whether anybody is missed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::{
    CheckScope, Client, Registration, Result, Topic,
    proto::{
        CheckDefinition, DeregisterRequest, NodeDefinition, RegisterRequest, Status, UpdateCheckRequest,
        WholeNode, check_definition::Kind as CheckKind, deregister_request::Target, event::Change as Event,
    },
};
use tokio::task::JoinHandle;

use super::{
    Ground,
    callers::{Callers, Calling, Pace},
    keys::{beside_probes, count},
    waiters::{Kind, QUERIED, QUERIED_INSTANCES, Told, WATCHED_KEYS, Waiters, service},
};
use crate::{Done, server::Usage};

/// Clients that register and report.
const CLIENTS: usize = 64;
/// A check outlives two lost reports.
const TTL_PERIODS: u32 = 3;
/// Whoever was not told of a change by then is counted.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn measure(ground: &mut Ground<'_>) -> Done {
    register(ground)?;
    let criticals = Criticals::watch(ground)?;
    let (reporting, failed) = report(ground)?;
    let mut waiters = Waiters::new();
    waiters.watch(ground)?;
    waiters.query(ground)?;
    ground.add_memory("with all who wait")?;
    rest(ground)?;
    change(ground, &mut waiters)?;
    let reports = reporting.stop()?.figures();
    ground.table.add("heartbeats/s", reports.rate());
    for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        ground
            .table
            .add(format!("heartbeat {name}, ms"), reports.percentile_ms(percent));
    }
    let failed = failed.load(Ordering::Relaxed);
    ground.table.add("heartbeats missed", count(failed));
    let critical = criticals.count(ground)?;
    ground.table.add("checks that became critical", count(critical));
    drop(waiters);
    deregister(ground)?;
    if failed + critical > 0 {
        return Err(format!("{failed} heartbeats missed, {critical} checks critical").into());
    }
    Ok(())
}

/// Instances of one service are on different nodes, as many as there are instances of a service.
fn register(ground: &mut Ground<'_>) -> Done {
    let plan = ground.plan;
    let (services, instances) = (plan.services, plan.instances);
    let ttl = plan.heartbeat * TTL_PERIODS;
    let (runtime, client) = (ground.runtime, ground.client(ground.cluster.leader())?);
    runtime.block_on(async {
        for number in 0..instances.max(QUERIED_INSTANCES) {
            client.catalog.register(host(node(number))).await?;
        }
        for number in 0..QUERIED_INSTANCES {
            client.catalog.register(queried(number, 0)).await?;
        }
        Ok::<_, spine_client::Error>(())
    })?;
    let register = move |client: Client, number: usize| async move {
        let (service, node) = (number % services, number / services);
        client
            .catalog
            .register(instance(service, node, 0, ttl))
            .await
            .map(drop)
    };
    let registering = Callers::new(ground.servers(), CLIENTS, Pace::FlatOut, register);
    let registered = registering.make(runtime.handle(), services * instances)?;
    ground.table.add("registrations/s", registered.figures().rate());
    ground.add_memory("with all instances")
}

fn node(number: usize) -> String {
    format!("host-{number}")
}

/// A node without anything on it.
fn host(name: String) -> RegisterRequest {
    RegisterRequest {
        node: name,
        node_definition: Some(NodeDefinition {
            address: "10.0.0.1".to_owned(),
            ..NodeDefinition::default()
        }),
        ..RegisterRequest::default()
    }
}

/// The instance of a service on a node, with a check that passes until it falls silent. `turn` makes it another than before.
fn instance(service_number: usize, on: usize, turn: usize, ttl: Duration) -> Registration {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Registration::new(&service(service_number), "10.0.0.1", 8080)
        .id(&id(service_number))
        .node(&node(on))
        .version("v1")
        .meta("turn", &turn.to_string())
        .check(CheckDefinition {
            status: Status::Passing.into(),
            kind: Some(CheckKind::TtlMs(ttl_ms)),
            ..CheckDefinition::default()
        })
}

/// On its node a service has one instance.
fn id(service_number: usize) -> String {
    format!("instance-of-{service_number}")
}

/// An instance of the service that queries ask for.
fn queried(on: usize, turn: usize) -> Registration {
    Registration::new(QUERIED, "10.0.0.1", 8080)
        .node(&node(on))
        .version("v1")
        .meta("turn", &turn.to_string())
}

/// Has every instance report once in a period, and counts reports that fail.
fn report(ground: &Ground<'_>) -> Done<(Calling, Arc<AtomicUsize>)> {
    let plan = ground.plan;
    let (services, all) = (plan.services, plan.services * plan.instances);
    let rate = u32::try_from(all)? / u32::try_from(plan.heartbeat.as_secs())?;
    let failed = Arc::new(AtomicUsize::new(0));
    let counted = failed.clone();
    let report = move |client: Client, number: usize| {
        let (service, on) = (number % services, number % all / services);
        let counted = counted.clone();
        async move {
            let report = UpdateCheckRequest {
                node: node(on),
                check: format!("service:{}", id(service)),
                status: Status::Passing.into(),
                output: String::new(),
            };
            if let Err(error) = client.health.report_with(report).await {
                println!("  a heartbeat failed: {error}");
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    let reporting = Callers::new(ground.servers(), CLIENTS, Pace::PerSecond(rate), report);
    Ok((reporting.start(ground.runtime.handle())?, failed))
}

/// Counts checks that become critical.
struct Criticals {
    seen: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Criticals {
    fn watch(ground: &Ground<'_>) -> Done<Self> {
        let client = ground.client(ground.cluster.leader())?;
        let mut stream = ground
            .runtime
            .block_on(client.watch.topics([Topic::Checks]).start())?;
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let task = ground.runtime.spawn(async move {
            while let Ok(batch) = stream.next().await {
                let critical = batch.events.into_iter().filter(|event| match &event.change {
                    Some(Event::Check(check)) => check
                        .after
                        .as_ref()
                        .is_some_and(|check| check.status() == Status::Critical),
                    _ => false,
                });
                counted.fetch_add(critical.count(), Ordering::Relaxed);
            }
        });
        Ok(Self { seen, task })
    }

    /// Those that became so, and those that are.
    fn count(self, ground: &Ground<'_>) -> Done<usize> {
        self.task.abort();
        let client = ground.client(ground.cluster.leader())?;
        let checks = ground.runtime.block_on(client.health.checks(CheckScope::All))?;
        let critical = checks.iter().filter(|check| check.status() == Status::Critical);
        Ok(self.seen.load(Ordering::Relaxed).max(critical.count()))
    }
}

/// What it costs when nothing but heartbeats happens.
fn rest(ground: &mut Ground<'_>) -> Done {
    let before = Spent::until_now(ground)?;
    std::thread::sleep(ground.plan.phase);
    before.add(ground, "at rest")
}

/// Processor time spent up to a moment.
struct Spent {
    at: Instant,
    servers: Vec<f64>,
    load: f64,
}

impl Spent {
    fn until_now(ground: &Ground<'_>) -> Done<Self> {
        Ok(Self {
            at: Instant::now(),
            servers: ground.usages()?.iter().map(|usage| usage.cpu_seconds).collect(),
            load: Usage::of(std::process::id())?.cpu_seconds,
        })
    }

    /// Adds what was spent since then.
    fn add(self, ground: &mut Ground<'_>, when: &str) -> Done {
        let now = Self::until_now(ground)?;
        let share = |spent: f64| spent * 100.0 / (now.at - self.at).as_secs_f64();
        for (now, before) in now.servers.iter().zip(&self.servers) {
            let share = share(now - before);
            ground
                .table
                .add(format!("CPU of a server {when}, % of a core"), share);
        }
        let share = share(now.load - self.load);
        ground
            .table
            .add(format!("CPU of the load itself {when}, % of a core"), share);
        Ok(())
    }
}

/// A change that was acknowledged.
struct Change {
    kind: Kind,
    index: u64,
    acknowledged: Instant,
}

/// Changes what is waited for, one at a time, and sees when who is told.
fn change(ground: &mut Ground<'_>, waiters: &mut Waiters) -> Done {
    let before = Spent::until_now(ground)?;
    let client = ground.client(ground.cluster.leader())?;
    let changes = ground.runtime.block_on(make_changes(&client, ground.plan))?;
    before.add(ground, "under changes")?;
    let plan = ground.plan;
    let of_kind = |kind: Kind| match kind {
        Kind::Query => plan.queries,
        Kind::OfService => plan.watchers.div_ceil(2) / plan.services,
        Kind::OfKeys => plan.watchers / 2,
    };
    let wanted = changes.iter().map(|change| of_kind(change.kind)).sum();
    let told = waiters.told(ground, wanted, TOLD_WITHIN)?;
    for (kind, name) in [
        (Kind::Query, "wake of a blocking query, ms"),
        (Kind::OfService, "wake of a service's watcher, ms"),
        (Kind::OfKeys, "wake of a watcher of keys, ms"),
    ] {
        let of = changes.iter().filter(|change| change.kind == kind);
        let wakes = of.flat_map(|change| wakes(change, &told)).collect();
        ground.table.add_all(name, wakes);
    }
    ground
        .table
        .add("wakes missed", count(wanted - told.len().min(wanted)));
    Ok(())
}

/// How long after the acknowledgement each was told: not at all after it, if it was told before.
fn wakes<'a>(change: &'a Change, told: &'a [Told]) -> impl Iterator<Item = f64> + 'a {
    let of_it = told
        .iter()
        .filter(|told| told.kind == change.kind && told.index == change.index);
    of_it.map(|told| {
        told.at
            .saturating_duration_since(change.acknowledged)
            .as_secs_f64()
            * 1e3
    })
}

async fn make_changes(client: &Client, plan: &super::Plan) -> Result<Vec<Change>> {
    let ttl = plan.heartbeat * TTL_PERIODS;
    let mut changes = Vec::new();
    let mut every = tokio::time::interval(plan.change_every);
    for turn in 1..=plan.changes {
        for kind in [Kind::Query, Kind::OfService, Kind::OfKeys] {
            every.tick().await;
            let index = match kind {
                Kind::Query => client.catalog.register(queried(0, turn)).await?.index,
                Kind::OfService => {
                    let instance = instance(turn % plan.services, 0, turn, ttl);
                    client.catalog.register(instance).await?.index
                }
                Kind::OfKeys => {
                    let key = format!("{WATCHED_KEYS}flag");
                    client.kv.put(key, turn.to_string()).await?.index
                }
            };
            changes.push(Change {
                kind,
                index,
                acknowledged: Instant::now(),
            });
        }
    }
    Ok(changes)
}

/// A node with as many instances as there are goes in one entry; others' puts wait behind it.
fn deregister(ground: &mut Ground<'_>) -> Done {
    const RACK: &str = "rack";
    let ttl = ground.plan.heartbeat * TTL_PERIODS;
    let client = ground.client(ground.cluster.leader())?;
    ground
        .runtime
        .block_on(client.catalog.register(host(RACK.to_owned())))?;
    let register = move |client: Client, number: usize| async move {
        let registration = instance(number, 0, 0, ttl).node(RACK);
        client.catalog.register(registration).await.map(drop)
    };
    let registering = Callers::new(ground.servers(), CLIENTS, Pace::FlatOut, register);
    let instances = ground.plan.services * ground.plan.instances;
    registering.make(ground.runtime.handle(), instances)?;
    let whole = DeregisterRequest {
        node: RACK.to_owned(),
        target: Some(Target::WholeNode(WholeNode {})),
    };
    let took = beside_probes(ground, "deregistration of a node", async {
        client.catalog.deregister_with(whole).await.map(drop)
    })?;
    ground.table.add(
        "deregistration of a node with as many instances, ms",
        took.as_secs_f64() * 1e3,
    );
    Ok(())
}
