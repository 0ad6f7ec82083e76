//! Rows and events to messages.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use spine_core::{
    Change, Check, CheckDefinition, CheckKind, Delta, Endpoint, Event, Instance, Key, KvRow, LeaseId,
    Liveness, Member, MemberStatus, Node, NodeName, Pace, RULES_KNOWN, Service, Status,
};
use spine_proto::v1::{self, check_definition::Kind, event::Change as WireChange};

use super::page;
use crate::registry::{NodeStatus, Role};

pub(super) fn lease_id(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

pub(super) fn key_value(key: Key, row: &KvRow) -> v1::KeyValue {
    v1::KeyValue {
        key,
        value: row.value.clone(),
        flags: row.flags,
        create_revision: row.create_revision.0,
        mod_revision: row.mod_revision.0,
        version: row.version,
        create_index: row.create_index.0,
        modify_index: row.modify_index.0,
        lease: row.lease.map(lease_id),
        lock: row.lock.map(lease_id),
        lock_index: row.lock_index,
    }
}

pub(super) fn status(status: Status) -> v1::Status {
    match status {
        Status::Passing => v1::Status::Passing,
        Status::Warning => v1::Status::Warning,
        Status::Critical => v1::Status::Critical,
    }
}

fn pairs(pairs: &BTreeMap<Arc<str>, Arc<str>>) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

pub(super) fn node(node: &Node) -> v1::Node {
    let definition = &node.definition;
    v1::Node {
        name: node.name.to_string(),
        definition: Some(v1::NodeDefinition {
            id: definition.id.to_string(),
            address: definition.address.to_string(),
            tagged_addresses: pairs(&definition.tagged_addresses),
            meta: pairs(&definition.meta),
        }),
        create_index: node.create_index.0,
        modify_index: node.modify_index.0,
    }
}

fn service(service: &Service) -> v1::Service {
    let tagged = service.tagged_addresses.iter().map(|(tag, at)| {
        let address = v1::ServiceAddress {
            address: at.address.to_string(),
            port: at.port.into(),
        };
        (tag.to_string(), address)
    });
    v1::Service {
        id: service.id.to_string(),
        name: service.name.to_string(),
        tags: service.tags.iter().map(ToString::to_string).collect(),
        address: service.address.to_string(),
        port: service.port.into(),
        tagged_addresses: tagged.collect(),
        meta: pairs(&service.meta),
        weights: Some(v1::Weights {
            passing: service.weights.passing.into(),
            warning: service.weights.warning.into(),
        }),
        socket_path: service.socket_path.to_string(),
        kind: service.kind.to_string(),
    }
}

fn instance(instance: &Instance) -> v1::Instance {
    v1::Instance {
        node: instance.node.to_string(),
        service: Some(service(&instance.service)),
        create_index: instance.create_index.0,
        modify_index: instance.modify_index.0,
    }
}

pub(super) fn endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        node: Some(node(&endpoint.node)),
        instance: Some(instance(&endpoint.instance)),
        // A node may have any number of them, and is a part of each instance on it.
        checks: page::cut(endpoint.checks.iter().map(|row| check(row)), usize::MAX).0,
        status: status(endpoint.status()).into(),
    }
}

pub(super) fn target(endpoint: &Endpoint) -> v1::ResolvedTarget {
    let service = &endpoint.instance.service;
    v1::ResolvedTarget {
        node: endpoint.node.name.to_string(),
        id: service.id.to_string(),
        address: endpoint.address().to_owned(),
        port: service.port.into(),
        weight: endpoint.weight().into(),
        status: status(endpoint.status()).into(),
        version: service
            .meta
            .get("version")
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

pub(super) fn check(check: &Check) -> v1::Check {
    v1::Check {
        node: check.node.to_string(),
        definition: Some(check_definition(&check.definition)),
        status: status(check.status).into(),
        output: check.output.to_string(),
        create_index: check.create_index.0,
        modify_index: check.modify_index.0,
    }
}

fn check_definition(definition: &CheckDefinition) -> v1::CheckDefinition {
    let thresholds = &definition.thresholds;
    v1::CheckDefinition {
        id: definition.id.to_string(),
        name: definition.name.to_string(),
        notes: definition.notes.to_string(),
        instance: definition
            .service
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        judges_node: definition.service.is_none(),
        status: definition.status.map_or(v1::Status::Unspecified, status).into(),
        kind: check_kind(&definition.kind),
        deregister_after_ms: definition.deregister_after.map_or(0, |after| after.0),
        thresholds: Some(v1::Thresholds {
            success_before_passing: thresholds.success_before_passing,
            failures_before_warning: thresholds.failures_before_warning,
            failures_before_critical: thresholds.failures_before_critical,
        }),
        output: definition.output.to_string(),
    }
}

fn check_kind(kind: &CheckKind) -> Option<Kind> {
    match kind {
        CheckKind::External => None,
        CheckKind::Ttl(ttl) => Some(Kind::TtlMs(ttl.0)),
        CheckKind::Http(probe) => {
            let lines = probe.header.iter().flat_map(|(name, values)| {
                values.iter().map(|value| v1::HeaderLine {
                    name: name.to_string(),
                    value: value.to_string(),
                })
            });
            Some(Kind::Http(v1::HttpProbe {
                url: probe.url.to_string(),
                method: probe.method.to_string(),
                headers: lines.collect(),
                body: probe.body.to_string(),
                tls_skip_verify: probe.tls_skip_verify,
                tls_server_name: probe.tls_server_name.to_string(),
                pace: Some(pace(probe.pace)),
            }))
        }
        CheckKind::Tcp(probe) => Some(Kind::Tcp(v1::TcpProbe {
            address: probe.address.to_string(),
            tls: probe.tls,
            pace: Some(pace(probe.pace)),
        })),
        CheckKind::Grpc(probe) => Some(Kind::Grpc(v1::GrpcProbe {
            address: probe.address.to_string(),
            service: probe.service.to_string(),
            tls: probe.tls,
            pace: Some(pace(probe.pace)),
        })),
    }
}

fn pace(pace: Pace) -> v1::Pace {
    v1::Pace {
        interval_ms: pace.interval.0,
        timeout_ms: pace.timeout.0,
    }
}

/// A server by its row, which doesn't say whether it votes.
pub(super) fn member(member: &Member, status: MemberStatus, leader: Option<&NodeName>) -> v1::Member {
    v1::Member {
        name: member.name.to_string(),
        id: member.id,
        peer_address: member.peer_address.to_string(),
        http_address: member.http_address.to_string(),
        grpc_address: member.grpc_address.to_string(),
        version: member.version.to_string(),
        leader: leader == Some(&member.name),
        failed: status == MemberStatus::Failed,
        rules_known: member.rules,
        votes: None,
    }
}

pub(super) fn server_status(status: &NodeStatus, version: &str) -> v1::ServerStatusResponse {
    let role = match status.role {
        Role::Leader => v1::Role::Leader,
        Role::Follower => v1::Role::Follower,
        Role::Candidate => v1::Role::Candidate,
        Role::Learner => v1::Role::Learner,
    };
    let millis = |age: std::time::Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    v1::ServerStatusResponse {
        name: status.name.to_string(),
        id: status.node_id,
        cluster_id: status.cluster_id.to_string(),
        datacenter: status.datacenter.to_string(),
        role: role.into(),
        leader: status
            .leader
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        last_contact_ms: status.last_contact.map(millis),
        term: status.term,
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        index: status.index.0,
        time_ms: status.time.0,
        state_bytes: status.state_bytes,
        ready: status.ready,
        version: version.to_owned(),
        rules: status.rules,
        rules_known: RULES_KNOWN,
    }
}

pub(super) fn event(event: &Event, with_before: bool) -> v1::Event {
    v1::Event {
        index: event.index.0,
        change: Some(change(&event.change, with_before)),
    }
}

/// The rows before (if wanted) and after a change.
fn sides<T, W>(delta: &Delta<T>, with_before: bool, encode: impl Fn(&T) -> W) -> (Option<W>, Option<W>) {
    (
        delta.before.as_ref().filter(|_| with_before).map(&encode),
        delta.after.as_ref().map(&encode),
    )
}

fn change(change: &Change, with_before: bool) -> WireChange {
    match change {
        Change::Key(key, delta) => {
            let (before, after) = sides(delta, with_before, |row| key_value(key.clone(), row));
            WireChange::Key(v1::KeyChange {
                key: key.clone(),
                before,
                after,
            })
        }
        Change::Node(name, delta) => {
            let (before, after) = sides(delta, with_before, |row| node(row));
            WireChange::Node(v1::NodeChange {
                name: name.to_string(),
                before,
                after,
            })
        }
        Change::Instance(key, delta) => {
            let (before, after) = sides(delta, with_before, |row| instance(row));
            let row = delta.after.as_ref().or(delta.before.as_ref());
            WireChange::Instance(v1::InstanceChange {
                node: key.node.to_string(),
                id: key.id.to_string(),
                service: row.map(|row| row.service.name.to_string()).unwrap_or_default(),
                before,
                after,
            })
        }
        Change::Check(key, service, delta) => {
            let (before, after) = sides(delta, with_before, |row| check(row));
            WireChange::Check(v1::CheckChange {
                node: key.node.to_string(),
                id: key.id.to_string(),
                service: service.as_ref().map(ToString::to_string).unwrap_or_default(),
                before,
                after,
            })
        }
        Change::Member(name, delta) => {
            // One that makes itself known is heard.
            let (before, after) = sides(delta, with_before, |row| member(row, MemberStatus::Alive, None));
            WireChange::Member(v1::MemberChange {
                name: name.to_string(),
                before,
                after,
            })
        }
        Change::MemberStatus(of, delta) => {
            let side = |row: Option<Liveness>| row.map(|row| member(of, row.status, None));
            WireChange::Member(v1::MemberChange {
                name: of.name.to_string(),
                before: side(delta.before.filter(|_| with_before)),
                after: side(delta.after),
            })
        }
        Change::Lease(id, began) => WireChange::Lease(v1::LeaseChange {
            id: lease_id(*id),
            began: *began,
        }),
        Change::CaRoots(root) => WireChange::CaRoots(v1::CaRootsChange {
            active_root: root.id.to_string(),
        }),
    }
}
