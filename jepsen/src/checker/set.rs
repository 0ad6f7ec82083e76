//! Unique members are added; none that was acknowledged may ever be missing, anywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use crate::{
    clock::Micros,
    history::{Call, History, Operation, Out},
};

/// Checks all sets.
pub fn check(history: &History) -> Findings {
    let mut sets: BTreeMap<&str, Set<'_>> = BTreeMap::new();
    let nodes: BTreeSet<&str> = history.operations.iter().map(|one| one.node.as_str()).collect();
    for operation in &history.operations {
        match (&operation.call, operation.answer()) {
            (Call::Add { set, member }, _) => {
                sets.entry(set).or_default().adds.insert(*member, operation);
            }
            (Call::Members { set, stale, last }, Some(Out::Members { members, .. })) => {
                let reads = &mut sets.entry(set).or_default().reads;
                reads.push(Read {
                    operation,
                    members: members.iter().copied().collect(),
                    listed: members.len(),
                    stale: *stale,
                    last: *last,
                });
            }
            _ => {}
        }
    }
    let mut findings = Findings::default();
    for (name, set) in &sets {
        set.check(name, &nodes, &mut findings);
    }
    findings
}

/// All that was done to one set.
#[derive(Default)]
struct Set<'a> {
    adds: BTreeMap<u64, &'a Operation>,
    reads: Vec<Read<'a>>,
}

struct Read<'a> {
    operation: &'a Operation,
    members: BTreeSet<u64>,
    listed: usize,
    stale: bool,
    last: bool,
}

impl Read<'_> {
    /// Whether all that was there before it began must be in it.
    fn is_complete(&self) -> bool {
        !self.stale || self.last
    }
}

impl Set<'_> {
    fn check(&self, name: &str, nodes: &BTreeSet<&str>, findings: &mut Findings) {
        for read in &self.reads {
            self.check_phantoms(name, read, findings);
        }
        self.check_missing(name, findings);
        self.check_last(name, nodes, findings);
    }

    /// What is read was added, by somebody who was not told that it failed, and not later than it was read.
    fn check_phantoms(&self, name: &str, read: &Read<'_>, findings: &mut Findings) {
        if read.listed != read.members.len() {
            let read = read.operation.describe();
            findings.violation("member listed twice", format!("{name}: {read}"));
        }
        for member in &read.members {
            let add = self.adds.get(member);
            let explained = add.is_some_and(|add| !add.failed() && add.start <= read.operation.end);
            if !explained {
                let add = add.map_or_else(|| "nobody added it".to_owned(), |add| add.describe());
                findings.violation("phantom", format!("{name}{member} at {}: {add}", read_at(read)));
            }
        }
    }

    /// What was acknowledged, or seen, before a read began is in it.
    fn check_missing(&self, name: &str, findings: &mut Findings) {
        // Since when each member must be known, and why.
        let mut known: BTreeMap<u64, (Micros, String)> = BTreeMap::new();
        for (member, add) in &self.adds {
            if add.answer().is_some() {
                known.insert(*member, (add.end, format!("acknowledged: {}", add.describe())));
            }
        }
        for read in &self.reads {
            for member in &read.members {
                let seen = read.operation.end;
                let since = known
                    .entry(*member)
                    .or_insert_with(|| (seen, format!("seen at {}", read_at(read))));
                if seen < since.0 {
                    *since = (seen, format!("seen at {}", read_at(read)));
                }
            }
        }
        for read in self.reads.iter().filter(|read| read.is_complete()) {
            for (member, (since, why)) in &known {
                if *since < read.operation.start && !read.members.contains(member) {
                    let rule = if read.last { "lost" } else { "missing" };
                    let detail = format!("{name}{member}, {why}; not in it at {}", read_at(read));
                    findings.violation(rule, detail);
                }
            }
        }
    }

    /// At the end every node, asked either way, has the same.
    fn check_last(&self, name: &str, nodes: &BTreeSet<&str>, findings: &mut Findings) {
        let last: Vec<_> = self.reads.iter().filter(|read| read.last).collect();
        for node in nodes {
            for stale in [false, true] {
                let was_read = last
                    .iter()
                    .any(|read| read.operation.node == *node && read.stale == stale);
                if !was_read {
                    let how = if stale { "stale" } else { "linearizable" };
                    findings.undecided(format!("{name} has no last {how} read on {node}"));
                }
            }
        }
        let different = |pair: &&[&Read<'_>]| pair[0].members != pair[1].members;
        if let Some(pair) = last.windows(2).find(different) {
            let only: Vec<_> = pair[0]
                .members
                .symmetric_difference(&pair[1].members)
                .take(10)
                .collect();
            let (one, other) = (read_at(pair[0]), read_at(pair[1]));
            findings.violation(
                "nodes differ",
                format!("{name}: {one} and {other} differ in {only:?}"),
            );
        }
    }
}

fn read_at(read: &Read<'_>) -> String {
    let Operation {
        node, start, process, ..
    } = read.operation;
    let how = if read.stale { "stale" } else { "linearizable" };
    format!("the {how} read of p{} on {node} from {start}", process.0)
}
