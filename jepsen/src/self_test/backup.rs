//! Good snapshots, and errors planted in what was restored from them.

#![expect(
    clippy::unnecessary_wraps,
    reason = "all planters have one type, and some always find a place"
)]

use std::collections::BTreeMap;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

use super::simulate::{Memory, Plan, Simulated, as_said, simulate};
use crate::{
    clock::Micros,
    history::{Call, Dialect, History, KeyEvent, Operation, Out, Outcome, Process, Row, Sight, Sighting},
};

/// Numbers that a restored cluster leaves out: more than any history has.
const SKIPPED: u64 = 1_000_000;

/// Keys that change, saved a few times.
pub(super) fn good(seed: u64) -> History {
    let mut value = 0_u64;
    let plan = Plan {
        seed,
        clients: 5,
        operations: 200,
        failing: 20,
        unknown: 20,
        next: |rng: &mut StdRng, _: &Memory| {
            value += 1;
            let key = format!("b/{}", rng.random_range(1..=6));
            let value = value.to_string();
            let call = match rng.random_range(0..100) {
                0..15 => Call::Delete { key },
                15..25 => Call::Read { key, stale: false },
                _ => Call::Write { key, value },
            };
            (Dialect::Native, call)
        },
    };
    let mut simulated = simulate(plan);
    let mut history = History {
        operations: std::mem::take(&mut simulated.operations),
        sightings: Vec::new(),
    };
    for number in 1..=3 {
        take(&mut simulated, &mut history, number);
    }
    history.operations.sort_by_key(|operation| operation.start);
    history
}

/// Saves at the moment of one of the changes, and restores.
fn take(simulated: &mut Simulated, history: &mut History, number: u64) {
    let Simulated {
        store, moments, rng, ..
    } = simulated;
    let at = rng.random_range(store.log.len() / 2..store.log.len());
    let index = store.log[at].index;
    let told: Vec<KeyEvent> = store
        .log
        .iter()
        .filter(|event| event.index <= index)
        .cloned()
        .collect();
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for event in &told {
        match &event.after {
            Some(row) => drop(rows.insert(&event.key, row.clone())),
            None => drop(rows.remove(event.key.as_str())),
        }
    }
    let file = std::path::PathBuf::from(format!("{number}.snapshot"));
    let start = moments[&index];
    let out = Out::Saved {
        index,
        revision: index,
    };
    history.operations.push(Operation {
        process: Process(3_000_000 + number),
        node: "n1".to_owned(),
        dialect: Dialect::Native,
        call: Call::Save {
            file: file.clone(),
            stale: false,
        },
        start,
        end: Micros(start.0 + 1),
        outcome: Outcome::Ok(as_said(Dialect::Native, out)),
    });
    let sight = Sight::Restored {
        file,
        rows: rows.into_values().collect(),
        applied: index + SKIPPED,
        next: (index + SKIPPED + 1, index + SKIPPED + 1),
        told: None,
    };
    history.sightings.push(Sighting {
        at: Micros(start.0 + 2),
        node: "restored".to_owned(),
        sight,
    });
}

/// One of the snapshots: what was restored, and the index that it was saved at.
fn any(history: &History, rng: &mut StdRng) -> (usize, u64) {
    let at = rng.random_range(0..history.sightings.len());
    let Sight::Restored { applied, .. } = history.sightings[at].sight else {
        unreachable!("nothing else was seen");
    };
    (at, applied - SKIPPED)
}

fn rows_mut(history: &mut History, at: usize) -> &mut Vec<Row> {
    match &mut history.sightings[at].sight {
        Sight::Restored { rows, .. } => rows,
        _ => unreachable!("nothing else was seen"),
    }
}

/// Answered writes, with their rows.
fn written(history: &History) -> Vec<(Row, Micros)> {
    let written = history
        .operations
        .iter()
        .filter_map(|one| match (&one.call, one.answer()?) {
            (
                Call::Write { key, value },
                Out::Written {
                    index: Some(index), ..
                },
            ) => Some((
                Row {
                    key: key.clone(),
                    value: value.clone(),
                    modify: *index,
                },
                one.start,
            )),
            _ => None,
        });
    written.collect()
}

pub(super) fn row_lost(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, _) = any(history, rng);
    // A deletion without an answer would explain it.
    let open: Vec<String> = history
        .operations
        .iter()
        .filter(|one| one.is_unknown())
        .filter_map(|one| match &one.call {
            Call::Delete { key } => Some(key.clone()),
            _ => None,
        })
        .collect();
    let rows = rows_mut(history, at);
    let lost = rows.iter().position(|row| !open.contains(&row.key))?;
    rows.remove(lost);
    Some(())
}

pub(super) fn row_of_later(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, index) = any(history, rng);
    let later: Vec<Row> = written(history)
        .into_iter()
        .map(|(row, _)| row)
        .filter(|row| row.modify > index)
        .collect();
    let later = later.choose(rng)?.clone();
    let rows = rows_mut(history, at);
    rows.retain(|row| row.key != later.key);
    rows.push(later);
    Some(())
}

pub(super) fn deleted_row_kept(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, index) = any(history, rng);
    let mut before: Vec<Row> = written(history)
        .into_iter()
        .map(|(row, _)| row)
        .filter(|row| row.modify <= index)
        .collect();
    let rows = rows_mut(history, at);
    before.retain(|old| rows.iter().all(|row| row.key != old.key));
    rows.push(before.choose(rng)?.clone());
    Some(())
}

/// The place of the saving of a snapshot.
fn saving(history: &History, index: u64) -> Option<usize> {
    let is_meant =
        |one: &Operation| matches!(one.answer(), Some(Out::Saved { index: saved, .. }) if *saved == index);
    history.operations.iter().position(is_meant)
}

/// A write had been acknowledged before it was asked for.
pub(super) fn too_old(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (_, index) = any(history, rng);
    let later = history.operations.iter().find(
        |one| matches!(one.answer(), Some(Out::Written { index: Some(later), .. }) if *later > index),
    )?;
    let end = later.end;
    let saving = saving(history, index)?;
    history.operations[saving].start = Micros(end.0 + 1);
    history.operations[saving].end = Micros(end.0 + 2);
    Some(())
}

/// It holds a write that was not yet begun when it was there.
pub(super) fn of_the_future(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (_, index) = any(history, rng);
    let (_, begun) = written(history)
        .into_iter()
        .rfind(|(row, _)| row.modify <= index)?;
    let saving = saving(history, index)?;
    history.operations[saving].start = Micros(begun.0.checked_sub(2)?);
    history.operations[saving].end = Micros(begun.0 - 1);
    Some(())
}

pub(super) fn index_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, index) = any(history, rng);
    if let Sight::Restored { next, .. } = &mut history.sightings[at].sight {
        next.0 = index;
    }
    Some(())
}

pub(super) fn revision_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, _) = any(history, rng);
    if let Sight::Restored { next, .. } = &mut history.sightings[at].sight {
        next.1 = 1;
    }
    Some(())
}

/// The write after the restore has the index of one that the old cluster took after the save.
pub(super) fn number_given_again(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, index) = any(history, rng);
    let later: Vec<u64> = written(history)
        .into_iter()
        .map(|(row, _)| row.modify)
        .filter(|modify| *modify > index)
        .collect();
    let given = *later.choose(rng)?;
    if let Sight::Restored { next, .. } = &mut history.sightings[at].sight {
        next.0 = given;
    }
    Some(())
}

/// One that watched the old cluster is told the new one's changes as if nothing lay between.
pub(super) fn watch_goes_on(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, _) = any(history, rng);
    if let Sight::Restored { told, .. } = &mut history.sightings[at].sight {
        *told = Some(Vec::new());
    }
    Some(())
}

pub(super) fn not_restored(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (at, _) = any(history, rng);
    history.sightings[at].sight = Sight::NotRestored {
        file: "1.snapshot".into(),
        error: "the server that began with it ended".to_owned(),
    };
    Some(())
}
