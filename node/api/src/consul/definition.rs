//! From what a client registers to what the core knows: services and the checks that an agent keeps.

use std::{collections::BTreeMap, sync::Arc};

use spine_core::{
    CheckDefinition, CheckId, CheckKind, GrpcProbe, HttpProbe, InstanceId, Pace, Service, ServiceAddress,
    ServiceName, Status, TcpProbe, Thresholds, Ttl, Weights,
};

use super::{
    body::{CheckBody, ServiceBody},
    error::Failure,
    unsupported,
};

/// A service as the core knows it.
pub(crate) fn service(body: ServiceBody) -> Result<Service, Failure> {
    if !matches!(&*body.kind, "" | "typical") {
        return Err(unsupported::later(format!("services of kind {:?}", body.kind)));
    }
    for (what, value) in [("Proxy", &body.proxy), ("Connect", &body.connect)] {
        if value.as_ref().is_some_and(|value| !says_nothing(value)) {
            return Err(unsupported::later(format!("a service's {what}")));
        }
    }
    let id = if body.id.is_empty() { &body.name } else { &body.id };
    Ok(Service {
        id: InstanceId::parse(id)?,
        name: ServiceName::parse(&body.name)?,
        kind: "".into(),
        tags: body.tags.into_iter().map(Arc::from).collect(),
        address: body.address.into(),
        tagged_addresses: body
            .taggedaddresses
            .into_iter()
            .map(|(name, at)| {
                (
                    name.into(),
                    ServiceAddress {
                        address: at.address.into(),
                        port: at.port,
                    },
                )
            })
            .collect(),
        port: body.port,
        socket_path: body.socketpath.into(),
        meta: text_map(body.meta),
        weights: body.weights.map_or_else(Weights::default, |weights| Weights {
            passing: weights.passing,
            warning: weights.warning,
        }),
        enable_tag_override: body.enabletagoverride,
    })
}

/// Clients send back what they were shown, and there the absence of a proxy is a structure of empty fields.
fn says_nothing(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null | serde_json::Value::Bool(false) => true,
        serde_json::Value::Bool(true) => false,
        serde_json::Value::Number(number) => number.as_f64() == Some(0.0),
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(list) => list.iter().all(says_nothing),
        serde_json::Value::Object(fields) => fields.values().all(says_nothing),
    }
}

/// A status; empty: what a check begins with.
pub(crate) fn status(word: &str) -> Result<Option<Status>, Failure> {
    match word {
        "" => Ok(None),
        word => Status::parse(word)
            .map(Some)
            .ok_or_else(|| Failure::InvalidStatus(word.to_owned())),
    }
}

/// A map with keys of the client's own.
pub(crate) fn text_map(map: BTreeMap<String, String>) -> BTreeMap<Arc<str>, Arc<str>> {
    map.into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// The checks that come with a service. Those without an ID are `service:ID`, numbered if there are several.
pub(crate) fn service_checks(
    service: &Service,
    bodies: Vec<CheckBody>,
) -> Result<Vec<CheckDefinition>, Failure> {
    let several = bodies.len() > 1;
    let numbered = bodies.into_iter().enumerate().map(|(n, mut body)| {
        if body.checkid.is_empty() && body.id.is_empty() {
            body.id = format!("service:{}", service.id);
            if several {
                body.id = format!("{}:{}", body.id, n + 1);
            }
        }
        if body.name.is_empty() {
            body.name = format!("Service '{}' check", service.name);
        }
        body.serviceid = service.id.to_string();
        check(body)
    });
    numbered.collect()
}

/// A check as the core knows it.
pub(crate) fn check(body: CheckBody) -> Result<CheckDefinition, Failure> {
    let kind = kind(&body)?;
    if body.failuresbeforewarning > body.failuresbeforecritical {
        return Err(Failure::InvalidCheck(
            "FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
        ));
    }
    let id = [&body.checkid, &body.id, &body.name]
        .into_iter()
        .find(|id| !id.is_empty());
    Ok(CheckDefinition {
        id: CheckId::parse(id.map_or("", String::as_str))?,
        name: body.name.into(),
        notes: body.notes.into(),
        service: if body.serviceid.is_empty() {
            None
        } else {
            Some(InstanceId::parse(&body.serviceid)?)
        },
        status: status(&body.status)?,
        output: "".into(),
        kind,
        deregister_after: body.deregistercriticalserviceafter.ttl(),
        thresholds: Thresholds {
            success_before_passing: body.successbeforepassing,
            failures_before_warning: body.failuresbeforewarning,
            failures_before_critical: body.failuresbeforecritical,
        },
    })
}

/// Intervals below this are raised to it.
const INTERVAL_MIN: Ttl = Ttl::seconds(1);
/// A probe's timeout if none is given.
const TIMEOUT_DEFAULT: Ttl = Ttl::seconds(10);

/// The one kind that a check is of.
fn kind(body: &CheckBody) -> Result<CheckKind, Failure> {
    if !body.script.is_empty() || !body.args.is_empty() || !body.scriptargs.is_empty() {
        return Err(Failure::ScriptsDisabled);
    }
    for (given, what) in [
        (&body.udp, "UDP checks"),
        (&body.h2ping, "H2PING checks"),
        (&body.osservice, "OSService checks"),
        (&body.dockercontainerid, "Docker checks"),
        (&body.aliasnode, "alias checks"),
        (&body.aliasservice, "alias checks"),
    ] {
        if !given.is_empty() {
            return Err(unsupported::later(what));
        }
    }
    let probes = [&body.http, &body.tcp, &body.grpc]
        .into_iter()
        .filter(|target| !target.is_empty())
        .count();
    match (probes, body.ttl.ttl(), body.interval.ttl()) {
        (_, Some(_), Some(_)) => Err(Failure::InvalidCheck("Interval and TTL cannot both be specified")),
        (0, Some(ttl), None) => Ok(CheckKind::Ttl(ttl)),
        (0, None, _) => Err(Failure::InvalidCheck("TTL must be > 0 for TTL checks")),
        (1, None, Some(interval)) => {
            let timeout = body.timeout.ttl().unwrap_or(TIMEOUT_DEFAULT);
            Ok(probe(
                body,
                Pace {
                    interval: interval.max(INTERVAL_MIN),
                    timeout,
                },
            ))
        }
        (1, _, None) => Err(Failure::InvalidCheck(
            "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
        )),
        (_, _, _) => Err(Failure::InvalidCheck(
            "only one of HTTP, TCP and GRPC can be specified",
        )),
    }
}

fn probe(body: &CheckBody, pace: Pace) -> CheckKind {
    if !body.http.is_empty() {
        let header = body.header.iter().map(|(name, lines)| {
            (
                Arc::from(name.as_str()),
                lines.iter().map(|line| Arc::from(line.as_str())).collect(),
            )
        });
        CheckKind::Http(HttpProbe {
            url: body.http.as_str().into(),
            method: body.method.as_str().into(),
            header: header.collect(),
            body: body.body.as_str().into(),
            tls_skip_verify: body.tlsskipverify,
            tls_server_name: body.tlsservername.as_str().into(),
            disable_redirects: body.disableredirects,
            pace,
        })
    } else if !body.tcp.is_empty() {
        CheckKind::Tcp(TcpProbe {
            address: body.tcp.as_str().into(),
            tls: body.tcpusetls,
            pace,
        })
    } else {
        // `HOST:PORT/SERVICE`: without a service the server as a whole is asked for.
        let (address, service) = body.grpc.split_once('/').unwrap_or((&body.grpc, ""));
        CheckKind::Grpc(GrpcProbe {
            address: address.into(),
            service: service.into(),
            tls: body.grpcusetls,
            pace,
        })
    }
}
