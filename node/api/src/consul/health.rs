//! `/v1/health/`: checks, and instances with all that judges them.

use http::HeaderMap;
use spine_core::{
    AllChecks, CheckView, Endpoint, NodeChecks, NodeName, ServiceChecks, ServiceHealth, ServiceName, Status,
};

use super::{
    blocking::Found,
    call::{Call, Handled, Keep},
    catalog::{NodeMeta, Tags},
    error::Failure,
    filter::{CHECK, ENDPOINT},
    wire::{CheckWire, EndpointWire},
};

/// The checks on a node, its own and those of its instances.
pub(crate) async fn node(call: Call) -> Handled {
    let node = NodeName::parse(&call.name_or(Failure::MissingNodeName)?)?;
    let keep = call.filter(&CHECK)?;
    let found = call.ask(&NodeChecks(node)).await?;
    Ok(list(&call, &keep, found))
}

/// The checks of a service's instances.
pub(crate) async fn checks(call: Call) -> Handled {
    let name = ServiceName::parse(&call.name_or(Failure::MissingServiceName)?)?;
    let keep = call.filter(&CHECK)?;
    let found = call.ask(&ServiceChecks(name)).await?;
    Ok(list(&call, &keep, found))
}

/// The checks in a state, or in any.
pub(crate) async fn state(call: Call) -> Handled {
    let word = call.name_or(Failure::MissingCheckState)?;
    let status = match &*word {
        "any" => None,
        _ => Some(Status::parse(&word).ok_or(Failure::InvalidStatus(word))?),
    };
    let keep = call.filter(&CHECK)?;
    let found = call.ask(&AllChecks { status }).await?;
    Ok(list(&call, &keep, found))
}

fn list(call: &Call, keep: &Keep, found: Found<Vec<CheckView>>) -> super::reply::Reply {
    let meta = NodeMeta::of(call);
    let fitting = found.value.iter().filter(|view| meta.fits(&view.node));
    let checks: Vec<_> = fitting
        .map(CheckWire::of_view)
        .filter(|check| keep.holds(check))
        .collect();
    call.json(&checks).with_all(found.headers)
}

/// The instances of a service with their nodes and checks.
pub(crate) async fn service(call: Call) -> Handled {
    let name = ServiceName::parse(&call.name_or(Failure::MissingServiceName)?)?;
    let passing = call.params.switch("passing")?.unwrap_or(false);
    let (keep, meta, tags) = (call.filter(&ENDPOINT)?, NodeMeta::of(&call), Tags::of(&call));
    let found = call.ask(&ServiceHealth(name)).await?;
    let wanted = |endpoint: &&Endpoint| {
        meta.fits(&endpoint.node)
            && tags.fit(&endpoint.instance.service)
            && (!passing || endpoint.status() == Status::Passing)
    };
    let fitting = found.value.iter().filter(wanted);
    let endpoints: Vec<_> = fitting
        .map(|endpoint| EndpointWire::of(endpoint, call.datacenter()))
        .filter(|it| keep.holds(it))
        .collect();
    Ok(call.json(&endpoints).with_all(found.headers))
}

/// No instance is part of a mesh, and there are no gateways.
pub(crate) async fn none(call: Call) -> Handled {
    let name = ServiceName::parse(&call.name_or(Failure::MissingServiceName)?)?;
    // Asked all the same, so that whoever blocks on it waits.
    let headers: HeaderMap = call.ask(&ServiceHealth(name)).await?.headers;
    Ok(call.json(&[(); 0]).with_all(headers))
}
