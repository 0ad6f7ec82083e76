//! Transactions: conditions and operations on keys that hold and happen together, in one request and one revision.
//!
//! A transaction has two lists of operations; its conditions choose one of them. The operations are carried out in order, each
//! seeing what those before it did. An operation may have a condition of its own: if that is unmet, nothing of the
//! transaction happens, and all that are unmet are told. So etcd's transactions are conditions and plain operations, and
//! Consul's are operations with conditions.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Kv, KvRow, Stroke, mvcc::Fresh};
use crate::{
    command::{Delete, Put, Repeat},
    id::{Index, Key, LeaseId, Revision},
    kv::KeyRange,
    limits,
    outcome::{OpDone, Rejection, Unmet},
    writer::Writer,
};

/// Several conditions and operations on keys as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Txn {
    /// If all of these hold, `then` is carried out, else `otherwise`. None: `then`.
    pub when: Vec<Compare>,
    /// What to do if they hold.
    pub then: Vec<TxnOp>,
    /// What to do if one doesn't.
    pub otherwise: Vec<TxnOp>,
}

/// A condition on keys: each key of the interval must meet it. An interval without keys is taken for one key that is
/// not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How what the key has stands to the operand.
    pub relation: Relation,
    /// What is compared, and with what.
    pub operand: Operand,
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// The key's is the same.
    Equal,
    /// The key's is another.
    NotEqual,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
}

/// What of a key is compared, and with what. A key that is not there has 0, or no lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// The value, in byte order. For a key that is not there it never holds, whatever the relation.
    Value(Bytes),
    /// How many puts since the key came into being.
    Version(u64),
    /// The revision that brought it into being.
    CreateRevision(Revision),
    /// The revision of its last change.
    ModRevision(Revision),
    /// The index that brought it into being.
    CreateIndex(Index),
    /// The index of its last change.
    ModifyIndex(Index),
    /// The lease that it goes with.
    Lease(Option<LeaseId>),
    /// The lease that holds its lock.
    Lock(Option<LeaseId>),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    /// Read keys.
    Read(ReadKeys),
    /// Store a value. Its guard is a condition of the transaction.
    Put(Put),
    /// Delete keys. Its guard is a condition of the transaction.
    Delete(Delete),
    /// Take a key's lock, or keep it. It is a condition that no other lease holds it and no lock delay runs.
    Lock(Locking),
    /// Give a key's lock back. It is a condition that the lease holds it.
    Unlock(Locking),
    /// Do nothing but be a condition.
    Check(Compare),
}

/// Reads the keys of an interval within a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadKeys {
    /// The interval.
    pub range: KeyRange,
    /// As they were at this revision; `None`: as they are at this step of the transaction.
    pub revision: Option<Revision>,
    /// At most so many; `None`: all.
    pub limit: Option<u32>,
    /// It is a condition of the transaction that there is any.
    pub required: bool,
}

/// Takes a key's lock for a lease or gives it back, and may write the key with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Locking {
    /// The key.
    pub key: Key,
    /// The lease that takes or holds the lock.
    pub lease: LeaseId,
    /// What to store under the key: the value, and the client's own number. `None`: what is there stays; a key that is
    /// not there comes into being empty.
    pub content: Option<(Bytes, u64)>,
}

impl Txn {
    /// Both lists of operations, one after the other.
    pub fn ops(&self) -> impl Iterator<Item = &TxnOp> {
        self.then.iter().chain(&self.otherwise)
    }

    /// Whether it changes nothing, whatever holds.
    pub fn is_read_only(&self) -> bool {
        self.ops()
            .all(|op| matches!(op, TxnOp::Read(_) | TxnOp::Check(_)))
    }

    /// Every interval that its result may depend on.
    pub fn ranges(&self) -> impl Iterator<Item = KeyRange> {
        let when = self.when.iter().map(|compare| compare.range.clone());
        when.chain(self.ops().map(TxnOp::range))
    }

    /// A key that one list of operations puts twice, or both puts and deletes. That has a meaning, the later operation
    /// wins; but dialects whose revisions name at most one change of a key refuse it.
    pub fn repeated_key(&self) -> Option<&Key> {
        [&self.then, &self.otherwise]
            .into_iter()
            .find_map(|ops| repeated_key(ops))
    }
}

fn repeated_key(ops: &[TxnOp]) -> Option<&Key> {
    let mut put = std::collections::BTreeSet::new();
    for op in ops {
        let key = match op {
            TxnOp::Put(Put { key, .. })
            | TxnOp::Lock(Locking { key, .. })
            | TxnOp::Unlock(Locking { key, .. }) => key,
            TxnOp::Read(_) | TxnOp::Delete(_) | TxnOp::Check(_) => continue,
        };
        if !put.insert(key) {
            return Some(key);
        }
    }
    let deleted = |key: &&&Key| {
        ops.iter()
            .any(|op| matches!(op, TxnOp::Delete(delete) if delete.range.contains(key)))
    };
    put.iter().find(deleted).copied()
}

impl TxnOp {
    /// The interval that it reads or writes.
    pub fn range(&self) -> KeyRange {
        match self {
            Self::Read(ReadKeys { range, .. })
            | Self::Delete(Delete { range, .. })
            | Self::Check(Compare { range, .. }) => range.clone(),
            Self::Put(Put { key, .. })
            | Self::Lock(Locking { key, .. })
            | Self::Unlock(Locking { key, .. }) => KeyRange::one(key.clone()),
        }
    }
}

/// What a transaction may still look at and answer.
pub(crate) struct Budget {
    rows: usize,
    bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            rows: limits::TXN_ROWS_MAX,
            bytes: limits::TXN_ANSWER_BYTES_MAX as u64,
        }
    }
}

impl Budget {
    pub(crate) fn rows(&mut self, count: usize) -> Result<(), Rejection> {
        self.rows = self
            .rows
            .checked_sub(count)
            .ok_or_else(|| Rejection::too_many("rows of one transaction", limits::TXN_ROWS_MAX))?;
        Ok(())
    }

    /// So many bytes are answered with.
    pub(crate) fn answer(&mut self, size: u64) -> Result<(), Rejection> {
        self.bytes = self.bytes.checked_sub(size).ok_or_else(|| Rejection::TooLarge {
            what: "answer of the transaction".into(),
            size: limits::TXN_ANSWER_BYTES_MAX as u64 - self.bytes + size,
            limit: limits::TXN_ANSWER_BYTES_MAX as u64,
        })?;
        Ok(())
    }
}

impl Kv {
    /// Whether a condition holds.
    pub(crate) fn holds(&self, compare: &Compare, budget: &mut Budget) -> Result<bool, Rejection> {
        let mut rows = self
            .rows
            .range(compare.range.bounds())
            .map(|(_, row)| row)
            .peekable();
        if rows.peek().is_none() {
            budget.rows(1)?;
            return Ok(compare.meets(None));
        }
        for row in rows {
            budget.rows(1)?;
            if !compare.meets(Some(row)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rows that an operation reads.
    pub(crate) fn read(
        &self,
        read: &ReadKeys,
        budget: &mut Budget,
    ) -> Result<Result<OpDone, Unmet>, Rejection> {
        let limit = read.limit.map(|limit| limit as usize);
        let present = self
            .count(&read.range)
            .min(limit.map_or(u64::MAX, |limit| limit as u64));
        budget.rows(usize::try_from(present).unwrap_or(usize::MAX).max(1))?;
        let page = match read.revision {
            None => self.list(&read.range, limit),
            Some(revision) => self.list_at(&read.range, revision, limit)?,
        };
        if read.required && page.count == 0 {
            return Ok(Err(Unmet::Absent));
        }
        for (key, row) in &page.rows {
            budget.answer((row.value.len() + key.len()) as u64)?;
        }
        Ok(Ok(OpDone::Read {
            rows: page.rows,
            count: page.count,
            more: page.more,
        }))
    }

    /// Puts within a transaction; whether the lease is there is looked at before.
    pub(crate) fn put_within(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        put: &Put,
    ) -> Result<OpDone, Unmet> {
        let before = self.rows.get(&put.key);
        if !put.guard.holds(before.map(|row| &**row)) {
            return Err(Unmet::of(before.map(|row| &**row)));
        }
        let lock = before.and_then(|row| row.lock);
        let fresh = Fresh {
            value: put.value.clone(),
            flags: put.flags,
            lease: put.lease,
            lock,
        };
        let written = self.store(w, stroke, &put.key, fresh, put.repeat);
        Ok(self.done(&put.key, written))
    }

    /// Deletes within a transaction.
    pub(crate) fn delete_within(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        delete: &Delete,
        budget: &mut Budget,
    ) -> Result<Result<OpDone, Unmet>, Rejection> {
        if let Some(unmet) = self.delete_unmet(delete) {
            return Ok(Err(unmet));
        }
        budget.rows(usize::try_from(self.count(&delete.range)).unwrap_or(usize::MAX))?;
        let count = self.remove_range(w, stroke, &delete.range);
        Ok(Ok(OpDone::Deleted { count }))
    }

    /// Takes or keeps a lock; whether the lease is there and a lock delay runs is looked at before.
    pub(crate) fn lock(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        locking: &Locking,
    ) -> Result<OpDone, Unmet> {
        let before = self.rows.get(&locking.key);
        if let Some(holder) = before
            .and_then(|row| row.lock)
            .filter(|&holder| holder != locking.lease)
        {
            return Err(Unmet::Locked(holder));
        }
        let fresh = Fresh::of_locking(before.map(|row| &**row), locking, Some(locking.lease));
        let written = self.store(w, stroke, &locking.key, fresh, Repeat::Skip);
        Ok(self.done(&locking.key, written))
    }

    /// Gives a lock back.
    pub(crate) fn unlock(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        locking: &Locking,
    ) -> Result<OpDone, Unmet> {
        let before = self.rows.get(&locking.key);
        if before.and_then(|row| row.lock) != Some(locking.lease) {
            return Err(match before.map(|row| row.lock) {
                None => Unmet::Absent,
                Some(None) => Unmet::Unlocked,
                Some(Some(holder)) => Unmet::Locked(holder),
            });
        }
        let fresh = Fresh::of_locking(before.map(|row| &**row), locking, None);
        let written = self.store(w, stroke, &locking.key, fresh, Repeat::Skip);
        Ok(self.done(&locking.key, written))
    }

    /// What a condition in the middle of a transaction comes to.
    pub(crate) fn check(
        &self,
        compare: &Compare,
        budget: &mut Budget,
    ) -> Result<Result<OpDone, Unmet>, Rejection> {
        let row = self.rows.range(compare.range.bounds()).next();
        if self.holds(compare, budget)? {
            let row = row.map(|(_, row)| valueless(row));
            return Ok(Ok(OpDone::Checked { row }));
        }
        Ok(Err(match compare.operand {
            Operand::Lock(_) => match row.map(|(_, row)| row.lock) {
                None => Unmet::Absent,
                Some(None) => Unmet::Unlocked,
                Some(Some(holder)) => Unmet::Locked(holder),
            },
            _ => Unmet::of(row.map(|(_, row)| &**row)),
        }))
    }

    fn done(&self, key: &Key, written: bool) -> OpDone {
        let row = self.rows.get(key).expect("it was just stored");
        OpDone::Put {
            row: valueless(row),
            written,
            fence: self.fence(key),
        }
    }
}

fn valueless(row: &KvRow) -> Arc<KvRow> {
    Arc::new(KvRow {
        value: Bytes::new(),
        ..row.clone()
    })
}

impl Fresh {
    fn of_locking(before: Option<&KvRow>, locking: &Locking, lock: Option<LeaseId>) -> Self {
        let (value, flags) = locking.content.clone().unwrap_or_else(|| {
            before.map_or_else(|| (Bytes::new(), 0), |row| (row.value.clone(), row.flags))
        });
        Self {
            value,
            flags,
            lease: before.and_then(|row| row.lease),
            lock,
        }
    }
}

impl Unmet {
    /// What stands in the way of a guard: the row that is there, or that there is none.
    fn of(row: Option<&KvRow>) -> Self {
        row.map_or(Self::Absent, |row| Self::Changed {
            modify_index: row.modify_index,
            mod_revision: row.mod_revision,
        })
    }
}

impl Compare {
    fn meets(&self, row: Option<&KvRow>) -> bool {
        let number = |of: fn(&KvRow) -> u64| row.map_or(0, of);
        match &self.operand {
            Operand::Value(value) => row.is_some_and(|row| self.relation.holds(&row.value, value)),
            Operand::Version(version) => self.relation.holds(&number(|row| row.version), version),
            Operand::CreateRevision(revision) => self
                .relation
                .holds(&number(|row| row.create_revision.0), &revision.0),
            Operand::ModRevision(revision) => self
                .relation
                .holds(&number(|row| row.mod_revision.0), &revision.0),
            Operand::CreateIndex(index) => self.relation.holds(&number(|row| row.create_index.0), &index.0),
            Operand::ModifyIndex(index) => self.relation.holds(&number(|row| row.modify_index.0), &index.0),
            Operand::Lease(lease) => self.relation.holds(&row.and_then(|row| row.lease), lease),
            Operand::Lock(lease) => self.relation.holds(&row.and_then(|row| row.lock), lease),
        }
    }
}

impl Relation {
    fn holds<T: Ord>(self, has: &T, asked: &T) -> bool {
        match self {
            Self::Equal => has == asked,
            Self::NotEqual => has != asked,
            Self::Greater => has > asked,
            Self::Less => has < asked,
        }
    }
}
