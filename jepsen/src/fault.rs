//! What was done to the cluster, as it is written to `faults.jsonl` and as checkers and the report read it.

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
    /// Whether it was in force at some time between two moments.
    pub fn overlaps(&self, from: Micros, until: Micros) -> bool {
        self.from <= until && from <= self.until
    }
}
