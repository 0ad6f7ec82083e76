//! Good histories: what clients see of a cluster that keeps every promise.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    simulate::{Memory, Plan, Simulated, as_said, simulate},
    store::Store,
};
use crate::{
    clock::Micros,
    history::{
        Call, Dialect, Expect, History, InstanceState, KeyEvent, Operation, Out, Outcome, Process, Sight,
        Sighting,
    },
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Single keys, in both dialects, with answers that are lost.
pub(crate) fn register(seed: u64) -> History {
    keys(seed, 20, false)
}

/// Single keys where every answer comes and states its index, so that nothing is left to doubt.
pub(crate) fn register_stated(seed: u64) -> History {
    keys(seed, 0, true)
}

fn keys(seed: u64, unknown: u32, native: bool) -> History {
    let mut value = 0_u64;
    let plan = Plan {
        seed,
        clients: 5,
        operations: 250,
        failing: 20,
        unknown,
        next: |rng: &mut StdRng, memory: &Memory| {
            let (dialect, call) = key_call(rng, memory, &mut value);
            (if native { Dialect::Native } else { dialect }, call)
        },
    };
    let Simulated { operations, .. } = simulate(plan);
    History {
        operations,
        sightings: Vec::new(),
    }
}

fn key_call(rng: &mut StdRng, memory: &Memory, value: &mut u64) -> (Dialect, Call) {
    *value += 1;
    let value = value.to_string();
    let key = format!("r/{}", rng.random_range(1..=2));
    let known = memory.get(&key);
    let call = match (rng.random_range(0..100), known) {
        (0..40, _) => Call::Read { key, stale: false },
        (40..45, _) => Call::Read { key, stale: true },
        (45..50, _) => Call::Delete { key },
        (50..80, Some(row)) => {
            let expect = Expect {
                index: row.as_ref().map_or(0, |row| row.modify),
                value: row.as_ref().map(|row| row.value.clone()),
            };
            Call::Cas { key, expect, value }
        }
        _ => Call::Write { key, value },
    };
    (dialect(rng, &call), call)
}

fn dialect(rng: &mut StdRng, call: &Call) -> Dialect {
    let deletes = matches!(call, Call::Delete { .. } | Call::DeletePrefix { .. });
    if rng.random_bool(if deletes { 0.1 } else { 0.4 }) {
        Dialect::Consul
    } else {
        Dialect::Native
    }
}

/// Sets, with their last reads.
pub(crate) fn set(seed: u64) -> History {
    let mut member = 0_u64;
    let plan = Plan {
        seed,
        clients: 6,
        operations: 300,
        failing: 30,
        unknown: 30,
        next: |rng: &mut StdRng, _: &Memory| {
            member += 1;
            let set = format!("s/{}/", member / 150);
            let call = if rng.random_bool(0.2) {
                let (stale, last) = (false, false);
                Call::Members { set, stale, last }
            } else {
                Call::Add { set, member }
            };
            (dialect(rng, &call), call)
        },
    };
    let mut simulated = simulate(plan);
    let sets: Vec<String> = (0..=member / 150).map(|set| format!("s/{set}/")).collect();
    let mut at = simulated.end;
    for (set, node) in sets.iter().flat_map(|set| NODES.map(|node| (set, node))) {
        for stale in [false, true] {
            let set = set.clone();
            let call = Call::Members {
                set,
                stale,
                last: true,
            };
            let out = simulated.store.apply(&call);
            let operation = answered(&mut at, node, Dialect::Native, call, out);
            simulated.operations.push(operation);
        }
    }
    History {
        operations: simulated.operations,
        sightings: Vec::new(),
    }
}

/// An operation by a client of its own, a while after `at`, which moves on.
fn answered(at: &mut Micros, node: &str, dialect: Dialect, call: Call, out: Out) -> Operation {
    let start = at.after(Duration::from_millis(1));
    *at = start.after(Duration::from_millis(1));
    Operation {
        process: Process(1_000_000 + start.0),
        node: node.to_owned(),
        dialect,
        call,
        start,
        end: *at,
        outcome: Outcome::Ok(as_said(dialect, out)),
    }
}

/// Keys that change, streams on each node, and blocking queries.
pub(crate) fn watch(seed: u64) -> History {
    let mut value = 0_u64;
    let plan = Plan {
        seed,
        clients: 5,
        operations: 250,
        failing: 20,
        unknown: 20,
        next: |rng: &mut StdRng, _: &Memory| {
            value += 1;
            let key = format!("w/{}", rng.random_range(1..=6));
            let value = value.to_string();
            let prefix = "w/".to_owned();
            let call = match rng.random_range(0..100) {
                0..15 => Call::Delete { key },
                15..20 => Call::DeletePrefix { prefix },
                20..30 => Call::List { prefix, stale: false },
                _ => Call::Write { key, value },
            };
            (dialect(rng, &call), call)
        },
    };
    let mut simulated = simulate(plan);
    let mut history = History::default();
    for watcher in 1..=4 {
        let node = NODES[watcher % 3];
        stream(&mut simulated, watcher as u64, node, &mut history.sightings);
    }
    history.sightings.sort_by_key(|sighting| sighting.at);
    let mut operations = std::mem::take(&mut simulated.operations);
    for (watcher, (key, recurse)) in [("w/1", false), ("w/2", false), ("w/", true)].iter().enumerate() {
        operations.extend(queries(&simulated, 10 + watcher as u64, key, *recurse));
    }
    operations.sort_by_key(|operation| operation.start);
    history.operations = operations;
    history
}

/// A watch: whole requests, now one, now several in a batch, once resumed.
fn stream(simulated: &mut Simulated, watcher: u64, node: &str, sightings: &mut Vec<Sighting>) {
    let Simulated {
        store, moments, rng, ..
    } = simulated;
    let Store { log, .. } = store;
    let node = node.to_owned();
    let mut saw = |at, sight| {
        let node = node.clone();
        sightings.push(Sighting { at, node, sight });
    };
    let start = |from, resumed| Sight::WatchStart {
        watcher,
        prefix: "w/".to_owned(),
        from,
        resumed,
    };
    saw(Micros(0), start(0, false));
    let half = log.len() / 2;
    let (mut events, mut last) = (Vec::<KeyEvent>::new(), Micros(0));
    for (at, event) in log.iter().enumerate() {
        events.push(event.clone());
        let is_whole = log.get(at + 1).is_none_or(|next| next.index != event.index);
        let is_last = at + 1 == log.len();
        if is_whole && (is_last || at == half || rng.random_bool(0.5)) {
            last = moments[&event.index]
                .after(Duration::from_micros(rng.random_range(10..500)))
                .max(last);
            let (index, events) = (event.index, std::mem::take(&mut events));
            saw(
                last,
                Sight::WatchBatch {
                    watcher,
                    index,
                    events,
                },
            );
            if at >= half && !is_last && rng.random_bool(0.1) {
                let error = "left".to_owned();
                saw(last, Sight::WatchEnd { watcher, error });
                saw(last, start(index, true));
            }
        }
    }
}

/// Blocking queries of one watcher, one after another.
fn queries(simulated: &Simulated, watcher: u64, key: &str, recurse: bool) -> Vec<Operation> {
    let is_meant = |event: &KeyEvent| event.key == key || (recurse && event.key.starts_with(key));
    let wait = Duration::from_millis(20);
    let (mut rows, mut index, mut behind) = (BTreeMap::new(), 1_u64, 0_u64);
    let mut log = simulated
        .store
        .log
        .iter()
        .filter(|event| is_meant(event))
        .peekable();
    let (mut at, mut operations) = (Micros(0), Vec::new());
    while at <= simulated.end.after(wait) {
        let start = at;
        let wakes = log.peek().map(|event| simulated.moments[&event.index].max(start));
        let end = wakes
            .filter(|moment| behind > 0 && *moment < start.after(wait))
            .unwrap_or(if behind == 0 { start } else { start.after(wait) });
        let end = end.after(Duration::from_micros(50));
        while let Some(event) = log.next_if(|event| simulated.moments[&event.index] <= end) {
            index = event.index;
            rows.remove(&event.key);
            if let Some(after) = &event.after {
                rows.insert(event.key.clone(), after.clone());
            }
        }
        operations.push(Operation {
            process: Process(2_000_000 + watcher),
            node: "n1".to_owned(),
            dialect: Dialect::Consul,
            call: Call::Block {
                watcher,
                key: key.to_owned(),
                recurse,
                index: behind,
                wait_ms: 20,
            },
            start,
            end,
            outcome: Outcome::Ok(Out::Changed {
                index,
                rows: rows.values().cloned().collect(),
            }),
        });
        (behind, at) = (index, end.after(Duration::from_micros(20)));
    }
    operations
}

/// Three instances: one lives, one dies and comes back, one is deregistered; and views of all nodes.
pub(crate) fn catalog(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let second = |seconds: u64| Micros(seconds * 1_000_000);
    let states = [
        ("alive", 0, InstanceState::Up),
        ("mortal", 0, InstanceState::Up),
        ("mortal", 20, InstanceState::Failing),
        ("mortal", 40, InstanceState::Up),
        ("leaver", 0, InstanceState::Up),
    ];
    let mut history = History::default();
    for (id, at, state) in states {
        let (id, at) = (id.to_owned(), second(at));
        let (node, sight) = (String::new(), Sight::Instance { id, state });
        history.sightings.push(Sighting { at, node, sight });
    }
    for id in ["alive", "mortal", "leaver"] {
        let mut at = second(1);
        let call = Call::RegisterInstance {
            service: "photo".to_owned(),
            id: id.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 80)),
            interval_ms: 1000,
            timeout_ms: 500,
            failures: 2,
        };
        let out = Out::Registered { index: Some(1) };
        let operation = answered(&mut at, "n1", Dialect::Native, call, out);
        history.operations.push(operation);
    }
    let mut leaving = second(50);
    let call = Call::DeregisterInstance {
        service: "photo".to_owned(),
        id: "leaver".to_owned(),
    };
    let out = Out::Registered { index: Some(9) };
    let operation = answered(&mut leaving, "n2", Dialect::Native, call, out);
    history.operations.push(operation);
    let mut at = second(0);
    while at < second(70) {
        at = at.after(Duration::from_millis(rng.random_range(50..150)));
        let (node, stale) = (NODES[rng.random_range(0..3)], rng.random_bool(0.5));
        let lag = Duration::from_millis(if stale { 50 } else { 0 });
        let passing = |id: &&str| {
            let now = second(0).after(at.since(Micros(0)).saturating_sub(lag));
            match *id {
                "alive" => now >= second(3),
                "mortal" => (second(3)..second(23)).contains(&now) || now >= second(42),
                _ => now >= second(3) && now < leaving,
            }
        };
        let ids = ["alive", "leaver", "mortal"].iter().filter(|id| passing(id));
        let out = Out::Passing {
            ids: ids.map(|id| (*id).to_owned()).collect(),
        };
        let service = "photo".to_owned();
        let call = Call::Passing { service, stale };
        // The deregistration itself overlaps nothing: a view is taken before it or after it.
        if at > leaving || leaving.since(at) >= Duration::from_millis(5) {
            let mut start = at;
            let view = answered(&mut start, node, Dialect::Consul, call, out);
            history.operations.push(view);
        }
    }
    history.operations.sort_by_key(|operation| operation.start);
    history
}

/// Samples of three nodes through a fault, and what they hold in the end.
pub(crate) fn cluster(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let (mut term, mut index) = (1, 10);
    let over = Micros(30_000_000);
    for round in 0..100_u64 {
        let at = Micros(round * 500_000);
        if round == 60 {
            let (node, sight) = (String::new(), Sight::FaultsOver);
            history.sightings.push(Sighting {
                at: over,
                node,
                sight,
            });
        }
        term += u64::from(rng.random_bool(0.05));
        index += rng.random_range(0..50);
        for node in NODES {
            let is_led = rng.random_bool(0.9);
            let leader = if is_led { "n1".to_owned() } else { String::new() };
            let sight = Sight::Status {
                term,
                index,
                leader,
                ready: true,
            };
            let node = node.to_owned();
            history.sightings.push(Sighting { at, node, sight });
        }
    }
    for node in NODES {
        let sight = Sight::Content {
            index,
            checksum: "5eed".to_owned(),
        };
        let (at, node) = (Micros(50_000_000), node.to_owned());
        history.sightings.push(Sighting { at, node, sight });
    }
    // The samples are the cluster's; these writes stand for another workload's.
    let mut at = Micros(0);
    while at < Micros(50_000_000) {
        let (key, value) = ("r/1".to_owned(), at.0.to_string());
        let out = Out::Written {
            done: true,
            index: None,
        };
        let call = Call::Write { key, value };
        history
            .operations
            .push(answered(&mut at, "n1", Dialect::Consul, call, out));
        at = at.after(Duration::from_millis(500));
    }
    history
}
