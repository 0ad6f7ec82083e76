//! What was done to the cluster, as it is written to `faults.jsonl` and as checkers and the report read it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;

/// A fault that was made and undone: one line of `faults.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind, as `--fault` names it: `kill`, `partition`.
    pub fault: String,
    /// What exactly, for people: `isolate the leader n2`.
    pub detail: String,
    /// When making it began.
    pub from: Micros,
    /// When undoing it was done: the processes run again, the packets pass again.
    pub until: Micros,
    /// The nodes that it touched: killed, paused, cut off, their clock or disk disturbed.
    pub nodes: Vec<String>,
    /// Of all nodes, those that may have been unable to speak with a majority at some time from `from` to `until`: what
    /// they show their clients may be old, and they answer nothing that needs a leader. All of them if nobody could.
    pub cut_off: Vec<String>,
    /// What shows that it had its effect: `n2 ended with signal 9`, `12 packets dropped`. `None`: it did not bite, and
    /// whatever the checkers find, the run says nothing about this fault.
    pub evidence: Option<String>,
}

impl Fault {
    /// When something that began at `at` and takes at most `bound` in a cluster at peace must be over: whatever was broken
    /// meanwhile, or had just been mended, starts the count again when the cluster has had `settle` to recover.
    pub fn due(faults: &[Self], at: Micros, bound: Duration, settle: Duration) -> Micros {
        let mut due = at.after(bound);
        let mut by_start: Vec<_> = faults.iter().collect();
        by_start.sort_by_key(|fault| fault.from);
        for fault in by_start {
            let recovered = fault.until.after(settle);
            if fault.from <= due && at <= recovered {
                due = due.max(recovered.after(bound));
            }
        }
        due
    }

    /// Whether it was in force at some time between two moments.
    pub fn overlaps(&self, from: Micros, until: Micros) -> bool {
        self.from <= until && from <= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Fault, Micros};

    fn fault(from: u64, until: u64) -> Fault {
        Fault {
            fault: "kill".to_owned(),
            detail: String::new(),
            from: Micros(from * 1_000_000),
            until: Micros(until * 1_000_000),
            nodes: Vec::new(),
            cut_off: Vec::new(),
            evidence: None,
        }
    }

    #[test]
    fn a_fault_starts_the_count_again() {
        let due = |faults: &[Fault], at: u64| {
            let at = Micros(at * 1_000_000);
            Fault::due(faults, at, Duration::from_secs(2), Duration::from_secs(10)).0 / 1_000_000
        };
        assert_eq!(due(&[], 5), 7);
        assert_eq!(due(&[fault(20, 30)], 5), 7, "over before it began");
        assert_eq!(due(&[fault(6, 8)], 5), 20, "hit while it ran");
        assert_eq!(due(&[fault(0, 1)], 5), 13, "not yet recovered");
        assert_eq!(due(&[fault(18, 19), fault(6, 8)], 5), 31, "hit again and again");
        assert_eq!(due(&[fault(0, 1)], 12), 14, "long recovered");
    }
}
