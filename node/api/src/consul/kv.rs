//! `/v1/kv/`: keys and values. Values are kept byte for byte; the mount decides how JSON writes them.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use spine_core::{
    Command, Delete, GetKey, Guard, Index, Key, KeyNames, KeyRange, LeaseId, ListKeys, Locking, Outcome, Put,
    Rejection, Repeat, Txn, TxnOp,
};

use super::{
    body::{self, HexBody},
    call::{Call, Handled},
    error::Failure,
    reply::Reply,
    session,
    wire::{Encoding, KvWire, key_text},
};

/// A key, the keys below a prefix, or their names.
pub(crate) async fn get(call: Call) -> Handled {
    let key = Key::from(call.name()?);
    if call.params.has("keys") {
        return names(call, key).await;
    }
    if call.params.has("recurse") {
        return below(call, key).await;
    }
    if key.is_empty() {
        return Err(Failure::MissingKey);
    }
    let found = call.ask(&GetKey(key.clone())).await?;
    let reply = match &found.value {
        None => Reply::empty(StatusCode::NOT_FOUND),
        Some(row) if call.params.has("raw") => raw(row.value.clone()),
        Some(row) => call.json(&[KvWire::of(&key, row, call.encoding)]),
    };
    Ok(reply.with_all(found.headers))
}

/// The value itself. It is a stranger's: no browser is to take it for a page of ours.
fn raw(value: Bytes) -> Reply {
    Reply::bytes(StatusCode::OK, "text/plain", value)
        .with(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        )
        .with(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox"),
        )
}

async fn below(call: Call, prefix: Key) -> Handled {
    let found = call
        .ask(&ListKeys {
            range: KeyRange::prefix(prefix),
            limit: None,
        })
        .await?;
    let rows: Vec<_> = found
        .value
        .rows
        .iter()
        .map(|(key, row)| KvWire::of(key, row, call.encoding))
        .collect();
    let reply = if rows.is_empty() {
        Reply::empty(StatusCode::NOT_FOUND)
    } else {
        call.json(&rows)
    };
    Ok(reply.with_all(found.headers))
}

async fn names(call: Call, prefix: Key) -> Handled {
    // The misspelling is in clients.
    let separator = call
        .params
        .text("separator")
        .or_else(|| call.params.text("seperator"));
    let separator = separator.map(|separator| Bytes::from(separator.to_owned()));
    let everything = prefix.is_empty();
    let found = call.ask(&KeyNames { prefix, separator }).await?;
    let names: Vec<_> = found.value.iter().map(key_text).collect();
    let reply = if names.is_empty() && !everything {
        Reply::empty(StatusCode::NOT_FOUND)
    } else {
        call.json(&names)
    };
    Ok(reply.with_all(found.headers))
}

/// Stores a value.
pub(crate) async fn put(call: Call) -> Handled {
    let key = Key::from(call.name_or(Failure::MissingKey)?);
    call.params.at_most_one_of(&["cas", "acquire", "release"])?;
    if let Some(session) = call.params.first("acquire") {
        let session = session.to_owned();
        return lock(call, key, &session).await;
    }
    if let Some(session) = call.params.first("release") {
        let session = session.to_owned();
        return unlock(call, key, &session).await;
    }
    let guard = match call.params.number("cas")? {
        None => Guard::Always,
        Some(0) => Guard::Absent,
        Some(index) => Guard::ModifyIndex(Index(index)),
    };
    let put = Put {
        key,
        value: value(&call)?,
        flags: call.params.number("flags")?.unwrap_or(0),
        lease: None,
        guard,
        repeat: Repeat::Skip,
    };
    let outcome = call.propose(Command::Put(put)).await?;
    Ok(call.json(&done(&outcome)))
}

/// Takes a key's lock for a session, or keeps it, and stores the value.
async fn lock(call: Call, key: Key, session: &str) -> Handled {
    let invalid = || Failure::Session(session::invalid(session));
    let lease = session::parse(session).ok_or_else(invalid)?;
    let locking = locking(&call, key, lease)?;
    match locked(&call, TxnOp::Lock(locking)).await {
        Err(Failure::Refused(Rejection::UnknownLease(_))) => Err(invalid()),
        answer => answer,
    }
}

/// Gives a key's lock back, and stores the value.
async fn unlock(call: Call, key: Key, session: &str) -> Handled {
    // A session that is not there holds nothing.
    let Some(lease) = session::parse(session) else {
        return Ok(call.json(&false));
    };
    let locking = locking(&call, key, lease)?;
    locked(&call, TxnOp::Unlock(locking)).await
}

fn locking(call: &Call, key: Key, lease: LeaseId) -> Result<Locking, Failure> {
    let flags = call.params.number("flags")?.unwrap_or(0);
    Ok(Locking {
        key,
        lease,
        content: Some((value(call)?, flags)),
    })
}

async fn locked(call: &Call, op: TxnOp) -> Handled {
    let txn = Txn {
        then: vec![op],
        ..Txn::default()
    };
    let outcome = call.propose(Command::Txn(txn)).await?;
    Ok(call.json(&matches!(outcome, Outcome::Txn { .. })))
}

/// The body is the value; on the mount `/hex` it says the value in hex.
fn value(call: &Call) -> Result<Bytes, Failure> {
    match call.encoding {
        Encoding::Base64 => Ok(call.body.clone()),
        Encoding::Hex => {
            let HexBody { value } = body::decode(&call.body)?;
            let bytes = hex::decode(value).map_err(|error| Failure::Decode(format!("Value: {error}")))?;
            Ok(bytes.into())
        }
    }
}

/// Deletes a key, or all below a prefix.
pub(crate) async fn delete(call: Call) -> Handled {
    let key = Key::from(call.name()?);
    call.params.at_most_one_of(&["recurse", "cas"])?;
    let recurse = call.params.has("recurse");
    if key.is_empty() && !recurse {
        return Err(Failure::MissingKey);
    }
    let range = if recurse {
        KeyRange::prefix(key)
    } else {
        KeyRange::one(key)
    };
    // No row has index 0, so 0 deletes nothing, as for Consul.
    let guard = call
        .params
        .number("cas")?
        .map_or(Guard::Always, |index| Guard::ModifyIndex(Index(index)));
    let outcome = call.propose(Command::Delete(Delete { range, guard })).await?;
    Ok(call.json(&done(&outcome)))
}

fn done(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::GuardFailed { .. })
}
