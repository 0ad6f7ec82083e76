//! `/v1/agent/service/`: services registered through this server.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use spine_core::{
    Answer, Command, Deregister, ExistingChecks, Index, Instance, InstanceHealth, InstanceId, InstanceKey,
    NodeServices, Outcome, Query, Register, Scope, Target,
};
use tokio::time::Instant;

use super::is_clusters_service;
use crate::{
    consul::{
        body::{self, CheckBody, ServiceBody},
        call::{Call, Handled},
        definition,
        error::Failure,
        filter::SERVICE,
        reply::Reply,
        wire::{AgentServiceWire, InOrder},
    },
    read::Blocking,
    registry::Consistency,
};

/// Registers a service with its checks, or again what is registered already.
pub(crate) async fn register(call: Call) -> Handled {
    let mut body: ServiceBody = body::decode(&call.body)?;
    if body.name.is_empty() {
        return Err(Failure::MissingServiceName);
    }
    // An empty `Check` is as good as none: clients that have no check send one.
    let check = body.check.take().filter(|check| *check != CheckBody::default());
    let checks = check
        .into_iter()
        .chain(std::mem::take(&mut body.checks))
        .collect();
    let service = definition::service(body)?;
    let replace = call.params.switch("replace-existing-checks")?.unwrap_or(false);
    let register = Register {
        node: call.settings().node.clone(),
        node_update: None,
        checks: definition::service_checks(&service, checks)?,
        service: Some(service),
        existing: if replace {
            ExistingChecks::Replace
        } else {
            ExistingChecks::Keep
        },
        heartbeat: call.settings().default_service_ttl,
    };
    call.propose(Command::Register(Box::new(register))).await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// Removes a service with its checks.
pub(crate) async fn deregister(call: Call) -> Handled {
    let id = InstanceId::parse(&call.name_or(Failure::MissingServiceId)?)?;
    let node = call.settings().node.clone();
    let deregister = Deregister {
        node,
        target: Target::Instance(id.clone()),
        scope: Scope::Servers,
    };
    if is_clusters_service(&id) {
        return Err(Failure::UnknownServiceId(id.to_string()));
    }
    match call.propose(Command::Deregister(deregister)).await? {
        Outcome::Deregistered { found: false } => Err(Failure::UnknownServiceId(id.to_string())),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

/// The services of this server by ID.
pub(crate) async fn all(call: Call) -> Handled {
    let keep = call.filter(&SERVICE)?;
    let state = call.local_state().await?;
    let found = NodeServices {
        node: call.settings().node.as_str().into(),
    }
    .ask(&state)
    .value;
    let instances: Vec<Arc<Instance>> = found.map(|node| node.instances).unwrap_or_default();
    let registered_here = instances
        .iter()
        .filter(|instance| !is_clusters_service(&instance.service.id));
    let services = registered_here
        .map(|instance| {
            (
                instance.service.id.as_str(),
                AgentServiceWire::of(instance, call.datacenter()),
            )
        })
        .filter(|(_, service)| keep.holds(service))
        .collect();
    Ok(call.json(&InOrder(services)))
}

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

/// One service; with `?hash` waits until it differs from what the client has.
pub(crate) async fn one(call: Call) -> Handled {
    let id = call.name_or(Failure::MissingServiceId)?;
    let key = InstanceKey {
        node: call.settings().node.clone(),
        id: InstanceId::parse(&id)?,
    };
    let known = call.params.text("hash");
    let query = InstanceHealth(key);
    let until = Instant::now() + call.hash_wait()?;
    let mut floor = None;
    loop {
        let blocking = floor.map(|floor| Blocking { floor, until });
        let Answer { value, index, .. } = call.read(&query, Consistency::Stale, blocking).await?;
        let instance = value.ok_or_else(|| Failure::NoService(id.clone()))?.instance;
        let mut wire = AgentServiceWire::of(&instance, call.datacenter());
        let hash = content_hash(&wire);
        // No index past the floor: the time has come.
        if known != Some(&*hash) || floor.is_some_and(|floor: Index| index <= floor) {
            let header = HeaderValue::from_str(&hash).expect("hexadecimal digits");
            wire.content_hash = Some(hash);
            return Ok(call.json(&wire).with(CONTENT_HASH, header));
        }
        floor = Some(index);
    }
}

impl Call {
    /// How long a read that blocks by hash waits.
    fn hash_wait(&self) -> Result<Duration, Failure> {
        self.wait_asked().map(|wait| self.spread(wait))
    }
}

/// A hash of what the client sees, the same on every server.
fn content_hash(service: &AgentServiceWire<'_>) -> String {
    let shown = serde_json::to_vec(service).expect("the wire types have string keys and write to memory");
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&shown))
}
