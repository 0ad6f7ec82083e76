//! Every answer against the replay of all changes in the order that the cluster itself claims.

use super::{
    Findings,
    ledger::{Change, Ledger},
};
use crate::{
    clock::Micros,
    history::{Call, Expect, History, Operation, Out, Row, Sight},
};

/// Checks all answers about keys, and the claimed order against the clock.
pub fn check(history: &History, ledger: &Ledger<'_>, findings: &mut Findings) {
    real_time(history, ledger, findings);
    for operation in &history.operations {
        let Some(out) = operation.answer() else { continue };
        let judge = Judge { ledger, operation };
        let complaint = match (&operation.call, out) {
            (Call::Read { key, stale }, Out::Row { row, applied }) => {
                judge.read(key, row.as_ref(), *applied, *stale)
            }
            (Call::List { prefix, stale }, Out::Rows { rows, applied }) => {
                judge.list(prefix, rows, *applied, *stale)
            }
            (Call::Block { key, recurse, .. }, Out::Changed { rows, .. }) => {
                if *recurse {
                    judge.list(key, rows, None, false)
                } else {
                    judge.read(key, rows.first(), None, false)
                }
            }
            (
                Call::Cas { key, expect, .. },
                Out::Written {
                    done,
                    index: Some(index),
                },
            ) => judge.cas(key, expect, *done, *index),
            (
                Call::Delete { key },
                Out::Deleted {
                    count: Some(count),
                    index: Some(index),
                },
            ) => judge.delete(key, *count, *index),
            (
                Call::DeletePrefix { prefix },
                Out::Deleted {
                    count: Some(count),
                    index: Some(index),
                },
            ) => judge.delete_prefix(prefix, *count, *index),
            _ => None,
        };
        if let Some(Complaint(rule, detail)) = complaint {
            findings.violation(rule, format!("{detail}: {}", operation.describe()));
        }
    }
}

struct Complaint(&'static str, String);

/// One answer in the light of the ledger.
struct Judge<'a> {
    ledger: &'a Ledger<'a>,
    operation: &'a Operation,
}

impl Judge<'_> {
    fn read(&self, key: &str, row: Option<&Row>, applied: Option<u64>, stale: bool) -> Option<Complaint> {
        if row.is_some_and(|row| row.key != key) {
            return Some(Complaint("wrong key", format!("{key} was asked for")));
        }
        if let Some(applied) = applied {
            return self.as_of(key, row, applied);
        }
        self.not_from_the_future(row)
            .or_else(|| if stale { None } else { self.fresh(key, row) })
    }

    fn list(&self, prefix: &str, rows: &[Row], applied: Option<u64>, stale: bool) -> Option<Complaint> {
        let mut seen = rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>();
        if !seen.is_sorted_by(|a, b| a < b) || seen.iter().any(|key| !key.starts_with(prefix)) {
            return Some(Complaint(
                "wrong keys",
                format!("rows below {prefix}, each once, in order"),
            ));
        }
        seen.extend(self.ledger.keys_below(prefix));
        seen.sort_unstable();
        seen.dedup();
        let row_of = |key: &str| rows.iter().find(|row| row.key == key);
        seen.into_iter()
            .find_map(|key| self.read(key, row_of(key), applied, stale))
    }

    /// The row must be what the key was at the index of the state that was read.
    fn as_of(&self, key: &str, row: Option<&Row>, applied: u64) -> Option<Complaint> {
        let expected = self.ledger.at(key, applied);
        let expected_row = expected.and_then(|(since, change)| Some((since, change.after?)));
        let found = row.map(|row| (row.modify, row.value.as_str()));
        if found == expected_row {
            return None;
        }
        let change = expected.map(|(_, change)| change);
        if found.is_none() && self.ledger.may_be_deleted(key, change, self.operation.end) {
            return None;
        }
        let detail = format!("{key} at index {applied} is {expected_row:?}, not {found:?}");
        Some(Complaint("wrong read", detail))
    }

    /// Nothing is read before its writing has begun.
    fn not_from_the_future(&self, row: Option<&Row>) -> Option<Complaint> {
        let row = row?;
        let by = self.ledger.operation(self.ledger.at(&row.key, row.modify)?.1)?;
        (by.start > self.operation.end)
            .then(|| Complaint("read before written", format!("written by {}", by.describe())))
    }

    /// No change that was acknowledged before the read began may be missing.
    fn fresh(&self, key: &str, row: Option<&Row>) -> Option<Complaint> {
        let known_before = |change: Change<'_>| {
            let by = self.ledger.operation(change);
            by.is_some_and(|by| by.end < self.operation.start)
        };
        if let Some(row) = row {
            let mut later = self.ledger.behind(key, row.modify);
            let (index, _) = later.find(|(_, change)| known_before(*change))?;
            let detail = format!("{key} was read as of {} and had changed at {index}", row.modify);
            return Some(Complaint("stale read", detail));
        }
        // The key was not there: so it was deleted behind its last change that the reader must know.
        let changes: Vec<_> = self.ledger.behind(key, 0).collect();
        let last = changes.iter().rposition(|(_, change)| known_before(*change))?;
        let explained = changes[last..].iter().any(|(_, change)| change.after.is_none())
            || self
                .ledger
                .may_be_deleted(key, Some(changes[last].1), self.operation.end);
        (!explained).then(|| {
            let detail = format!("{key} was written at {} and not deleted", changes[last].0);
            Complaint("stale read", detail)
        })
    }

    fn cas(&self, key: &str, expect: &Expect, done: bool, index: u64) -> Option<Complaint> {
        if !self.ledger.is_certain(key, self.operation.end) {
            return None;
        }
        let before = self.ledger.value_before(key, index).map_or(0, |(since, _)| since);
        (done != (before == expect.index)).then(|| {
            let verb = if done { "was done" } else { "was refused" };
            let detail = format!(
                "expecting {} it {verb} at {index}, where {key} is of {before}",
                expect.index
            );
            Complaint("wrong compare-and-set", detail)
        })
    }

    fn delete(&self, key: &str, count: u64, index: u64) -> Option<Complaint> {
        let there = u64::from(self.ledger.value_before(key, index).is_some());
        (there != count && self.ledger.is_certain(key, self.operation.end)).then(|| {
            let detail = format!("{key} was there {there} times before {index}");
            Complaint("wrong deletion", detail)
        })
    }

    fn delete_prefix(&self, prefix: &str, count: u64, index: u64) -> Option<Complaint> {
        let mut there = 0_u64;
        for key in self.ledger.keys_below(prefix) {
            if !self.ledger.is_certain(key, self.operation.end) {
                return None;
            }
            there += u64::from(self.ledger.value_before(key, index).is_some());
        }
        (there != count).then(|| {
            let detail = format!("{there} keys were below {prefix} before {index}");
            Complaint("wrong deletion", detail)
        })
    }
}

/// Where something stands in the claimed order, and between which moments it got there.
struct Place<'a> {
    start: Micros,
    end: Micros,
    index: u64,
    what: What<'a>,
}

#[derive(Clone, Copy)]
enum What<'a> {
    /// It got the index for itself: everything known before has a lower one.
    Change(&'a Operation),
    /// It read at that index: everything known before has that or a lower one.
    Fresh(&'a Operation),
    /// It saw that the order had come so far, and may itself have been late.
    Seen,
}

/// What ended before another began must not stand behind it in the claimed order.
fn real_time(history: &History, ledger: &Ledger<'_>, findings: &mut Findings) {
    let mut places = places(history, ledger);
    places.sort_by_key(|place| place.start);
    let mut ends: Vec<usize> = (0..places.len()).collect();
    ends.sort_by_key(|at| places[*at].end);
    let mut ended = ends.into_iter().peekable();
    let mut known: Option<usize> = None;
    for place in &places {
        while let Some(at) = ended.next_if(|at| places[*at].end < place.start) {
            if known.is_none_or(|known| places[known].index < places[at].index) {
                known = Some(at);
            }
        }
        let Some(known) = known.map(|known| &places[known]) else {
            continue;
        };
        let (late, operation) = match place.what {
            What::Change(operation) => (place.index <= known.index, operation),
            What::Fresh(operation) => (place.index < known.index, operation),
            What::Seen => continue,
        };
        if late {
            let before = match known.what {
                What::Change(operation) | What::Fresh(operation) => operation.describe(),
                What::Seen => format!("seen at {}", known.end),
            };
            let detail = format!(
                "index {} after index {}: {}; before it: {before}",
                place.index,
                known.index,
                operation.describe()
            );
            findings.violation("order against time", detail);
        }
    }
}

fn places<'a>(history: &'a History, ledger: &Ledger<'_>) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    for operation in &history.operations {
        let place = match operation.answer() {
            Some(
                Out::Row {
                    applied: Some(index), ..
                }
                | Out::Rows {
                    applied: Some(index), ..
                },
            ) => Some((*index, read(operation))),
            Some(Out::Row { row: Some(row), .. }) => Some((row.modify, What::Seen)),
            Some(Out::Changed { rows, .. } | Out::Rows { rows, .. }) => {
                let newest = rows.iter().map(|row| row.modify).max();
                newest.map(|index| (index, What::Seen))
            }
            _ => ledger
                .index_of(operation)
                .map(|index| (index, What::Change(operation))),
        };
        places.extend(place.map(|(index, what)| Place {
            start: operation.start,
            end: operation.end,
            index,
            what,
        }));
    }
    places.extend(history.sightings.iter().filter_map(|sighting| {
        let Sight::WatchBatch { events, .. } = &sighting.sight else {
            return None;
        };
        Some(Place {
            start: sighting.at,
            end: sighting.at,
            index: events.iter().map(|event| event.index).max()?,
            what: What::Seen,
        })
    }));
    places
}

fn read(operation: &Operation) -> What<'_> {
    match operation.call {
        Call::Read { stale: true, .. } | Call::List { stale: true, .. } => What::Seen,
        _ => What::Fresh(operation),
    }
}
