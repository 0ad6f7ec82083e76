//! `/v1/txn`: operations with conditions, all of them or none.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spine_core::{
    Command, Compare, Delete, Guard, Index, Key, KeyRange, KvRow, LeaseId, Locking, OpDone, OpUnmet, Operand,
    Outcome, Put, ReadKeys, ReadTxn, Rejection, Relation, Repeat, Txn, TxnOp, Unmet, limits,
};

use super::{
    body,
    call::{Call, Handled},
    error::Failure,
    session, unsupported,
    wire::{KvWire, session_text},
};

/// One element of the body: an object with one field, which says what it is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpBody {
    kv: Option<KvBody>,
    node: Option<Value>,
    service: Option<Value>,
    check: Option<Value>,
    session: Option<Value>,
}

/// An operation on a key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KvBody {
    verb: String,
    key: String,
    value: String,
    flags: u64,
    index: u64,
    session: String,
}

/// An operation as it was asked for, to speak of it in Consul's words.
#[derive(Debug)]
struct Asked {
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

/// What is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    results: Option<Vec<ResultWire>>,
    errors: Option<Vec<ErrorWire>>,
}

#[derive(Debug, Serialize)]
struct ResultWire {
    #[serde(rename = "KV")]
    kv: KvWire,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorWire {
    op_index: usize,
    what: String,
}

/// Carries a transaction out. One that only reads is a read, as fresh as asked.
pub(crate) async fn apply(call: Call) -> Handled {
    let (asked, ops) = match compile(&call.body)? {
        Ok(compiled) => compiled,
        Err(errors) => return Ok(rolled_back(&call, errors)),
    };
    let txn = Txn {
        when: Vec::new(),
        then: ops,
        otherwise: Vec::new(),
    };
    if txn.is_read_only() {
        let found = call.ask(&ReadTxn(txn)).await?;
        let reply = answer(&call, &asked, found.value.map_err(Failure::from))?;
        return Ok(reply.with_all(found.headers));
    }
    let outcome = call.propose(Command::Txn(txn)).await;
    answer(&call, &asked, outcome)
}

fn answer(call: &Call, asked: &[Asked], outcome: Result<Outcome, Failure>) -> Handled {
    match outcome {
        Ok(Outcome::Txn { done, .. }) => {
            let results = asked
                .iter()
                .zip(done)
                .flat_map(|(asked, done)| results(asked, done));
            let results = results.map(|(key, row)| ResultWire {
                kv: KvWire::of(&key, &row, call.encoding),
            });
            Ok(call.json(&Answer {
                results: Some(results.collect()),
                errors: None,
            }))
        }
        Ok(Outcome::TxnUnmet { unmet, .. }) => {
            let error = |OpUnmet { op, why }: OpUnmet| {
                let op_index = op as usize;
                let what = asked[op_index].unmet(&why);
                ErrorWire { op_index, what }
            };
            Ok(rolled_back(call, unmet.into_iter().map(error).collect()))
        }
        // Which operation it was the refusal doesn't say: those that name the session.
        Err(Failure::Refused(Rejection::UnknownLease(id))) => {
            let named = |asked: &Asked| session::parse(&asked.session) == Some(id);
            let asked = asked.iter().enumerate().filter(|(_, asked)| named(asked));
            let error = |(op_index, asked): (usize, &Asked)| ErrorWire {
                op_index,
                what: invalid_session(&asked.session),
            };
            Ok(rolled_back(call, asked.map(error).collect()))
        }
        Ok(other) => Err(Failure::Session(format!("unexpected outcome {other:?}"))),
        Err(failure) => Err(failure),
    }
}

fn rolled_back(call: &Call, errors: Vec<ErrorWire>) -> super::reply::Reply {
    let answer = Answer {
        results: None,
        errors: Some(errors),
    };
    call.json_with(StatusCode::CONFLICT, &answer)
}

/// What Consul says of a session that is not there.
pub(crate) fn invalid_session(id: &str) -> String {
    format!("invalid session {id:?}")
}

type Compiled = Result<(Vec<Asked>, Vec<TxnOp>), Vec<ErrorWire>>;

/// The operations of a body, one for each element; or what is wrong with some of them.
fn compile(body: &Bytes) -> Result<Compiled, Failure> {
    let parse = |error: String| Failure::BadRequest(format!("Failed to parse body: {error}"));
    let elements: Vec<OpBody> = body::decode_list(body).map_err(parse)?;
    if elements.len() > limits::TXN_OPS_MAX {
        return Err(Failure::TooManyOps(elements.len()));
    }
    let (mut asked, mut ops, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (op_index, element) in elements.into_iter().enumerate() {
        let Some(kv) = element.kv else {
            let of_catalog = element
                .node
                .or(element.service)
                .or(element.check)
                .or(element.session);
            if of_catalog.is_some() {
                return Err(unsupported::later(
                    "transactions on nodes, services, checks and sessions",
                ));
            }
            let what = "unknown operation type".to_owned();
            errors.push(ErrorWire { op_index, what });
            continue;
        };
        let value = STANDARD
            .decode(&kv.value)
            .map_err(|error| parse(error.to_string()))?;
        match op(&kv, &value.into()) {
            Ok((verb, op)) => {
                let KvBody {
                    key, index, session, ..
                } = kv;
                ops.push(op);
                asked.push(Asked {
                    key,
                    verb,
                    index,
                    session,
                });
            }
            Err(what) => errors.push(ErrorWire { op_index, what }),
        }
    }
    Ok(if errors.is_empty() {
        Ok((asked, ops))
    } else {
        Err(errors)
    })
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
    let lease = || session::parse(&kv.session).ok_or_else(|| invalid_session(&kv.session));
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
        Verb::CheckSession => check(Operand::Lock(session::parse(&kv.session))),
        Verb::CheckNotExists => check(Operand::Version(0)),
        Verb::Delete => delete(one, Guard::Always),
        Verb::DeleteTree => delete(tree, Guard::Always),
        Verb::DeleteCas => delete(one, Guard::ModifyIndex(Index(kv.index))),
    };
    Ok((verb, op))
}

/// The entries that an operation answers with.
fn results(asked: &Asked, done: OpDone) -> Vec<(Key, std::sync::Arc<KvRow>)> {
    let key = || Key::from(asked.key.clone().into_bytes());
    match done {
        OpDone::Read { rows, .. } if rows.is_empty() && asked.verb == Verb::GetOrEmpty => {
            vec![(key(), std::sync::Arc::new(nothing()))]
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

impl Asked {
    /// Consul's words for a condition that is unmet: people read them and programs match them.
    fn unmet(&self, why: &Unmet) -> String {
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
