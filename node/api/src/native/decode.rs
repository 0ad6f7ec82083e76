//! Messages to commands and questions. What a message can't mean is refused as `invalid`; bounds are the core's.

use std::{collections::BTreeMap, sync::Arc};

use spine_core::{
    CheckDefinition, CheckId, CheckKind, CheckUpdate, Deregister, ExistingChecks, GrpcProbe, Guard,
    HttpProbe, Index, InstanceId, KeyRange, LeaseId, NodeDefinition, NodeName, Pace, Register, Rejection,
    Revision, Scope, Service, ServiceAddress, ServiceName, Status, Target, TcpProbe, Thresholds, Topic, Ttl,
    UpdateSource, Weights,
};
use spine_proto::v1::{
    self, check_definition::Kind, deregister_request::Target as WireTarget, guard::Condition,
    key_range::Range, topic::Topic as WireTopic,
};

type Decoded<T> = Result<T, Rejection>;

/// A probe that says nothing runs every 10 s.
const INTERVAL_DEFAULT_MS: u64 = 10_000;
const INTERVAL_MIN_MS: u64 = 1_000;
const TIMEOUT_DEFAULT_MS_MAX: u64 = 10_000;

fn invalid<T>(text: impl Into<Arc<str>>) -> Decoded<T> {
    Err(Rejection::Invalid(text.into()))
}

pub(super) fn node_name(wire: &str) -> Decoded<NodeName> {
    Ok(NodeName::parse(wire)?)
}

pub(super) fn service_name(wire: &str) -> Decoded<ServiceName> {
    Ok(ServiceName::parse(wire)?)
}

/// A lease's id: 16 bytes in network order.
pub(super) fn lease(wire: &[u8]) -> Decoded<LeaseId> {
    match wire.try_into() {
        Ok(bytes) => Ok(LeaseId(u128::from_be_bytes(bytes))),
        Err(_) => invalid(format!("a lease ID has 16 bytes, not {}", wire.len())),
    }
}

/// The same; no bytes: none.
pub(super) fn lease_or_none(wire: &[u8]) -> Decoded<Option<LeaseId>> {
    if wire.is_empty() {
        return Ok(None);
    }
    lease(wire).map(Some)
}

pub(super) fn key_range(wire: Option<v1::KeyRange>) -> Decoded<KeyRange> {
    match wire.and_then(|wire| wire.range) {
        Some(Range::Key(key)) => Ok(KeyRange::one(key)),
        Some(Range::Prefix(prefix)) => Ok(KeyRange::prefix(prefix)),
        Some(Range::Interval(v1::KeyInterval { start, end })) => Ok(KeyRange { start, end }),
        None => invalid("range must be a key, a prefix or an interval"),
    }
}

pub(super) fn guard(wire: Option<v1::Guard>) -> Decoded<Guard> {
    let Some(wire) = wire else {
        return Ok(Guard::Always);
    };
    match wire.condition {
        Some(Condition::Absent(v1::Absent {})) => Ok(Guard::Absent),
        Some(Condition::ModifyIndex(index)) => Ok(Guard::ModifyIndex(Index(index))),
        Some(Condition::ModRevision(revision)) => Ok(Guard::ModRevision(Revision(revision))),
        None => invalid("guard must be absent, a modify_index or a mod_revision"),
    }
}

/// A status; `None` if it is not given.
pub(super) fn status(wire: i32) -> Decoded<Option<Status>> {
    match v1::Status::try_from(wire) {
        Ok(v1::Status::Unspecified) => Ok(None),
        Ok(v1::Status::Passing) => Ok(Some(Status::Passing)),
        Ok(v1::Status::Warning) => Ok(Some(Status::Warning)),
        Ok(v1::Status::Critical) => Ok(Some(Status::Critical)),
        Err(_) => invalid(format!("status {wire} is not one")),
    }
}

pub(super) fn topic(wire: v1::Topic) -> Decoded<Topic> {
    Ok(match wire.topic {
        Some(WireTopic::Keys(range)) => Topic::Keys(key_range(Some(range))?),
        Some(WireTopic::Service(name)) => Topic::Service(ServiceName::parse(&name)?),
        Some(WireTopic::Node(name)) => Topic::Node(NodeName::parse(&name)?),
        Some(WireTopic::Services(v1::Services {})) => Topic::Services,
        Some(WireTopic::Nodes(v1::Nodes {})) => Topic::Nodes,
        Some(WireTopic::Instances(v1::Instances {})) => Topic::Instances,
        Some(WireTopic::Checks(v1::Checks {})) => Topic::Checks,
        Some(WireTopic::Servers(v1::Servers {})) => Topic::Members,
        Some(WireTopic::Everything(v1::Everything {})) => Topic::All,
        None => return invalid("a topic must say of what"),
    })
}

/// The node that a call by id means, and where else it looks.
fn place(node: &str, own: NodeName) -> Decoded<(NodeName, Scope)> {
    if node.is_empty() {
        Ok((own, Scope::Servers))
    } else {
        Ok((NodeName::parse(node)?, Scope::Node))
    }
}

pub(super) fn deregister(wire: v1::DeregisterRequest, own: NodeName) -> Decoded<Deregister> {
    let (node, scope) = place(&wire.node, own)?;
    let target = match wire.target {
        Some(WireTarget::Instance(id)) => Target::Instance(InstanceId::parse(&id)?),
        Some(WireTarget::Check(id)) => Target::Check(CheckId::parse(&id)?),
        // The server's own node is not removed by leaving a field out.
        Some(WireTarget::WholeNode(_)) if wire.node.is_empty() => {
            return invalid("a whole node is removed by its name");
        }
        Some(WireTarget::WholeNode(v1::WholeNode {})) => Target::Node,
        None => return invalid("target must be an instance, a check or the whole node"),
    };
    Ok(Deregister { node, target, scope })
}

pub(super) fn check_update(wire: v1::UpdateCheckRequest, own: NodeName) -> Decoded<CheckUpdate> {
    let (node, scope) = place(&wire.node, own)?;
    let Some(status) = status(wire.status)? else {
        return invalid("status must be passing, warning or critical");
    };
    Ok(CheckUpdate {
        node,
        check: CheckId::parse(&wire.check)?,
        status,
        output: wire.output.into(),
        source: UpdateSource::Service,
        scope,
    })
}

pub(super) fn register(wire: v1::RegisterRequest, own: NodeName, ttl: Option<Ttl>) -> Decoded<Register> {
    let node = if wire.node.is_empty() {
        own
    } else {
        NodeName::parse(&wire.node)?
    };
    let service = wire.service.map(service).transpose()?;
    let instance = service.as_ref().map(|service| &service.id);
    let several = wire.checks.len() > 1;
    let numbered = (1..).zip(wire.checks);
    let checks = numbered
        .map(|(number, check)| check_definition(check, instance, several.then_some(number)))
        .collect::<Decoded<_>>()?;
    Ok(Register {
        node,
        node_update: wire.node_definition.map(node_definition),
        service,
        checks,
        existing: existing_checks(wire.existing_checks)?,
        heartbeat: match wire.heartbeat_ms {
            None => ttl,
            Some(0) => None,
            Some(ms) => Some(Ttl(ms)),
        },
    })
}

fn existing_checks(wire: i32) -> Decoded<ExistingChecks> {
    match v1::ExistingChecks::try_from(wire) {
        Ok(v1::ExistingChecks::Unspecified | v1::ExistingChecks::Replace) => Ok(ExistingChecks::Replace),
        Ok(v1::ExistingChecks::Keep) => Ok(ExistingChecks::Keep),
        Ok(v1::ExistingChecks::Overwrite) => Ok(ExistingChecks::Overwrite),
        Err(_) => invalid(format!("existing_checks {wire} is not one")),
    }
}

fn pairs(wire: BTreeMap<String, String>) -> BTreeMap<Arc<str>, Arc<str>> {
    wire.into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn node_definition(wire: v1::NodeDefinition) -> NodeDefinition {
    NodeDefinition {
        id: wire.id.into(),
        address: wire.address.into(),
        tagged_addresses: pairs(wire.tagged_addresses),
        meta: pairs(wire.meta),
    }
}

fn service(wire: v1::Service) -> Decoded<Service> {
    let name = ServiceName::parse(&wire.name)?;
    let id = if wire.id.is_empty() { &wire.name } else { &wire.id };
    let tagged = wire.tagged_addresses.into_iter().map(|(tag, at)| {
        let address = ServiceAddress {
            port: short("port", at.port)?,
            address: at.address.into(),
        };
        Ok((tag.into(), address))
    });
    Ok(Service {
        id: InstanceId::parse(id)?,
        name,
        kind: wire.kind.into(),
        tags: wire.tags.into_iter().map(Into::into).collect(),
        address: wire.address.into(),
        tagged_addresses: tagged.collect::<Decoded<_>>()?,
        port: short("port", wire.port)?,
        socket_path: wire.socket_path.into(),
        meta: pairs(wire.meta),
        weights: wire.weights.map_or(Ok(Weights::default()), weights)?,
        enable_tag_override: false,
    })
}

fn weights(wire: v1::Weights) -> Decoded<Weights> {
    Ok(Weights {
        passing: short("weight", wire.passing)?,
        warning: short("weight", wire.warning)?,
    })
}

fn short(what: &str, wire: u32) -> Decoded<u16> {
    u16::try_from(wire).or_else(|_| invalid(format!("{what} {wire} must be at most {}", u16::MAX)))
}

/// A check, with its defaults from the instance that it comes with and its place in the registration.
fn check_definition(
    wire: v1::CheckDefinition,
    instance: Option<&InstanceId>,
    number: Option<usize>,
) -> Decoded<CheckDefinition> {
    let judged = match (wire.judges_node, wire.instance.is_empty()) {
        (true, false) => return invalid("a check judges its node or an instance, not both"),
        (true, true) => None,
        (false, false) => Some(InstanceId::parse(&wire.instance)?),
        (false, true) => instance.cloned(),
    };
    let id = match (&judged, number) {
        _ if !wire.id.is_empty() => wire.id,
        (Some(instance), None) => format!("service:{instance}"),
        (Some(instance), Some(number)) => format!("service:{instance}:{number}"),
        (None, _) => return invalid("a check of a node needs an id"),
    };
    Ok(CheckDefinition {
        name: if wire.name.is_empty() {
            id.as_str()
        } else {
            &wire.name
        }
        .into(),
        id: CheckId::parse(&id)?,
        notes: wire.notes.into(),
        service: judged,
        status: status(wire.status)?,
        output: wire.output.into(),
        kind: check_kind(wire.kind)?,
        deregister_after: (wire.deregister_after_ms > 0).then_some(Ttl(wire.deregister_after_ms)),
        thresholds: thresholds(wire.thresholds.unwrap_or_default()),
    })
}

fn thresholds(wire: v1::Thresholds) -> Thresholds {
    Thresholds {
        success_before_passing: wire.success_before_passing,
        failures_before_warning: wire.failures_before_warning,
        failures_before_critical: wire.failures_before_critical,
    }
}

fn check_kind(wire: Option<Kind>) -> Decoded<CheckKind> {
    Ok(match wire {
        None => CheckKind::External,
        Some(Kind::TtlMs(ms)) => CheckKind::Ttl(Ttl(ms)),
        Some(Kind::Http(probe)) => CheckKind::Http(http_probe(probe)?),
        Some(Kind::Tcp(probe)) => CheckKind::Tcp(TcpProbe {
            address: probe.address.into(),
            tls: probe.tls,
            pace: pace(probe.pace)?,
        }),
        Some(Kind::Grpc(probe)) => CheckKind::Grpc(GrpcProbe {
            address: probe.address.into(),
            service: probe.service.into(),
            tls: probe.tls,
            pace: pace(probe.pace)?,
        }),
    })
}

fn http_probe(wire: v1::HttpProbe) -> Decoded<HttpProbe> {
    let mut header = BTreeMap::<Arc<str>, Vec<Arc<str>>>::new();
    for line in wire.headers {
        header
            .entry(line.name.into())
            .or_default()
            .push(line.value.into());
    }
    Ok(HttpProbe {
        url: wire.url.into(),
        method: wire.method.into(),
        header,
        body: wire.body.into(),
        tls_skip_verify: wire.tls_skip_verify,
        tls_server_name: wire.tls_server_name.into(),
        disable_redirects: true,
        pace: pace(wire.pace)?,
    })
}

fn pace(wire: Option<v1::Pace>) -> Decoded<Pace> {
    let wire = wire.unwrap_or_default();
    let interval_ms = if wire.interval_ms == 0 {
        INTERVAL_DEFAULT_MS
    } else {
        wire.interval_ms
    };
    if interval_ms < INTERVAL_MIN_MS {
        return invalid(format!(
            "interval_ms {interval_ms} must be at least {INTERVAL_MIN_MS}"
        ));
    }
    let timeout_ms = if wire.timeout_ms == 0 {
        interval_ms.min(TIMEOUT_DEFAULT_MS_MAX)
    } else {
        wire.timeout_ms
    };
    Ok(Pace {
        interval: Ttl(interval_ms),
        timeout: Ttl(timeout_ms),
    })
}
