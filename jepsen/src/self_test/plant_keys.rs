//! Errors planted in good histories of keys and sets. Each takes what makes it certain: the answers that are changed are
//! such that no order of effects could explain them.
//!
//! A planter gives `None` where the history offers no place for its error.

use rand::{RngExt, rngs::StdRng};

use crate::{
    clock::Micros,
    history::{Call, Dialect, History, Operation, Out, Outcome, Row},
};

/// A read of `key` that must be fresh, begun behind `after`.
fn fresh_read(history: &History, rng: &mut StdRng, key: &str, after: Micros) -> Option<usize> {
    pick(rng, history, |operation| {
        let is_meant = matches!(&operation.call, Call::Read { key: read, stale: false } if read == key);
        is_meant && operation.start > after && operation.answer().is_some()
    })
}

/// One of the operations of which this holds.
fn pick(rng: &mut StdRng, history: &History, holds: impl Fn(&Operation) -> bool) -> Option<usize> {
    let operations = history.operations.iter().enumerate();
    let found: Vec<usize> = operations
        .filter(|(_, one)| holds(one))
        .map(|(at, _)| at)
        .collect();
    (!found.is_empty()).then(|| found[rng.random_range(0..found.len())])
}

/// Two plain writes of one key with stated indexes, the first over before the second begins.
fn two_writes(history: &History, rng: &mut StdRng, same_key: bool) -> Option<(Row, usize, Row, usize)> {
    for _ in 0..50 {
        let first = pick(rng, history, |one| written(one).is_some())?;
        let row = written(&history.operations[first])?;
        let end = history.operations[first].end;
        let second = pick(rng, history, |one| {
            let other = written(one);
            other.is_some_and(|other| one.start > end && (other.key == row.key || !same_key))
        });
        if let Some(second) = second {
            let last = written(&history.operations[second])?;
            return Some((row, first, last, second));
        }
    }
    None
}

/// What a plain, answered write with a stated index wrote.
fn written(operation: &Operation) -> Option<Row> {
    match (&operation.call, operation.answer()?) {
        (
            Call::Write { key, value },
            Out::Written {
                index: Some(index), ..
            },
        ) => Some(Row {
            key: key.clone(),
            value: value.clone(),
            modify: *index,
        }),
        _ => None,
    }
}

/// What a read read.
fn row_mut(operation: &mut Operation) -> Option<(&mut Option<Row>, &mut Option<u64>)> {
    match &mut operation.outcome {
        Outcome::Ok(Out::Row { row, applied }) => Some((row, applied)),
        _ => None,
    }
}

fn index_mut(operation: &mut Operation) -> Option<&mut u64> {
    match &mut operation.outcome {
        Outcome::Ok(Out::Written {
            index: Some(index), ..
        }) => Some(index),
        _ => None,
    }
}

pub(crate) fn stale_read(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (old, _, _, newer) = two_writes(history, rng, true)?;
    let read = fresh_read(history, rng, &old.key, history.operations[newer].end)?;
    *row_mut(&mut history.operations[read])?.0 = Some(old);
    Some(())
}

pub(crate) fn read_of_the_future(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (_, _, row, newer) = two_writes(history, rng, true)?;
    let begun = history.operations[newer].start;
    let read = pick(rng, history, |one| {
        let is_meant = matches!(&one.call, Call::Read { key, stale: false } if *key == row.key);
        is_meant && one.end < begun && one.answer().is_some()
    })?;
    *row_mut(&mut history.operations[read])?.0 = Some(row);
    Some(())
}

pub(crate) fn phantom_value(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let key = format!("r/{}", rng.random_range(1..=2));
    let read = fresh_read(history, rng, &key, Micros(0))?;
    let row = row_mut(&mut history.operations[read])?.0;
    "nobody's".clone_into(&mut row.as_mut()?.value);
    Some(())
}

/// The write of a value that a fresh read has seen.
fn seen_write(history: &History, rng: &mut StdRng) -> Option<usize> {
    let key = format!("r/{}", rng.random_range(1..=2));
    for _ in 0..50 {
        let read = fresh_read(history, rng, &key, Micros(0))?;
        let Some(Out::Row { row: Some(row), .. }) = history.operations[read].answer() else {
            continue;
        };
        return history.operations.iter().position(|one| match &one.call {
            Call::Write { key, value } | Call::Cas { key, value, .. } => {
                *key == row.key && *value == row.value
            }
            _ => false,
        });
    }
    None
}

pub(crate) fn effect_of_a_failed_write(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let write = seen_write(history, rng)?;
    history.operations[write].outcome = Outcome::Fail("refused".to_owned());
    Some(())
}

pub(crate) fn dropped_write(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let write = seen_write(history, rng)?;
    history.operations.remove(write);
    Some(())
}

pub(crate) fn write_applied_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (mut old, _, _, newer) = two_writes(history, rng, true)?;
    let after = history.operations[newer].end;
    let read = fresh_read(history, rng, &old.key, after)?;
    let (row, applied) = row_mut(&mut history.operations[read])?;
    old.modify = applied.unwrap_or(old.modify + 1_000);
    *row = Some(old);
    Some(())
}

pub(crate) fn swapped_reads(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (_, _, row, newer) = two_writes(history, rng, true)?;
    let write = history.operations[newer].clone();
    let early = pick(rng, history, |one| {
        let is_meant = matches!(&one.call, Call::Read { key, stale: false } if *key == row.key);
        is_meant && one.end < write.start && one.answer().is_some()
    })?;
    let late = pick(
        rng,
        history,
        |one| matches!(one.answer(), Some(Out::Row { row: Some(read), .. }) if *read == row),
    )?;
    if matches!(history.operations[late].call, Call::Read { stale: true, .. }) {
        return None;
    }
    let outcome = history.operations[early].outcome.clone();
    history.operations[early].outcome = std::mem::replace(&mut history.operations[late].outcome, outcome);
    Some(())
}

/// Two compare-and-sets win on one version.
pub(crate) fn lost_update(history: &mut History, rng: &mut StdRng) -> Option<()> {
    for _ in 0..50 {
        let (old, _, _, newer) = two_writes(history, rng, true)?;
        let over = history.operations[newer].end;
        let refused = pick(rng, history, |one| {
            let is_meant = matches!(&one.call, Call::Cas { expect, key, .. }
                if *key == old.key && expect.index == old.modify);
            let refused = matches!(one.answer(), Some(Out::Written { done: false, .. }));
            is_meant && refused && one.start > over
        });
        if let Some(refused) = refused
            && let Outcome::Ok(Out::Written { done, .. }) = &mut history.operations[refused].outcome
        {
            *done = true;
            return Some(());
        }
    }
    None
}

pub(crate) fn refused_update(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let done = pick(rng, history, |one| {
        let is_cas = matches!(one.call, Call::Cas { .. });
        is_cas && matches!(one.answer(), Some(Out::Written { done: true, .. }))
    })?;
    if let Outcome::Ok(Out::Written { done, .. }) = &mut history.operations[done].outcome {
        *done = false;
    }
    Some(())
}

pub(crate) fn wrong_count_of_a_deletion(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let deletion = pick(rng, history, |one| {
        let is_meant = matches!(one.call, Call::Delete { .. });
        is_meant && matches!(one.answer(), Some(Out::Deleted { count: Some(_), .. }))
    })?;
    if let Outcome::Ok(Out::Deleted {
        count: Some(count), ..
    }) = &mut history.operations[deletion].outcome
    {
        *count = 1 - *count;
    }
    Some(())
}

pub(crate) fn indexes_swapped(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (old, first, new, second) = two_writes(history, rng, false)?;
    *index_mut(&mut history.operations[first])? = new.modify;
    *index_mut(&mut history.operations[second])? = old.modify;
    Some(())
}

pub(crate) fn index_given_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (old, _, _, second) = two_writes(history, rng, false)?;
    *index_mut(&mut history.operations[second])? = old.modify;
    Some(())
}

/// A read says that it read a state older than one that was known before.
pub(crate) fn read_index_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (_, _, new, second) = two_writes(history, rng, false)?;
    let after = history.operations[second].end;
    let read = pick(rng, history, |one| {
        let is_meant = matches!(one.call, Call::Read { stale: false, .. });
        is_meant && one.dialect == Dialect::Native && one.start > after && one.answer().is_some()
    })?;
    *row_mut(&mut history.operations[read])?.1 = Some(new.modify - 1);
    Some(())
}

/// The members that a read of a set gave.
fn members_mut(operation: &mut Operation) -> Option<&mut Vec<u64>> {
    match &mut operation.outcome {
        Outcome::Ok(Out::Members { members, .. }) => Some(members),
        _ => None,
    }
}

fn set_of(operation: &Operation) -> Option<(&str, bool, bool)> {
    match &operation.call {
        Call::Members { set, stale, last } if operation.answer().is_some() => Some((set, *stale, *last)),
        _ => None,
    }
}

/// A member whose addition ended as told.
fn member(
    history: &History,
    rng: &mut StdRng,
    holds: impl Fn(&Operation) -> bool,
) -> Option<(String, u64, usize)> {
    let add = pick(rng, history, |one| {
        matches!(one.call, Call::Add { .. }) && holds(one)
    })?;
    match &history.operations[add].call {
        Call::Add { set, member } => Some((set.clone(), *member, add)),
        _ => None,
    }
}

fn last_reads(history: &mut History, set: &str) -> Vec<usize> {
    let reads = history.operations.iter().enumerate();
    let is_meant = |one: &Operation| set_of(one).is_some_and(|(name, _, last)| last && name == set);
    reads.filter(|(_, one)| is_meant(one)).map(|(at, _)| at).collect()
}

pub(crate) fn lost_everywhere(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (set, member, _) = member(history, rng, |one| one.answer().is_some())?;
    for read in last_reads(history, &set) {
        members_mut(&mut history.operations[read])?.retain(|one| *one != member);
    }
    Some(())
}

pub(crate) fn lost_on_one_node(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (set, member, _) = member(history, rng, |one| one.answer().is_some())?;
    let reads = last_reads(history, &set);
    let read = reads[rng.random_range(0..reads.len())];
    members_mut(&mut history.operations[read])?.retain(|one| *one != member);
    Some(())
}

pub(crate) fn phantom_member(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let read = pick(rng, history, |one| set_of(one).is_some())?;
    members_mut(&mut history.operations[read])?.push(999_999);
    Some(())
}

pub(crate) fn failed_addition_seen(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (set, member, _) = member(history, rng, Operation::failed)?;
    for read in last_reads(history, &set) {
        members_mut(&mut history.operations[read])?.push(member);
    }
    Some(())
}

pub(crate) fn missing_for_a_moment(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (name, member, add) = member(history, rng, |one| one.answer().is_some())?;
    let added = history.operations[add].end;
    let read = pick(rng, history, |one| {
        let is_meant = set_of(one).is_some_and(|(set, stale, last)| set == name && !stale && !last);
        is_meant && one.start > added
    })?;
    members_mut(&mut history.operations[read])?.retain(|one| *one != member);
    Some(())
}

/// What somebody saw, though its addition was never answered, is gone again.
pub(crate) fn seen_and_gone(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (set, member, _) = member(history, rng, Operation::is_unknown)?;
    let reads = last_reads(history, &set);
    let seen = members_mut(&mut history.operations[reads[0]])?;
    if !seen.contains(&member) {
        return None;
    }
    for read in &reads[1..] {
        members_mut(&mut history.operations[*read])?.retain(|one| *one != member);
    }
    Some(())
}

pub(crate) fn listed_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let read = pick(rng, history, |one| set_of(one).is_some())?;
    let members = members_mut(&mut history.operations[read])?;
    members.push(*members.first()?);
    Some(())
}

pub(crate) fn member_of_the_future(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (name, member, add) = member(history, rng, |one| one.answer().is_some())?;
    let added = history.operations[add].start;
    let read = pick(rng, history, |one| {
        let is_meant = set_of(one).is_some_and(|(set, ..)| set == name);
        is_meant && one.end < added
    })?;
    members_mut(&mut history.operations[read])?.push(member);
    Some(())
}
