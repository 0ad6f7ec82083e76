//! Single keys: by the claimed order, and by any order.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZero,
    sync::Mutex,
    thread,
    time::Duration,
};

use super::{
    Findings,
    ledger::{self, Ledger},
    linearizable::{self, Interval, Linearizability},
    model::{Input, Output, Register, Value},
    order,
};
use crate::history::{Call, History, Operation, Out};

/// How long the search may take for one key.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Checks all keys, both ways.
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let ledger = Ledger::of(history, &mut findings);
    order::check(history, &ledger, &mut findings);
    findings.add(black_box(history, LIMIT));
    findings
}

/// Searches each key, several at a time, for an order that explains all answers.
pub fn black_box(history: &History, limit: Duration) -> Findings {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some(key) = key(operation) {
            keys.entry(key).or_default().push(operation);
        }
    }
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let (queue, found) = (Mutex::new(keys.into_iter()), Mutex::new(Findings::default()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let next = || queue.lock().ok()?.next();
                while let Some((key, operations)) = next() {
                    let findings = one_key(key, &operations, limit);
                    if let Ok(mut found) = found.lock() {
                        found.add(findings);
                    }
                }
            });
        }
    });
    found
        .into_inner()
        .expect("no worker panics while it holds the findings")
}

/// The key of an operation that says something about the present state of one key.
fn key(operation: &Operation) -> Option<&str> {
    match &operation.call {
        Call::Read { key, stale: false }
        | Call::Write { key, .. }
        | Call::Cas { key, .. }
        | Call::Delete { key } => Some(key),
        _ => None,
    }
}

fn one_key(key: &str, operations: &[&Operation], limit: Duration) -> Findings {
    let values = Values::seen_in(operations);
    let mut kept = Vec::new();
    let mut intervals = Vec::new();
    for operation in operations {
        if let Some(interval) = values.interval(operation) {
            intervals.push(interval);
            kept.push(*operation);
        }
    }
    let mut findings = Findings::default();
    match linearizable::check(&Register, &intervals, limit) {
        Linearizability::Holds => {}
        Linearizability::Violated { placed, stuck } => {
            let last: Vec<_> = placed
                .iter()
                .rev()
                .take(5)
                .map(|at| kept[*at].describe())
                .collect();
            let detail = format!(
                "{key}: {} of {} operations can be ordered; then not: {}; before it, latest first: {}",
                placed.len(),
                kept.len(),
                kept[stuck].describe(),
                last.join(" | "),
            );
            findings.violation("not linearizable", detail);
        }
        Linearizability::Undecided => {
            findings.undecided(format!("{key}: {} operations in {limit:?}", kept.len()));
        }
    }
    findings
}

/// Numbers for the values of one key. Values that nobody has seen have one number together: nothing could tell them apart,
/// and the search need not try them one by one.
struct Values<'a>(HashMap<&'a str, Value>);

impl<'a> Values<'a> {
    const UNSEEN: Value = 1;

    fn seen_in(operations: &[&'a Operation]) -> Self {
        let seen = operations
            .iter()
            .filter_map(|one| match (&one.call, one.answer()) {
                (_, Some(Out::Row { row: Some(row), .. })) => Some(row.value.as_str()),
                (Call::Cas { expect, .. }, _) => expect.value.as_deref(),
                _ => None,
            });
        let mut numbers = HashMap::new();
        for value in seen {
            let next = Value::try_from(numbers.len()).unwrap_or(Value::MAX - 2) + 2;
            numbers.entry(value).or_insert(next);
        }
        Self(numbers)
    }

    fn number(&self, value: Option<&str>) -> Value {
        let Some(value) = value else { return 0 };
        self.0.get(value).copied().unwrap_or(Self::UNSEEN)
    }

    /// The operation as the model knows it. `None`: it says nothing, as a failed one or a read without an answer.
    fn interval(&self, operation: &Operation) -> Option<Interval<Input, Output>> {
        if operation.failed() {
            return None;
        }
        let answer = operation.answer();
        let (input, output) = match &operation.call {
            Call::Read { .. } => {
                let Out::Row { row, .. } = answer? else {
                    return None;
                };
                let value = self.number(row.as_ref().map(|row| row.value.as_str()));
                (Input::Read, Some(Output::Value(value)))
            }
            Call::Write { value, .. } => {
                let value = self.number(Some(value));
                (Input::Write(value), answer.map(|_| Output::Done))
            }
            Call::Cas { expect, value, .. } => {
                let expected = self.number(expect.value.as_deref());
                let value = self.number(Some(value));
                let output = answer.map(|answer| match answer {
                    Out::Written { done, .. } => Output::Was(*done),
                    _ => Output::Done,
                });
                (Input::Cas(expected, value), output)
            }
            Call::Delete { .. } => {
                let output = answer.map(|_| {
                    let count = ledger::deleted(operation);
                    count.map_or(Output::Done, |count| Output::Was(count > 0))
                });
                (Input::Delete, output)
            }
            _ => return None,
        };
        Some(Interval {
            start: operation.start,
            end: operation.end,
            input,
            output,
        })
    }
}
