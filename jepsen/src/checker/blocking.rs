//! Blocking queries: who waits is woken by a change, soon, and by nothing else.

use std::{collections::BTreeMap, time::Duration};

use super::{Around, Findings, ledger::Ledger};
use crate::{
    clock::Micros,
    history::{Call, History, Operation, Out},
};

/// How long after its acknowledgement a change must have reached everybody who waits for it, in a cluster at peace.
pub const WOKEN_WITHIN: Duration = Duration::from_secs(3);

/// How long a cluster takes to be at peace after a fault.
const SETTLE: Duration = Duration::from_secs(3);

/// A wait may end this much early, by clocks that don't tick alike.
const EARLY: Duration = Duration::from_millis(50);

/// Checks all blocking queries.
pub fn check(history: &History, ledger: &Ledger<'_>, around: Around<'_>, findings: &mut Findings) {
    let mut watchers: BTreeMap<u64, Vec<Answer<'_>>> = BTreeMap::new();
    for operation in &history.operations {
        if let Call::Block {
            watcher,
            key,
            recurse,
            index,
            wait_ms,
        } = &operation.call
            && let Some(Out::Changed { index: new, rows }) = operation.answer()
        {
            let newest = rows.iter().map(|row| row.modify).max();
            watchers.entry(*watcher).or_default().push(Answer {
                operation,
                key,
                recurse: *recurse,
                behind: *index,
                wait: Duration::from_millis(*wait_ms),
                index: *new,
                newest,
            });
        }
    }
    for answers in watchers.values() {
        for answer in answers {
            if let Some((rule, detail)) = answer.complaint(around) {
                findings.violation(rule, format!("{detail}: {}", answer.operation.describe()));
            }
        }
        check_falls(answers, findings);
        check_wakes(answers, ledger, around, findings);
    }
}

/// An answered query.
struct Answer<'a> {
    operation: &'a Operation,
    key: &'a str,
    recurse: bool,
    behind: u64,
    wait: Duration,
    index: u64,
    newest: Option<u64>,
}

impl Answer<'_> {
    fn complaint(&self, around: Around<'_>) -> Option<(&'static str, String)> {
        let Operation { start, end, node, .. } = self.operation;
        if self.index == 0 {
            return Some(("index 0", "clients take it for no index".to_owned()));
        }
        if self.newest.is_some_and(|newest| newest > self.index) {
            let detail = format!("index {} of rows changed at {:?}", self.index, self.newest);
            return Some(("index behind its rows", detail));
        }
        let waited = end.since(*start);
        // A server that is told to stop answers what it has.
        let mut touched = around.faults.iter().filter(|fault| fault.overlaps(*start, *end));
        let is_excused = touched.any(|fault| fault.nodes.contains(node));
        let is_early = self.behind > 0 && self.index == self.behind && waited + EARLY < self.wait;
        (is_early && !is_excused).then(|| {
            let detail = format!("nothing new after {waited:?} of {:?}", self.wait);
            ("woken for nothing", detail)
        })
    }
}

/// One question's index never falls, whoever answers it.
fn check_falls(answers: &[Answer<'_>], findings: &mut Findings) {
    for pair in answers.windows(2) {
        if pair[1].index < pair[0].index {
            let detail = format!(
                "from {} to {}: {}",
                pair[0].index,
                pair[1].index,
                pair[1].operation.describe()
            );
            findings.violation("index falls", detail);
        }
    }
}

/// Every change reaches the watcher in time.
fn check_wakes(answers: &[Answer<'_>], ledger: &Ledger<'_>, around: Around<'_>, findings: &mut Findings) {
    let (Some(first), Some(last)) = (answers.first(), answers.last()) else {
        return;
    };
    let keys: Vec<&str> = if first.recurse {
        ledger.keys_below(first.key).collect()
    } else {
        vec![first.key]
    };
    for key in keys {
        for (index, change) in ledger.behind(key, first.index) {
            let acknowledged = ledger.operation(change).map_or(Micros::NEVER, |by| by.end);
            if acknowledged == Micros::NEVER {
                continue;
            }
            let due = around.due(acknowledged, WOKEN_WITHIN, SETTLE);
            let told = answers.iter().find(|answer| answer.index >= index);
            // A watcher that went home before the time was over is not late.
            let end = told.unwrap_or(last).operation.end;
            if end > due {
                let detail = format!(
                    "{key} changed at index {index}, acknowledged at {acknowledged}; the watcher of {} on {} was to know \
                     by {due}, and did not before {end}",
                    first.key, first.operation.node
                );
                findings.violation("woken late", detail);
            }
        }
    }
}
