//! Errors planted in what watches told and what blocking queries answered.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use crate::history::{Call, History, KeyEvent, Operation, Out, Outcome, Sight};

/// A batch of which this holds: its place among the sightings.
fn pick(rng: &mut StdRng, history: &History, holds: impl Fn(&[KeyEvent]) -> bool) -> Option<usize> {
    let sightings = history.sightings.iter().enumerate();
    let found: Vec<usize> = sightings
        .filter(|(_, one)| matches!(&one.sight, Sight::WatchBatch { events, .. } if holds(events)))
        .map(|(at, _)| at)
        .collect();
    (!found.is_empty()).then(|| found[rng.random_range(0..found.len())])
}

fn batch_mut(history: &mut History, at: usize) -> Option<(&mut u64, &mut Vec<KeyEvent>)> {
    match &mut history.sightings[at].sight {
        Sight::WatchBatch { index, events, .. } => Some((index, events)),
        _ => None,
    }
}

pub(crate) fn event_dropped(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| !events.is_empty())?;
    let events = batch_mut(history, at)?.1;
    events.remove(rng.random_range(0..events.len()));
    Some(())
}

pub(crate) fn event_told_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| !events.is_empty())?;
    let events = batch_mut(history, at)?.1;
    let again = rng.random_range(0..events.len());
    events.insert(again, events[again].clone());
    Some(())
}

pub(crate) fn batch_told_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| !events.is_empty())?;
    let again = history.sightings[at].clone();
    history.sightings.insert(at + 1, again);
    Some(())
}

pub(crate) fn batch_skipped(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| !events.is_empty())?;
    batch_mut(history, at)?.1.clear();
    Some(())
}

pub(crate) fn events_swapped(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| {
        events.first().map(|one| one.index) != events.last().map(|one| one.index)
    })?;
    let events = batch_mut(history, at)?.1;
    let last = events.len() - 1;
    events.swap(0, last);
    Some(())
}

pub(crate) fn deletion_half_told(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| {
        events.windows(2).any(|pair| pair[0].index == pair[1].index)
    })?;
    let events = batch_mut(history, at)?.1;
    let half = events
        .windows(2)
        .position(|pair| pair[0].index == pair[1].index)?;
    events.remove(half);
    Some(())
}

pub(crate) fn value_of_before(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let is_change = |event: &KeyEvent| event.before.is_some() && event.after.is_some();
    let at = pick(rng, history, |events| events.iter().any(is_change))?;
    let event = batch_mut(history, at)?.1.iter_mut().find(|one| is_change(one))?;
    let old = event.before.as_ref()?.value.clone();
    event.after.as_mut()?.value = old;
    Some(())
}

pub(crate) fn row_before_missing(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| {
        events.iter().any(|one| one.before.is_some())
    })?;
    let events = batch_mut(history, at)?.1;
    events.iter_mut().find(|one| one.before.is_some())?.before = None;
    Some(())
}

pub(crate) fn phantom_deletion(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let is_other = |event: &KeyEvent| event.after.is_some() && event.key != "w/1";
    let at = pick(rng, history, |events| events.last().is_some_and(is_other))?;
    let events = batch_mut(history, at)?.1;
    let index = events.last()?.index;
    events.push(KeyEvent {
        index,
        key: "w/1".to_owned(),
        before: None,
        after: None,
    });
    Some(())
}

pub(crate) fn progress_too_far(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = pick(rng, history, |events| events.len() > 1)?;
    let Sight::WatchBatch { watcher, .. } = history.sightings[at].sight else {
        return None;
    };
    let index = *batch_mut(history, at)?.0;
    let before = history.sightings[..at].iter().rposition(|one| {
        matches!(&one.sight, Sight::WatchBatch { watcher: other, .. } | Sight::WatchStart { watcher: other, .. }
            if *other == watcher)
    })?;
    match &mut history.sightings[before].sight {
        Sight::WatchBatch { index: told, .. } | Sight::WatchStart { from: told, .. } => *told = index,
        _ => {}
    }
    Some(())
}

pub(crate) fn watch_stops(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let watcher = rng.random_range(1..=4_u64);
    let half = history.sightings.len() / 2;
    if half == 0 {
        return None;
    }
    let is_of = |sight: &Sight| match sight {
        Sight::WatchStart { watcher: other, .. }
        | Sight::WatchBatch { watcher: other, .. }
        | Sight::WatchEnd { watcher: other, .. } => *other == watcher,
        _ => false,
    };
    let mut at = 0;
    history.sightings.retain(|one| {
        at += 1;
        at < half || !is_of(&one.sight)
    });
    Some(())
}

/// An answer to a blocking query, given it and the one before it by the same watcher.
fn answer(
    rng: &mut StdRng,
    history: &History,
    holds: impl Fn(&Operation, u64, u64) -> bool,
) -> Option<usize> {
    let operations = history.operations.iter().enumerate();
    let found: Vec<usize> = operations
        .filter(|(_, one)| match (&one.call, one.answer()) {
            (Call::Block { index: behind, .. }, Some(Out::Changed { index, .. })) => {
                *behind > 0 && holds(one, *behind, *index)
            }
            _ => false,
        })
        .map(|(at, _)| at)
        .collect();
    (!found.is_empty()).then(|| found[rng.random_range(0..found.len())])
}

fn index_mut(history: &mut History, at: usize) -> Option<&mut u64> {
    match &mut history.operations[at].outcome {
        Outcome::Ok(Out::Changed { index, .. }) => Some(index),
        _ => None,
    }
}

pub(crate) fn index_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = answer(rng, history, |_, behind, _| behind > 1)?;
    let Call::Block { index: behind, .. } = history.operations[at].call else {
        return None;
    };
    *index_mut(history, at)? = behind - 1;
    Some(())
}

pub(crate) fn woken_for_nothing(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let wait = Duration::from_millis(200);
    let at = answer(rng, history, |_, behind, index| behind == index)?;
    let operation = &mut history.operations[at];
    operation.end = operation.start.after(Duration::from_millis(1));
    if let Call::Block { wait_ms, .. } = &mut operation.call {
        *wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    }
    Some(())
}

pub(crate) fn index_behind_its_rows(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = answer(
        rng,
        history,
        |one, _, index| matches!(one.answer(), Some(Out::Changed { rows, .. }) if rows.iter().any(|row| row.modify == index)),
    )?;
    *index_mut(history, at)? -= 1;
    Some(())
}

/// The watcher learns of an acknowledged change, or of an acknowledged deletion, only seconds later.
fn late(history: &mut History, rng: &mut StdRng, deletion: bool) -> Option<()> {
    let stated: Vec<u64> = history
        .operations
        .iter()
        .filter(|one| matches!(one.call, Call::Delete { .. }) == deletion)
        .filter_map(|one| match one.answer()? {
            Out::Written {
                done: true,
                index: Some(index),
            }
            | Out::Deleted {
                count: Some(1),
                index: Some(index),
            } => Some(*index),
            _ => None,
        })
        .collect();
    let at = answer(rng, history, |_, behind, index| {
        index > behind && stated.contains(&index)
    })?;
    let operation = history.operations[at].clone();
    let delay = Duration::from_secs(10);
    for other in &mut history.operations {
        if other.process == operation.process && other.start >= operation.start {
            other.end = other.end.after(delay);
            if other.start > operation.start {
                other.start = other.start.after(delay);
            }
        }
    }
    Some(())
}

pub(crate) fn woken_late(history: &mut History, rng: &mut StdRng) -> Option<()> {
    late(history, rng, false)
}

pub(crate) fn deletion_does_not_wake(history: &mut History, rng: &mut StdRng) -> Option<()> {
    late(history, rng, true)
}
