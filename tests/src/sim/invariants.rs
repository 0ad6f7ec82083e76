//! What must hold after every step, seen from outside any client: Raft's promises, and one state for each
//! position of the log.
//!
//! The nodes are looked into through what they tell of themselves and through their logs. Nothing here asks the code that
//! it judges for a verdict: committed entries are compared with those seen before, states by their digests.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use spine_api::{NodeStatus, Role};
use spine_node::storage::log::LogStore;
use spine_proto::internal::v1 as proto;
use spine_tests::trace::Trace;

use crate::config::Config;
use crate::node::{self, Subject};

/// Entries compared at once for one node; the rest is for the next step.
const COMPARED_MAX: u64 = 4_096;
/// Payload bytes read from a log at once.
const READ_BYTES: usize = 8 << 20;

/// A leader that was elected during a change which takes its vote away ends that change, and leads for so long after it at
/// most: until those who stay have heard that it is committed, or another is elected.
const VOTELESS_MAX: Duration = Duration::from_secs(3);

/// What is known of all nodes, over all their lives.
pub(crate) struct Invariants {
    /// Who led in which term: a server, and the directory that it had.
    leaders: BTreeMap<u64, (usize, u64)>,
    /// Term and checksum of each entry that some node took for committed.
    committed: BTreeMap<u64, (u64, u32)>,
    /// The state's digest at each log position at which a node was seen; an index has several states, for time goes on.
    digests: BTreeMap<u64, (u128, usize)>,
    /// The members by each committed entry that says who they are.
    configs: BTreeMap<u64, Config>,
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
    /// Who the members are by its log, while it leads.
    config: Option<Config>,
    /// Since when it leads without a vote.
    voteless: Option<Duration>,
}

impl Invariants {
    /// Nothing is known yet.
    pub(crate) fn new(trace: Trace) -> Self {
        Self {
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            digests: BTreeMap::new(),
            configs: BTreeMap::new(),
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
            let (Some(registry), Some(log)) = (subject.registry(), subject.machine().log()) else {
                continue;
            };
            let status = registry.status();
            let state = registry.hub().newest();
            let wrong = |what: String| format!("n{}: {what}; it says {status:?}", subject.number);
            if let Some(lost) = subject.machine().lost_vote() {
                return Err(wrong(format!("its vote is lost: {lost}")));
            }
            let before = self.seen(subject);
            falls(&before, &status).map_err(wrong)?;
            order(&status, &*log).map_err(wrong)?;
            self.one_leader(subject.number, &status).map_err(wrong)?;
            self.one_state(subject.number, status.applied, state.digest())
                .map_err(wrong)?;
            let compared = self.one_history(before.compared, &status, &*log).map_err(wrong)?;
            let config = self
                .one_electorate(&before, &status, &*log, nodes)
                .map_err(wrong)?;
            let voteless = config.as_ref().filter(|config| !config.votes(status.node_id));
            let voteless = voteless.map(|_| before.voteless.unwrap_or(now));
            if let Some(since) = voteless
                && now > since + VOTELESS_MAX
            {
                return Err(wrong(format!("it leads without a vote since {since:?}")));
            }
            let seen = Seen {
                life: subject.lives(),
                term: status.term,
                committed: status.committed,
                applied: status.applied,
                index: status.index.0,
                time: status.time.0,
                compared,
                leads: status.role == Role::Leader,
                config,
                voteless,
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

    /// Who the members are by the log of a node, if it leads.
    pub(crate) fn config(&self, subject: &Subject) -> Option<&Config> {
        let seen = self.lives.get(&subject.number)?;
        let lives = seen.life == subject.lives() && subject.registry().is_some();
        seen.config.as_ref().filter(|_| lives)
    }

    /// Who the members are by the newest committed entry that says so.
    pub(crate) fn committed_config(&self) -> Option<&Config> {
        self.configs.last_key_value().map(|(_, config)| config)
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
        let own = (number, status.node_id);
        let leader = *self.leaders.entry(status.term).or_insert(own);
        if leader == own {
            Ok(())
        } else {
            Err(format!("n{} leads term {} too", leader.0, status.term))
        }
    }

    /// A leader had a vote and was elected by those who vote, and it takes for committed what those have; gives who they are by its log.
    fn one_electorate(
        &self,
        before: &Seen,
        status: &NodeStatus,
        log: &dyn LogStore,
        nodes: &[Rc<Subject>],
    ) -> Result<Option<Config>, String> {
        if status.role != Role::Leader {
            return Ok(None);
        }
        let newest = Config::uncommitted(log, status.committed)?;
        let committed = self.configs.range(..=status.committed).next_back();
        let committed = committed.map(|(_, config)| config);
        // Both may have been in force since the last look.
        let in_force: Vec<&Config> = newest.iter().chain(committed).collect();
        if in_force.is_empty() {
            return Ok(None);
        }
        let any = |holds: &dyn Fn(&Config) -> bool| in_force.iter().any(|config| holds(config));
        let is_new = !before.leads || before.term != status.term;
        if is_new && !any(&|config| config.votes(status.node_id)) {
            return Err(format!("it leads and has no vote by {in_force:?}"));
        }
        let by_id = |id: u64| nodes.iter().find(|subject| subject.node_id() == Some(id));
        let voted = |id: u64| by_id(id).is_none_or(|voter| may_have_elected(voter, status));
        if is_new && !any(&|config| config.has_quorum(voted)) {
            return Err(format!(
                "it leads without the votes of a majority of {in_force:?}"
            ));
        }
        let has = |id: u64| {
            // What is on the disk of one that is down is not looked at.
            let log = by_id(id).and_then(|voter| voter.machine().log());
            log.is_none_or(|log| {
                log.state()
                    .last
                    .is_some_and(|last| last.index >= status.committed)
            })
        };
        if status.committed > before.committed && !any(&|config| config.has_quorum(has)) {
            return Err(format!(
                "it takes for committed what no majority of {in_force:?} has"
            ));
        }
        Ok(newest.or_else(|| committed.cloned()))
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
            if let Some(config) = Config::of(&entry)? {
                let before = self.configs.range(..entry.position.index).next_back();
                if let Some((_, before)) = before {
                    config.may_follow(before)?;
                }
                self.configs.insert(entry.position.index, config);
            }
        }
        Ok(next)
    }
}

/// Whether one may have voted for a leader in its term.
fn may_have_elected(voter: &Subject, leader: &NodeStatus) -> bool {
    let mut votes = voter.machine().votes().into_iter();
    votes.any(|vote| {
        let vote = proto::Vote::decode(vote).ok().and_then(|vote| vote.leader_id);
        vote.is_some_and(|vote| {
            // It may have voted again since.
            vote.term > leader.term || (vote.term == leader.term && vote.node_id == leader.node_id)
        })
    })
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
