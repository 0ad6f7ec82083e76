//! Checks the checkers: errors are planted in good histories, and every one must be found.
//!
//! The histories come from a simulation of clients at a perfect registry ([`good`]), so they overlap, fail and lose
//! answers as real ones do. An error is planted only where it is certain to be one. A checker that misses an error, or
//! that finds one where none is, fails the self-test.

mod append;
mod backup;
mod good;
mod lease;
mod lock;
mod plant_cluster;
mod plant_keys;
mod plant_watch;
mod script;
mod simulate;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    checker::{self, Around, Findings, ledger::Ledger},
    clock::Micros,
    fault::Fault,
    history::{History, Workload},
};

/// Each error is planted in so many histories.
const SEEDS: u64 = 20;
/// Seeds that may offer no place for an error, at most.
const TRIES_MAX: u64 = 400;

/// Plants an error, if there is a place for it.
type Plant = fn(&mut History, &mut StdRng) -> Option<()>;

/// A checker and the errors that it must find.
struct Subject {
    name: &'static str,
    good: fn(u64) -> History,
    check: fn(&History) -> Findings,
    errors: &'static [(&'static str, Plant)],
}

/// What became of one error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The checker.
    pub checker: &'static str,
    /// The error; `None`: none was planted.
    pub error: Option<&'static str>,
    /// In how many histories it was planted.
    pub planted: u64,
    /// In how many of them something was found.
    pub found: u64,
    /// The rules that it was found by.
    pub rules: BTreeSet<&'static str>,
}

impl Trial {
    /// Whether the checker did what it must.
    pub fn passed(&self) -> bool {
        match self.error {
            Some(_) => self.planted == SEEDS && self.found == self.planted,
            None => self.found == 0,
        }
    }
}

/// Tries every checker on every error.
pub fn run(seed: u64) -> Vec<Trial> {
    SUBJECTS.iter().flat_map(|subject| subject.trials(seed)).collect()
}

/// The trials as a table.
pub fn table(trials: &[Trial]) -> String {
    let mut table = format!(
        "{:<12} {:<28} {:>7} {:>5}  rules\n",
        "checker", "planted error", "planted", "found"
    );
    for trial in trials {
        let rules: Vec<_> = trial.rules.iter().copied().collect();
        let verdict = if trial.passed() { "" } else { "  FAIL" };
        let _ = writeln!(
            table,
            "{:<12} {:<28} {:>7} {:>5}  {}{verdict}",
            trial.checker,
            trial.error.unwrap_or("(none)"),
            trial.planted,
            trial.found,
            rules.join(", ")
        );
    }
    table
}

impl Subject {
    fn trials(&self, seed: u64) -> Vec<Trial> {
        let mut trials = vec![self.trial(seed, None)];
        let errors = self.errors.iter();
        trials.extend(errors.map(|error| self.trial(seed, Some(*error))));
        trials
    }

    fn trial(&self, seed: u64, error: Option<(&'static str, Plant)>) -> Trial {
        let mut trial = Trial {
            checker: self.name,
            error: error.map(|(name, _)| name),
            planted: 0,
            found: 0,
            rules: BTreeSet::new(),
        };
        for seed in seed..seed + TRIES_MAX {
            if trial.planted == SEEDS {
                break;
            }
            let mut history = (self.good)(seed);
            if let Some((_, plant)) = error
                && plant(&mut history, &mut StdRng::seed_from_u64(seed)).is_none()
            {
                continue;
            }
            trial.planted += 1;
            let findings = (self.check)(&history);
            trial.found += u64::from(!findings.is_clean());
            trial
                .rules
                .extend(findings.violations.iter().map(|violation| violation.rule));
            trial
                .rules
                .extend((!findings.undecided.is_empty()).then_some("undecided"));
        }
        trial
    }
}

const SUBJECTS: &[Subject] = &[
    Subject {
        name: "order",
        good: good::register,
        check: by_order,
        errors: &[
            ("stale read", plant_keys::stale_read),
            ("read of the future", plant_keys::read_of_the_future),
            ("phantom value", plant_keys::phantom_value),
            ("effect of a failed write", plant_keys::effect_of_a_failed_write),
            ("dropped write", plant_keys::dropped_write),
            ("write applied twice", plant_keys::write_applied_twice),
            ("swapped reads", plant_keys::swapped_reads),
            ("indexes swapped", plant_keys::indexes_swapped),
            ("index given twice", plant_keys::index_given_twice),
            ("read index falls", plant_keys::read_index_falls),
        ],
    },
    Subject {
        name: "order",
        good: good::register_stated,
        check: by_order,
        errors: &[
            ("lost update", plant_keys::lost_update),
            ("refused update", plant_keys::refused_update),
            ("wrong count of a deletion", plant_keys::wrong_count_of_a_deletion),
        ],
    },
    Subject {
        name: "black box",
        good: good::register,
        check: black_box,
        errors: &[
            ("stale read", plant_keys::stale_read),
            ("read of the future", plant_keys::read_of_the_future),
            ("phantom value", plant_keys::phantom_value),
            ("effect of a failed write", plant_keys::effect_of_a_failed_write),
            ("dropped write", plant_keys::dropped_write),
            ("write applied twice", plant_keys::write_applied_twice),
            ("swapped reads", plant_keys::swapped_reads),
            ("lost update", plant_keys::lost_update),
        ],
    },
    Subject {
        name: "set",
        good: good::set,
        check: checker::set::check,
        errors: &[
            ("lost everywhere", plant_keys::lost_everywhere),
            ("lost on one node", plant_keys::lost_on_one_node),
            ("phantom member", plant_keys::phantom_member),
            ("failed addition seen", plant_keys::failed_addition_seen),
            ("missing for a moment", plant_keys::missing_for_a_moment),
            ("seen and gone", plant_keys::seen_and_gone),
            ("listed twice", plant_keys::listed_twice),
            ("member of the future", plant_keys::member_of_the_future),
        ],
    },
    Subject {
        name: "watch",
        good: good::watch,
        check: watch,
        errors: &[
            ("event dropped", plant_watch::event_dropped),
            ("event told twice", plant_watch::event_told_twice),
            ("batch told twice", plant_watch::batch_told_twice),
            ("batch skipped", plant_watch::batch_skipped),
            ("events swapped", plant_watch::events_swapped),
            ("deletion half told", plant_watch::deletion_half_told),
            ("value of before", plant_watch::value_of_before),
            ("row before missing", plant_watch::row_before_missing),
            ("phantom deletion", plant_watch::phantom_deletion),
            ("progress too far", plant_watch::progress_too_far),
            ("watch stops", plant_watch::watch_stops),
        ],
    },
    Subject {
        name: "blocking",
        good: good::watch,
        check: watch,
        errors: &[
            ("index falls", plant_watch::index_falls),
            ("woken for nothing", plant_watch::woken_for_nothing),
            ("index behind its rows", plant_watch::index_behind_its_rows),
            ("woken late", plant_watch::woken_late),
            ("deletion does not wake", plant_watch::deletion_does_not_wake),
        ],
    },
    Subject {
        name: "catalog",
        good: good::catalog,
        check: catalog,
        errors: &[
            ("dead stays", plant_cluster::dead_stays),
            ("living leaves", plant_cluster::living_leaves),
            ("living leaves one node", plant_cluster::living_leaves_one_node),
            ("living never comes", plant_cluster::living_never_comes),
            ("never comes back", plant_cluster::revived_never_comes_back),
            ("leaves too early", plant_cluster::leaves_too_early),
            ("deregistered and shown", plant_cluster::deregistered_and_shown),
            ("ghost", plant_cluster::ghost),
        ],
    },
    // The cluster is never at peace, so nothing is ever due to come or to go; but the living still must not leave.
    Subject {
        name: "catalog",
        good: good::catalog,
        check: catalog_under_faults,
        errors: &[
            ("living leaves", plant_cluster::living_leaves),
            ("leaves too early", plant_cluster::leaves_too_early),
            ("deregistered and shown", plant_cluster::deregistered_and_shown),
        ],
    },
    Subject {
        name: "append",
        good: append::good,
        check: checker::append::check,
        errors: &[
            ("lost append", append::lost_append),
            ("stale read", append::stale_read),
            ("aborted read (G1a)", append::aborted_read),
            ("part of an append (G1b)", append::part_of_an_append),
            ("writes in two orders (G0)", append::writes_in_two_orders),
            ("circular reads (G1c)", append::circular_reads),
            ("half seen (G-single)", append::half_seen),
            ("write skew (G2)", append::write_skew),
            ("phantom", append::phantom),
            ("appended twice", append::appended_twice),
            ("another order", append::another_order),
            ("own append unseen", append::own_append_unseen),
        ],
    },
    Subject {
        name: "lock",
        good: lock::good,
        check: checker::lock::check,
        errors: &[
            ("two holders", lock::two_holders),
            ("fence given twice", lock::fence_given_twice),
            ("fence falls", lock::fence_falls),
            ("taken though held", lock::taken_though_held),
            ("lock delay ignored", lock::lock_delay_ignored),
            ("holder refused", lock::holder_refused),
            ("late writer accepted", lock::late_writer_accepted),
            ("never free again", lock::never_free_again),
        ],
    },
    Subject {
        name: "lease",
        good: lease::good,
        check: lease_at_peace,
        errors: &[
            ("gone early", lease::gone_early),
            ("stays", lease::stays),
            ("renewed when gone", lease::renewed_when_gone),
            ("comes back", lease::comes_back),
            ("keys go before the lease", lease::keys_go_before),
            ("a key stays", lease::a_key_stays),
            ("ends in two revisions", lease::two_revisions),
            ("lives on after its end", lease::lives_on),
        ],
    },
    Subject {
        name: "backup",
        good: backup::good,
        check: checker::backup::check,
        errors: &[
            ("row lost", backup::row_lost),
            ("row of later", backup::row_of_later),
            ("deleted row kept", backup::deleted_row_kept),
            ("snapshot too old", backup::too_old),
            ("snapshot of the future", backup::of_the_future),
            ("index falls", backup::index_falls),
            ("revision falls", backup::revision_falls),
            ("number given again", backup::number_given_again),
            ("watch goes on", backup::watch_goes_on),
            ("not restored", backup::not_restored),
        ],
    },
    Subject {
        name: "cluster",
        good: good::cluster,
        check: cluster,
        errors: &[
            ("term falls", plant_cluster::term_falls),
            ("index falls", plant_cluster::index_falls),
            ("nodes differ", plant_cluster::nodes_differ),
            ("node without content", plant_cluster::node_without_content),
            ("nobody leads", plant_cluster::nobody_leads),
            ("nobody writes", plant_cluster::nobody_writes),
        ],
    },
];

fn by_order(history: &History) -> Findings {
    let mut findings = Findings::default();
    let ledger = Ledger::of(history, &mut findings);
    checker::order::check(history, &ledger, &mut findings);
    findings
}

fn black_box(history: &History) -> Findings {
    checker::register::black_box(history, checker::register::LIMIT)
}

fn watch(history: &History) -> Findings {
    checker::watch::check_all(history, Around::faults(&[]))
}

fn catalog(history: &History) -> Findings {
    checker::catalog::check(history, Around::faults(&[]))
}

fn catalog_under_faults(history: &History) -> Findings {
    let faults: Vec<Fault> = (2..70).step_by(4).map(|from| fault(from, from + 3)).collect();
    checker::catalog::check(history, Around::faults(&faults))
}

fn lease_at_peace(history: &History) -> Findings {
    checker::lease::check(history, Around::faults(&[]))
}

fn cluster(history: &History) -> Findings {
    let all = BTreeMap::from([(Workload::Cluster, history.clone())]);
    checker::cluster::check(history, &all, Around::faults(&[fault(20, 29)]))
}

/// A fault between two seconds of a run.
fn fault(from: u64, until: u64) -> Fault {
    Fault {
        fault: "kill".to_owned(),
        detail: "a fault, so that there is something to heal".to_owned(),
        from: Micros(from * 1_000_000),
        until: Micros(until * 1_000_000),
        nodes: vec!["n2".to_owned()],
        cut_off: vec!["n2".to_owned()],
        evidence: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Trial, run, table};

    #[test]
    fn every_planted_error_is_found_and_no_other() {
        let trials = run(1);
        assert!(trials.iter().all(Trial::passed), "\n{}", table(&trials));
    }
}
