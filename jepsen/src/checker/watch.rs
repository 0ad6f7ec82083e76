//! What watches told, against all changes that there were.

use std::collections::{BTreeMap, BTreeSet};

use super::{Around, Findings, blocking, ledger::Ledger, order};
use crate::{
    clock::Micros,
    history::{History, KeyEvent, Row, Sight},
};

/// Checks what the watch workload saw: streams, blocking queries, and its reads and writes by the claimed order.
pub fn check_all(history: &History, around: Around<'_>) -> Findings {
    let mut findings = Findings::default();
    let ledger = Ledger::of(history, &mut findings);
    order::check(history, &ledger, &mut findings);
    check(history, &ledger, &mut findings);
    blocking::check(history, &ledger, around, &mut findings);
    findings
}

/// Checks all streams.
pub fn check(history: &History, ledger: &Ledger<'_>, findings: &mut Findings) {
    let mut open: BTreeMap<u64, Stream<'_>> = BTreeMap::new();
    for sighting in &history.sightings {
        match &sighting.sight {
            Sight::WatchStart {
                watcher,
                prefix,
                from,
                ..
            } => {
                let stream = Stream {
                    watcher: *watcher,
                    node: &sighting.node,
                    prefix,
                    from: *from,
                    told: *from,
                    seen: BTreeSet::new(),
                    newest: *from,
                    last: sighting.at,
                };
                if let Some(before) = open.insert(*watcher, stream) {
                    before.check_complete(ledger, findings);
                }
            }
            Sight::WatchBatch {
                watcher,
                index,
                events,
            } => {
                if let Some(stream) = open.get_mut(watcher) {
                    stream.take(sighting.at, *index, events, ledger, findings);
                }
            }
            _ => {}
        }
    }
    for stream in open.values() {
        stream.check_complete(ledger, findings);
        stream.check_arrived(history, ledger, findings);
    }
}

/// One stream, from its opening to its end.
struct Stream<'a> {
    watcher: u64,
    node: &'a str,
    prefix: &'a str,
    from: u64,
    /// Everything up to here was told, it says.
    told: u64,
    seen: BTreeSet<(u64, &'a str)>,
    /// The index of the newest event.
    newest: u64,
    last: Micros,
}

impl<'a> Stream<'a> {
    fn name(&self) -> String {
        let Self {
            watcher,
            node,
            prefix,
            from,
            ..
        } = self;
        format!("watcher {watcher} of {prefix} on {node}, from {from}")
    }

    fn take(
        &mut self,
        at: Micros,
        index: u64,
        events: &'a [KeyEvent],
        ledger: &Ledger<'_>,
        findings: &mut Findings,
    ) {
        self.last = at;
        for event in events {
            if let Some((rule, detail)) = self.complaint(event, ledger) {
                let event = format!("{} at index {}", event.key, event.index);
                findings.violation(rule, format!("{event}: {detail}; {}", self.name()));
            }
            self.newest = self.newest.max(event.index);
            self.seen.insert((event.index, &event.key));
        }
        if index < self.told {
            let detail = format!("from {} to {index}; {}", self.told, self.name());
            findings.violation("progress falls", detail);
        }
        self.told = self.told.max(index);
    }

    fn complaint(&self, event: &KeyEvent, ledger: &Ledger<'_>) -> Option<(&'static str, String)> {
        let KeyEvent {
            index,
            key,
            before,
            after,
        } = event;
        if !key.starts_with(self.prefix) {
            return Some(("event outside the range", String::new()));
        }
        if self.seen.contains(&(*index, key)) {
            return Some(("event told twice", String::new()));
        }
        if *index <= self.told {
            let detail = format!("all up to {} had been told", self.told);
            return Some(("event behind progress", detail));
        }
        if *index < self.newest {
            return Some(("events out of order", format!("behind {}", self.newest)));
        }
        let named = [before, after].into_iter().flatten().all(|row| row.key == *key);
        if !named || after.as_ref().is_some_and(|after| after.modify != *index) {
            return Some(("event is not of its row", format!("{before:?} {after:?}")));
        }
        if after.is_none() && !ledger.explains_deletion(key, *index) {
            return Some(("phantom", "nobody deleted it".to_owned()));
        }
        let expected = ledger.value_before(key, *index);
        let told = before
            .as_ref()
            .map(|Row { value, modify, .. }| (*modify, value.as_str()));
        (told != expected).then(|| {
            (
                "wrong row before",
                format!("{told:?} was told, and {expected:?} was there"),
            )
        })
    }

    /// Every change up to where the stream says that all was told has been told.
    fn check_complete(&self, ledger: &Ledger<'_>, findings: &mut Findings) {
        for ((index, key), change) in ledger.between(self.prefix, self.from, self.told) {
            if !self.seen.contains(&(index, key)) {
                let by = ledger.operation(change).map(crate::history::Operation::describe);
                let detail = format!(
                    "{key} at index {index} ({}) was not told; {}, told up to {}",
                    by.unwrap_or_default(),
                    self.name(),
                    self.told
                );
                findings.violation("gap", detail);
            }
        }
    }

    /// The watcher's last stream came as far as the last acknowledged change.
    fn check_arrived(&self, history: &History, ledger: &Ledger<'_>, findings: &mut Findings) {
        let acknowledged = history.operations.iter().filter(|one| one.answer().is_some());
        let newest = acknowledged
            .filter_map(|one| {
                let index = ledger.index_of(one)?;
                let changes = ledger.between(self.prefix, index - 1, index);
                (!changes.is_empty()).then_some(index)
            })
            .max();
        if let Some(newest) = newest.filter(|newest| *newest > self.told) {
            let detail = format!(
                "changed at {newest}, told up to {} by {}; {}",
                self.told,
                self.last,
                self.name()
            );
            findings.violation("watch does not arrive", detail);
        }
    }
}
