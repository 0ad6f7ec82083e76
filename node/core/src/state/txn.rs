//! Transactions on keys: what of them spans keys, leases and deadlines.

use super::State;
use crate::{
    command::{Locking, Put, Txn, TxnOp},
    deadline::DeadlineKey,
    id::LeaseId,
    kv::{Budget, Stroke},
    limits,
    outcome::{OpDone, OpUnmet, Outcome, Rejection, Unmet},
    time::WallTime,
    writer::Writer,
};

impl State {
    /// Carries a transaction out whole, or not at all.
    pub(super) fn txn(&mut self, w: &mut Writer, txn: &Txn) -> Result<Outcome, Rejection> {
        let (before, events) = (self.kv.clone(), w.events.len());
        let outcome = self.attempt(w, txn);
        if !matches!(outcome, Ok(Outcome::Txn { .. })) {
            self.kv = before;
            w.events.truncate(events);
        }
        outcome
    }

    /// What a transaction that changes nothing reads here.
    ///
    /// # Errors
    /// As applying it.
    pub fn read_txn(&self, txn: &Txn) -> Result<Outcome, Rejection> {
        if !txn.is_read_only() {
            return Err(Rejection::invalid("the transaction is not read-only"));
        }
        crate::command::Command::Txn(txn.clone()).check()?;
        let mut w = Writer::new(self.index, self.time, WallTime::default());
        // A clone shares everything, and nothing is written.
        self.clone().attempt(&mut w, txn)
    }

    /// Carries it out as far as its conditions are met; if they aren't, something may have been written.
    fn attempt(&mut self, w: &mut Writer, txn: &Txn) -> Result<Outcome, Rejection> {
        let mut budget = Budget::default();
        let mut held = true;
        for compare in &txn.when {
            held = held && self.kv.holds(compare, &mut budget)?;
        }
        let ops = if held { &txn.then } else { &txn.otherwise };
        let mut stroke = Stroke::default();
        let (mut done, mut unmet) = (Vec::new(), Vec::new());
        let before = self.kv.revision();
        for (op, place) in ops.iter().zip(0..) {
            match self.operate(w, &mut stroke, op, &mut budget)? {
                Ok(result) => done.push(result),
                Err(why) => unmet.push(OpUnmet { op: place, why }),
            }
        }
        Ok(if unmet.is_empty() {
            Outcome::Txn {
                held,
                done,
                revision: self.kv.revision(),
            }
        } else {
            Outcome::TxnUnmet {
                held,
                unmet,
                revision: before,
            }
        })
    }

    pub(super) fn operate(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        op: &TxnOp,
        budget: &mut Budget,
    ) -> Result<Result<OpDone, Unmet>, Rejection> {
        match op {
            TxnOp::Read(read) => self.kv.read(read, budget),
            TxnOp::Put(put) => {
                self.check_attaching(put)?;
                Ok(self.kv.put_within(w, stroke, put))
            }
            TxnOp::Delete(delete) => self.kv.delete_within(w, stroke, delete, budget),
            TxnOp::Lock(locking) => {
                self.check_locking(locking)?;
                if self.lock_delayed(w, locking) {
                    return Ok(Err(Unmet::LockDelay));
                }
                Ok(self.kv.lock(w, stroke, locking))
            }
            TxnOp::Unlock(locking) => Ok(self.kv.unlock(w, stroke, locking)),
            TxnOp::Check(compare) => self.kv.check(compare, budget),
        }
    }

    /// Whether a put may hang its key on the lease that it names.
    pub(super) fn check_attaching(&self, put: &Put) -> Result<(), Rejection> {
        let Some(lease) = put.lease else { return Ok(()) };
        let attached = self.kv.get(&put.key).is_some_and(|row| row.lease == put.lease);
        self.check_room_on_lease(lease, attached)
    }

    fn check_locking(&self, locking: &Locking) -> Result<(), Rejection> {
        let Locking { key, lease, .. } = locking;
        let held = self.kv.get(key).is_some_and(|row| row.lock == Some(*lease));
        self.check_room_on_lease(*lease, held)?;
        let delays = self.deadlines.lock_delays();
        if !held && self.kv.locks() + delays >= limits::LOCKS_MAX {
            return Err(Rejection::too_many("locks and lock delays", limits::LOCKS_MAX));
        }
        Ok(())
    }

    fn check_room_on_lease(&self, lease: LeaseId, has_key: bool) -> Result<(), Rejection> {
        if !self.leases.holds(lease) {
            return Err(Rejection::UnknownLease(lease));
        }
        let keys = self.kv.count_of_lease(lease) + self.kv.count_locked_by(lease);
        if !has_key && keys >= limits::LEASE_KEYS_MAX {
            return Err(Rejection::too_many("keys of one lease", limits::LEASE_KEYS_MAX));
        }
        Ok(())
    }

    fn lock_delayed(&self, w: &Writer, locking: &Locking) -> bool {
        let until = self.deadlines.get(&DeadlineKey::LockDelay(locking.key.clone()));
        until.is_some_and(|until| until > w.time)
    }
}
