//! Leases: a deadline and what hangs on it. An etcd lease and a Consul session are two faces of one.

mod terms;

use std::{ops::Bound, sync::Arc};

use serde::{Deserialize, Serialize};

pub(crate) use self::terms::Terms;
pub use self::terms::{LeaseEnd, LeaseOpen, LeaseTerms};
use crate::{
    id::{CheckId, CheckKey, Index, LeaseId, NodeName},
    table::Table,
    time::Ttl,
    tree::{Stamped, Tree},
};

/// A lease's row. Its deadline is in [`crate::deadline`], its keys are those that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Ends this long after its last renewal. 0: it has no time to live and ends with what it hangs on.
    pub ttl: Ttl,
    /// The index that made it.
    pub create_index: Index,
}

impl Lease {
    /// Ends this long after its last renewal; `None`: it ends with what it hangs on.
    pub fn lives(&self) -> Option<Ttl> {
        (self.ttl > Ttl(0)).then_some(self.ttl)
    }
}

impl Stamped for Lease {
    fn index(&self) -> Index {
        self.create_index
    }
}

/// All leases. `by_node` and `by_check` are derived from the terms.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    pub(crate) rows: Table<LeaseId, Lease>,
    /// Of those leases that were made with any.
    pub(crate) terms: Table<LeaseId, Arc<Terms>>,
    by_node: Tree<(NodeName, LeaseId), ()>,
    by_check: Tree<(CheckKey, LeaseId), ()>,
}

impl Leases {
    /// A lease.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.rows.get(&id)
    }

    /// Every lease, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.rows.iter().map(|(id, lease)| (*id, lease))
    }

    /// The ids of the leases behind this one, or of all.
    pub fn behind(&self, after: Option<LeaseId>) -> impl Iterator<Item = LeaseId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range((start, Bound::Unbounded)).map(|(id, _)| *id)
    }

    /// The terms that a lease was made with; `None`: it has a time to live and nothing else.
    pub fn terms(&self, id: LeaseId) -> Option<&LeaseTerms> {
        self.terms.get(&id).map(|row| &row.terms)
    }

    /// The leases that hang on a node, by id.
    pub fn on_node(&self, node: &NodeName) -> impl Iterator<Item = LeaseId> {
        let node = node.clone();
        self.by_node
            .range((node.clone(), LeaseId(0))..)
            .take_while(move |((of, _), ())| *of == node)
            .map(|((_, id), ())| *id)
    }

    /// The leases that hang on a check, by id.
    pub fn on_check(&self, check: &CheckKey) -> impl Iterator<Item = LeaseId> {
        let check = check.clone();
        self.by_check
            .range((check.clone(), LeaseId(0))..)
            .take_while(move |((of, _), ())| *of == check)
            .map(|((_, id), ())| *id)
    }

    /// How many leases hang on a node.
    pub(crate) fn count_on_node(&self, node: &NodeName) -> usize {
        self.by_node
            .count((node.clone(), LeaseId(0))..=(node.clone(), LeaseId(u128::MAX)))
    }

    /// Whether something may still be done with a lease: it is there, and not about to end.
    pub(crate) fn holds(&self, id: LeaseId) -> bool {
        self.rows.contains(&id) && !self.is_doomed(id)
    }

    pub(crate) fn is_doomed(&self, id: LeaseId) -> bool {
        self.terms.get(&id).is_some_and(|row| row.doomed)
    }

    /// What a lease hangs on is gone: the next pulse ends it. False if that was so already.
    pub(crate) fn doom(&mut self, id: LeaseId) -> bool {
        let Some(row) = self.terms.get(&id).filter(|row| !row.doomed) else {
            return false;
        };
        let terms = row.terms.clone();
        self.terms.put(id, Arc::new(Terms { terms, doomed: true }));
        true
    }

    pub(crate) fn load_terms(&mut self, id: LeaseId, terms: Arc<Terms>) {
        if let Some(node) = &terms.terms.node {
            self.by_node.insert((node.clone(), id), ());
        }
        for check in terms.terms.checks() {
            self.by_check.insert((check, id), ());
        }
        self.terms.put(id, terms);
    }

    /// Removes a lease; gives the terms that it had, those of a plain one being none. `None`: it is not there.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<LeaseTerms> {
        self.rows.remove(&id)?;
        let Some(row) = self.terms.remove(&id) else {
            return Some(LeaseTerms::default());
        };
        if let Some(node) = &row.terms.node {
            self.by_node.remove(&(node.clone(), id));
        }
        for check in row.terms.checks() {
            self.by_check.remove(&(check, id));
        }
        Some(row.terms.clone())
    }

    pub(crate) fn digest(&self) -> u128 {
        // A state in which no lease has terms has the digest that it had before there was such a table.
        self.rows.digest().wrapping_add(self.terms.digest())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes() + self.terms.bytes()
    }
}

impl LeaseTerms {
    /// The checks whose failing ends it.
    pub fn checks(&self) -> impl Iterator<Item = CheckKey> {
        let key = |id: &CheckId| {
            let node = self.node.clone()?;
            Some(CheckKey { node, id: id.clone() })
        };
        self.node_checks
            .iter()
            .chain(&self.service_checks)
            .filter_map(key)
    }
}
