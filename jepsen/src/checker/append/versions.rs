//! What became of each key, as the lists tell it; and what lists must never tell, whatever the order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Done;
use crate::{checker::Findings, history::Step};

/// The order of appends, key by key.
pub(super) struct Versions<'a> {
    keys: BTreeMap<&'a str, Key<'a>>,
    /// Who appended each number of each key.
    writers: HashMap<(&'a str, u64), usize>,
}

/// One key.
#[derive(Default)]
pub(super) struct Key<'a> {
    /// The longest list that anybody read.
    pub(super) longest: &'a [u64],
    /// Who read it first.
    by: usize,
    /// Where each number stands in it.
    places: HashMap<u64, usize>,
}

impl Key<'_> {
    /// Whether a number was ever read.
    pub(super) fn has(&self, element: u64) -> bool {
        self.places.contains_key(&element)
    }
}

impl<'a> Versions<'a> {
    pub(super) fn of(done: &[Done<'a>], findings: &mut Findings) -> Self {
        let mut versions = Self {
            keys: BTreeMap::new(),
            writers: HashMap::new(),
        };
        for (at, one) in done.iter().enumerate() {
            for (key, elements) in one.transaction.appends() {
                versions.keys.entry(key).or_default();
                versions
                    .writers
                    .extend(elements.iter().map(|element| ((key, *element), at)));
            }
        }
        versions.take_lists(done, findings);
        for one in done {
            versions.check_reads(one, done, findings);
            check_own(one, findings);
        }
        Self::check_lost(done, findings);
        versions
    }

    /// The keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&'a str, &Key<'a>)> {
        self.keys.iter().map(|(key, what)| (*key, what))
    }

    /// One of them.
    pub(super) fn key(&self, key: &str) -> Option<&Key<'a>> {
        self.keys.get(key)
    }

    /// Who appended this number.
    pub(super) fn writer(&self, key: &'a str, element: u64) -> Option<usize> {
        self.writers.get(&(key, element)).copied()
    }

    /// Every list that was read must be the beginning of the longest.
    fn take_lists(&mut self, done: &[Done<'a>], findings: &mut Findings) {
        for (at, one) in done.iter().enumerate() {
            for (key, list) in one.reads() {
                let known = self.keys.entry(key).or_default();
                if list.len() > known.longest.len() {
                    (known.longest, known.by) = (list, at);
                }
            }
        }
        for (key, known) in &mut self.keys {
            known.places = known
                .longest
                .iter()
                .enumerate()
                .map(|(place, one)| (*one, place))
                .collect();
            if known.places.len() != known.longest.len() {
                let by = done[known.by].operation.describe();
                findings.violation(
                    "appended twice",
                    format!("{key}: a number twice in one list: {by}"),
                );
            }
        }
        for one in done {
            for (key, list) in one.reads() {
                let known = &self.keys[key];
                if !known.longest.starts_with(list) {
                    let (by, other) = (one.operation.describe(), done[known.by].operation.describe());
                    let detail =
                        format!("{key}: {by} and {other} read lists of which none is the other's beginning");
                    findings.violation("incompatible lists", detail);
                }
            }
        }
    }

    /// What is read was appended, by somebody who was not told that it failed, and not in part.
    fn check_reads(&self, one: &Done<'a>, done: &[Done<'a>], findings: &mut Findings) {
        for (key, list) in one.reads() {
            let by = || one.operation.describe();
            for element in list {
                match self.writer(key, *element).map(|writer| &done[writer]) {
                    None => {
                        let detail = format!("{key}: nobody appended {element}: {}", by());
                        findings.violation("phantom", detail);
                    }
                    Some(writer) if writer.operation.failed() => {
                        let writer = writer.operation.describe();
                        findings.violation(
                            "G1a",
                            format!("{key}: {element} of a failed {writer} was read by {}", by()),
                        );
                    }
                    Some(writer) if writer.operation.start > one.operation.end => {
                        let writer = writer.operation.describe();
                        let detail = format!("{key}: {element} was read by {} before {writer}", by());
                        findings.violation("read of the future", detail);
                    }
                    Some(_) => {}
                }
            }
            let Some(last) = list.last() else { continue };
            let Some(writer) = self.writer(key, *last).map(|writer| &done[writer]) else {
                continue;
            };
            let mut appends = writer.transaction.appends();
            let whole = appends.any(|(appended, elements)| appended == key && elements.last() == Some(last));
            if !whole {
                let writer = writer.operation.describe();
                findings.violation("G1b", format!("{key}: {} read a part of {writer}", by()));
            }
        }
    }

    /// What was acknowledged is in every list that is read afterwards.
    fn check_lost(done: &[Done<'a>], findings: &mut Findings) {
        // The lists of each key, in the order in which their reading began.
        let mut reads: BTreeMap<&str, Vec<(&Done<'_>, &[u64])>> = BTreeMap::new();
        for one in done {
            for (key, list) in one.reads() {
                reads.entry(key).or_default().push((one, list));
            }
        }
        for writer in done.iter().filter(|one| one.lists.is_some()) {
            for (key, elements) in writer.transaction.appends() {
                let behind = reads.get(key).into_iter().flatten();
                let mut behind = behind.filter(|(read, _)| read.operation.start > writer.operation.end);
                let lacks = |list: &[u64]| elements.iter().any(|element| !list.contains(element));
                if let Some((read, _)) = behind.find(|(_, list)| lacks(list)) {
                    let (writer, read) = (writer.operation.describe(), read.operation.describe());
                    findings.violation("lost append", format!("{key}: {writer}; not in it for {read}"));
                }
            }
        }
    }
}

/// A transaction sees what it did itself: its own append at the end of its later reads of that key, and not in its earlier
/// ones; and a key that it did not touch in between reads the same twice.
fn check_own(one: &Done<'_>, findings: &mut Findings) {
    let Some(lists) = one.lists else { return };
    let mut lists = lists.iter();
    let mut appended: BTreeMap<&str, &[u64]> = BTreeMap::new();
    let mut known: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let all: BTreeSet<u64> = one
        .transaction
        .appends()
        .flat_map(|(_, elements)| elements.iter().copied())
        .collect();
    for step in &one.transaction.steps {
        match step {
            Step::Append { key, elements } => {
                appended.insert(key, elements);
                if let Some(list) = known.get_mut(key.as_str()) {
                    list.extend(elements);
                }
            }
            Step::Read { key } => {
                let Some(list) = lists.next() else { return };
                let own: &[u64] = appended.get(key.as_str()).copied().unwrap_or_default();
                let early = own.is_empty() && list.iter().any(|element| all.contains(element));
                let repeats = known.get(key.as_str()).is_none_or(|known| known == list);
                if !list.ends_with(own) || early || !repeats {
                    let detail = format!("{key}: {}", one.operation.describe());
                    findings.violation("contradicts itself", detail);
                }
                known.insert(key, list.clone());
            }
        }
    }
}
