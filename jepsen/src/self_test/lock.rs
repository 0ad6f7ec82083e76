//! A lock that is handed on as it should be, and errors planted in that.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::script::{Script, ms};
use crate::{
    clock::Micros,
    history::{Call, History, Operation, Out, Outcome, Sight},
};

/// Times to live, in milliseconds.
const TTL: u64 = 400;
/// Lock delays, in milliseconds.
const DELAY: u64 = 40;
/// One after another.
const HOLDERS: u64 = 25;

/// One holder after another: most give the lock back, some are lost, and of those some are late.
pub(super) fn good(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut script = Script::default();
    // When the lock is free, and what one who was lost still writes.
    let (mut free, mut late) = (1_u64, None::<(String, u64)>);
    for holder in 0..HOLDERS {
        let (lease, fence) = (format!("lease{holder}"), holder * 3 + 1);
        let granted = free.saturating_sub(rng.random_range(1..30));
        script.answered(
            &mut rng,
            ms(granted),
            grant(),
            Out::Granted {
                lease: lease.clone(),
                ttl_ms: TTL,
            },
        );
        let taken = free + rng.random_range(2..10);
        script.operation(
            &mut rng,
            (ms(granted + 1), ms(taken)),
            acquire(&lease),
            Outcome::Ok(acquired(Some(fence))),
        );
        let mut now = taken;
        for _ in 0..rng.random_range(2..6) {
            now += rng.random_range(5..30);
            guarded(&mut script, now, &lease, fence, true);
        }
        if let Some((lost, fence)) = late.take() {
            guarded(&mut script, now + 1, &lost, fence, false);
        }
        let mut renewed = granted;
        if rng.random_bool(0.5) {
            renewed = now + 2;
            let call = Call::Renew { lease: lease.clone() };
            script.answered(&mut rng, ms(renewed), call, Out::Lives { alive: true });
            now += 4;
        }
        if rng.random_bool(0.3) {
            free = renewed + TTL + DELAY + 20;
            late = rng.random_bool(0.7).then_some((lease, fence));
        } else {
            let call = Call::Release {
                lock: "k/1".to_owned(),
                lease,
                queue: false,
            };
            let (done, index) = (true, None);
            script.answered(&mut rng, ms(now + 1), call, Out::Written { done, index });
            free = now + 2;
        }
    }
    script.answered(
        &mut rng,
        ms(free),
        grant(),
        Out::Granted {
            lease: "last".to_owned(),
            ttl_ms: TTL,
        },
    );
    script.answered(
        &mut rng,
        ms(free + 2),
        acquire("last"),
        acquired(Some(HOLDERS * 3 + 1)),
    );
    script.end()
}

fn grant() -> Call {
    Call::Grant {
        lease: String::new(),
        ttl_ms: TTL,
        lock_delay_ms: DELAY,
        deletes: false,
    }
}

fn acquire(lease: &str) -> Call {
    Call::Acquire {
        lock: "k/1".to_owned(),
        lease: lease.to_owned(),
        queue: false,
        wait_ms: 0,
    }
}

fn acquired(fence: Option<u64>) -> Out {
    Out::Acquired { fence, index: None }
}

fn guarded(script: &mut Script, at: u64, lease: &str, fence: u64, accepted: bool) {
    let sight = Sight::Guarded {
        lock: "k/1".to_owned(),
        lease: lease.to_owned(),
        fence,
        accepted,
    };
    script.saw(ms(at), "", sight);
}

/// The places of the acquisitions, in order.
fn acquisitions(history: &History) -> Vec<usize> {
    let operations = history.operations.iter().enumerate();
    let taken = operations.filter(|(_, one)| matches!(one.call, Call::Acquire { .. }));
    let mut places: Vec<usize> = taken.map(|(at, _)| at).collect();
    places.sort_by_key(|at| history.operations[*at].end);
    places
}

/// Two holders, one behind the other.
fn neighbours(history: &History, rng: &mut StdRng) -> Option<(usize, usize)> {
    let all = acquisitions(history);
    let pairs: Vec<(usize, usize)> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.choose(rng).copied()
}

fn fence_mut(operation: &mut Operation) -> Option<&mut u64> {
    match &mut operation.outcome {
        Outcome::Ok(Out::Acquired { fence, .. }) => fence.as_mut(),
        _ => None,
    }
}

/// The second one is told that it has the lock as soon as the first one has it.
pub(super) fn two_holders(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (first, second) = neighbours(history, rng)?;
    let taken = history.operations[first].end;
    let second = &mut history.operations[second];
    second.end = Micros(taken.0 + 1);
    second.start = second.start.min(taken);
    Some(())
}

/// The first one was lost, and the second one has the lock at once.
pub(super) fn lock_delay_ignored(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (first, second) = neighbours(history, rng)?;
    let second_taken = history.operations[second].end;
    let Call::Acquire { lease, .. } = &history.operations[first].call else {
        return None;
    };
    let gives_back =
        |one: &Operation| matches!(&one.call, Call::Release { lease: released, .. } if released == lease);
    if history.operations.iter().any(gives_back) {
        return None;
    }
    let hasty = Micros(second_taken.0 - 50_000);
    let second = &mut history.operations[second];
    second.end = hasty;
    second.start = second.start.min(hasty);
    Some(())
}

pub(super) fn fence_given_twice(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (first, second) = neighbours(history, rng)?;
    let fence = *fence_mut(&mut history.operations[first])?;
    *fence_mut(&mut history.operations[second])? = fence;
    Some(())
}

/// Two acquisitions of which the first was over before the second began.
pub(super) fn fence_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let all = acquisitions(history);
    let mut pairs = Vec::new();
    for (at, first) in all.iter().enumerate() {
        let end = history.operations[*first].end;
        let later = all[at..]
            .iter()
            .filter(|other| history.operations[**other].start > end);
        pairs.extend(later.map(|second| (*first, *second)));
    }
    let (first, second) = pairs.choose(rng).copied()?;
    let fence = *fence_mut(&mut history.operations[first])?;
    *fence_mut(&mut history.operations[second])? = fence.checked_sub(1)?;
    Some(())
}

/// The lock was not given back, its lease lives, and the next one has it.
pub(super) fn taken_though_held(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let (first, second) = neighbours(history, rng)?;
    let Call::Acquire { lease, .. } = history.operations[first].call.clone() else {
        return None;
    };
    let taken = history.operations[second].end;
    let granted = history.operations.iter().find_map(|one| match one.answer() {
        Some(Out::Granted { lease: granted, .. }) if *granted == lease => Some(one.start),
        _ => None,
    })?;
    let given_back = history.operations.iter_mut().find(|one| match &one.call {
        Call::Release { lease: released, .. } => *released == lease,
        _ => false,
    })?;
    given_back.outcome = Outcome::Fail("it was never sent".to_owned());
    (taken < granted.after(std::time::Duration::from_millis(TTL))).then_some(())
}

/// The writes that were taken, or were not.
fn writes(history: &History, taken: bool) -> Vec<usize> {
    let sightings = history.sightings.iter().enumerate();
    let meant = sightings
        .filter(|(_, one)| matches!(one.sight, Sight::Guarded { accepted, .. } if accepted == taken));
    meant.map(|(at, _)| at).collect()
}

fn turn(history: &mut History, rng: &mut StdRng, taken: bool) -> Option<()> {
    let at = *writes(history, taken).choose(rng)?;
    if let Sight::Guarded { accepted, .. } = &mut history.sightings[at].sight {
        *accepted = !taken;
    }
    Some(())
}

pub(super) fn holder_refused(history: &mut History, rng: &mut StdRng) -> Option<()> {
    turn(history, rng, true)
}

pub(super) fn late_writer_accepted(history: &mut History, rng: &mut StdRng) -> Option<()> {
    turn(history, rng, false)
}

pub(super) fn never_free_again(history: &mut History, _: &mut StdRng) -> Option<()> {
    let last = *acquisitions(history).last()?;
    history.operations[last].outcome = Outcome::Ok(acquired(None));
    Some(())
}
