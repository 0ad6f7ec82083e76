//! `/v1/agent/check/`: checks kept by this server, and reports to them.

use http::{HeaderName, HeaderValue, StatusCode};
use spine_core::{
    CheckId, CheckUpdate, Command, Deregister, ExistingChecks, NodeChecks, Outcome, Query, Register, Scope,
    Status, Target, Ttl, UpdateSource,
};

use super::is_clusters_check;
use crate::consul::{
    body::{self, CheckBody, CheckUpdateBody},
    call::{Call, Handled},
    definition,
    error::Failure,
    filter::CHECK,
    reply::Reply,
    wire::{CheckWire, InOrder},
};

/// Registers a check of the node or of one of its services.
pub(crate) async fn register(call: Call) -> Handled {
    let body: CheckBody = body::decode(&call.body)?;
    if body.name.is_empty() {
        return Err(Failure::MissingCheckName);
    }
    let register = Register {
        node: call.settings().node.clone(),
        node_update: None,
        service: None,
        checks: vec![definition::check(body)?],
        existing: ExistingChecks::Keep,
        heartbeat: None,
    };
    call.propose_checks(register).await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// Removes a check.
pub(crate) async fn deregister(call: Call) -> Handled {
    let id = check_id(&call)?;
    let node = call.settings().node.clone();
    let deregister = Deregister {
        node,
        target: Target::Check(id.clone()),
        scope: Scope::Servers,
    };
    if is_clusters_check(&id) {
        return Err(Failure::UnknownCheckId(id.to_string()));
    }
    match call.propose(Command::Deregister(deregister)).await? {
        Outcome::Deregistered { found: false } => Err(Failure::UnknownCheckId(id.to_string())),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

/// A TTL check passes.
pub(crate) async fn pass(call: Call) -> Handled {
    report_note(call, Status::Passing).await
}

/// A TTL check warns.
pub(crate) async fn warn(call: Call) -> Handled {
    report_note(call, Status::Warning).await
}

/// A TTL check fails.
pub(crate) async fn fail(call: Call) -> Handled {
    report_note(call, Status::Critical).await
}

/// A TTL check says how it is.
pub(crate) async fn update(call: Call) -> Handled {
    let body: CheckUpdateBody = body::decode(&call.body)?;
    let status = Status::parse(&body.status).ok_or(Failure::InvalidStatus(body.status))?;
    report(&call, status, &body.output, UpdateSource::Service).await
}

async fn report_note(call: Call, status: Status) -> Handled {
    let note = call.params.text("note").unwrap_or_default();
    report(&call, status, note, UpdateSource::ServiceOrImplicit(IMPLICIT_TTL)).await
}

/// The first tutorial reports to a service that has no check: one of this length is made for it.
const IMPLICIT_TTL: Ttl = Ttl::seconds(30);

const IMPLICIT_CHECK: HeaderName = HeaderName::from_static("x-spine-implicit-check");

async fn report(call: &Call, status: Status, output: &str, source: UpdateSource) -> Handled {
    let update = CheckUpdate {
        node: call.settings().node.clone(),
        check: check_id(call)?,
        status,
        output: output.into(),
        source,
        scope: Scope::Servers,
    };
    let reply = Reply::empty(StatusCode::OK);
    match call.propose(Command::CheckUpdate(update)).await? {
        Outcome::CheckUpdated { created: true } => {
            Ok(reply.with(IMPLICIT_CHECK, HeaderValue::from_static("created")))
        }
        _ => Ok(reply),
    }
}

fn check_id(call: &Call) -> Result<CheckId, Failure> {
    let name = call.name()?;
    // An empty one is unknown, as any other that is not there.
    CheckId::parse(&name).map_err(|error| {
        if name.is_empty() {
            Failure::UnknownCheckId(name)
        } else {
            error.into()
        }
    })
}

/// The checks of this server by ID.
pub(crate) async fn all(call: Call) -> Handled {
    let keep = call.filter(&CHECK)?;
    let state = call.local_state().await?;
    let views = NodeChecks(call.settings().node.clone()).ask(&state).value;
    let own = views
        .iter()
        .filter(|view| !is_clusters_check(&view.check.definition.id));
    let checks = own
        .map(|view| (view.check.definition.id.as_str(), CheckWire::of_view(view)))
        .filter(|(_, check)| keep.holds(check))
        .collect();
    Ok(call.json(&InOrder(checks)))
}
