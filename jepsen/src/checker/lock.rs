//! Locks: there is one holder at a time, later holders have greater numbers, and what is guarded sees them one after another.
//!
//! A client certainly holds a lock from the answer that gave it until it begins to give it back, or until its time to live
//! has passed since it sent the last renewal that was answered. Longer it may hold it or not, and it is held to nothing;
//! so faults excuse nothing here.
//!
//! A key's lock whose holder was lost, rather than gave it back, nobody takes before the lock delay has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Findings;
use crate::{
    clock::Micros,
    history::{Call, History, Operation, Out, Sight, Sighting},
};

/// Cluster time is told in milliseconds, and the harness' clock may tick a little faster.
const EARLY: Duration = Duration::from_millis(5);

/// Checks all locks.
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let leases = Leases::of(history);
    let mut locks: BTreeMap<&str, Vec<Hold<'_>>> = BTreeMap::new();
    let mut last: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in &history.operations {
        let Call::Acquire {
            lock, lease, queue, ..
        } = &operation.call
        else {
            continue;
        };
        last.insert(lock, operation);
        if let Some(Out::Acquired {
            fence: Some(fence),
            index,
        }) = operation.answer()
        {
            locks.entry(lock).or_default().push(Hold {
                operation,
                lease,
                fence: *fence,
                index: *index,
                until: leases.held_until(lock, lease, operation),
                delay: (!queue && !leases.gives_back(lock, lease)).then(|| leases.delay(lease)),
            });
        }
    }
    for (lock, holds) in &locks {
        check_numbers(lock, holds, &mut findings);
        check_alone(lock, holds, &mut findings);
        check_delays(lock, holds, &mut findings);
    }
    check_guarded(&locks, &history.sightings, &mut findings);
    check_free(&last, &mut findings);
    findings
}

/// A lock that somebody held.
struct Hold<'a> {
    operation: &'a Operation,
    lease: &'a str,
    fence: u64,
    /// The index at which it was taken, if that is known.
    index: Option<u64>,
    /// Until when it was certainly held.
    until: Micros,
    /// How long nobody takes it after that; `None`: it is not known to have been lost.
    delay: Option<Duration>,
}

impl Hold<'_> {
    fn from(&self) -> Micros {
        self.operation.end
    }
}

/// Until when each lease certainly lived, and when what was to be given back.
struct Leases<'a> {
    alive_until: BTreeMap<&'a str, Micros>,
    /// By lease.
    revoked: BTreeMap<&'a str, Micros>,
    /// By lock and lease.
    released: BTreeMap<(&'a str, &'a str), Vec<Micros>>,
    /// Lock delays.
    delays: BTreeMap<&'a str, Duration>,
}

impl<'a> Leases<'a> {
    fn of(history: &'a History) -> Self {
        let mut leases = Self {
            alive_until: BTreeMap::new(),
            revoked: BTreeMap::new(),
            released: BTreeMap::new(),
            delays: BTreeMap::new(),
        };
        let mut ttls: BTreeMap<&str, u64> = BTreeMap::new();
        for operation in &history.operations {
            let start = operation.start;
            let lease = match (&operation.call, operation.answer()) {
                (Call::Grant { lock_delay_ms, .. }, Some(Out::Granted { lease, ttl_ms })) => {
                    ttls.insert(lease, *ttl_ms);
                    leases.delays.insert(lease, Duration::from_millis(*lock_delay_ms));
                    lease
                }
                (Call::Renew { lease }, Some(Out::Lives { alive: true })) => lease,
                (Call::Revoke { lease }, _) if !operation.failed() => {
                    let revoked = leases.revoked.entry(lease).or_insert(start);
                    *revoked = start.min(*revoked);
                    continue;
                }
                (Call::Release { lock, lease, .. }, _) if !operation.failed() => {
                    leases.released.entry((lock, lease)).or_default().push(start);
                    continue;
                }
                _ => continue,
            };
            let ttl = Duration::from_millis(ttls.get(lease.as_str()).copied().unwrap_or_default());
            let until = leases.alive_until.entry(lease).or_default();
            *until = start.after(ttl).max(*until);
        }
        leases
    }

    /// Whether the holder gives a lock back, or may have.
    fn gives_back(&self, lock: &str, lease: &str) -> bool {
        self.released.contains_key(&(lock, lease))
    }

    fn delay(&self, lease: &str) -> Duration {
        self.delays.get(lease).copied().unwrap_or_default()
    }

    fn held_until(&self, lock: &str, lease: &str, taken: &Operation) -> Micros {
        let alive = self.alive_until.get(lease).copied().unwrap_or_default();
        let revoked = self.revoked.get(lease).copied().unwrap_or(Micros::NEVER);
        let released = self.released.get(&(lock, lease)).into_iter().flatten();
        let released = released.filter(|at| **at >= taken.start).min();
        alive.min(revoked).min(released.copied().unwrap_or(Micros::NEVER))
    }
}

/// Who takes a lock after another has a greater number, by whatever it is numbered.
fn check_numbers(lock: &str, holds: &[Hold<'_>], findings: &mut Findings) {
    let mut given: BTreeMap<u64, &Hold<'_>> = BTreeMap::new();
    for hold in holds {
        if let Some(other) = given.insert(hold.fence, hold)
            && other.lease != hold.lease
        {
            let (one, two) = (hold.operation.describe(), other.operation.describe());
            findings.violation("fence given twice", format!("{lock}: {one}; and {two}"));
        }
    }
    // Of those whose acquisition was over, the one with the greatest number.
    let mut ended: Vec<&Hold<'_>> = holds.iter().collect();
    ended.sort_by_key(|hold| hold.from());
    let mut ended = ended.into_iter().peekable();
    let mut greatest: Option<&Hold<'_>> = None;
    for hold in holds {
        while let Some(before) = ended.next_if(|before| before.from() < hold.operation.start) {
            if greatest.is_none_or(|greatest| before.fence > greatest.fence) {
                greatest = Some(before);
            }
        }
        if let Some(before) =
            greatest.filter(|before| before.lease != hold.lease && before.fence >= hold.fence)
        {
            let (one, two) = (before.operation.describe(), hold.operation.describe());
            findings.violation("fence falls", format!("{lock}: {one}; then {two}"));
        }
    }
    let mut indexed: Vec<(u64, u64)> = holds
        .iter()
        .filter_map(|hold| Some((hold.fence, hold.index?)))
        .collect();
    indexed.sort_unstable();
    if let Some(pair) = indexed
        .windows(2)
        .find(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1)
    {
        let [(one, first), (two, second)] = [pair[0], pair[1]];
        let detail = format!("{lock}: number {one} was given at index {first}, number {two} at {second}");
        findings.violation("fence falls", detail);
    }
}

/// No two hold a lock at one moment.
fn check_alone(lock: &str, holds: &[Hold<'_>], findings: &mut Findings) {
    let mut by_start: Vec<&Hold<'_>> = holds.iter().filter(|hold| hold.from() < hold.until).collect();
    by_start.sort_by_key(|hold| hold.from());
    // Of those before, the one that is held longest.
    let mut before: Option<&Hold<'_>> = None;
    for hold in by_start {
        if let Some(other) = before.filter(|other| other.until > hold.from() && other.lease != hold.lease) {
            let (one, two) = (other.operation.describe(), hold.operation.describe());
            let detail = format!("{lock}: {one}, which held it until {}; and {two}", other.until);
            findings.violation("two holders", detail);
        }
        if before.is_none_or(|other| other.until < hold.until) {
            before = Some(hold);
        }
    }
}

/// Who takes a lock after another was lost, takes it when the lock delay is over.
fn check_delays(lock: &str, holds: &[Hold<'_>], findings: &mut Findings) {
    for lost in holds {
        let Some(delay) = lost.delay.and_then(|delay| delay.checked_sub(EARLY)) else {
            continue;
        };
        let free = lost.until.after(delay);
        let hasty = holds
            .iter()
            .find(|next| next.fence > lost.fence && next.lease != lost.lease && next.from() < free);
        if let Some(next) = hasty {
            let (one, two) = (lost.operation.describe(), next.operation.describe());
            let detail = format!(
                "{lock}: {one}, which was held until {} and lost, so that it is free {delay:?} later; and {two}",
                lost.until
            );
            findings.violation("lock delay ignored", detail);
        }
    }
}

/// What is guarded takes writes of one holder after another, and refuses nobody who holds the lock.
fn check_guarded(locks: &BTreeMap<&str, Vec<Hold<'_>>>, sightings: &[Sighting], findings: &mut Findings) {
    // Of each lock, who wrote last and under which number; and who wrote before.
    let mut last: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut gone: BTreeSet<(&str, &str)> = BTreeSet::new();
    for Sighting { at, sight, .. } in sightings {
        let Sight::Guarded {
            lock,
            lease,
            fence,
            accepted,
        } = sight
        else {
            continue;
        };
        if !accepted {
            let mut holds = locks.get(lock.as_str()).into_iter().flatten();
            let held = holds.find(|hold| hold.lease == lease && hold.from() <= *at && *at < hold.until);
            if let Some(hold) = held {
                let detail = format!("{lock} at {at}, number {fence}: {}", hold.operation.describe());
                findings.violation("holder refused", detail);
            }
            continue;
        }
        let (number, writer) = last.entry(lock).or_insert((*fence, lease));
        if *fence < *number || (*writer != lease && gone.contains(&(lock.as_str(), lease.as_str()))) {
            let detail = format!("{lock} at {at}: {lease} wrote with {fence} behind {writer} with {number}");
            findings.violation("holders interleave", detail);
        }
        if *writer != lease {
            gone.insert((lock, writer));
        }
        (*number, *writer) = (*fence, lease);
    }
}

/// In the end, when nobody holds them any more, locks can be taken.
fn check_free(last: &BTreeMap<&str, &Operation>, findings: &mut Findings) {
    for (lock, operation) in last {
        match operation.answer() {
            Some(Out::Acquired { fence: Some(_), .. }) => {}
            Some(_) => findings.violation("never free again", format!("{lock}: {}", operation.describe())),
            None => findings.undecided(format!(
                "{lock} was not tried to the end: {}",
                operation.describe()
            )),
        }
    }
}
