//! Operations on keys, in Consul's words.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use spine_core::{
    Compare, Delete, Guard, Index, Key, KeyRange, KvRow, LeaseId, Locking, OpDone, Operand, Put, ReadKeys,
    Relation, Repeat, TxnOp, Unmet,
};

use crate::consul::{session, wire::session_text};

/// An operation on a key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KvBody {
    verb: String,
    key: String,
    value: String,
    flags: u64,
    index: u64,
    session: String,
}

/// An operation as it was asked for, to speak of it in Consul's words.
#[derive(Debug)]
pub(super) struct AskedKey {
    key: String,
    verb: Verb,
    index: u64,
    session: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Set,
    Cas,
    Lock,
    Unlock,
    Get,
    GetOrEmpty,
    GetTree,
    CheckIndex,
    CheckSession,
    CheckNotExists,
    Delete,
    DeleteTree,
    DeleteCas,
}

const VERBS: [(&str, Verb); 13] = [
    ("set", Verb::Set),
    ("cas", Verb::Cas),
    ("lock", Verb::Lock),
    ("unlock", Verb::Unlock),
    ("get", Verb::Get),
    ("get-or-empty", Verb::GetOrEmpty),
    ("get-tree", Verb::GetTree),
    ("check-index", Verb::CheckIndex),
    ("check-session", Verb::CheckSession),
    ("check-not-exists", Verb::CheckNotExists),
    ("delete", Verb::Delete),
    ("delete-tree", Verb::DeleteTree),
    ("delete-cas", Verb::DeleteCas),
];

impl KvBody {
    /// The operation, and how it was asked for.
    ///
    /// # Errors
    /// The outer one: the body is none. The inner one: this operation is none.
    pub(super) fn compile(self) -> Result<Result<(AskedKey, TxnOp), String>, String> {
        let value = STANDARD.decode(&self.value).map_err(|error| error.to_string())?;
        Ok(op(&self, &value.into()).map(|(verb, op)| {
            let Self {
                key, index, session, ..
            } = self;
            let asked = AskedKey {
                key,
                verb,
                index,
                session,
            };
            (asked, op)
        }))
    }
}

fn op(kv: &KvBody, value: &Bytes) -> Result<(Verb, TxnOp), String> {
    let verb = VERBS
        .iter()
        .find(|(word, _)| *word == kv.verb)
        .map(|(_, verb)| *verb);
    let verb = verb.ok_or_else(|| format!("unknown KV verb {:?}", kv.verb))?;
    let key = Key::from(kv.key.clone().into_bytes());
    if key.is_empty() && !matches!(verb, Verb::GetTree | Verb::DeleteTree) {
        return Err("Must provide key".into());
    }
    let one = KeyRange::one(key.clone());
    let tree = KeyRange::prefix(key.clone());
    let lease = || session::parse(&kv.session).ok_or_else(|| session::invalid(&kv.session));
    let put = |guard| {
        TxnOp::Put(Put {
            key: key.clone(),
            value: value.clone(),
            flags: kv.flags,
            lease: None,
            guard,
            repeat: Repeat::Skip,
        })
    };
    let read = |range, required| {
        TxnOp::Read(ReadKeys {
            range,
            revision: None,
            limit: None,
            required,
        })
    };
    let check = |operand| {
        TxnOp::Check(Compare {
            range: one.clone(),
            relation: Relation::Equal,
            operand,
        })
    };
    let locking = |lease| Locking {
        key: key.clone(),
        lease,
        content: Some((value.clone(), kv.flags)),
    };
    let delete = |range, guard| TxnOp::Delete(Delete { range, guard });
    let op = match verb {
        Verb::Set => put(Guard::Always),
        Verb::Cas if kv.index == 0 => put(Guard::Absent),
        Verb::Cas => put(Guard::ModifyIndex(Index(kv.index))),
        Verb::Lock => TxnOp::Lock(locking(lease()?)),
        Verb::Unlock => TxnOp::Unlock(locking(lease()?)),
        Verb::Get => read(one, true),
        Verb::GetOrEmpty => read(one, false),
        Verb::GetTree => read(tree, false),
        // A row's index is never 0, so with 0 it fails, as for Consul, whether the key is there or not.
        Verb::CheckIndex if kv.index == 0 => check(Operand::ModifyIndex(Index(u64::MAX))),
        Verb::CheckIndex => check(Operand::ModifyIndex(Index(kv.index))),
        Verb::CheckSession if kv.session.is_empty() => check(Operand::Lock(None)),
        // What is no session's id is nobody's lock.
        Verb::CheckSession => match session::parse(&kv.session) {
            Some(id) => check(Operand::Lock(Some(id))),
            None => check(Operand::ModifyIndex(Index(u64::MAX))),
        },
        Verb::CheckNotExists => check(Operand::Version(0)),
        Verb::Delete => delete(one, Guard::Always),
        Verb::DeleteTree => delete(tree, Guard::Always),
        Verb::DeleteCas => delete(one, Guard::ModifyIndex(Index(kv.index))),
    };
    Ok((verb, op))
}

/// The entries that an operation answers with.
pub(super) fn results(asked: &AskedKey, done: OpDone) -> Vec<(Key, Arc<KvRow>)> {
    let key = || Key::from(asked.key.clone().into_bytes());
    match done {
        OpDone::Read { rows, .. } if rows.is_empty() && asked.verb == Verb::GetOrEmpty => {
            vec![(key(), Arc::new(nothing()))]
        }
        OpDone::Read { rows, .. } => rows,
        OpDone::Put { row, .. } => vec![(key(), row)],
        OpDone::Checked { row } => row.map(|row| (key(), row)).into_iter().collect(),
        OpDone::Deleted { .. } => Vec::new(),
    }
}

/// What Consul shows of a key that is not there.
fn nothing() -> KvRow {
    KvRow {
        value: Bytes::new(),
        flags: 0,
        lease: None,
        lock: None,
        lock_index: 0,
        create_revision: spine_core::Revision(0),
        mod_revision: spine_core::Revision(0),
        version: 0,
        create_index: Index(0),
        modify_index: Index(0),
    }
}

impl AskedKey {
    /// Whether the operation names this lease.
    pub(super) fn names(&self, id: LeaseId) -> bool {
        session::parse(&self.session) == Some(id)
    }

    /// Consul's words for a session that is not there.
    pub(super) fn invalid_session(&self) -> String {
        session::invalid(&self.session)
    }

    /// Consul's words for a condition that is unmet: people read them and programs match them.
    pub(super) fn unmet(&self, why: &Unmet) -> String {
        let key = &self.key;
        let holder = |id: &LeaseId| session_text(*id);
        match (self.verb, why) {
            (_, Unmet::LockDelay) => format!("failed to lock key {key:?} due to lock delay"),
            (Verb::Lock, _) => format!("failed to lock key {key:?}, lock is already held"),
            (Verb::Unlock, _) => {
                format!("failed to unlock key {key:?}, lock isn't held, or is held by another session")
            }
            (Verb::CheckIndex, Unmet::Changed { modify_index, .. }) => format!(
                "failed index check for key {key:?}, current modify index {modify_index} != {}",
                self.index
            ),
            (Verb::CheckIndex, _) => format!("failed to check index, key {key:?} doesn't exist"),
            (Verb::CheckSession, Unmet::Absent) => {
                format!("failed to check session, key {key:?} doesn't exist")
            }
            (Verb::CheckSession, why) => {
                let current = if let Unmet::Locked(id) = why {
                    holder(id)
                } else {
                    String::new()
                };
                let asked = &self.session;
                format!("failed session check for key {key:?}, current session {current:?} != {asked:?}")
            }
            (Verb::CheckNotExists, _) => format!("key {key:?} exists"),
            (Verb::DeleteCas, _) => format!("failed to delete key {key:?}, index is stale"),
            (Verb::Cas, _) => format!("failed to set key {key:?}, index is stale"),
            (
                Verb::Get | Verb::GetOrEmpty | Verb::GetTree | Verb::Set | Verb::Delete | Verb::DeleteTree,
                _,
            ) => format!("key {key:?} doesn't exist"),
        }
    }
}
