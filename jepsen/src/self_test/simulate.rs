//! Clients at work on a perfect [`Store`]: their operations overlap, fail and stay without an answer, and each takes
//! effect at one moment between its beginning and its end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::store::Store;
use crate::{
    clock::Micros,
    history::{Call, Dialect, Operation, Out, Outcome, Process, Row},
};

/// What clients do.
pub(crate) struct Plan<F> {
    pub(crate) seed: u64,
    pub(crate) clients: u64,
    pub(crate) operations: usize,
    /// In a thousand, how many fail, and how many stay without an answer.
    pub(crate) failing: u32,
    pub(crate) unknown: u32,
    /// What a client asks for next, in the light of what it has last read, by key.
    pub(crate) next: F,
}

/// What happened.
pub(crate) struct Simulated {
    pub(crate) operations: Vec<Operation>,
    pub(crate) store: Store,
    /// When each index came about.
    pub(crate) moments: BTreeMap<u64, Micros>,
    pub(crate) end: Micros,
    pub(crate) rng: StdRng,
}

/// What a client has last read of each key.
pub(crate) type Memory = BTreeMap<String, Option<Row>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Begin,
    Effect { operation: usize },
    End { operation: usize },
}

struct Client {
    process: Process,
    memory: Memory,
}

/// Lets clients work.
pub(crate) fn simulate<F>(mut plan: Plan<F>) -> Simulated
where
    F: FnMut(&mut StdRng, &Memory) -> (Dialect, Call),
{
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut processes = 0..;
    let mut process = || Process(processes.next().unwrap_or_default());
    let mut clients: Vec<Client> = (0..plan.clients)
        .map(|_| Client {
            process: process(),
            memory: Memory::new(),
        })
        .collect();
    let mut due: BinaryHeap<_> = (0..clients.len())
        .map(|client| Reverse((rng.random_range(0..1000_u64), client, Stage::Begin)))
        .collect();
    let (mut operations, mut answers) = (Vec::<Operation>::new(), BTreeMap::new());
    let (mut store, mut moments, mut end) = (Store::default(), BTreeMap::new(), Micros(0));
    while let Some(Reverse((now, client, stage))) = due.pop() {
        end = Micros(now);
        match stage {
            Stage::Begin if operations.len() < plan.operations => {
                let (dialect, call) = (plan.next)(&mut rng, &clients[client].memory);
                let operation = operations.len();
                operations.push(Operation {
                    process: clients[client].process,
                    node: format!("n{}", rng.random_range(1..=3)),
                    dialect,
                    call,
                    start: Micros(now),
                    end: Micros::NEVER,
                    outcome: Outcome::Unknown("no answer".to_owned()),
                });
                let fate = rng.random_range(0..1000);
                let is_read = operations[operation].call.is_read();
                let later = now + rng.random_range(50..2000);
                if fate < plan.failing {
                    operations[operation].outcome = Outcome::Fail("refused".to_owned());
                    operations[operation].end = Micros(later);
                    due.push(Reverse((later + 1, client, Stage::Begin)));
                } else if fate < plan.failing + plan.unknown && !is_read {
                    // It takes effect now, much later, or never; its client does not wait for it.
                    let patience = now + 5000;
                    let effect = now + rng.random_range(50..20_000);
                    if rng.random_bool(0.6) {
                        due.push(Reverse((effect, client, Stage::Effect { operation })));
                    }
                    clients[client].process = process();
                    due.push(Reverse((patience, client, Stage::Begin)));
                } else {
                    due.push(Reverse((later, client, Stage::Effect { operation })));
                    let answered = later + rng.random_range(50..2000);
                    due.push(Reverse((answered, client, Stage::End { operation })));
                }
            }
            Stage::Begin => {}
            Stage::Effect { operation } => {
                let out = store.apply(&operations[operation].call);
                moments.entry(store.index()).or_insert(Micros(now));
                answers.insert(operation, out);
            }
            Stage::End { operation } => {
                let out = answers
                    .remove(&operation)
                    .expect("an effect comes before its end");
                remember(&mut clients[client].memory, &operations[operation].call, &out);
                let operation = &mut operations[operation];
                operation.outcome = Outcome::Ok(as_said(operation.dialect, out));
                operation.end = Micros(now);
                due.push(Reverse((now + rng.random_range(10..2000), client, Stage::Begin)));
            }
        }
    }
    Simulated {
        operations,
        store,
        moments,
        end,
        rng,
    }
}

fn remember(memory: &mut Memory, call: &Call, out: &Out) {
    if let (Call::Read { key, .. }, Out::Row { row, .. }) = (call, out) {
        memory.insert(key.clone(), row.clone());
    }
}

/// An answer without what its dialect does not state.
pub(crate) fn as_said(dialect: Dialect, out: Out) -> Out {
    match (dialect, out) {
        (Dialect::Consul, Out::Row { row, .. }) => Out::Row { row, applied: None },
        (Dialect::Consul, Out::Rows { rows, .. }) => Out::Rows { rows, applied: None },
        (Dialect::Consul, Out::Members { members, .. }) => Out::Members {
            members,
            applied: None,
        },
        (Dialect::Consul, Out::Written { done, .. }) => Out::Written { done, index: None },
        (Dialect::Consul, Out::Deleted { .. }) => Out::Deleted {
            count: None,
            index: None,
        },
        (_, out) => out,
    }
}
