//! Transactions over the catalog: the tables are changed as by the commands of each, and put back whole if anything is
//! unmet or refused.

use super::State;
use crate::{
    codec,
    command::{CatalogKey, CatalogOp, CatalogRow, CatalogTxn, Command, Guard},
    id::LeaseId,
    kv::{Budget, Stroke},
    limits,
    outcome::{CatalogDone, CatalogOpUnmet, CatalogUnmet, Outcome, Rejection},
    time::WallTime,
    writer::Writer,
};

/// What an operation did, or what is in its way.
type Step = Result<CatalogDone, CatalogUnmet>;

impl State {
    /// Carries a transaction out whole, or not at all.
    pub(super) fn catalog_txn(&mut self, w: &mut Writer, txn: &CatalogTxn) -> Outcome {
        let (before, events) = (self.clone(), w.events.len());
        let outcome = self.attempt_catalog_txn(w, txn);
        if matches!(outcome, Outcome::CatalogTxnUnmet { .. }) {
            *self = before;
            w.events.truncate(events);
        }
        outcome
    }

    /// What a transaction over the catalog that changes nothing reads here.
    ///
    /// # Errors
    /// As applying it.
    pub fn read_catalog_txn(&self, txn: &CatalogTxn) -> Result<Outcome, Rejection> {
        if !txn.is_read_only() {
            return Err(Rejection::invalid("the transaction is not read-only"));
        }
        Command::CatalogTxn(txn.clone()).check()?;
        let mut w = Writer::new(self.index, self.time, WallTime::default());
        // A clone shares everything, and nothing is written.
        Ok(self.clone().attempt_catalog_txn(&mut w, txn))
    }

    /// Carries it out as far as it goes; if something is in the way, the rest is tried all the same, to tell all of it.
    fn attempt_catalog_txn(&mut self, w: &mut Writer, txn: &CatalogTxn) -> Outcome {
        let (mut budget, mut stroke) = (Budget::default(), Stroke::default());
        let (mut done, mut unmet) = (Vec::new(), Vec::new());
        for (op, place) in txn.ops.iter().zip(0..) {
            let step = self.catalog_op(w, &mut stroke, op, &mut budget);
            match step.unwrap_or_else(|rejection| Err(CatalogUnmet::Refused(Box::new(rejection)))) {
                Ok(result) => done.push(result),
                Err(why) => unmet.push(CatalogOpUnmet { op: place, why }),
            }
        }
        if unmet.is_empty() {
            let revision = self.kv.revision();
            Outcome::CatalogTxn { done, revision }
        } else {
            Outcome::CatalogTxnUnmet { unmet }
        }
    }

    fn catalog_op(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        op: &CatalogOp,
        budget: &mut Budget,
    ) -> Result<Step, Rejection> {
        match op {
            CatalogOp::Keys(op) => {
                let step = self.operate(w, stroke, op, budget)?;
                Ok(step.map(CatalogDone::Keys).map_err(CatalogUnmet::Keys))
            }
            CatalogOp::Read(key) => {
                budget.rows(1)?;
                let Some(found) = self.catalog_row(key) else {
                    return Ok(Err(CatalogUnmet::Absent));
                };
                budget.answer(codec::encoded_len(&found))?;
                Ok(Ok(found))
            }
            CatalogOp::Set(row, guard) => {
                budget.rows(1)?;
                self.set_row(w, row, *guard)
            }
            CatalogOp::Remove(key, guard) => self.remove_row(w, key, *guard, budget),
            CatalogOp::EndLease(id) => self.end_lease_within(w, stroke, *id, budget),
        }
    }

    fn set_row(&mut self, w: &mut Writer, row: &CatalogRow, guard: Guard) -> Result<Step, Rejection> {
        let key = row.key();
        if let Some(unmet) = self.row_unmet(&key, guard) {
            return Ok(Err(unmet));
        }
        self.register(w, &row.registration())?;
        let set = self.catalog_row(&key).expect("it was just registered");
        Ok(Ok(set))
    }

    /// Removes a row. With a guard it must be there.
    fn remove_row(
        &mut self,
        w: &mut Writer,
        key: &CatalogKey,
        guard: Guard,
        budget: &mut Budget,
    ) -> Result<Step, Rejection> {
        if let Some(unmet) = self.row_unmet(key, guard) {
            return Ok(Err(unmet));
        }
        budget.rows(self.rows_with(key))?;
        let found = match key {
            CatalogKey::Node(node) => self.remove_node(w, node),
            CatalogKey::Instance(key) => self.remove_instance(w, key),
            CatalogKey::Check(key) => self.remove_check(w, key),
        };
        Ok(Ok(CatalogDone::Removed { found }))
    }

    fn end_lease_within(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        id: LeaseId,
        budget: &mut Budget,
    ) -> Result<Step, Rejection> {
        budget.rows(1 + self.kv.count_of_lease(id) + self.kv.count_locked_by(id))?;
        let found = self.leases.get(id).is_some();
        if found {
            self.revoke_lease(w, stroke, id)?;
        }
        Ok(Ok(CatalogDone::LeaseEnded { found }))
    }

    /// A row, as an operation answers with it.
    fn catalog_row(&self, key: &CatalogKey) -> Option<CatalogDone> {
        Some(match key {
            CatalogKey::Node(node) => CatalogDone::Node(self.catalog.node(node)?.clone()),
            CatalogKey::Instance(key) => CatalogDone::Instance(self.catalog.instance(key)?.clone()),
            CatalogKey::Check(key) => {
                let check = self.health.check(key)?.clone();
                let judged = check.judged();
                let instance = judged.and_then(|key| self.catalog.instance(&key).cloned());
                CatalogDone::Check(check, instance)
            }
        })
    }

    /// What keeps a guard from holding.
    fn row_unmet(&self, key: &CatalogKey, guard: Guard) -> Option<CatalogUnmet> {
        let modified = match key {
            CatalogKey::Node(node) => self.catalog.node(node).map(|row| row.modify_index),
            CatalogKey::Instance(key) => self.catalog.instance(key).map(|row| row.modify_index),
            CatalogKey::Check(key) => self.health.check(key).map(|row| row.modify_index),
        };
        match (guard, modified) {
            (Guard::Always, _) | (Guard::Absent, None) => None,
            (Guard::ModifyIndex(asked), Some(index)) if asked == index => None,
            (Guard::ModifyIndex(_) | Guard::ModRevision(_), None) => Some(CatalogUnmet::Absent),
            (Guard::Absent | Guard::ModifyIndex(_) | Guard::ModRevision(_), Some(index)) => {
                Some(CatalogUnmet::Changed(index))
            }
        }
    }

    /// How many rows go with one; of more than a transaction may remove, not all are counted.
    fn rows_with(&self, key: &CatalogKey) -> usize {
        let enough = limits::TXN_ROWS_MAX + 1;
        1 + match key {
            CatalogKey::Node(node) => {
                self.catalog.on_node(node).take(enough).count()
                    + self.health.on_node(node).take(enough).count()
            }
            CatalogKey::Instance(key) => self.health.of(&key.node, Some(&key.id)).take(enough).count(),
            CatalogKey::Check(_) => 0,
        }
    }
}
