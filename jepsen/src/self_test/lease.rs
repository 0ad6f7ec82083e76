//! Leases that live and end as they should, and errors planted in what was seen of them.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::script::{Script, ms};
use crate::{
    clock::Micros,
    history::{Call, History, KeyEvent, Operation, Out, Outcome, Row, Sight},
};

/// Times to live, in milliseconds.
const TTL: u64 = 2_000;
const LEASES: u64 = 6;
/// How long each is looked at after it was to end.
const AFTER: u64 = 4_000;

/// Leases beside each other, each with two keys.
pub(super) fn good(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut script = Script::default();
    for number in 0..LEASES {
        one_lease(&mut script, &mut rng, number);
    }
    script.end()
}

fn one_lease(script: &mut Script, rng: &mut StdRng, number: u64) {
    let lease = format!("lease{number}");
    let mut now = 10 + rng.random_range(0..3_000);
    let granted = Out::Granted {
        lease: lease.clone(),
        ttl_ms: TTL,
    };
    let call = Call::Grant {
        lease: lease.clone(),
        ttl_ms: TTL,
        lock_delay_ms: 0,
        deletes: true,
    };
    script.answered(rng, ms(now), call, granted);
    let call = Call::Attach {
        lease: lease.clone(),
        keys: rows(&lease).into_iter().map(|row| row.key).collect(),
    };
    script.answered(rng, ms(now + 2), call, done());
    // What is promised, and how the last renewal's answer came.
    let mut renewed = now;
    let mut looks = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let next = now + rng.random_range(400..900);
        looks.extend((now + 5..next).step_by(90));
        now = next;
        let call = Call::Renew { lease: lease.clone() };
        if rng.random_bool(0.1) {
            let lost = Outcome::Unknown("no answer".to_owned());
            script.operation(rng, (ms(now), ms(now)), call, lost);
        } else {
            script.answered(rng, ms(now), call, Out::Lives { alive: true });
        }
        // Also what was not answered was done, here.
        renewed = now;
    }
    let mut gone = renewed + TTL + rng.random_range(1..600);
    if rng.random_bool(0.3) {
        gone = now + 200;
        let call = Call::Revoke { lease: lease.clone() };
        script.answered(rng, ms(gone), call, done());
        gone += 1;
    }
    looks.extend((now + 5..gone.max(renewed + TTL) + AFTER).step_by(90));
    for at in looks.into_iter().filter(|at| at.abs_diff(gone) > 3) {
        let there = at < gone;
        if rng.random_bool(0.5) {
            let (lease, stale) = (lease.clone(), false);
            script.answered(
                rng,
                ms(at),
                Call::Alive { lease, stale },
                Out::Lives { alive: there },
            );
        } else {
            let (prefix, stale) = (format!("l/{lease}/"), false);
            let rows = if there { rows(&lease) } else { Vec::new() };
            script.answered(
                rng,
                ms(at),
                Call::List { prefix, stale },
                Out::Rows { rows, applied: None },
            );
        }
    }
    for watcher in 1..=2 {
        let index = 100 + number;
        let ended = |row: Row| KeyEvent {
            index,
            key: row.key.clone(),
            before: Some(row),
            after: None,
        };
        let events = rows(&lease).into_iter().map(ended).collect();
        let batch = Sight::WatchBatch {
            watcher,
            index,
            events,
        };
        script.saw(ms(gone + watcher), "n1", batch);
    }
}

fn rows(lease: &str) -> Vec<Row> {
    let row = |key: u64| Row {
        key: format!("l/{lease}/{key}"),
        value: lease.to_owned(),
        modify: 7,
    };
    (0..2).map(row).collect()
}

fn done() -> Out {
    Out::Written {
        done: true,
        index: None,
    }
}

/// The lease that an operation looks at.
fn looked_at(operation: &Operation) -> Option<&str> {
    match &operation.call {
        Call::Alive { lease, .. } => Some(lease),
        Call::List { prefix, .. } => prefix.strip_prefix("l/")?.strip_suffix('/'),
        _ => None,
    }
}

/// Whether an operation shows the lease that it looks at.
fn shows(operation: &Operation) -> bool {
    match operation.answer() {
        Some(Out::Lives { alive }) => *alive,
        Some(Out::Rows { rows, .. }) => !rows.is_empty(),
        _ => false,
    }
}

/// Makes an operation show its lease, or not.
fn show(operation: &mut Operation, there: bool) {
    let lease = looked_at(operation).unwrap_or_default().to_owned();
    match &mut operation.outcome {
        Outcome::Ok(Out::Lives { alive }) => *alive = there,
        Outcome::Ok(Out::Rows { rows: shown, .. }) => {
            *shown = if there { rows(&lease) } else { Vec::new() };
        }
        _ => {}
    }
}

fn is_revoked(history: &History, lease: &str) -> bool {
    let mut all = history.operations.iter();
    all.any(|one| matches!(&one.call, Call::Revoke { lease: revoked } if revoked == lease))
}

/// Until when a lease is promised to live.
fn promised(history: &History, lease: &str) -> Micros {
    let renewals = history
        .operations
        .iter()
        .filter(|one| match (&one.call, one.answer()) {
            (Call::Grant { lease: granted, .. }, Some(_)) => granted == lease,
            (Call::Renew { lease: renewed }, Some(_)) => renewed == lease,
            _ => false,
        });
    let last = renewals.map(|one| one.start).max().unwrap_or_default();
    last.after(Duration::from_millis(TTL))
}

/// A look that shows its lease, or not, of those of which this holds.
fn look(
    history: &History,
    rng: &mut StdRng,
    shown: bool,
    holds: impl Fn(&Operation, &str) -> bool,
) -> Option<usize> {
    let looks = history.operations.iter().enumerate();
    let looks = looks.filter(|(_, one)| {
        let lease = looked_at(one);
        lease.is_some_and(|lease| shows(one) == shown && holds(one, lease))
    });
    let looks: Vec<usize> = looks.map(|(at, _)| at).collect();
    looks.choose(rng).copied()
}

/// While it is promised to live, and nobody has revoked it.
fn gone_while_promised(history: &mut History, rng: &mut StdRng, lists: bool) -> Option<()> {
    let at = look(history, rng, true, |one, lease| {
        let is_meant = matches!(one.call, Call::List { .. }) == lists;
        is_meant && one.end < promised(history, lease) && !is_revoked(history, lease)
    })?;
    show(&mut history.operations[at], false);
    Some(())
}

pub(super) fn gone_early(history: &mut History, rng: &mut StdRng) -> Option<()> {
    gone_while_promised(history, rng, false)
}

pub(super) fn keys_go_before(history: &mut History, rng: &mut StdRng) -> Option<()> {
    gone_while_promised(history, rng, true)
}

/// It is there in every look, until long after its end.
pub(super) fn stays(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let is_sure = |lease: &str| {
        let mut all = history.operations.iter();
        !is_revoked(history, lease)
            && !all.any(|one| {
                matches!(&one.call, Call::Renew { lease: renewed } if renewed == lease) && one.is_unknown()
            })
    };
    let at = look(history, rng, false, |_, lease| is_sure(lease))?;
    let lease = looked_at(&history.operations[at])?.to_owned();
    for operation in &mut history.operations {
        if looked_at(operation) == Some(&lease) {
            show(operation, true);
        }
    }
    Some(())
}

pub(super) fn renewed_when_gone(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = look(history, rng, false, |_, _| true)?;
    let mut renewal = history.operations[at].clone();
    let lease = looked_at(&renewal)?.to_owned();
    renewal.call = Call::Renew { lease };
    renewal.outcome = Outcome::Ok(Out::Lives { alive: true });
    renewal.start = Micros(renewal.end.0 + 1);
    renewal.end = Micros(renewal.end.0 + 2);
    history.operations.insert(at + 1, renewal);
    Some(())
}

pub(super) fn comes_back(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = look(history, rng, false, |one, lease| {
        let mut before = history.operations.iter().filter(|other| other.end < one.start);
        before.any(|other| looked_at(other) == Some(lease) && !shows(other))
    })?;
    show(&mut history.operations[at], true);
    Some(())
}

pub(super) fn a_key_stays(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = look(history, rng, true, |one, _| matches!(one.call, Call::List { .. }))?;
    if let Outcome::Ok(Out::Rows { rows, .. }) = &mut history.operations[at].outcome {
        rows.pop();
    }
    Some(())
}

pub(super) fn two_revisions(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = rng.random_range(0..history.sightings.len());
    if let Sight::WatchBatch { events, index, .. } = &mut history.sightings[at].sight {
        *index += 1;
        events.last_mut()?.index += 1;
    }
    Some(())
}

pub(super) fn lives_on(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = look(history, rng, false, |_, lease| is_revoked(history, lease))?;
    show(&mut history.operations[at], true);
    Some(())
}
