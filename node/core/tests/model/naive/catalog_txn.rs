//! Transactions over the catalog: on everything, with a copy from before that comes back if anything is in the way.

use std::sync::Arc;

use spine_core::{
    CatalogDone, CatalogKey, CatalogOp, CatalogOpUnmet, CatalogTxn, CatalogUnmet, Guard, Index, LeaseId,
    Outcome, Rejection, Revision,
};

use super::{Model, Told, catalog::Place, keys::Draft, txn::has_no_key};

impl Model {
    pub(super) fn catalog_txn(&mut self, txn: &CatalogTxn) -> Told {
        if !txn.ops.iter().all(is_valid) {
            return Err("invalid");
        }
        if self.rules() < 2 {
            return Err("rules_too_low");
        }
        let before = self.clone();
        let mut draft = self.keys.draft(Index(self.index));
        let (mut done, mut unmet) = (Vec::new(), Vec::new());
        for (op, place) in txn.ops.iter().zip(0..) {
            match self.catalog_op(&mut draft, op) {
                Ok(one) => done.push(one),
                Err(why) => unmet.push(CatalogOpUnmet { op: place, why }),
            }
        }
        if unmet.is_empty() {
            self.keys.take(draft);
            let revision = Revision(self.keys.revision());
            return Ok(Outcome::CatalogTxn { done, revision });
        }
        *self = before;
        Ok(Outcome::CatalogTxnUnmet { unmet })
    }

    fn catalog_op(&mut self, draft: &mut Draft, op: &CatalogOp) -> Result<CatalogDone, CatalogUnmet> {
        match op {
            CatalogOp::Keys(op) => {
                let done = self.op(draft, op).map_err(refused)?;
                done.map(CatalogDone::Keys).map_err(CatalogUnmet::Keys)
            }
            CatalogOp::Read(key) => self.row(key).ok_or(CatalogUnmet::Absent),
            CatalogOp::Set(row, guard) => {
                let key = row.key();
                self.hold(&key, *guard)?;
                self.register(&row.registration()).map_err(refused)?;
                Ok(self.row(&key).expect("it was registered"))
            }
            CatalogOp::Remove(key, guard) => {
                self.hold(key, *guard)?;
                let found = match key {
                    CatalogKey::Node(node) => self.remove_node(node),
                    CatalogKey::Instance(_) => self.remove_instance(&place(key)),
                    CatalogKey::Check(_) => self.remove_check(&place(key)),
                };
                Ok(CatalogDone::Removed { found })
            }
            CatalogOp::EndLease(id) => Ok(self.end_lease(draft, *id)),
        }
    }

    fn end_lease(&mut self, draft: &mut Draft, id: LeaseId) -> CatalogDone {
        let found = self.revoke_in(draft, id).is_ok();
        CatalogDone::LeaseEnded { found }
    }

    fn row(&self, key: &CatalogKey) -> Option<CatalogDone> {
        Some(match key {
            CatalogKey::Node(name) => CatalogDone::Node(Arc::new(self.nodes.get(name)?.wire(name))),
            CatalogKey::Instance(_) => CatalogDone::Instance(self.instance(&place(key))?),
            CatalogKey::Check(id) => {
                let check = self.checks.get(&place(key))?.wire(&id.node);
                let judged = check.definition.service.as_ref();
                let judged = judged.map(|service| (id.node.to_string(), service.to_string()));
                CatalogDone::Check(Arc::new(check), judged.and_then(|judged| self.instance(&judged)))
            }
        })
    }

    fn instance(&self, place: &Place) -> Option<Arc<spine_core::Instance>> {
        Some(Arc::new(self.instances.get(place)?.wire(&place.0)))
    }

    /// Whether a guard of a row holds.
    fn hold(&self, key: &CatalogKey, guard: Guard) -> Result<(), CatalogUnmet> {
        match (guard, self.modified(key)) {
            (Guard::Always, _) | (Guard::Absent, None) => Ok(()),
            (Guard::ModifyIndex(asked), Some(index)) if asked == index => Ok(()),
            (_, None) => Err(CatalogUnmet::Absent),
            (_, Some(index)) => Err(CatalogUnmet::Changed(index)),
        }
    }

    /// When a row last changed.
    pub(crate) fn modified(&self, key: &CatalogKey) -> Option<Index> {
        match key {
            CatalogKey::Node(name) => self.nodes.get(name).map(|row| row.modified),
            CatalogKey::Instance(_) => self.instances.get(&place(key)).map(|row| row.modified),
            CatalogKey::Check(_) => self.checks.get(&place(key)).map(|row| row.modified),
        }
    }
}

fn is_valid(op: &CatalogOp) -> bool {
    let has_revision = |guard: &Guard| matches!(guard, Guard::ModRevision(_));
    match op {
        CatalogOp::Keys(op) => !has_no_key(op),
        CatalogOp::Read(_) | CatalogOp::EndLease(_) => true,
        CatalogOp::Set(row, guard) => {
            !has_revision(guard) && super::catalog::lengths_are(&row.registration())
        }
        CatalogOp::Remove(_, guard) => !has_revision(guard),
    }
}

/// The model knows of a refusal its code alone.
pub(crate) fn refused(code: &'static str) -> CatalogUnmet {
    CatalogUnmet::Refused(Box::new(Rejection::Invalid(code.into())))
}

fn place(key: &CatalogKey) -> Place {
    match key {
        CatalogKey::Node(name) => (name.to_string(), String::new()),
        CatalogKey::Instance(key) => (key.node.to_string(), key.id.to_string()),
        CatalogKey::Check(key) => (key.node.to_string(), key.id.to_string()),
    }
}
