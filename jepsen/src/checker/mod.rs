//! What must hold, checked against what was seen.
//!
//! Two kinds of checker look at keys. [`order`] believes the indexes that the answers state, replays all changes in that
//! order ([`ledger`]) and holds every answer against the replay: it is fast, takes the whole run at once and says exactly
//! who is to blame, but a cluster that lies consistently would pass. [`linearizable`] believes nothing and searches for
//! any order that explains the answers, key by key. A run must satisfy both.
//!
//! The others: [`set`] (nothing added is lost), [`watch`] (every change told, once, in order), [`blocking`] (who waits is
//! woken, and only then), [`catalog`] (the dead leave in time, the living never do), [`append`] (transactions are strictly
//! serializable), [`lock`] (one holder, and numbers that rise), [`lease`] (not early, not late, and all at once), [`backup`] (what is restored
//! is what there was), [`cluster`]
//! (terms and indexes never fall, all heals).

pub mod append;
pub mod backup;
pub mod blocking;
pub mod catalog;
pub mod cluster;
pub mod graph;
pub mod lease;
pub mod ledger;
pub mod linearizable;
pub mod lock;
pub mod model;
pub mod order;
pub mod register;
pub mod set;
pub mod watch;

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    clock::Micros,
    fault::Fault,
    history::{History, Workload},
};

/// Violations of one rule are kept up to this many; a broken cluster breaks the same promise thousands of times.
const VIOLATIONS_KEPT: usize = 10;

/// A promise broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one: a word, the same for all of its kind.
    pub rule: &'static str,
    /// By what.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What a checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Promises broken: the first ones of each kind.
    pub violations: Vec<Violation>,
    /// How many there were.
    pub count: usize,
    /// What could not be found out, and why.
    pub undecided: Vec<String>,
}

impl Findings {
    pub(crate) fn violation(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.count += 1;
        let detail = detail.into();
        self.keep(Violation { rule, detail });
    }

    pub(crate) fn undecided(&mut self, detail: impl Into<String>) {
        self.undecided.push(detail.into());
    }

    /// These and those.
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        for violation in other.violations {
            self.keep(violation);
        }
        self.undecided.extend(other.undecided);
    }

    fn keep(&mut self, violation: Violation) {
        let same = self
            .violations
            .iter()
            .filter(|known| known.rule == violation.rule);
        if same.count() < VIOLATIONS_KEPT {
            self.violations.push(violation);
        }
    }

    /// Whether every promise was kept, certainly.
    pub fn is_clean(&self) -> bool {
        self.count == 0 && self.undecided.is_empty()
    }
}

/// What was going on around the clients while they saw what they saw.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// What was broken, and when.
    pub faults: &'a [Fault],
    /// Bounds of time are this many times as long: 1, or 2 on a machine that was starved. Nothing else is judged by it.
    pub stretch: u32,
}

impl<'a> Around<'a> {
    /// These faults, on a machine with time to spare.
    pub fn faults(faults: &'a [Fault]) -> Self {
        Self { faults, stretch: 1 }
    }

    /// When something that began at `at` must be over, as [`Fault::due`] says.
    fn due(&self, at: Micros, bound: Duration, settle: Duration) -> Micros {
        Fault::due(self.faults, at, bound * self.stretch, settle * self.stretch)
    }
}

/// Checks everything in a history. Each workload that is in it has an entry.
pub fn check(histories: &BTreeMap<Workload, History>, around: Around<'_>) -> BTreeMap<Workload, Findings> {
    let check = |(workload, history): (&Workload, &History)| {
        let findings = match workload {
            Workload::Register => register::check(history),
            Workload::Set => set::check(history),
            Workload::Watch => watch::check_all(history, around),
            Workload::Catalog => catalog::check(history, around),
            Workload::Append => append::check(history),
            Workload::Lock => lock::check(history),
            Workload::Lease => lease::check(history, around),
            Workload::Backup => backup::check(history),
            Workload::Cluster => cluster::check(history, histories, around),
        };
        (*workload, findings)
    };
    histories.iter().map(check).collect()
}
