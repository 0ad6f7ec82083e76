//! Good transactions on lists, and errors planted in them. An error is made by changing what was read, to something that no
//! order of the transactions explains.

use std::collections::BTreeMap;

use rand::{rngs::StdRng, seq::IndexedRandom};

use super::simulate::{Memory, Plan, Simulated, simulate};
use crate::{
    history::{Call, Dialect, History, Operation, Out, Outcome, Step, Transaction},
    workload::transaction,
};

/// Transactions by several clients on a few lists.
pub(super) fn good(seed: u64) -> History {
    let mut element = 0;
    let plan = Plan {
        seed,
        clients: 5,
        operations: 120,
        failing: 30,
        unknown: 30,
        next: |rng: &mut StdRng, _: &Memory| {
            let list = |place: usize| format!("a/{place}/0");
            let transaction = transaction(rng, list, || {
                element += 1;
                element
            });
            (Dialect::Native, Call::Transact(transaction))
        },
    };
    let Simulated { operations, .. } = simulate(plan);
    History {
        operations,
        sightings: Vec::new(),
    }
}

/// A read, as the place of its operation and that of its list.
type Read = (usize, usize);

/// What was read where, and who appended what.
struct Seen {
    reads: BTreeMap<String, Vec<Read>>,
    /// The longest list of each key.
    longest: BTreeMap<String, Vec<u64>>,
    /// By number: who appended it, to which key.
    writers: BTreeMap<u64, (usize, String)>,
}

impl Seen {
    fn of(history: &History) -> Self {
        let mut seen = Self {
            reads: BTreeMap::new(),
            longest: BTreeMap::new(),
            writers: BTreeMap::new(),
        };
        for (at, operation) in history.operations.iter().enumerate() {
            let Call::Transact(transaction) = &operation.call else {
                continue;
            };
            for (key, elements) in transaction.appends() {
                let writers = elements.iter().map(|element| (*element, (at, key.to_owned())));
                seen.writers.extend(writers);
            }
            let Some(Out::Transacted { lists, .. }) = operation.answer() else {
                continue;
            };
            for (place, (key, list)) in transaction.reads().zip(lists).enumerate() {
                seen.reads.entry(key.to_owned()).or_default().push((at, place));
                let longest = seen.longest.entry(key.to_owned()).or_default();
                if list.len() > longest.len() {
                    longest.clone_from(list);
                }
            }
        }
        seen
    }

    /// The reads of a key by transactions that don't append to it.
    fn plain_reads(&self, history: &History, key: &str) -> Vec<Read> {
        let reads = self.reads.get(key).into_iter().flatten().copied();
        let appends = |at: usize| {
            transaction_of(&history.operations[at])
                .appends()
                .any(|(own, _)| own == key)
        };
        reads.filter(|(at, _)| !appends(*at)).collect()
    }
}

fn transaction_of(operation: &Operation) -> &Transaction {
    match &operation.call {
        Call::Transact(transaction) => transaction,
        _ => unreachable!("these histories hold nothing but transactions"),
    }
}

fn list_mut(history: &mut History, (at, place): Read) -> &mut Vec<u64> {
    match &mut history.operations[at].outcome {
        Outcome::Ok(Out::Transacted { lists, .. }) => &mut lists[place],
        _ => unreachable!("it was read"),
    }
}

fn list(history: &History, (at, place): Read) -> &[u64] {
    match history.operations[at].answer() {
        Some(Out::Transacted { lists, .. }) => &lists[place],
        _ => &[],
    }
}

fn any<T: Clone>(rng: &mut StdRng, of: &[T]) -> Option<T> {
    of.choose(rng).cloned()
}

/// A number that was read, of an answered transaction: the number, its key, who appended it.
fn seen_element(history: &History, seen: &Seen, rng: &mut StdRng) -> Option<(u64, String, usize)> {
    let all = seen.longest.values().flatten();
    let all = all.filter_map(|element| {
        let (writer, key) = seen.writers.get(element)?;
        Some((*element, key.clone(), *writer))
    });
    let answered: Vec<_> = all
        .filter(|(_, _, writer)| history.operations[*writer].answer().is_some())
        .collect();
    any(rng, &answered)
}

/// Takes a number out of every list.
fn forget(history: &mut History, seen: &Seen, key: &str, element: u64) {
    for read in seen.reads.get(key).into_iter().flatten() {
        list_mut(history, *read).retain(|other| *other != element);
    }
}

pub(super) fn lost_append(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let (element, key, writer) = seen_element(history, &seen, rng)?;
    let end = history.operations[writer].end;
    let is_missed = seen.reads[&key]
        .iter()
        .any(|(at, _)| history.operations[*at].start > end);
    forget(history, &seen, &key, element);
    is_missed.then_some(())
}

pub(super) fn aborted_read(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let (element, key, writer) = seen_element(history, &seen, rng)?;
    let by_others = seen.reads[&key].iter().filter(|read| read.0 != writer);
    let is_read = by_others
        .into_iter()
        .any(|read| list(history, *read).contains(&element));
    history.operations[writer].outcome = Outcome::Fail("a list was changed meanwhile".to_owned());
    is_read.then_some(())
}

pub(super) fn phantom(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let read = any_read(history, rng)?;
    list_mut(history, read).push(999_999);
    Some(())
}

fn any_read(history: &History, rng: &mut StdRng) -> Option<Read> {
    let reads: Vec<Read> = Seen::of(history).reads.into_values().flatten().collect();
    any(rng, &reads)
}

pub(super) fn appended_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let (element, key, _) = seen_element(history, &seen, rng)?;
    for read in &seen.reads[&key] {
        let list = list_mut(history, *read);
        if list.contains(&element) {
            list.push(element);
        }
    }
    Some(())
}

pub(super) fn another_order(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let reads = seen.reads.values().filter(|reads| reads.len() > 1).flatten();
    let long: Vec<Read> = reads
        .copied()
        .filter(|read| list(history, *read).len() > 2)
        .collect();
    let read = any(rng, &long)?;
    let known = list(history, read).len();
    let key = seen
        .reads
        .iter()
        .find(|(_, reads)| reads.contains(&read))?
        .0
        .clone();
    let others = seen.reads[&key].iter().filter(|other| **other != read);
    let is_contradicted = others
        .into_iter()
        .any(|other| list(history, *other).len() >= known);
    list_mut(history, read).swap(0, 1);
    is_contradicted.then_some(())
}

/// Half of what one transaction appended to a list is read.
pub(super) fn part_of_an_append(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let mut halves = Vec::new();
    for (key, reads) in &seen.reads {
        for read in reads {
            let last = list(history, *read).last();
            let Some((writer, _)) = last.and_then(|last| seen.writers.get(last)) else {
                continue;
            };
            let mut appends = transaction_of(&history.operations[*writer]).appends();
            if *writer != read.0 && appends.any(|(own, elements)| own == key && elements.len() > 1) {
                halves.push(*read);
            }
        }
    }
    let read = any(rng, &halves)?;
    list_mut(history, read).pop();
    Some(())
}

/// A transaction does not see its own append.
pub(super) fn own_append_unseen(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let mut own = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let mut appended = Vec::new();
        let mut place = 0;
        for step in &transaction_of(operation).steps {
            match step {
                Step::Append { key, .. } => appended.push(key),
                Step::Read { key } => {
                    if appended.contains(&key) && operation.answer().is_some() {
                        own.push((at, place));
                    }
                    place += 1;
                }
            }
        }
    }
    let read = any(rng, &own)?;
    list_mut(history, read).pop();
    Some(())
}

/// A fresh read shows a list as it was before an append that had been acknowledged.
pub(super) fn stale_read(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let (element, key, writer) = seen_element(history, &seen, rng)?;
    let end = history.operations[writer].end;
    let mut behind = seen.plain_reads(history, &key);
    behind.retain(|(at, _)| history.operations[*at].start > end);
    let (at, _) = any(rng, &behind)?;
    // All of its reads of that list, or it would contradict itself.
    for read in seen
        .plain_reads(history, &key)
        .into_iter()
        .filter(|read| read.0 == at)
    {
        cut(history, read, element);
    }
    Some(())
}

/// Cuts a list off before a number.
fn cut(history: &mut History, read: Read, element: u64) {
    let list = list_mut(history, read);
    if let Some(place) = list.iter().position(|other| *other == element) {
        list.truncate(place);
    }
}

/// The first number that a transaction appends to a list.
fn first_appended(history: &History, at: usize, key: &str) -> Option<u64> {
    let mut appends = transaction_of(&history.operations[at]).appends();
    appends
        .find(|(own, _)| *own == key)
        .and_then(|(_, elements)| elements.first().copied())
}

/// The last one.
fn last_appended(history: &History, at: usize, key: &str) -> Option<u64> {
    let mut appends = transaction_of(&history.operations[at]).appends();
    appends
        .find(|(own, _)| *own == key)
        .and_then(|(_, elements)| elements.last().copied())
}

/// Two transactions that both append to two lists, both of them read, are read in one order here and in the other there.
pub(super) fn writes_in_two_orders(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let keys: Vec<&String> = seen.longest.keys().collect();
    let mut pairs = Vec::new();
    for (one, two) in keys
        .iter()
        .flat_map(|one| keys.iter().map(move |two| (*one, *two)))
    {
        if one == two {
            continue;
        }
        let both: Vec<usize> = (0..history.operations.len())
            .filter(|at| {
                let shown = |key: &String| {
                    let first = first_appended(history, *at, key);
                    let single = transaction_of(&history.operations[*at])
                        .appends()
                        .all(|(_, elements)| elements.len() == 1);
                    single && first.is_some_and(|first| seen.longest[key].contains(&first))
                };
                shown(one) && shown(two)
            })
            .collect();
        pairs.extend(both.windows(2).map(|pair| (two.clone(), pair[0], pair[1])));
    }
    let (key, first, second) = any(rng, &pairs)?;
    let (first, second) = (
        first_appended(history, first, &key)?,
        first_appended(history, second, &key)?,
    );
    for read in &seen.reads[&key] {
        for element in list_mut(history, *read) {
            if *element == first {
                *element = second;
            } else if *element == second {
                *element = first;
            }
        }
    }
    Some(())
}

/// Pairs of transactions of which one reads `x` and appends to `y`, and the other reads `y` and appends to `x`; neither
/// does both with one list. With their reads, and the first numbers that they append.
fn crossing(history: &History, seen: &Seen) -> Vec<[(Read, u64); 2]> {
    let mut found = Vec::new();
    let plain = |key: &String| seen.plain_reads(history, key);
    for (x, y) in seen
        .longest
        .keys()
        .flat_map(|x| seen.longest.keys().map(move |y| (x, y)))
    {
        let once = |read: &Read, key: &str| {
            let reads = transaction_of(&history.operations[read.0]).reads();
            reads.filter(|other| *other == key).count() == 1
        };
        for one in plain(x).into_iter().filter(|read| once(read, x)) {
            for two in plain(y).into_iter().filter(|read| once(read, y)) {
                let into_y = first_appended(history, one.0, y).filter(|own| seen.longest[y].contains(own));
                let into_x = first_appended(history, two.0, x).filter(|own| seen.longest[x].contains(own));
                if let (Some(into_y), Some(into_x)) = (into_y, into_x) {
                    found.push([(one, into_x), (two, into_y)]);
                }
            }
        }
    }
    found
}

/// Each of two transactions reads what the other is to append.
pub(super) fn circular_reads(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let pair = any(rng, &crossing(history, &seen))?;
    for (read, element) in pair {
        let (writer, key) = &seen.writers[&element];
        let last = last_appended(history, *writer, key)?;
        let longest = &seen.longest[key];
        let until = longest.iter().position(|other| *other == last)?;
        *list_mut(history, read) = longest[..=until].to_vec();
    }
    Some(())
}

/// Neither of two transactions reads what the other appends.
pub(super) fn write_skew(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let pair = any(rng, &crossing(history, &seen))?;
    for (read, element) in pair {
        let key = &seen.writers[&element].1;
        let longest = &seen.longest[key];
        let until = longest.iter().position(|other| *other == element)?;
        *list_mut(history, read) = longest[..until].to_vec();
    }
    Some(())
}

/// A transaction sees another's append to one list, and not that to the other.
pub(super) fn half_seen(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let seen = Seen::of(history);
    let mut halves = Vec::new();
    for at in 0..history.operations.len() {
        let appends: Vec<_> = transaction_of(&history.operations[at])
            .appends()
            .filter_map(|(key, elements)| Some((key, *elements.first()?)))
            .collect();
        let [(one, here), (two, there), ..] = appends[..] else {
            continue;
        };
        for sees in seen.plain_reads(history, one) {
            let misses = seen.plain_reads(history, two);
            let misses: Vec<Read> = misses.into_iter().filter(|read| read.0 == sees.0).collect();
            let shown = misses.iter().all(|read| list(history, *read).contains(&there));
            if list(history, sees).contains(&here) && shown && !misses.is_empty() {
                halves.push((misses, there));
            }
        }
    }
    let (misses, element) = any(rng, &halves)?;
    for read in misses {
        cut(history, read, element);
    }
    Some(())
}
