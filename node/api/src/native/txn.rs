//! Transactions on keys.

use spine_core::{
    Command, Compare, Key, KvRow, Locking, OpDone, OpUnmet, Operand, Outcome, Put, ReadKeys, ReadTxn,
    Rejection, Relation, Repeat, Revision, Txn, TxnOp, Unmet,
};
use spine_proto::v1::{
    self, compare::Operand as WireOperand, txn_op::Op as WireOp, txn_result::Result as WireResult,
    txn_unmet::Found as WireFound,
};

use super::{Door, decode, encode, misfit};
use crate::registry::{Context, Error};

pub(super) async fn txn(
    door: &Door,
    cx: &Context,
    request: v1::TxnRequest,
) -> Result<v1::TxnResponse, Error> {
    let txn = decode(request)?;
    if let Some(key) = txn.repeated_key() {
        let key = String::from_utf8_lossy(key);
        return Err(Rejection::Invalid(format!("the key {key:?} is written twice").into()).into());
    }
    let (index, outcome) = if txn.is_read_only() {
        let (outcome, header) = door.ask(cx, &ReadTxn(txn)).await?;
        (header.applied_index, outcome?)
    } else {
        let (index, outcome) = door.propose(cx, Command::Txn(txn)).await?;
        (index.0, outcome)
    };
    match outcome {
        Outcome::Txn { held, done, revision } => Ok(v1::TxnResponse {
            index,
            held,
            results: done.into_iter().map(result).collect(),
            unmet: Vec::new(),
            revision: revision.0,
        }),
        Outcome::TxnUnmet {
            held,
            unmet: all,
            revision,
        } => Ok(v1::TxnResponse {
            index,
            held,
            results: Vec::new(),
            unmet: all.into_iter().map(unmet).collect(),
            revision: revision.0,
        }),
        other => Err(misfit(&other)),
    }
}

fn decode(request: v1::TxnRequest) -> Result<Txn, Rejection> {
    let ops = |ops: Vec<v1::TxnOp>| ops.into_iter().map(op).collect::<Result<_, _>>();
    Ok(Txn {
        when: request.when.into_iter().map(compare).collect::<Result<_, _>>()?,
        then: ops(request.then)?,
        otherwise: ops(request.otherwise)?,
    })
}

/// What a put message asks for.
pub(super) fn put(wire: v1::PutRequest) -> Result<Put, Rejection> {
    Ok(Put {
        key: wire.key,
        value: wire.value,
        flags: wire.flags,
        lease: decode::lease_or_none(&wire.lease)?,
        guard: decode::guard(wire.guard)?,
        repeat: if wire.write_unchanged {
            Repeat::Write
        } else {
            Repeat::Skip
        },
    })
}

fn op(wire: v1::TxnOp) -> Result<TxnOp, Rejection> {
    Ok(match wire.op {
        Some(WireOp::Read(read)) => TxnOp::Read(ReadKeys {
            range: decode::key_range(read.range)?,
            revision: read.revision.map(Revision),
            limit: (read.limit > 0).then_some(read.limit),
            required: read.required,
        }),
        Some(WireOp::Put(wire)) => TxnOp::Put(put(wire)?),
        Some(WireOp::Delete(delete)) => TxnOp::Delete(spine_core::Delete {
            range: decode::key_range(delete.range)?,
            guard: decode::guard(delete.guard)?,
        }),
        Some(WireOp::Lock(wire)) => TxnOp::Lock(locking(wire)?),
        Some(WireOp::Unlock(wire)) => TxnOp::Unlock(locking(wire)?),
        Some(WireOp::Check(wire)) => TxnOp::Check(compare(wire)?),
        None => return Err(Rejection::Invalid("an operation must say what to do".into())),
    })
}

fn locking(wire: v1::LockKey) -> Result<Locking, Rejection> {
    Ok(Locking {
        key: wire.key,
        lease: decode::lease(&wire.lease)?,
        content: wire.value.map(|value| (value, wire.flags)),
    })
}

fn compare(wire: v1::Compare) -> Result<Compare, Rejection> {
    let relation = match v1::Relation::try_from(wire.relation) {
        Ok(v1::Relation::Unspecified | v1::Relation::Equal) => Relation::Equal,
        Ok(v1::Relation::NotEqual) => Relation::NotEqual,
        Ok(v1::Relation::Greater) => Relation::Greater,
        Ok(v1::Relation::Less) => Relation::Less,
        Err(_) => {
            return Err(Rejection::Invalid(
                format!("relation {} is none", wire.relation).into(),
            ));
        }
    };
    let operand = match wire.operand {
        Some(WireOperand::Value(value)) => Operand::Value(value),
        Some(WireOperand::Version(version)) => Operand::Version(version),
        Some(WireOperand::CreateRevision(at)) => Operand::CreateRevision(Revision(at)),
        Some(WireOperand::ModRevision(at)) => Operand::ModRevision(Revision(at)),
        Some(WireOperand::CreateIndex(at)) => Operand::CreateIndex(spine_core::Index(at)),
        Some(WireOperand::ModifyIndex(at)) => Operand::ModifyIndex(spine_core::Index(at)),
        Some(WireOperand::Lease(id)) => Operand::Lease(decode::lease_or_none(&id)?),
        Some(WireOperand::Lock(id)) => Operand::Lock(decode::lease_or_none(&id)?),
        None => {
            return Err(Rejection::Invalid(
                "a condition must say what to compare with".into(),
            ));
        }
    };
    Ok(Compare {
        range: decode::key_range(wire.range)?,
        relation,
        operand,
    })
}

fn result(done: OpDone) -> v1::TxnResult {
    let row = |(key, row): (Key, std::sync::Arc<KvRow>)| encode::key_value(key, &row);
    let result = match done {
        OpDone::Read { rows, count, more } => WireResult::Read(v1::TxnRows {
            kvs: rows.into_iter().map(row).collect(),
            count,
            more,
        }),
        OpDone::Put { row, written, fence } => WireResult::Put(v1::TxnPut {
            // Whose it is the request says.
            kv: Some(encode::key_value(Key::new(), &row)),
            written,
            fence: fence.map(|fence| fence.0),
        }),
        OpDone::Deleted { count } => WireResult::Deleted(count),
        OpDone::Checked { .. } => WireResult::Holds(v1::TxnHolds {}),
    };
    v1::TxnResult { result: Some(result) }
}

fn unmet(OpUnmet { op, why }: OpUnmet) -> v1::TxnUnmet {
    let found = match why {
        Unmet::Absent => WireFound::Absent(v1::Absent {}),
        Unmet::Changed {
            modify_index,
            mod_revision,
        } => WireFound::Changed(v1::TxnChanged {
            modify_index: modify_index.0,
            mod_revision: mod_revision.0,
        }),
        Unmet::Unlocked => WireFound::Unlocked(v1::TxnUnlocked {}),
        Unmet::Locked(lease) => WireFound::LockedBy(encode::lease_id(lease)),
        Unmet::LockDelay => WireFound::LockDelay(v1::TxnLockDelay {}),
    };
    v1::TxnUnmet {
        op,
        found: Some(found),
    }
}
