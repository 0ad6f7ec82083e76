//! Keys and values: rows, revisions, history, compaction, locks, transactions.

mod mvcc;
mod range;
mod txn;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::{
    mvcc::{Kv, Page},
    range::KeyRange,
    txn::{Compare, Locking, Operand, ReadKeys, Relation, Txn, TxnOp},
};
pub(crate) use self::{
    mvcc::{Stroke, Version},
    txn::Budget,
};
use crate::{
    id::{Index, LeaseId, Revision},
    tree::Stamped,
};

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvRow {
    /// The value, byte for byte.
    pub value: Bytes,
    /// The client's own number.
    pub flags: u64,
    /// The lease that the key goes with.
    pub lease: Option<LeaseId>,
    /// The lease that holds the key's lock.
    pub lock: Option<LeaseId>,
    /// How often the lock was taken.
    pub lock_index: u64,
    /// The revision that brought the key into being.
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// 1 when the key came into being, 1 more with each change: a put, or a lock that is taken or given back.
    pub version: u64,
    /// The index that brought the key into being.
    pub create_index: Index,
    /// The index of its last change.
    pub modify_index: Index,
}

impl Stamped for KvRow {
    fn index(&self) -> Index {
        self.modify_index
    }
}
