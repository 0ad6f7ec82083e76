//! `/v1/txn`: operations with conditions, all of them or none.
//!
//! Transactions on keys alone are the core's [`Txn`]; those that touch the catalog or sessions are its [`CatalogTxn`], which
//! needs rules 2. What only reads is a read in either case, as fresh as asked.

mod catalog;
mod keys;

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use spine_core::{
    CatalogDone, CatalogOp, CatalogOpUnmet, CatalogTxn, CatalogUnmet, Check, Command, Instance, Key, KvRow,
    Node, OpUnmet, Outcome, ReadCatalogTxn, ReadTxn, Rejection, Txn, TxnOp, Unmet, limits,
};

use self::{
    catalog::{AskedRow, CheckOpBody, NodeBody, ServiceOpBody, SessionBody},
    keys::{AskedKey, KvBody},
};
use super::{
    body,
    call::{Call, Handled},
    error::Failure,
    wire::{CheckWire, KvWire, NodeWire, ServiceWire},
};

/// One element of the body: an object with one field, which says what it is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpBody {
    kv: Option<KvBody>,
    node: Option<NodeBody>,
    service: Option<ServiceOpBody>,
    check: Option<CheckOpBody>,
    session: Option<SessionBody>,
}

/// An operation as it was asked for.
#[derive(Debug)]
enum Asked {
    Key(AskedKey),
    Row(AskedRow),
}

/// What is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    results: Option<Vec<ResultWire<'a>>>,
    errors: Option<Vec<ErrorWire>>,
}

#[derive(Debug, Serialize)]
enum ResultWire<'a> {
    #[serde(rename = "KV")]
    Key(KvWire),
    Node(NodeWire<'a>),
    Service(ServiceWire<'a>),
    Check(Box<CheckWire<'a>>),
}

/// A row that an operation answers with.
enum Found {
    Key(Key, Arc<KvRow>),
    Node(Arc<Node>),
    Instance(Arc<Instance>),
    Check(Arc<Check>, Option<Arc<Instance>>),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorWire {
    op_index: usize,
    what: String,
}

/// Carries a transaction out.
pub(crate) async fn apply(call: Call) -> Handled {
    let (asked, ops) = match compile(&call.body)? {
        Ok(compiled) => compiled,
        Err(errors) => return Ok(rolled_back(&call, errors)),
    };
    let on_keys = ops.iter().map(|op| match op {
        CatalogOp::Keys(op) => Some(op.clone()),
        _ => None,
    });
    match on_keys.collect() {
        Some(then) => apply_to_keys(&call, &asked, then).await,
        None => apply_to_catalog(&call, &asked, ops).await,
    }
}

async fn apply_to_keys(call: &Call, asked: &[Asked], then: Vec<TxnOp>) -> Handled {
    let txn = Txn {
        then,
        ..Txn::default()
    };
    if txn.is_read_only() {
        let found = call.ask(&ReadTxn(txn)).await?;
        let reply = answer(call, asked, found.value.map_err(Failure::from))?;
        return Ok(reply.with_all(found.headers));
    }
    let outcome = call.propose(Command::Txn(txn)).await;
    answer(call, asked, outcome)
}

async fn apply_to_catalog(call: &Call, asked: &[Asked], ops: Vec<CatalogOp>) -> Handled {
    let txn = CatalogTxn { ops };
    if txn.is_read_only() {
        let found = call.ask(&ReadCatalogTxn(txn)).await?;
        let reply = answer(call, asked, found.value.map_err(Failure::from))?;
        return Ok(reply.with_all(found.headers));
    }
    let outcome = call.propose(Command::CatalogTxn(txn)).await;
    answer(call, asked, outcome)
}

fn answer(call: &Call, asked: &[Asked], outcome: Result<Outcome, Failure>) -> Handled {
    match outcome {
        Ok(Outcome::Txn { done, .. }) => {
            let done = done.into_iter().map(CatalogDone::Keys);
            Ok(carried_out(call, asked, done))
        }
        Ok(Outcome::CatalogTxn { done, .. }) => Ok(carried_out(call, asked, done.into_iter())),
        Ok(Outcome::TxnUnmet { unmet, .. }) => {
            let error = |OpUnmet { op, why }: OpUnmet| asked_unmet(asked, op, CatalogUnmet::Keys(why));
            Ok(rolled_back(call, unmet.into_iter().map(error).collect()))
        }
        Ok(Outcome::CatalogTxnUnmet { unmet }) => {
            let error = |CatalogOpUnmet { op, why }: CatalogOpUnmet| asked_unmet(asked, op, why);
            Ok(rolled_back(call, unmet.into_iter().map(error).collect()))
        }
        // Which operation it was the refusal doesn't say: those that name the session.
        Err(Failure::Refused(Rejection::UnknownLease(id))) => {
            let error = |(op_index, asked): (usize, &Asked)| match asked {
                Asked::Key(asked) if asked.names(id) => Some(ErrorWire {
                    op_index,
                    what: asked.invalid_session(),
                }),
                Asked::Key(_) | Asked::Row(_) => None,
            };
            let errors = asked.iter().enumerate().filter_map(error);
            Ok(rolled_back(call, errors.collect()))
        }
        Ok(other) => Err(Failure::Session(format!("unexpected outcome {other:?}"))),
        Err(failure) => Err(failure),
    }
}

fn carried_out(call: &Call, asked: &[Asked], done: impl Iterator<Item = CatalogDone>) -> super::reply::Reply {
    let found = asked.iter().zip(done);
    let found: Vec<_> = found.flat_map(|(asked, done)| found_by(asked, done)).collect();
    call.json(&Answer {
        results: Some(found.iter().map(|found| found.wire(call)).collect()),
        errors: None,
    })
}

impl Found {
    fn wire<'a>(&'a self, call: &'a Call) -> ResultWire<'a> {
        match self {
            Self::Key(key, row) => ResultWire::Key(KvWire::of(key, row, call.encoding)),
            Self::Node(node) => ResultWire::Node(NodeWire::of(node, call.datacenter())),
            Self::Instance(instance) => ResultWire::Service(ServiceWire::of(instance)),
            Self::Check(check, instance) => {
                ResultWire::Check(CheckWire::of(check, instance.as_deref()).into())
            }
        }
    }
}

/// The rows that an operation answers with.
fn found_by(asked: &Asked, done: CatalogDone) -> Vec<Found> {
    match (asked, done) {
        (Asked::Key(asked), CatalogDone::Keys(done)) => {
            let rows = keys::results(asked, done).into_iter();
            rows.map(|(key, row)| Found::Key(key, row)).collect()
        }
        (_, CatalogDone::Node(node)) => vec![Found::Node(node)],
        (_, CatalogDone::Instance(instance)) => vec![Found::Instance(instance)],
        (_, CatalogDone::Check(check, instance)) => vec![Found::Check(check, instance)],
        (_, CatalogDone::Keys(_) | CatalogDone::Removed { .. } | CatalogDone::LeaseEnded { .. }) => {
            Vec::new()
        }
    }
}

fn rolled_back(call: &Call, errors: Vec<ErrorWire>) -> super::reply::Reply {
    let answer = Answer {
        results: None,
        errors: Some(errors),
    };
    call.json_with(StatusCode::CONFLICT, &answer)
}

type Compiled = Result<(Vec<Asked>, Vec<CatalogOp>), Vec<ErrorWire>>;

/// The operations of a body, one for each element; or what is wrong with some of them.
fn compile(body: &Bytes) -> Result<Compiled, Failure> {
    let parse = |error: String| Failure::BadRequest(format!("Failed to parse body: {error}"));
    let elements: Vec<OpBody> = body::decode_list(body).map_err(parse)?;
    if elements.len() > limits::TXN_OPS_MAX {
        return Err(Failure::TooManyOps(elements.len()));
    }
    let (mut asked, mut ops, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (op_index, element) in elements.into_iter().enumerate() {
        match element.compile() {
            Ok((one, op)) => {
                asked.push(one);
                ops.push(op);
            }
            Err(Wrong::Body(error)) => return Err(parse(error)),
            Err(Wrong::Operation(failure @ Failure::Unsupported(_))) => return Err(failure),
            Err(Wrong::Operation(failure)) => errors.push(ErrorWire {
                op_index,
                what: failure.to_string(),
            }),
        }
    }
    Ok(if errors.is_empty() {
        Ok((asked, ops))
    } else {
        Err(errors)
    })
}

/// What is wrong with an element.
enum Wrong {
    /// The body is none.
    Body(String),
    /// The operation is none.
    Operation(Failure),
}

impl OpBody {
    fn compile(self) -> Result<(Asked, CatalogOp), Wrong> {
        let row = match self {
            Self { kv: Some(kv), .. } => {
                let compiled = kv.compile().map_err(Wrong::Body)?;
                let (asked, op) = compiled.map_err(|what| Wrong::Operation(Failure::BadRequest(what)))?;
                return Ok((Asked::Key(asked), CatalogOp::Keys(op)));
            }
            Self { node: Some(node), .. } => node.compile(),
            Self {
                service: Some(service),
                ..
            } => service.compile(),
            Self {
                check: Some(check), ..
            } => check.compile(),
            Self {
                session: Some(session),
                ..
            } => session.compile(),
            Self { .. } => Err(Failure::bad_request("unknown operation type")),
        };
        let (asked, op) = row.map_err(Wrong::Operation)?;
        Ok((Asked::Row(asked), op))
    }
}

/// What is said of an operation that is in the way.
fn asked_unmet(asked: &[Asked], op: u32, why: CatalogUnmet) -> ErrorWire {
    let op_index = op as usize;
    let what = match (&asked[op_index], why) {
        (Asked::Key(asked), CatalogUnmet::Refused(rejection)) => match *rejection {
            Rejection::UnknownLease(id) if asked.names(id) => asked.invalid_session(),
            rejection => Failure::from(rejection).to_string(),
        },
        (Asked::Key(asked), CatalogUnmet::Keys(why)) => asked.unmet(&why),
        // An operation on keys has no row of the catalog.
        (Asked::Key(asked), CatalogUnmet::Absent | CatalogUnmet::Changed(_)) => asked.unmet(&Unmet::Absent),
        (Asked::Row(asked), why) => asked.unmet(why),
    };
    ErrorWire { op_index, what }
}
