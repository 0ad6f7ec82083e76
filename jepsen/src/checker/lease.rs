//! Leases end when they are to end: not before their time to live has passed since a renewal that was answered, and not
//! much later; and all that hangs on one goes with it, at once.
//!
//! A lease is **not early**: it is there in every linearizable read that was over before the last answered renewal was sent and
//! its time to live had passed. It is **not late**: no linearizable read shows it that began after the last renewal was
//! answered, its time to live had passed, as much time as there may have been no leader, two election timeouts and half a
//! second. After a restart of all servers cluster time may be up to 5 s behind. On a starved machine it may take twice as long: a
//! leader that does not get to run holds the clock of deadlines back, so that nobody's renewal is overtaken by the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Around, Findings};
use crate::{
    clock::Micros,
    history::{Call, History, KeyEvent, Operation, Out, Outcome, Row, Sight},
};

/// Two election timeouts and half a second.
const GRACE: Duration = Duration::from_millis(1_700);
/// By this much cluster time may be behind when all servers were ended at once.
const RESTART: Duration = Duration::from_secs(5);
/// How long an election takes at the most after a fault.
const SETTLE: Duration = Duration::from_secs(3);
/// A request without an answer has had its effect by then, or when the fault that held it up is over.
const DEADLINE: Duration = Duration::from_secs(6);

/// Checks all leases.
pub fn check(history: &History, around: Around<'_>) -> Findings {
    let mut findings = Findings::default();
    let nodes: BTreeSet<&str> = history.operations.iter().map(|one| one.node.as_str()).collect();
    let leases = leases(history);
    for (name, lease) in &leases {
        lease.check_not_early(name, &mut findings);
        lease.check_not_late(name, nodes.len(), around, &mut findings);
        lease.check_whole(name, &mut findings);
    }
    check_streams(history, &leases, &mut findings);
    findings
}

/// All that was done to one lease, and seen of it.
#[derive(Default)]
struct Lease<'a> {
    ttl: Duration,
    /// What makes it live on: its grant and its renewals, answered or not.
    renewals: Vec<&'a Operation>,
    revocations: Vec<&'a Operation>,
    /// Keys that were put on it.
    keys: Option<(&'a Operation, &'a [String])>,
    /// Linearizable answers that show it.
    alive: Vec<&'a Operation>,
    /// Linearizable answers that show that it is gone.
    gone: Vec<&'a Operation>,
    /// All answers that list its keys.
    lists: Vec<(&'a Operation, &'a [Row])>,
}

/// The leases, by id.
fn leases(history: &History) -> BTreeMap<&str, Lease<'_>> {
    let mut leases: BTreeMap<&str, Lease<'_>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Call::Grant { .. }, Some(Out::Granted { lease, ttl_ms })) =
            (&operation.call, operation.answer())
        {
            let lease = leases.entry(lease).or_default();
            lease.ttl = Duration::from_millis(*ttl_ms);
            lease.renewals.push(operation);
        }
    }
    for operation in history.operations.iter().filter(|one| !one.failed()) {
        match &operation.call {
            Call::Renew { lease } => {
                let Some(lease) = leases.get_mut(lease.as_str()) else {
                    continue;
                };
                match operation.answer() {
                    Some(Out::Lives { alive: false }) => lease.gone.push(operation),
                    answer => {
                        lease.alive.extend(answer.map(|_| operation));
                        lease.renewals.push(operation);
                    }
                }
            }
            Call::Revoke { lease } => {
                if let Some(lease) = leases.get_mut(lease.as_str()) {
                    lease.revocations.push(operation);
                }
            }
            Call::Alive { lease, stale: false } => {
                if let (Some(lease), Some(Out::Lives { alive })) =
                    (leases.get_mut(lease.as_str()), operation.answer())
                {
                    let said = if *alive { &mut lease.alive } else { &mut lease.gone };
                    said.push(operation);
                }
            }
            Call::Attach { lease, keys } => {
                if let Some(lease) = leases.get_mut(lease.as_str()) {
                    match operation.answer() {
                        Some(Out::Written { done: false, .. }) => lease.gone.push(operation),
                        _ => lease.keys = Some((operation, keys)),
                    }
                }
            }
            _ => {}
        }
    }
    for operation in &history.operations {
        let (Call::List { prefix, stale }, Some(Out::Rows { rows, .. })) =
            (&operation.call, operation.answer())
        else {
            continue;
        };
        let Some(lease) = lease_of(prefix).and_then(|lease| leases.get_mut(lease)) else {
            continue;
        };
        lease.lists.push((operation, rows));
        let is_put = lease
            .keys
            .is_some_and(|(put, _)| put.answer().is_some() && put.end < operation.start);
        match (stale, rows.is_empty()) {
            (false, false) => lease.alive.push(operation),
            (false, true) if is_put => lease.gone.push(operation),
            _ => {}
        }
    }
    leases
}

/// The lease that a key or prefix belongs to: `l/LEASE/…`.
fn lease_of(key: &str) -> Option<&str> {
    key.strip_prefix("l/")?.split_once('/').map(|(lease, _)| lease)
}

impl Lease<'_> {
    fn check_not_early(&self, name: &str, findings: &mut Findings) {
        let answered = self
            .renewals
            .iter()
            .filter(|one| matches!(one.outcome, Outcome::Ok(_)));
        let Some(last) = answered.max_by_key(|one| one.start) else {
            return;
        };
        let until = last.start.after(self.ttl);
        for gone in &self.gone {
            let revoked = self.revocations.iter().any(|one| one.start < gone.end);
            if gone.end < until && !revoked {
                let (last, gone) = (last.describe(), gone.describe());
                let detail = format!("{name} was to live until {until} by {last}; gone for {gone}");
                findings.violation("gone early", detail);
            }
        }
        for gone in &self.gone {
            if let Some(alive) = self.alive.iter().find(|alive| alive.start > gone.end) {
                let (gone, alive) = (gone.describe(), alive.describe());
                findings.violation(
                    "came back",
                    format!("{name}: gone for {gone}; then there for {alive}"),
                );
            }
        }
    }

    fn check_not_late(&self, name: &str, nodes: usize, around: Around<'_>, findings: &mut Findings) {
        for alive in &self.alive {
            let before = self.renewals.iter().filter(|one| {
                let is_same = one.process == alive.process && one.start == alive.start;
                !is_same && one.start <= alive.start
            });
            let renewed = before.map(|one| {
                if one.end == Micros::NEVER {
                    around.due(one.start, DEADLINE, SETTLE)
                } else {
                    one.end
                }
            });
            let Some(renewed) = renewed.max() else { continue };
            let leaderless = leaderless(around, nodes, renewed, alive.start);
            let due = renewed.after((self.ttl + GRACE) * around.stretch + leaderless);
            if alive.start > due {
                let detail = format!(
                    "{name} was renewed by {renewed} for the last time, to live for {:?}; with {leaderless:?} perhaps \
                     without a leader it was to be gone by {due}: {}",
                    self.ttl,
                    alive.describe()
                );
                findings.violation("late", detail);
            }
        }
        let revoked = self
            .revocations
            .iter()
            .filter(|one| matches!(one.outcome, Outcome::Ok(_)))
            .map(|one| one.end)
            .min();
        let after = self
            .alive
            .iter()
            .find(|alive| revoked.is_some_and(|revoked| alive.start > revoked));
        if let Some(alive) = after {
            findings.violation("lives on", format!("{name} was revoked: {}", alive.describe()));
        }
    }

    /// Its keys are there, all of them, or none: put together, they go together.
    fn check_whole(&self, name: &str, findings: &mut Findings) {
        let Some((_, keys)) = self.keys else { return };
        for (operation, rows) in &self.lists {
            if !rows.is_empty() && rows.len() != keys.len() {
                let detail = format!("{name} has {} keys: {}", keys.len(), operation.describe());
                findings.violation("half gone", detail);
            }
        }
    }
}

/// For how long there may have been no leader between two moments, and by how much cluster time may have fallen back.
fn leaderless(around: Around<'_>, nodes: usize, from: Micros, until: Micros) -> Duration {
    let Around { faults, stretch } = around;
    let mut spans: Vec<(Micros, Micros)> = faults
        .iter()
        .filter(|fault| !fault.cut_off.is_empty())
        .map(|fault| {
            (
                fault.from.max(from),
                fault.until.after(SETTLE * stretch).min(until),
            )
        })
        .filter(|(from, until)| from < until)
        .collect();
    spans.sort_unstable();
    let (mut sum, mut counted) = (Duration::ZERO, from);
    for (from, until) in spans {
        sum += until.since(from.max(counted));
        counted = until.max(counted);
    }
    let restarts = faults
        .iter()
        .filter(|fault| fault.cut_off.len() >= nodes && fault.overlaps(from, until));
    sum + RESTART * u32::try_from(restarts.count()).unwrap_or(u32::MAX)
}

/// Streams tell the end of all keys of a lease as the work of one request.
fn check_streams(history: &History, leases: &BTreeMap<&str, Lease<'_>>, findings: &mut Findings) {
    // By watcher and lease: the indexes at which keys went, and which ones.
    let mut ends: BTreeMap<(u64, &str), BTreeMap<u64, BTreeSet<&str>>> = BTreeMap::new();
    for sighting in &history.sightings {
        if let Sight::WatchStart {
            watcher,
            resumed: false,
            ..
        } = sighting.sight
        {
            // What lies before was not told to its end: some of it may have been missed.
            ends.retain(|(told, _), _| *told != watcher);
        }
        let Sight::WatchBatch { watcher, events, .. } = &sighting.sight else {
            continue;
        };
        for KeyEvent {
            index, key, after, ..
        } in events
        {
            if let (Some(lease), None) = (lease_of(key), after) {
                let at = ends.entry((*watcher, lease)).or_default();
                at.entry(*index).or_default().insert(key);
            }
        }
    }
    for ((watcher, name), indexes) in ends {
        let keys = leases.get(name).and_then(|lease| lease.keys);
        let all = keys.map_or(0, |(_, keys)| keys.len());
        let whole = indexes.len() == 1 && indexes.values().all(|gone| gone.len() == all);
        if all > 0 && !whole {
            let detail = format!("{name} with {all} keys, as watcher {watcher} was told: {indexes:?}");
            findings.violation("ends in parts", detail);
        }
    }
}
