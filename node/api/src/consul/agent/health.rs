//! `/v1/agent/health/service/`: the health of this server's services, as JSON, as a word, and as a status code that
//! load balancers understand.

use http::{StatusCode, header};
use serde::Serialize;
use spine_core::{Endpoint, InstanceHealth, InstanceId, InstanceKey, Query, ServiceHealth, ServiceName};

use crate::consul::{
    call::{Call, Handled},
    error::Failure,
    reply::Reply,
    wire::{AgentHealthWire, aggregated},
};

/// One instance.
pub(crate) async fn by_id(call: Call) -> Handled {
    let id = call.name_or(Failure::MissingServiceId)?;
    let key = InstanceKey {
        node: call.settings().node.clone(),
        id: InstanceId::parse(&id)?,
    };
    let state = call.local_state().await?;
    let Some(endpoint) = InstanceHealth(key).ask(&state).value else {
        return Ok(absent(&call, &format!("ServiceId {id} not found"), &None::<()>));
    };
    Ok(answer(
        &call,
        aggregated(&endpoint),
        &AgentHealthWire::of(&endpoint, call.datacenter()),
    ))
}

/// Every instance of a service that this server has.
pub(crate) async fn by_name(call: Call) -> Handled {
    let name = call.name_or(Failure::MissingServiceName)?;
    let state = call.local_state().await?;
    let mut endpoints = ServiceHealth(ServiceName::parse(&name)?).ask(&state).value;
    endpoints.retain(|endpoint: &Endpoint| endpoint.node.name == call.settings().node);
    let statuses = endpoints.iter().map(aggregated);
    let Some(worst) = statuses.max_by_key(|status| code(status)) else {
        return Ok(absent(&call, &format!("ServiceName {name} not found"), &[(); 0]));
    };
    let wire: Vec<_> = endpoints
        .iter()
        .map(|it| AgentHealthWire::of(it, call.datacenter()))
        .collect();
    Ok(answer(&call, worst, &wire))
}

fn code(status: &str) -> StatusCode {
    match status {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn answer(call: &Call, status: &str, wire: &impl Serialize) -> Reply {
    if wants_text(call) {
        Reply::text(code(status), status)
    } else {
        call.json_with(code(status), wire)
    }
}

fn absent(call: &Call, text: &str, wire: &impl Serialize) -> Reply {
    let code = StatusCode::NOT_FOUND;
    if wants_text(call) {
        Reply::text(code, text)
    } else {
        call.json_with(code, wire)
    }
}

fn wants_text(call: &Call) -> bool {
    let accept = call
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    call.params.first("format") == Some("text")
        || accept.is_some_and(|accept| accept.starts_with("text/plain"))
}
