//! What is restored from a snapshot is what there was at the snapshot's index, and goes on with numbers that nobody has.
//!
//! All changes are replayed up to that index ([`Ledger`]), and the rows that the new server shows are held against that. A
//! snapshot holds everything that was acknowledged before it was asked for, and nothing that was begun after it was saved.
//! The old cluster goes on beside the new one: no index of either is given by both.

use std::{collections::BTreeMap, path::Path};

use super::{
    Findings,
    ledger::{self, Ledger},
    order,
};
use crate::{
    clock::Micros,
    history::{Call, History, Operation, Out, Row, Sight},
};

/// The keys of the workload.
const PREFIX: &str = "b/";

/// Checks all snapshots, and the reads and writes around them by the claimed order.
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let ledger = Ledger::of(history, &mut findings);
    order::check(history, &ledger, &mut findings);
    let mut snapshots: BTreeMap<&Path, Snapshot<'_>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Call::Save { file, stale }, Some(Out::Saved { index, revision })) =
            (&operation.call, operation.answer())
        {
            let snapshot = Snapshot {
                operation,
                index: *index,
                revision: *revision,
            };
            snapshot.check_age(history, *stale, &mut findings);
            snapshots.insert(file, snapshot);
        }
    }
    for sighting in &history.sightings {
        match &sighting.sight {
            Sight::Restored {
                file,
                rows,
                applied,
                next,
                told,
            } => {
                let Some(snapshot) = snapshots.get(file.as_path()) else {
                    continue;
                };
                snapshot.check_rows(&ledger, rows, &mut findings);
                snapshot.check_counters(history, *applied, *next, &mut findings);
                if let Some(told) = told {
                    let detail = format!("{told:?}: {}", snapshot.operation.describe());
                    findings.violation("watch goes on", detail);
                }
            }
            Sight::NotRestored { file, error } => {
                findings.violation("not restored", format!("{}: {error}", file.display()));
            }
            _ => {}
        }
    }
    if history.sightings.is_empty() {
        findings.undecided("no snapshot was restored");
    }
    findings
}

/// What was saved.
struct Snapshot<'a> {
    operation: &'a Operation,
    index: u64,
    revision: u64,
}

impl Snapshot<'_> {
    /// It is of a moment between its asking and its answer; a stale one may be of an earlier one.
    fn check_age(&self, history: &History, stale: bool, findings: &mut Findings) {
        let Operation { start, end, .. } = self.operation;
        for change in &history.operations {
            let Some(index) = ledger::stated(change) else {
                continue;
            };
            if change.end < *start && index > self.index && !stale {
                let (own, change) = (self.operation.describe(), change.describe());
                findings.violation("snapshot too old", format!("{own}; before it, {change}"));
            }
            if change.start > *end && index <= self.index {
                let (own, change) = (self.operation.describe(), change.describe());
                findings.violation("snapshot of the future", format!("{own}; after it, {change}"));
            }
        }
    }

    /// Each key is what it was at that index.
    fn check_rows(&self, ledger: &Ledger<'_>, rows: &[Row], findings: &mut Findings) {
        let rows: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.key.as_str(), row)).collect();
        let mut keys: Vec<&str> = ledger.keys_below(PREFIX).chain(rows.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let expected = ledger.at(key, self.index);
            let expected_row = expected.and_then(|(since, change)| Some((since, change.after?)));
            let found = rows.get(key).map(|row| (row.modify, row.value.as_str()));
            let change = expected.map(|(_, change)| change);
            let may_be_gone = found.is_none() && ledger.may_be_deleted(key, change, Micros::NEVER);
            if found != expected_row && !may_be_gone {
                let own = self.operation.describe();
                let detail = format!(
                    "{key} was {expected_row:?} at {}, and is restored as {found:?}: {own}",
                    self.index
                );
                findings.violation("wrong backup", detail);
            }
        }
    }

    /// Index and revision go on, beyond all that the old cluster has ever given.
    fn check_counters(&self, history: &History, applied: u64, next: (u64, u64), findings: &mut Findings) {
        let Self { index, revision, .. } = self;
        let saved = format!("saved at index {index}, revision {revision}");
        if applied < *index || next.0 <= *index || next.1 <= *revision {
            let detail = format!("{saved}; restored it is at index {applied}, and a write is at {next:?}");
            findings.violation("counters fall", detail);
            return;
        }
        let given = |change: &&Operation| ledger::stated(change).is_some_and(|stated| stated >= next.0);
        if let Some(change) = history.operations.iter().find(given) {
            let detail = format!("{saved}; restored, a write is at {next:?}; {}", change.describe());
            findings.violation("number given again", detail);
        }
    }
}
