//! Transactions: conditions and operations that hold and happen together.

use bytes::Bytes;
use spine_proto::v1::{self, compare::Operand, txn_op::Op as WireOp};

use crate::{
    error::{Kind, Result},
    kv::{Guard, KeyRange, Kv, client},
    lease::LeaseId,
};

/// A transaction that is being put together; see [`Kv::txn`].
#[derive(Clone, Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn {
    kv: Kv,
    request: v1::TxnRequest,
}

impl Kv {
    /// A transaction: conditions, what to do if all of them hold, and what otherwise; all of it or nothing, in one
    /// revision.
    ///
    /// ```no_run
    /// # async fn example(client: spine_client::Client) -> Result<(), spine_client::Error> {
    /// use spine_client::{Compare, Op};
    ///
    /// let txn = client.kv.txn().when(Compare::value("from", "7")).then(Op::put("from", "6")).then(Op::put("to", "1"));
    /// let answer = txn.commit().await?;
    /// assert!(answer.held, "nobody else has changed it");
    /// # Ok(())
    /// # }
    /// ```
    pub fn txn(&self) -> Txn {
        Txn {
            kv: self.clone(),
            request: v1::TxnRequest::default(),
        }
    }
}

impl Txn {
    /// One more condition. All of them must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.when.push(compare.0);
        self
    }

    /// One more operation of those that are carried out if all conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.request.then.push(op.0);
        self
    }

    /// One more operation of those that are carried out if a condition doesn't hold.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.request.otherwise.push(op.0);
        self
    }

    /// Carries it out. The answer's `held` tells which operations were chosen, `results` what they did; if `unmet` names
    /// any, they had conditions of their own that are unmet, and nothing was done.
    ///
    /// # Errors
    /// As every write; of a transaction that only reads, as every read.
    pub async fn commit(mut self) -> Result<v1::TxnResponse> {
        let mut ops = self.request.then.iter().chain(&self.request.otherwise);
        let reads = ops.all(|op| matches!(op.op, Some(WireOp::Read(_) | WireOp::Check(_))));
        let caller = self.kv.caller();
        self.request.consistency = caller.consistency();
        let send = |channel, request| async move { client(channel).txn(request).await };
        if reads {
            caller.pool.call(Kind::Read, self.request, send).await
        } else {
            caller.pool.once(self.request, send).await
        }
    }
}

/// A condition on keys. One on a range must be met by each of its keys; a range without keys is taken for one key that is not
/// there.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Compare(v1::Compare);

impl Compare {
    /// There is no such key.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::key(key, v1::Relation::Equal, Operand::Version(0))
    }

    /// There is such a key.
    pub fn present(key: impl Into<Bytes>) -> Self {
        Self::key(key, v1::Relation::Greater, Operand::Version(0))
    }

    /// The key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::key(key, v1::Relation::Equal, Operand::Value(value.into()))
    }

    /// The key was last changed at this index.
    pub fn modify_index(key: impl Into<Bytes>, index: u64) -> Self {
        Self::key(key, v1::Relation::Equal, Operand::ModifyIndex(index))
    }

    /// The key was last changed at this revision.
    pub fn mod_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::key(key, v1::Relation::Equal, Operand::ModRevision(revision))
    }

    /// The key came into being at this revision: it is the same one as then.
    pub fn create_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::key(key, v1::Relation::Equal, Operand::CreateRevision(revision))
    }

    /// This lease holds the key's lock; `None`: nobody does.
    pub fn lock(key: impl Into<Bytes>, lease: Option<LeaseId>) -> Self {
        let id = lease.map(Bytes::from).unwrap_or_default();
        Self::key(key, v1::Relation::Equal, Operand::Lock(id))
    }

    /// A condition on one key, with all that can be said.
    pub fn key(key: impl Into<Bytes>, relation: v1::Relation, operand: Operand) -> Self {
        Self::range(KeyRange::Key(key.into()), relation, operand)
    }

    /// A condition on keys, with all that can be said.
    pub fn range(range: KeyRange, relation: v1::Relation, operand: Operand) -> Self {
        Self(v1::Compare {
            range: Some(range.into()),
            relation: relation.into(),
            operand: Some(operand),
        })
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Op(v1::TxnOp);

impl Op {
    /// Reads keys, all that the range has.
    pub fn get(range: KeyRange) -> Self {
        Self::of(WireOp::Read(v1::TxnRead {
            range: Some(range.into()),
            ..v1::TxnRead::default()
        }))
    }

    /// Stores a value.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::put_with(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            ..v1::PutRequest::default()
        })
    }

    /// Stores a value that ends with a lease.
    pub fn put_on(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::put_with(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            lease: lease.into(),
            ..v1::PutRequest::default()
        })
    }

    /// Stores a value if a condition holds; if it doesn't, the transaction is undone.
    pub fn put_if(key: impl Into<Bytes>, value: impl Into<Bytes>, guard: Guard) -> Self {
        Self::put_with(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            guard: Some(guard.into()),
            ..v1::PutRequest::default()
        })
    }

    /// Stores a value, with all that can be said about it.
    pub fn put_with(request: v1::PutRequest) -> Self {
        Self::of(WireOp::Put(request))
    }

    /// Deletes keys.
    pub fn delete(range: KeyRange) -> Self {
        Self::of(WireOp::Delete(v1::DeleteRequest {
            range: Some(range.into()),
            guard: None,
        }))
    }

    /// Deletes a key if a condition holds; if it doesn't, the transaction is undone.
    pub fn delete_if(key: impl Into<Bytes>, guard: Guard) -> Self {
        Self::of(WireOp::Delete(v1::DeleteRequest {
            range: Some(KeyRange::Key(key.into()).into()),
            guard: Some(guard.into()),
        }))
    }

    /// Takes a key's lock for a lease, or keeps it; if another has it, the transaction is undone. The same lock as
    /// Consul's clients take with `?acquire`; [`crate::Client::lock`] is one that can be waited for.
    pub fn lock(key: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::of(WireOp::Lock(v1::LockKey {
            key: key.into(),
            lease: lease.into(),
            ..v1::LockKey::default()
        }))
    }

    /// Gives a key's lock back; if the lease doesn't hold it, the transaction is undone.
    pub fn unlock(key: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::of(WireOp::Unlock(v1::LockKey {
            key: key.into(),
            lease: lease.into(),
            ..v1::LockKey::default()
        }))
    }

    /// Does nothing but be a condition: if it doesn't hold, the transaction is undone.
    pub fn check(compare: Compare) -> Self {
        Self::of(WireOp::Check(compare.0))
    }

    fn of(op: WireOp) -> Self {
        Self(v1::TxnOp { op: Some(op) })
    }
}
