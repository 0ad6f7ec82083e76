//! `/v1/session/`: sessions, which are leases that hang on a node and its checks.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spine_core::{
    AllLeases, CheckId, Command, LeaseEnd, LeaseId, LeaseOpen, LeaseTerms, LeaseView, NodeName, OneLease,
    Outcome, Rejection, Renewal, Renewed, Ttl, limits,
};

use super::{
    body,
    call::{Call, Handled},
    duration::GoDuration,
    error::Failure,
    reply::Reply,
    wire::session_text,
};
use crate::{draw::DRAWS, registry::Consistency};

/// What keeps a lock from being taken after its session was lost, unless the session says otherwise.
const LOCK_DELAY_DEFAULT: Ttl = Ttl::seconds(15);
/// A number below this is of seconds, not of nanoseconds.
const LOCK_DELAY_SECONDS_BELOW: i64 = 1_000;
const TTL_MIN: Ttl = Ttl::seconds(10);
const TTL_MAX: Ttl = Ttl::seconds(86_400);
/// The check that a session hangs on unless it names others.
const NODE_CHECK: &str = "serfHealth";

/// The body of `session/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SessionBody {
    name: String,
    node: String,
    lockdelay: Option<Value>,
    behavior: String,
    ttl: String,
    nodechecks: Option<Vec<String>>,
    checks: Option<Vec<String>>,
    servicechecks: Vec<ServiceCheckBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceCheckBody {
    id: String,
}

/// Makes a session.
pub(crate) async fn create(call: Call) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "UPPERCASE")]
    struct Created {
        id: String,
    }
    let body: SessionBody = if call.body.is_empty() {
        SessionBody::default()
    } else {
        body::decode(&call.body)?
    };
    let ttl = ttl(&body.ttl)?;
    let terms = terms(&call, body)?;
    for _ in 0..DRAWS {
        let id = call.dialect.draw_lease();
        let open = LeaseOpen {
            id,
            ttl,
            terms: terms.clone(),
        };
        match call
            .registry()
            .propose(
                &call.context(Consistency::Linearizable),
                Command::LeaseOpen(Box::new(open)),
            )
            .await?
            .result
        {
            Ok(_) => return Ok(call.json(&Created { id: session_text(id) })),
            Err(Rejection::LeaseExists(_)) => {}
            Err(rejection) => return Err(refused(rejection)),
        }
    }
    Err(Failure::Session("no session ID is free: try again".into()))
}

/// Consul's words, and its 500.
fn refused(rejection: Rejection) -> Failure {
    match rejection {
        Rejection::UnknownNode(_) => Failure::Session("Missing node registration".into()),
        Rejection::UnknownCheck(id) => Failure::Session(format!("Missing check '{id}' registration")),
        Rejection::CheckCritical(id) => Failure::Session(format!("Check '{id}' is in critical state")),
        other => other.into(),
    }
}

fn terms(call: &Call, body: SessionBody) -> Result<LeaseTerms, Failure> {
    let node = match body.node.as_str() {
        "" => call.settings().node.clone(),
        name => NodeName::parse(name)?,
    };
    let end = match body.behavior.as_str() {
        "" | "release" => LeaseEnd::Release,
        "delete" => LeaseEnd::Delete,
        other => return Err(Failure::Session(format!("Invalid Behavior setting '{other}'"))),
    };
    let node_checks = node_checks(body.nodechecks, body.checks);
    let ids = |ids: Vec<String>| ids.iter().map(|id| CheckId::parse(id)).collect::<Result<_, _>>();
    let service_checks = body.servicechecks.into_iter().map(|check| check.id).collect();
    Ok(LeaseTerms {
        name: body.name.into(),
        node: Some(node),
        node_checks: ids(node_checks)?,
        service_checks: ids(service_checks)?,
        end,
        lock_delay: lock_delay(body.lockdelay)?,
    })
}

/// The checks of the node that a session hangs on, as Consul since 1.7 has it: those of the old field `Checks` beside those of
/// `NodeChecks`, which is the node's own check if it is left out; and none if `Checks` is empty.
fn node_checks(named: Option<Vec<String>>, old: Option<Vec<String>>) -> Vec<String> {
    let named = named.unwrap_or_else(|| vec![NODE_CHECK.to_owned()]);
    let old = match old {
        None => return named,
        Some(old) if old.is_empty() => return old,
        Some(old) => old,
    };
    let more: Vec<_> = old.into_iter().filter(|id| !named.contains(id)).collect();
    [named, more].concat()
}

fn ttl(text: &str) -> Result<Option<Ttl>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = || {
        let bounds = "must be between [10s=24h0m0s]";
        Failure::Session(format!("Invalid Session TTL '{text}', {bounds}"))
    };
    let span = GoDuration::parse(text).map_err(|_| bad())?;
    match span.ttl() {
        // As for Consul, no time is no TTL.
        None if span == GoDuration(0) => Ok(None),
        Some(ttl) if (TTL_MIN..=TTL_MAX).contains(&ttl) => Ok(Some(ttl)),
        _ => Err(bad()),
    }
}

/// A Go duration, or a number: of seconds if it is small, else of nanoseconds.
fn lock_delay(value: Option<Value>) -> Result<Ttl, Failure> {
    let bad = |what: &dyn std::fmt::Display| Failure::Decode(format!("LockDelay: {what}"));
    let span = match value {
        None => return Ok(LOCK_DELAY_DEFAULT),
        Some(Value::String(text)) if text.is_empty() => return Ok(LOCK_DELAY_DEFAULT),
        Some(Value::String(text)) => GoDuration::parse(&text).map_err(|error| bad(&error))?,
        Some(Value::Number(number)) => {
            let number = number.as_i64().ok_or_else(|| bad(&"not a whole number"))?;
            GoDuration(if number < LOCK_DELAY_SECONDS_BELOW {
                number.saturating_mul(1_000_000_000)
            } else {
                number
            })
        }
        Some(other) => return Err(bad(&format!("{other} is no duration"))),
    };
    Ok(span.ttl().unwrap_or_default().min(limits::LOCK_DELAY_MAX))
}

/// Ends a session; one that is not there has ended.
pub(crate) async fn destroy(call: Call) -> Handled {
    let id = call.name_or(Failure::MissingSession)?;
    let Some(id) = parse(&id) else {
        return Ok(call.json(&true));
    };
    match call.propose(Command::LeaseRevoke(id)).await {
        Ok(Outcome::LeaseRevoked { .. }) | Err(Failure::Refused(Rejection::UnknownLease(_))) => {
            Ok(call.json(&true))
        }
        Ok(other) => Err(Failure::Session(format!("unexpected outcome {other:?}"))),
        Err(failure) => Err(failure),
    }
}

/// Renews a session.
pub(crate) async fn renew(call: Call) -> Handled {
    let name = call.name_or(Failure::MissingSession)?;
    let gone = || Failure::NoSession(name.clone());
    let id = parse(&name).ok_or_else(gone)?;
    let cx = call.context(Consistency::Linearizable);
    match call.registry().renew(&cx, Renewal::Lease(id)).await? {
        Renewed::Until(_) => {}
        Renewed::NotARenewal => return Err(gone()),
    }
    // It was renewed here: this server's state has it.
    let state = call.local_state().await?;
    let found = spine_core::Query::ask(&OneLease(id), &state).value;
    let session = found.as_ref().and_then(SessionWire::of).ok_or_else(gone)?;
    Ok(call.json(&[session]))
}

/// One session, as a list of one or none.
pub(crate) async fn info(call: Call) -> Handled {
    let name = call.name_or(Failure::MissingSession)?;
    // What is no UUID is asked for as the one that nobody has: the answer, its index and its waiting are the same.
    let id = parse(&name).unwrap_or(LeaseId(0));
    let found = call.ask(&OneLease(id)).await?;
    let sessions: Vec<_> = found.value.iter().filter_map(SessionWire::of).collect();
    Ok(call.json(&sessions).with_all(found.headers))
}

/// The sessions of a node.
pub(crate) async fn node(call: Call) -> Handled {
    let node = NodeName::parse(&call.name_or(Failure::MissingNodeName)?)?;
    let query = AllLeases {
        node: Some(node),
        ..AllLeases::default()
    };
    listed(&call, &query).await
}

/// Every session.
pub(crate) async fn list(call: Call) -> Handled {
    listed(&call, &AllLeases::default()).await
}

async fn listed(call: &Call, query: &AllLeases) -> Handled {
    let found = call.ask(query).await?;
    let sessions: Vec<_> = found.value.iter().filter_map(SessionWire::of).collect();
    let reply: Reply = call.json_with(StatusCode::OK, &sessions);
    Ok(reply.with_all(found.headers))
}

/// A session's id, a UUID.
pub(crate) fn parse(text: &str) -> Option<LeaseId> {
    let id = uuid::Uuid::parse_str(text).ok()?;
    Some(LeaseId(id.as_u128()))
}

/// What Consul says of a session that is not there.
pub(crate) fn invalid(id: &str) -> String {
    format!("invalid session {id:?}")
}

/// A session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SessionWire {
    #[serde(rename = "ID")]
    id: String,
    name: Arc<str>,
    node: String,
    /// In nanoseconds.
    lock_delay: i64,
    behavior: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    node_checks: Vec<CheckId>,
    service_checks: Vec<ServiceCheckWire>,
    create_index: u64,
    modify_index: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceCheckWire {
    #[serde(rename = "ID")]
    id: CheckId,
    namespace: &'static str,
}

impl SessionWire {
    /// A lease that hangs on a node is a session.
    fn of(view: &LeaseView) -> Option<Self> {
        let terms = view.terms.as_ref()?;
        let service_check = |id: &CheckId| ServiceCheckWire {
            id: id.clone(),
            namespace: "",
        };
        Some(Self {
            id: session_text(view.id),
            name: terms.name.clone(),
            node: terms.node.as_ref()?.to_string(),
            lock_delay: GoDuration::from(terms.lock_delay).0,
            behavior: match terms.end {
                LeaseEnd::Release => "release",
                LeaseEnd::Delete => "delete",
            },
            ttl: view
                .ttl
                .map(|ttl| GoDuration::from(ttl).to_string())
                .unwrap_or_default(),
            node_checks: terms.node_checks.clone(),
            service_checks: terms.service_checks.iter().map(service_check).collect(),
            create_index: view.create_index.0,
            modify_index: view.create_index.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_lock_delay_is_of_seconds() {
        for (value, ms) in [
            (json!("15s"), 15_000),
            (json!("0s"), 0),
            (json!(""), 15_000),
            (json!(0), 0),
            (json!(20), 20_000),
            (json!(999), 60_000),
            (json!(1_500_000), 2),
            (json!(30_000_000_000_u64), 30_000),
            (json!("2m"), 60_000),
        ] {
            assert_eq!(lock_delay(Some(value.clone())).unwrap(), Ttl(ms), "{value}");
        }
        assert_eq!(lock_delay(None).unwrap(), LOCK_DELAY_DEFAULT);
        for value in [json!("15"), json!(1.5), json!([]), json!(true)] {
            assert!(lock_delay(Some(value.clone())).is_err(), "{value}");
        }
    }

    #[test]
    fn a_ttl_is_within_consuls_bounds() {
        assert_eq!(ttl("").unwrap(), None);
        assert_eq!(ttl("10s").unwrap(), Some(Ttl::seconds(10)));
        assert_eq!(ttl("24h").unwrap(), Some(Ttl::seconds(86_400)));
        for text in ["9.9s", "24h0m1s", "x", "-10s"] {
            let error = ttl(text).unwrap_err().to_string();
            assert!(error.starts_with("Invalid Session TTL '"), "{error}");
        }
    }
}
