//! Transactions on lists must be strictly serializable: as if they had been carried out one after another, in an order that
//! the clock allows.
//!
//! Nothing of the cluster's own order is believed. The lists tell everything ([`versions`]): as no number is appended twice,
//! the longest list of a key is the order of its appends, and each shorter one that somebody read must be its beginning.
//! From that follows who came before whom, and why: one list was made from the other (`ww`), somebody read what
//! another wrote (`wr`), somebody did not yet see what another was to write (`rw`), or one was over before the other began
//! (real time). Where these go in a circle, no order explains what was seen ([`circles`]).

mod circles;
mod versions;

use super::Findings;
use crate::history::{History, Operation, Out, Transaction};

/// Checks all transactions.
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let done: Vec<Done<'_>> = history.operations.iter().filter_map(Done::of).collect();
    let versions = versions::Versions::of(&done, &mut findings);
    circles::check(&done, &versions, &mut findings);
    findings
}

/// A transaction that was tried.
struct Done<'a> {
    operation: &'a Operation,
    transaction: &'a Transaction,
    /// What its reading steps read; `None`: it was not answered.
    lists: Option<&'a [Vec<u64>]>,
}

impl<'a> Done<'a> {
    fn of(operation: &'a Operation) -> Option<Self> {
        let crate::history::Call::Transact(transaction) = &operation.call else {
            return None;
        };
        let lists = match operation.answer() {
            Some(Out::Transacted { lists, .. }) => Some(lists.as_slice()),
            _ => None,
        };
        Some(Self {
            operation,
            transaction,
            lists,
        })
    }

    /// What it read, by key.
    fn reads(&self) -> impl Iterator<Item = (&'a str, &'a [u64])> {
        let lists = self.lists.unwrap_or_default().iter().map(Vec::as_slice);
        self.transaction.reads().zip(lists)
    }
}
