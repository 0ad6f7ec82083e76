//! Keys: what was written exactly once, what was read when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::Truth;
use crate::history::{Action, Guard, Op, OpId, Outcome, Row};

/// Every acknowledged write happened where it says, no write happened twice, and none that failed or was never sent.
pub(super) fn effects(ops: &[Op], truth: &Truth) -> Result<(), String> {
    let op = |id: OpId| usize::try_from(id).ok().and_then(|at| ops.get(at));
    let mut written: BTreeMap<OpId, u64> = BTreeMap::new();
    let mut deleted: BTreeMap<u64, &str> = BTreeMap::new();
    for told in &truth.changes {
        let Some(value) = told.after else {
            deleted.insert(told.index, &told.key);
            continue;
        };
        let Some(op) = op(value) else {
            return Err(format!("nobody wrote {told:?}"));
        };
        let Action::Put { key, .. } = &op.action else {
            return Err(format!("{op} wrote {told:?}"));
        };
        if *key != told.key || !op.may_write() {
            return Err(format!("{op} must not have written {told:?}"));
        }
        if let Some(before) = written.insert(value, told.index) {
            return Err(format!("{op} happened twice: at {before} and at {}", told.index));
        }
    }
    for op in ops {
        let Outcome::Written { index } = op.outcome else {
            continue;
        };
        let happened = match &op.action {
            Action::Put { .. } => written.get(&op.id) == Some(&index),
            // One that found nothing changed nothing.
            Action::Delete { key } => {
                deleted.get(&index) == Some(&key.as_str()) || truth.row(key, index - 1).is_none()
            }
            _ => true,
        };
        if !happened {
            return Err(format!("lost: {op}; it happened at {:?}", written.get(&op.id)));
        }
    }
    no_change_of_nobody(ops, &deleted)
}

/// Each deletion was somebody's.
fn no_change_of_nobody(ops: &[Op], deleted: &BTreeMap<u64, &str>) -> Result<(), String> {
    let acknowledged: BTreeMap<u64, &Op> = ops
        .iter()
        .filter(|op| matches!(op.action, Action::Delete { .. }))
        .filter_map(|op| match op.outcome {
            Outcome::Written { index } => Some((index, op)),
            _ => None,
        })
        .collect();
    let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
    for op in ops {
        if let Action::Delete { key } = &op.action
            && matches!(op.outcome, Outcome::Unknown | Outcome::Open)
        {
            *unknown.entry(key).or_default() += 1;
        }
    }
    for (index, key) in deleted {
        if acknowledged.contains_key(index) {
            continue;
        }
        let Some(left) = unknown.get_mut(key).filter(|left| **left > 0) else {
            return Err(format!("nobody deleted {key} at index {index}"));
        };
        *left -= 1;
    }
    Ok(())
}

/// Every answer is that of the state at the index that it names.
pub(super) fn answers(ops: &[Op], truth: &Truth) -> Result<(), String> {
    for op in ops {
        let right = match (&op.action, &op.outcome) {
            (Action::Get { key, .. }, Outcome::Rows { at, rows }) => {
                let expected: Vec<Row> = truth.row(key, *at).into_iter().collect();
                (expected != *rows).then(|| format!("{expected:?}"))
            }
            (Action::List { prefix, .. }, Outcome::Rows { at, rows }) => {
                let expected: Vec<Row> = truth.rows(prefix, *at).collect();
                (expected != *rows).then(|| format!("{expected:?}"))
            }
            (Action::Put { key, guard }, Outcome::Written { index }) => {
                let before = truth.row(key, index - 1);
                (!holds(*guard, before.as_ref())).then(|| format!("a refusal, for there was {before:?}"))
            }
            (Action::Put { key, guard }, Outcome::GuardFailed { index }) => {
                let before = truth.row(key, index - 1);
                holds(*guard, before.as_ref()).then(|| format!("a write, for there was {before:?}"))
            }
            _ => None,
        };
        if let Some(right) = right {
            return Err(format!("{op}: right would have been {right}"));
        }
    }
    Ok(())
}

fn holds(guard: Guard, row: Option<&Row>) -> bool {
    match guard {
        Guard::Always => true,
        Guard::Absent => row.is_none(),
        Guard::Index(index) => row.is_some_and(|row| row.index == index),
    }
}

/// What began after something had ended stands behind it in the order of indexes.
pub(super) fn order(ops: &[Op]) -> Result<(), String> {
    let mut moments: Vec<(Duration, bool, &Op)> = Vec::new();
    for op in ops {
        moments.push((op.invoked, true, op));
        if op.index().is_some() {
            moments.push((op.returned, false, op));
        }
    }
    // At one moment beginnings come first: then neither is before the other.
    moments.sort_by_key(|(at, begins, op)| (*at, !begins, op.id));
    let mut newest: Option<(u64, &Op)> = None;
    let mut floors: BTreeMap<OpId, (u64, &Op)> = BTreeMap::new();
    for (_, begins, op) in moments {
        if begins {
            if let Some(floor) = newest {
                floors.insert(op.id, floor);
            }
            continue;
        }
        let Some(index) = op.index() else { continue };
        if let Some((floor, earlier)) = floors.remove(&op.id) {
            // A renewal changes nothing that has an index of its own: it may stand where others do.
            let enough = match (&op.action, &op.outcome) {
                (Action::Put { .. } | Action::Delete { .. }, _) => index > floor,
                _ => index >= floor || !op.is_linearizable(),
            };
            if !enough {
                return Err(format!(
                    "{op} is older than what was there when it began: {earlier}"
                ));
            }
        }
        if newest.is_none_or(|(newest, _)| newest < index) {
            newest = Some((index, op));
        }
    }
    Ok(())
}
