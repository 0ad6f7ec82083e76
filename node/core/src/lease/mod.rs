//! Leases: a deadline and what hangs on it. An etcd lease and a Consul session are two faces of one.

use serde::{Deserialize, Serialize};

use crate::{
    id::{Index, LeaseId},
    table::Table,
    time::Ttl,
    tree::Stamped,
};

/// A lease's row. Its deadline is in [`crate::deadline`], its keys are those that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Ends this long after its last renewal.
    pub ttl: Ttl,
    /// The index that made it.
    pub create_index: Index,
}

impl Stamped for Lease {
    fn index(&self) -> Index {
        self.create_index
    }
}

/// All leases.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    pub(crate) rows: Table<LeaseId, Lease>,
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
}
