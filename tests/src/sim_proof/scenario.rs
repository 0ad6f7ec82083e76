//! One simulation from start to verdict.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{BasicNode, Config, SnapshotPolicy};
use turmoil::Sim;

use crate::client::{self, Acknowledged};
use crate::faults::{Chance, Fault, Planned, schedule};
use crate::log::Log;
use crate::machine::Machine;
use crate::network::Network;
use crate::server::Server;
use crate::types::{Raft, Runtime, Write, host};
use spine_tests::trace::{Summary, Trace};

const NODES: [u64; 3] = [1, 2, 3];
const CLIENTS: u64 = 4;
/// The simulation advances in steps of this length; ten times finer steps cost about seven times the work.
const TICK: Duration = Duration::from_millis(10);
/// Time without faults at the end, in which the cluster has to heal.
const HEALING: Duration = Duration::from_secs(10);

/// What one seed gave.
pub(crate) struct Report {
    seed: u64,
    simulated: Duration,
    faults: usize,
    acknowledged: usize,
    applied: usize,
    trace: Summary,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            simulated,
            faults,
            acknowledged,
            applied,
            trace,
        } = self;
        writeln!(
            f,
            "seed {seed}: {} s simulated, {faults} faults",
            simulated.as_secs()
        )?;
        writeln!(
            f,
            "{acknowledged} writes acknowledged, {applied} applied, {} events",
            trace.events
        )?;
        write!(f, "digest {}", trace.digest)
    }
}

/// Runs `length` of simulated time and checks that the nodes agree and lost nothing that was acknowledged.
pub(crate) fn run(seed: u64, length: Duration, trace_file: Option<&str>) -> turmoil::Result<Report> {
    let trace = Trace::new(trace_file)?;
    let acknowledged = Acknowledged::default();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(length + HEALING + Duration::from_secs(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .enable_random_order()
        .build();
    let mut chance = Chance(seed);
    let nodes: BTreeMap<u64, Node> = NODES
        .map(|id| (id, Node::start(&mut sim, id, chance.next(), &trace)))
        .into();
    for number in 0..CLIENTS {
        let (acknowledged, trace) = (Arc::clone(&acknowledged), trace.clone());
        sim.host(format!("client{number}"), move || {
            client::run(number, CLIENTS, length, Arc::clone(&acknowledged), trace.clone())
        });
    }
    let planned = schedule(chance.next(), length);
    let mut before = Duration::ZERO;
    while before < length + HEALING {
        sim.step()?;
        let now = sim.elapsed();
        for planned in &planned {
            step_fault(&mut sim, planned, before..now, &trace);
        }
        before = now;
    }
    let acknowledged = acknowledged
        .lock()
        .expect("the simulation has one thread")
        .clone();
    let applied = agree(&nodes, &acknowledged)?;
    Ok(Report {
        seed,
        simulated: before,
        faults: planned.len(),
        acknowledged: acknowledged.len(),
        applied,
        trace: trace.summary(),
    })
}

/// A simulated node: what survives its crashes, and a look into its running state machine.
struct Node {
    machine: Rc<RefCell<Machine>>,
}

impl Node {
    fn start(sim: &mut Sim<'_>, id: u64, seed: u64, trace: &Trace) -> Self {
        let log = Log::default();
        let machine = Rc::new(RefCell::new(Machine::new(id, trace.clone())));
        let starts = Rc::new(Cell::new(0));
        let node = Self {
            machine: Rc::clone(&machine),
        };
        let trace = trace.clone();
        sim.host(host(id), move || {
            starts.set(starts.get() + 1);
            // Each start draws anew: a restarted node must not repeat the timeouts of its last life.
            let mut chance = Chance(seed.wrapping_add(starts.get()));
            let seed = chance.next();
            machine.replace(Machine::new(id, trace.clone()));
            let life = live(id, log.clone(), machine.borrow().clone(), chance, trace.clone());
            async move { Runtime::scope(seed, life).await }
        });
        node
    }
}

/// One life of a node, from its start to its crash.
async fn live(id: u64, log: Log, machine: Machine, chance: Chance, trace: Trace) -> turmoil::Result {
    trace.record(id, format_args!("starts"));
    let config = Config {
        heartbeat_interval: 100,
        election_timeout_min: 150,
        election_timeout_max: 300,
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let raft = Raft::new(id, Arc::new(config.validate()?), Network, log, machine).await?;
    if id == NODES[0] && !raft.is_initialized().await? {
        let members: BTreeMap<u64, BasicNode> = NODES.map(|id| (id, BasicNode::new(host(id)))).into();
        raft.initialize(members).await?;
    }
    let leaders = trace.clone();
    let _watch = raft.on_cluster_leader_change(move |_before, now| {
        leaders.record(id, format_args!("sees leader {now:?}"));
        std::future::ready(())
    });
    Server {
        node: id,
        raft,
        trace,
        chance: Arc::new(Mutex::new(chance)),
    }
    .run()
    .await
}

/// Begins or mends a fault if its moment lies in this step.
fn step_fault(sim: &mut Sim<'_>, planned: &Planned, step: std::ops::Range<Duration>, trace: &Trace) {
    let others = |id: u64| NODES.into_iter().filter(move |other| *other != id);
    if step.contains(&planned.begins) {
        trace.record_at(step.end, "fault", format_args!("{:?} begins", planned.fault));
        match planned.fault {
            Fault::Crash(id) => sim.crash(host(id)),
            Fault::Isolate(id) => others(id).for_each(|other| sim.partition(host(id), host(other))),
        }
    }
    if step.contains(&planned.ends) {
        trace.record_at(step.end, "fault", format_args!("{:?} ends", planned.fault));
        match planned.fault {
            Fault::Crash(id) => sim.bounce(host(id)),
            Fault::Isolate(id) => others(id).for_each(|other| sim.repair(host(id), host(other))),
        }
    }
}

/// Every acknowledged write is applied on every node, and no two nodes applied different writes at one place.
fn agree(nodes: &BTreeMap<u64, Node>, acknowledged: &[Write]) -> turmoil::Result<usize> {
    let applied: Vec<Vec<Write>> = nodes
        .values()
        .map(|node| node.machine.borrow().applied())
        .collect();
    let shortest = applied.iter().map(Vec::len).min().unwrap_or_default();
    for writes in &applied {
        if writes[..shortest] != applied[0][..shortest] {
            return Err("two nodes applied different writes at the same place".into());
        }
        let present: BTreeSet<Write> = writes.iter().copied().collect();
        if let Some(lost) = acknowledged.iter().find(|write| !present.contains(write)) {
            return Err(format!("{lost} was acknowledged and is not applied everywhere").into());
        }
    }
    Ok(shortest)
}
