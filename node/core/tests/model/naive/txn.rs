//! Transactions: on a copy of the keys, which is thrown away if a condition is unmet.

use std::sync::Arc;

use bytes::Bytes;
use spine_core::{
    Compare, Index, KvRow, Locking, OpDone, OpUnmet, Operand, Outcome, Put, ReadKeys, Relation, Revision,
    Txn, TxnOp, Unmet,
};

use super::{Model, Row, Told, keys::Draft};

impl Model {
    pub(super) fn txn(&mut self, txn: &Txn) -> Told {
        if txn.ops().any(has_no_key) {
            return Err("invalid");
        }
        let mut draft = self.keys.draft(Index(self.index));
        let held = txn.when.iter().all(|compare| holds(&draft, compare));
        let ops = if held { &txn.then } else { &txn.otherwise };
        let (mut done, mut unmet) = (Vec::new(), Vec::new());
        for (op, place) in ops.iter().zip(0..) {
            match self.op(&mut draft, op)? {
                Ok(one) => done.push(one),
                Err(why) => unmet.push(OpUnmet { op: place, why }),
            }
        }
        if !unmet.is_empty() {
            let revision = Revision(self.keys.revision());
            return Ok(Outcome::TxnUnmet {
                held,
                unmet,
                revision,
            });
        }
        self.keys.take(draft);
        let revision = Revision(self.keys.revision());
        Ok(Outcome::Txn { held, done, revision })
    }

    pub(super) fn op(&self, draft: &mut Draft, op: &TxnOp) -> Result<Result<OpDone, Unmet>, &'static str> {
        Ok(match op {
            TxnOp::Read(ReadKeys {
                range,
                required: true,
                ..
            }) if !draft.now.keys().any(|key| range.contains(key)) => Err(Unmet::Absent),
            TxnOp::Read(ReadKeys { range, limit, .. }) => {
                let all = draft.now.iter().filter(|(key, _)| range.contains(key));
                let all: Vec<_> = all.map(|(key, row)| (key.clone(), wire(row))).collect();
                let count = all.len() as u64;
                let limit = limit.map_or(usize::MAX, |limit| limit as usize);
                let rows: Vec<_> = all.into_iter().take(limit).collect();
                let more = count > rows.len() as u64;
                Ok(OpDone::Read { rows, count, more })
            }
            TxnOp::Put(put) => {
                if put.lease.is_some_and(|lease| !self.holds(lease)) {
                    return Err("unknown_lease");
                }
                if draft.holds(&put.key, put.guard) {
                    let written = draft.put(put);
                    Ok(told(draft, &put.key, written))
                } else {
                    Err(changed(draft.now.get(&put.key)))
                }
            }
            TxnOp::Delete(delete) => {
                let start = &delete.range.start;
                if draft.now.contains_key(start) && !draft.holds(start, delete.guard) {
                    Err(changed(draft.now.get(start)))
                } else {
                    let count = draft.delete_where(|key, _| delete.range.contains(key));
                    Ok(OpDone::Deleted { count })
                }
            }
            TxnOp::Lock(Locking { lease, .. }) if !self.holds(*lease) => return Err("unknown_lease"),
            TxnOp::Lock(Locking { key, .. })
                if self.delays.get(key).is_some_and(|until| *until > self.now) =>
            {
                Err(Unmet::LockDelay)
            }
            TxnOp::Lock(locking) => match draft.now.get(&locking.key).and_then(|row| row.lock) {
                Some(other) if other != locking.lease => Err(Unmet::Locked(other)),
                _ => Ok(lock(draft, locking, true)),
            },
            TxnOp::Unlock(locking) => match draft.now.get(&locking.key) {
                Some(row) if row.lock == Some(locking.lease) => Ok(lock(draft, locking, false)),
                other => Err(locked(other)),
            },
            TxnOp::Check(compare) if holds(draft, compare) => {
                let first = draft.now.iter().find(|(key, _)| compare.range.contains(key));
                let row = first.map(|(_, row)| valueless(row));
                Ok(OpDone::Checked { row })
            }
            TxnOp::Check(Compare { range, operand, .. }) => {
                let first = draft
                    .now
                    .iter()
                    .find(|(key, _)| range.contains(key))
                    .map(|(_, row)| row);
                Err(match operand {
                    Operand::Lock(_) => locked(first),
                    _ => changed(first),
                })
            }
        })
    }
}

/// Whether the operation needs a key and has none.
pub(super) fn has_no_key(op: &TxnOp) -> bool {
    match op {
        TxnOp::Put(put) => put.key.is_empty(),
        TxnOp::Lock(locking) | TxnOp::Unlock(locking) => locking.key.is_empty(),
        TxnOp::Delete(delete) => !super::keys::is_deletion(delete),
        TxnOp::Read(_) | TxnOp::Check(_) => false,
    }
}

fn lock(draft: &mut Draft, locking: &Locking, take: bool) -> OpDone {
    let before = draft.now.get(&locking.key).cloned();
    let (value, flags) = match (&locking.content, &before) {
        (Some(content), _) => content.clone(),
        (None, Some(row)) => (row.value.clone(), row.flags),
        (None, None) => (Bytes::new(), 0),
    };
    let put = Put {
        key: locking.key.clone(),
        value,
        flags,
        lease: before.and_then(|row| row.lease),
        guard: spine_core::Guard::Always,
        repeat: spine_core::Repeat::Skip,
    };
    let written = draft.write(&put, take.then_some(locking.lease));
    told(draft, &locking.key, written)
}

fn told(draft: &Draft, key: &spine_core::Key, written: bool) -> OpDone {
    OpDone::Put {
        row: valueless(&draft.now[key]),
        written,
        fence: draft.fences.get(key).copied(),
    }
}

fn valueless(row: &Row) -> Arc<KvRow> {
    Arc::new(KvRow {
        value: Bytes::new(),
        ..KvRow::clone(&wire(row))
    })
}

fn wire(row: &Row) -> Arc<KvRow> {
    Arc::new(KvRow {
        value: row.value.clone(),
        flags: row.flags,
        lease: row.lease,
        lock: row.lock,
        lock_index: row.taken,
        create_revision: row.created.1,
        mod_revision: row.modified.1,
        version: row.version,
        create_index: row.created.0,
        modify_index: row.modified.0,
    })
}

fn changed(row: Option<&Row>) -> Unmet {
    row.map_or(Unmet::Absent, |row| Unmet::Changed {
        modify_index: row.modified.0,
        mod_revision: row.modified.1,
    })
}

fn locked(row: Option<&Row>) -> Unmet {
    match row.map(|row| row.lock) {
        None => Unmet::Absent,
        Some(None) => Unmet::Unlocked,
        Some(Some(holder)) => Unmet::Locked(holder),
    }
}

fn holds(draft: &Draft, compare: &Compare) -> bool {
    let rows: Vec<_> = draft
        .now
        .iter()
        .filter(|(key, _)| compare.range.contains(key))
        .collect();
    if rows.is_empty() {
        return meets(compare, None);
    }
    rows.iter().all(|(_, row)| meets(compare, Some(row)))
}

fn meets(
    Compare {
        relation, operand, ..
    }: &Compare,
    row: Option<&Row>,
) -> bool {
    use std::cmp::Ordering;
    let order = match operand {
        Operand::Value(value) => row.map(|row| row.value.cmp(value)),
        Operand::Version(version) => Some(row.map_or(0, |row| row.version).cmp(version)),
        Operand::CreateRevision(Revision(at)) => Some(row.map_or(0, |row| row.created.1.0).cmp(at)),
        Operand::ModRevision(Revision(at)) => Some(row.map_or(0, |row| row.modified.1.0).cmp(at)),
        Operand::CreateIndex(Index(at)) => Some(row.map_or(0, |row| row.created.0.0).cmp(at)),
        Operand::ModifyIndex(Index(at)) => Some(row.map_or(0, |row| row.modified.0.0).cmp(at)),
        Operand::Lease(lease) => Some(row.and_then(|row| row.lease).cmp(lease)),
        Operand::Lock(lease) => Some(row.and_then(|row| row.lock).cmp(lease)),
    };
    order.is_some_and(|order| match relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Greater => order == Ordering::Greater,
        Relation::Less => order == Ordering::Less,
    })
}
