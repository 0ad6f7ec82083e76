//! The nodes themselves: what they know never falls back, and when the faults are over all of them heal.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Around, Findings};
use crate::{
    clock::Micros,
    history::{History, Sight, Workload},
    schedule::Kind,
};

/// When the last fault is undone, somebody leads within this time.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// And writes are acknowledged again.
const WRITES_WITHIN: Duration = Duration::from_secs(10);
/// The nodes are sampled this often.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Checks the samples of the nodes, and of all workloads whether writes went on.
pub fn check(history: &History, all: &BTreeMap<Workload, History>, around: Around<'_>) -> Findings {
    let mut findings = Findings::default();
    check_falls(history, around, &mut findings);
    let over = history
        .sightings
        .iter()
        .find(|sighting| sighting.sight == Sight::FaultsOver);
    if let Some(over) = over {
        if !around.faults.is_empty() {
            check_leader(history, over.at, around, &mut findings);
            check_writes(all, over.at, around, &mut findings);
        }
        check_content(history, &mut findings);
    }
    findings
}

/// A node's term never falls, nor its index, unless another one takes its place: that begins anew.
fn check_falls(history: &History, around: Around<'_>, findings: &mut Findings) {
    let is_replaced = |node: &str, at: Micros| {
        let mut changes = around
            .faults
            .iter()
            .filter(|fault| fault.fault == Kind::Membership.name());
        changes.any(|fault| fault.overlaps(at, at) && fault.nodes.iter().any(|touched| touched == node))
    };
    let mut before: BTreeMap<&str, (u64, u64, Micros)> = BTreeMap::new();
    for sighting in &history.sightings {
        let Sight::Status {
            term, index, ready, ..
        } = &sighting.sight
        else {
            continue;
        };
        let (node, at) = (sighting.node.as_str(), sighting.at);
        if is_replaced(node, at) {
            before.remove(node);
            continue;
        }
        let (terms, indexes, when) = before.entry(node).or_insert((*term, *index, at));
        if term < terms {
            let detail = format!("{node}: from {terms} at {when} to {term} at {at}");
            findings.violation("term falls", detail);
        }
        // A node that has just started is not ready before it has what it knew to be committed.
        if *ready && index < indexes {
            let detail = format!("{node}: from {indexes} at {when} to {index} at {at}");
            findings.violation("index falls", detail);
        }
        *terms = *term.max(terms);
        *indexes = *index.max(indexes);
        *when = at;
    }
}

fn check_leader(history: &History, over: Micros, around: Around<'_>, findings: &mut Findings) {
    let due = over.after(LEADER_WITHIN * around.stretch + SAMPLE_EVERY);
    let mut samples = history.sightings.iter().filter(|sighting| sighting.at >= over);
    let led = samples.any(|sighting| {
        let is_led = matches!(&sighting.sight, Sight::Status { leader, .. } if !leader.is_empty());
        is_led && sighting.at <= due
    });
    if !led {
        findings.violation(
            "no leader",
            format!("the faults were over at {over}, and nobody led by {due}"),
        );
    }
}

fn check_writes(
    all: &BTreeMap<Workload, History>,
    over: Micros,
    around: Around<'_>,
    findings: &mut Findings,
) {
    let operations = all.values().flat_map(|history| &history.operations);
    let behind: Vec<_> = operations
        .filter(|one| one.start >= over && !one.call.is_read())
        .collect();
    let due = over.after(WRITES_WITHIN * around.stretch);
    let acknowledged = behind.iter().filter(|one| one.answer().is_some());
    let first = acknowledged.map(|one| one.end).min().unwrap_or(Micros::NEVER);
    let tried = behind.iter().any(|one| one.start <= due);
    if tried && first > due {
        findings.violation(
            "no writes",
            format!("the faults were over at {over}, and no write was acknowledged by {due}"),
        );
    }
}

/// In the end every node holds the same.
fn check_content(history: &History, findings: &mut Findings) {
    let nodes: BTreeSet<&str> = history
        .sightings
        .iter()
        .map(|sighting| sighting.node.as_str())
        .filter(|node| !node.is_empty())
        .collect();
    let mut contents: BTreeMap<&str, &str> = BTreeMap::new();
    for sighting in &history.sightings {
        if let Sight::Content { checksum, .. } = &sighting.sight {
            contents.insert(&sighting.node, checksum);
        }
    }
    for node in &nodes {
        if !contents.contains_key(node) {
            findings.violation("no content", format!("{node} did not show what it holds"));
        }
    }
    let different: BTreeSet<&str> = contents.values().copied().collect();
    if different.len() > 1 {
        findings.violation("nodes differ", format!("in what they hold: {contents:?}"));
    }
}
