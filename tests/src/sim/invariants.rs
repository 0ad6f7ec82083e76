//! What must hold after every step, seen from outside any client: Raft's promises, and one state for each
//! position of the log.
//!
//! The nodes are looked into through what they tell of themselves and through their logs. Nothing here asks the code that
//! it judges for a verdict: committed entries are compared with those seen before, states by their digests.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use spine_api::{NodeStatus, Role};
use spine_node::storage::log::LogStore;
use spine_tests::trace::Trace;

use crate::node::{self, Subject};

/// Entries compared at once for one node; the rest is for the next step.
const COMPARED_MAX: u64 = 4_096;
/// Payload bytes read from a log at once.
const READ_BYTES: usize = 8 << 20;

/// What is known of all nodes, over all their lives.
pub(crate) struct Invariants {
    /// Who led in which term.
    leaders: BTreeMap<u64, usize>,
    /// Term and checksum of each entry that some node took for committed.
    committed: BTreeMap<u64, (u64, u32)>,
    /// The state's digest at each log position at which a node was seen; an index has several states, for time goes on.
    digests: BTreeMap<u64, (u128, usize)>,
    /// What was seen of each node's present life.
    lives: BTreeMap<usize, Seen>,
    trace: Trace,
}

/// What was seen of one life.
#[derive(Clone, Debug, Default)]
struct Seen {
    life: u64,
    term: u64,
    committed: u64,
    applied: u64,
    index: u64,
    time: u64,
    /// Entries below this were compared.
    compared: u64,
    leads: bool,
}

impl Invariants {
    /// Nothing is known yet.
    pub(crate) fn new(trace: Trace) -> Self {
        Self {
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            digests: BTreeMap::new(),
            lives: BTreeMap::new(),
            trace,
        }
    }

    /// Looks into every node that lives.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn look(&mut self, now: Duration, nodes: &[Rc<Subject>]) -> Result<(), String> {
        for subject in nodes {
            let (Some(registry), Some(log)) = (subject.registry(), subject.machine.log()) else {
                continue;
            };
            let status = registry.status();
            let state = registry.hub().newest();
            let wrong = |what: String| format!("n{}: {what}; it says {status:?}", subject.number);
            if let Some(lost) = subject.machine.lost_vote() {
                return Err(wrong(format!("its vote is lost: {lost}")));
            }
            let before = self.seen(subject);
            falls(&before, &status).map_err(wrong)?;
            order(&status, &*log).map_err(wrong)?;
            self.one_leader(subject.number, &status).map_err(wrong)?;
            self.one_state(subject.number, status.applied, state.digest())
                .map_err(wrong)?;
            let compared = self.one_history(before.compared, &status, &*log).map_err(wrong)?;
            let seen = Seen {
                life: subject.lives(),
                term: status.term,
                committed: status.committed,
                applied: status.applied,
                index: status.index.0,
                time: status.time.0,
                compared,
                leads: status.role == Role::Leader,
            };
            if (before.term, before.leads) != (seen.term, seen.leads) {
                self.trace.record_at(
                    now,
                    node::name(subject.number),
                    format_args!("is {:?} in term {}", status.role, status.term),
                );
            }
            self.lives.insert(subject.number, seen);
        }
        Ok(())
    }

    /// All nodes at one index with one state, the log applied as far as it is committed; or how they differ.
    pub(crate) fn converged(nodes: &[Rc<Subject>]) -> Result<(), String> {
        let mut found = Vec::new();
        for subject in nodes {
            let registry = subject
                .registry()
                .ok_or_else(|| format!("n{} is not there", subject.number))?;
            let state = registry.hub().newest();
            let status = registry.status();
            if !status.ready || status.applied != status.committed {
                return Err(format!("n{} is not ready: {status:?}", subject.number));
            }
            found.push((state.index(), state.digest(), status.applied));
        }
        if found.windows(2).all(|pair| pair[0] == pair[1]) {
            Ok(())
        } else {
            Err(format!("index, digest and log position differ: {found:?}"))
        }
    }

    fn seen(&self, subject: &Subject) -> Seen {
        let seen = self.lives.get(&subject.number);
        seen.filter(|seen| seen.life == subject.lives())
            .cloned()
            .unwrap_or_default()
    }

    fn one_leader(&mut self, number: usize, status: &NodeStatus) -> Result<(), String> {
        if status.role != Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(status.term).or_insert(number);
        if leader == number {
            Ok(())
        } else {
            Err(format!("n{leader} leads term {} too", status.term))
        }
    }

    fn one_state(&mut self, number: usize, position: u64, digest: u128) -> Result<(), String> {
        let (known, by) = *self.digests.entry(position).or_insert((digest, number));
        if known == digest {
            Ok(())
        } else {
            Err(format!(
                "its state at log position {position} differs from that of n{by}"
            ))
        }
    }

    /// Compares entries that it takes for committed with those seen before; gives up to where.
    fn one_history(&mut self, from: u64, status: &NodeStatus, log: &dyn LogStore) -> Result<u64, String> {
        let purged = log.state().purged.map_or(0, |purged| purged.index + 1);
        let from = from.max(purged);
        let to = (status.committed + 1).min(from + COMPARED_MAX);
        if from >= to {
            return Ok(from);
        }
        let entries = log
            .read(from..to, READ_BYTES)
            .map_err(|error| format!("its log can't be read: {error}"))?;
        let mut next = from;
        for entry in entries {
            let seen = (entry.position.term, crc32c::crc32c(&entry.payload));
            let known = *self.committed.entry(entry.position.index).or_insert(seen);
            if known != seen {
                return Err(format!(
                    "entry {} is committed and differs from what was committed before: {seen:?}, not {known:?}",
                    entry.position.index
                ));
            }
            next = entry.position.index + 1;
        }
        Ok(next)
    }
}

/// Nothing that only rises falls within a life.
fn falls(before: &Seen, status: &NodeStatus) -> Result<(), String> {
    let pairs = [
        ("term", before.term, status.term),
        ("committed", before.committed, status.committed),
        ("applied", before.applied, status.applied),
        ("index", before.index, status.index.0),
        ("cluster time", before.time, status.time.0),
    ];
    match pairs.iter().find(|(_, before, now)| now < before) {
        Some((what, before, now)) => Err(format!("its {what} fell from {before} to {now}")),
        None => Ok(()),
    }
}

/// `purged <= applied <= committed <= last`.
fn order(status: &NodeStatus, log: &dyn LogStore) -> Result<(), String> {
    let state = log.state();
    let purged = state.purged.map_or(0, |purged| purged.index);
    let last = state.last.map_or(0, |last| last.index);
    let rising = [purged, status.applied, status.committed, last];
    if rising.is_sorted() {
        Ok(())
    } else {
        Err(format!(
            "purged, applied, committed and last are not in order: {rising:?}"
        ))
    }
}
