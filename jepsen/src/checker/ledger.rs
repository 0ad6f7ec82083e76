//! All changes of all keys in the order that the cluster claims for them.
//!
//! A change gets its place from the answer to its own request, where that states an index; else from whoever saw it: a
//! row says the index of its last change, an event that of its request. As no two writes store the same value under the
//! same key, what was seen is always somebody's write. Changes that nobody saw, by requests whose answer was lost or stated
//! no index, have no place: what they could explain is not held against anybody.

use std::collections::{BTreeMap, HashMap};

use super::Findings;
use crate::{
    clock::Micros,
    history::{Call, History, KeyEvent, Operation, Out, Outcome, Row, Sight},
};

/// The changes, by key and index.
#[derive(Debug)]
pub struct Ledger<'a> {
    history: &'a History,
    keys: BTreeMap<&'a str, BTreeMap<u64, Change<'a>>>,
    writes: HashMap<(&'a str, &'a str), Write>,
    /// The operation that each index belongs to.
    requests: BTreeMap<u64, usize>,
    /// Deletions without a place.
    loose_deletions: Vec<&'a Operation>,
    /// When the first write without a place began, by key.
    loose_writes: HashMap<&'a str, Micros>,
}

/// What a key was from an index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Its value; `None`: it was deleted.
    pub after: Option<&'a str>,
    /// The operation that did it, as far as known: its place in the history.
    pub by: Option<usize>,
}

/// A write that was tried.
#[derive(Clone, Copy, Debug)]
struct Write {
    by: usize,
    index: Option<u64>,
}

impl<'a> Ledger<'a> {
    /// The ledger of a history. What contradicts itself already here goes to the findings.
    pub fn of(history: &'a History, findings: &mut Findings) -> Self {
        let mut ledger = Self {
            history,
            keys: BTreeMap::new(),
            writes: HashMap::new(),
            requests: BTreeMap::new(),
            loose_deletions: Vec::new(),
            loose_writes: HashMap::new(),
        };
        ledger.take_writes(findings);
        ledger.take_sights(findings);
        ledger.take_prefix_deletions();
        ledger.take_loose();
        ledger
    }

    /// What a key was at an index, and since which one. `None`: it had not been touched yet.
    pub fn at(&self, key: &str, index: u64) -> Option<(u64, Change<'a>)> {
        let (since, change) = self.keys.get(key)?.range(..=index).next_back()?;
        Some((*since, *change))
    }

    /// The value at an index, and since which one.
    pub fn value_at(&self, key: &str, index: u64) -> Option<(u64, &'a str)> {
        let (since, change) = self.at(key, index)?;
        Some((since, change.after?))
    }

    /// The value before an index, and since which one.
    pub fn value_before(&self, key: &str, index: u64) -> Option<(u64, &'a str)> {
        self.value_at(key, index.checked_sub(1)?)
    }

    /// The changes of a key behind an index.
    pub fn behind(&self, key: &str, index: u64) -> impl Iterator<Item = (u64, Change<'a>)> {
        let changes = self.keys.get(key).into_iter();
        changes
            .flat_map(move |changes| changes.range(index.saturating_add(1)..))
            .map(|(index, change)| (*index, *change))
    }

    /// The keys that begin so.
    pub fn keys_below(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        let all = self.keys.keys().copied();
        all.filter(move |key| key.starts_with(prefix))
    }

    /// All changes below a prefix, behind the first index and up to the second one, by index and key.
    pub fn between(&self, prefix: &str, behind: u64, up_to: u64) -> BTreeMap<(u64, &'a str), Change<'a>> {
        if behind >= up_to {
            return BTreeMap::new();
        }
        let keys = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        keys.flat_map(|(key, changes)| {
            let changes = changes.range(behind + 1..=up_to);
            changes.map(|(index, change)| ((*index, *key), *change))
        })
        .collect()
    }

    /// The operation that did a change, if it is known.
    pub fn operation(&self, change: Change<'a>) -> Option<&'a Operation> {
        Some(&self.history.operations[change.by?])
    }

    /// The index that an operation has got, by its answer or by what was seen of it.
    pub fn index_of(&self, operation: &Operation) -> Option<u64> {
        stated(operation).or_else(|| match &operation.call {
            Call::Write { key, value } | Call::Cas { key, value, .. } => {
                self.writes.get(&(key.as_str(), value.as_str()))?.index
            }
            _ => None,
        })
    }

    /// Whether a deletion without a place can have come between a change and the end of a read.
    pub fn may_be_deleted(&self, key: &str, change: Option<Change<'a>>, read_end: Micros) -> bool {
        let begun = change
            .and_then(|change| self.operation(change))
            .map_or(Micros(0), |by| by.start);
        let mut loose = self.loose_deletions.iter().filter(|one| covers(&one.call, key));
        loose.any(|one| one.start <= read_end && one.end >= begun)
    }

    /// Whether every change of a key that can have happened before a moment has a place.
    pub fn is_certain(&self, key: &str, before: Micros) -> bool {
        let writes = self.loose_writes.get(key);
        let mut deletions = self.loose_deletions.iter().filter(|one| covers(&one.call, key));
        writes.is_none_or(|first| *first > before) && deletions.all(|one| one.start > before)
    }

    /// Whether a deletion of a key can be somebody's.
    pub fn explains_deletion(&self, key: &str, index: u64) -> bool {
        let by = self.requests.get(&index).map(|at| &self.history.operations[*at]);
        by.is_some_and(|by| covers(&by.call, key))
            || self.loose_deletions.iter().any(|one| covers(&one.call, key))
    }

    fn take_writes(&mut self, findings: &mut Findings) {
        for (by, operation) in self.history.operations.iter().enumerate() {
            let index = stated(operation);
            if let Some(index) = index
                && let Some(other) = self.requests.insert(index, by)
            {
                let other = self.history.operations[other].describe();
                let both = format!("index {index}: {}; and {other}", operation.describe());
                findings.violation("index given twice", both);
            }
            match &operation.call {
                Call::Write { key, value } | Call::Cas { key, value, .. } => {
                    let was_done = !matches!(operation.answer(), Some(Out::Written { done: false, .. }));
                    self.writes.insert((key, value), Write { by, index: None });
                    if let Some(index) = index.filter(|_| was_done) {
                        self.place_write(key, value, index, findings);
                    }
                }
                Call::Delete { key } => {
                    if let (Some(index), Some(1)) = (index, deleted(operation)) {
                        let by = Some(by);
                        self.place(key, index, Change { after: None, by }, findings);
                    }
                }
                _ => {}
            }
        }
    }

    fn take_sights(&mut self, findings: &mut Findings) {
        for operation in &self.history.operations {
            let rows: &[Row] = match operation.answer() {
                Some(Out::Row { row: Some(row), .. }) => std::slice::from_ref(row),
                Some(Out::Rows { rows, .. } | Out::Changed { rows, .. }) => rows,
                _ => &[],
            };
            for row in rows {
                self.see(row, findings);
            }
        }
        for sighting in &self.history.sightings {
            let (rows, events): (&[Row], &[KeyEvent]) = match &sighting.sight {
                Sight::WatchBatch { events, .. } => (&[], events),
                Sight::Restored { rows, told, .. } => (rows, told.as_deref().unwrap_or_default()),
                _ => continue,
            };
            for row in rows {
                self.see(row, findings);
            }
            for event in events {
                self.see_event(event, findings);
            }
        }
    }

    fn see(&mut self, row: &'a Row, findings: &mut Findings) {
        let Row { key, value, modify } = row;
        let Some(write) = self.writes.get(&(key.as_str(), value.as_str())) else {
            findings.violation(
                "phantom",
                format!("{key} = {value:?} at {modify}, and nobody wrote it"),
            );
            return;
        };
        let by = &self.history.operations[write.by];
        let refused = matches!(by.answer(), Some(Out::Written { done: false, .. }));
        if refused || by.failed() {
            let by = by.describe();
            findings.violation("phantom", format!("{key} = {value:?} at {modify} was seen: {by}"));
        }
        self.place_write(key, value, *modify, findings);
    }

    fn see_event(&mut self, event: &'a KeyEvent, findings: &mut Findings) {
        if let Some(before) = &event.before {
            self.see(before, findings);
        }
        if let Some(after) = &event.after {
            self.see(after, findings);
        } else {
            let by = self.requests.get(&event.index).copied();
            self.place(&event.key, event.index, Change { after: None, by }, findings);
        }
    }

    fn place_write(&mut self, key: &'a str, value: &'a str, index: u64, findings: &mut Findings) {
        let Some(write) = self.writes.get_mut(&(key, value)) else {
            return;
        };
        let by = Some(write.by);
        match write.index {
            None => write.index = Some(index),
            Some(known) if known == index => return,
            Some(known) => {
                let detail = format!("{key} = {value:?} has index {known} and index {index}");
                findings.violation("two indexes for one write", detail);
                return;
            }
        }
        let after = Some(value);
        self.place(key, index, Change { after, by }, findings);
    }

    fn place(&mut self, key: &'a str, index: u64, change: Change<'a>, findings: &mut Findings) {
        let known = self.keys.entry(key).or_default().entry(index).or_insert(change);
        if known.after != change.after {
            let detail = format!("{key} at {index} is {:?} and {:?}", known.after, change.after);
            findings.violation("two changes at one index", detail);
        }
    }

    /// What a deletion of a prefix deleted is known once all else has its place; in the order of their indexes.
    fn take_prefix_deletions(&mut self) {
        let requests: Vec<_> = self.requests.iter().map(|(index, by)| (*index, *by)).collect();
        for (index, by) in requests {
            let Call::DeletePrefix { prefix } = &self.history.operations[by].call else {
                continue;
            };
            let below: Vec<_> = self.keys_below(prefix).collect();
            for key in below {
                if self.value_before(key, index).is_some() {
                    let changes = self.keys.get_mut(key).expect("it was just listed");
                    let by = Some(by);
                    changes.entry(index).or_insert(Change { after: None, by });
                }
            }
        }
    }

    fn take_loose(&mut self) {
        for operation in &self.history.operations {
            if operation.failed() {
                continue;
            }
            match &operation.call {
                Call::Write { key, value } | Call::Cas { key, value, .. } => {
                    let has_place = self.writes[&(key.as_str(), value.as_str())].index.is_some();
                    let refused = matches!(operation.answer(), Some(Out::Written { done: false, .. }));
                    if !has_place && !refused {
                        let first = self.loose_writes.entry(key).or_insert(operation.start);
                        *first = operation.start.min(*first);
                    }
                }
                Call::Delete { .. } | Call::DeletePrefix { .. } if stated(operation).is_none() => {
                    self.loose_deletions.push(operation);
                }
                _ => {}
            }
        }
    }
}

/// The index that the answer to a change states.
pub(crate) fn stated(operation: &Operation) -> Option<u64> {
    match &operation.outcome {
        Outcome::Ok(Out::Written { index, .. } | Out::Deleted { index, .. }) => *index,
        _ => None,
    }
}

/// How many keys a deletion deleted, if its answer says so.
pub(crate) fn deleted(operation: &Operation) -> Option<u64> {
    match operation.answer()? {
        Out::Deleted { count, .. } => *count,
        _ => None,
    }
}

/// Whether a call deletes a key.
fn covers(call: &Call, key: &str) -> bool {
    match call {
        Call::Delete { key: deleted } => deleted == key,
        Call::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
        _ => false,
    }
}
