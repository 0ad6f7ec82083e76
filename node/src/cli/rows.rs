//! What is printed of each kind of thing. The JSON is a promise: fields are added, never renamed or removed. Bytes that
//! are not text are given in base64, under a name that says so.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use spine_client::proto as v1;

use super::print::Row;

/// A key's row.
#[derive(Debug, Serialize)]
pub(super) struct KeyRow {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    value: Value,
    flags: u64,
    version: u64,
    create_index: u64,
    modify_index: u64,
    create_revision: u64,
    mod_revision: u64,
}

#[derive(Debug, Serialize)]
pub(super) enum Key {
    #[serde(rename = "key")]
    Text(String),
    #[serde(rename = "key_base64")]
    Bytes(String),
}

#[derive(Debug, Serialize)]
enum Value {
    #[serde(rename = "value")]
    Text(String),
    #[serde(rename = "value_base64")]
    Bytes(String),
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(BASE64_STANDARD.encode(bytes)),
        }
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(BASE64_STANDARD.encode(bytes)),
        }
    }
}

impl From<v1::KeyValue> for KeyRow {
    fn from(kv: v1::KeyValue) -> Self {
        Self {
            key: Key::from(&kv.key[..]),
            value: Value::from(&kv.value[..]),
            flags: kv.flags,
            version: kv.version,
            create_index: kv.create_index,
            modify_index: kv.modify_index,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
        }
    }
}

impl Row for KeyRow {
    const HEADER: &'static [&'static str] = &["KEY", "VALUE", "INDEX"];

    fn cells(&self) -> Vec<String> {
        let (Key::Text(key) | Key::Bytes(key)) = &self.key;
        let (Value::Text(value) | Value::Bytes(value)) = &self.value;
        vec![key.clone(), value.clone(), self.modify_index.to_string()]
    }
}

/// A key's name alone.
#[derive(Debug, Serialize)]
pub(super) struct KeyName {
    #[serde(flatten)]
    key: Key,
    modify_index: u64,
}

impl From<v1::KeyValue> for KeyName {
    fn from(kv: v1::KeyValue) -> Self {
        Self {
            key: Key::from(&kv.key[..]),
            modify_index: kv.modify_index,
        }
    }
}

impl Row for KeyName {
    const HEADER: &'static [&'static str] = &["KEY", "INDEX"];

    fn cells(&self) -> Vec<String> {
        let (Key::Text(key) | Key::Bytes(key)) = &self.key;
        vec![key.clone(), self.modify_index.to_string()]
    }
}

/// A server.
#[derive(Debug, Serialize)]
pub(super) struct MemberRow {
    name: String,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<bool>,
    /// `None`: the server that was asked doesn't say.
    #[serde(skip_serializing_if = "Option::is_none")]
    votes: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    grpc_address: String,
    http_address: String,
    peer_address: String,
    version: String,
    /// The newest that its release knows.
    rules_known: u32,
    /// Those in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<u32>,
}

impl From<v1::Member> for MemberRow {
    fn from(member: v1::Member) -> Self {
        let v1::Member {
            name,
            id,
            peer_address,
            http_address,
            grpc_address,
            version,
            leader,
            failed,
            rules_known,
            votes,
        } = member;
        Self {
            name,
            id,
            leader: Some(leader),
            votes,
            status: Some(if failed { "failed" } else { "alive" }),
            grpc_address,
            http_address,
            peer_address,
            version,
            rules_known,
            rules: None,
        }
    }
}

impl MemberRow {
    /// The row of a member of a cluster in which these rules are in force.
    pub(super) fn within(member: v1::Member, rules: u32) -> Self {
        Self {
            rules: Some(rules),
            ..member.into()
        }
    }

    /// The row of an event, which doesn't tell who leads.
    pub(super) fn of_event(member: v1::Member) -> Self {
        Self {
            leader: None,
            ..member.into()
        }
    }
}

impl Row for MemberRow {
    const HEADER: &'static [&'static str] = &[
        "NAME", "LEADER", "VOTE", "STATUS", "GRPC", "HTTP", "PEER", "VERSION", "RULES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.leader == Some(true) { "yes" } else { "no" }.to_owned(),
            match self.votes {
                Some(true) => "votes",
                Some(false) => "learns",
                None => "unknown",
            }
            .to_owned(),
            self.status.unwrap_or_default().to_owned(),
            self.grpc_address.clone(),
            self.http_address.clone(),
            self.peer_address.clone(),
            self.version.clone(),
            match self.rules {
                Some(rules) if rules != self.rules_known => format!("{rules} (knows {})", self.rules_known),
                _ => self.rules_known.to_string(),
            },
        ]
    }
}

/// A service at a glance.
#[derive(Debug, Serialize)]
pub(super) struct ServiceRow {
    name: String,
    passing: u32,
    warning: u32,
    critical: u32,
    tags: Vec<String>,
}

impl From<v1::ServiceSummary> for ServiceRow {
    fn from(summary: v1::ServiceSummary) -> Self {
        let v1::ServiceSummary {
            name,
            tags,
            passing,
            warning,
            critical,
        } = summary;
        Self {
            name,
            passing,
            warning,
            critical,
            tags,
        }
    }
}

impl Row for ServiceRow {
    const HEADER: &'static [&'static str] = &["SERVICE", "PASSING", "WARNING", "CRITICAL", "TAGS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.passing.to_string(),
            self.warning.to_string(),
            self.critical.to_string(),
            self.tags.join(","),
        ]
    }
}

/// A node.
#[derive(Debug, Serialize)]
pub(super) struct NodeRow {
    name: String,
    id: String,
    address: String,
    tagged_addresses: BTreeMap<String, String>,
    meta: BTreeMap<String, String>,
    create_index: u64,
    modify_index: u64,
}

impl From<v1::Node> for NodeRow {
    fn from(node: v1::Node) -> Self {
        let definition = node.definition.unwrap_or_default();
        Self {
            name: node.name,
            id: definition.id,
            address: definition.address,
            tagged_addresses: definition.tagged_addresses,
            meta: definition.meta,
            create_index: node.create_index,
            modify_index: node.modify_index,
        }
    }
}

/// An instance as registered.
#[derive(Debug, Serialize)]
pub(super) struct InstanceRow {
    node: String,
    id: String,
    service: String,
    address: String,
    port: u32,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    weight_passing: u32,
    weight_warning: u32,
    create_index: u64,
    modify_index: u64,
}

impl From<v1::Instance> for InstanceRow {
    fn from(instance: v1::Instance) -> Self {
        let service = instance.service.unwrap_or_default();
        let weights = service.weights.unwrap_or_default();
        Self {
            node: instance.node,
            id: service.id,
            service: service.name,
            address: service.address,
            port: service.port,
            tags: service.tags,
            meta: service.meta,
            weight_passing: weights.passing,
            weight_warning: weights.warning,
            create_index: instance.create_index,
            modify_index: instance.modify_index,
        }
    }
}

/// A check.
#[derive(Debug, Serialize)]
pub(super) struct CheckRow {
    node: String,
    id: String,
    name: String,
    instance: String,
    status: &'static str,
    output: String,
    create_index: u64,
    modify_index: u64,
}

impl From<v1::Check> for CheckRow {
    fn from(check: v1::Check) -> Self {
        let status = status(check.status());
        let definition = check.definition.unwrap_or_default();
        Self {
            node: check.node,
            id: definition.id,
            name: definition.name,
            instance: definition.instance,
            status,
            output: check.output,
            create_index: check.create_index,
            modify_index: check.modify_index,
        }
    }
}

/// An instance with its health.
#[derive(Debug, Serialize)]
pub(super) struct EndpointRow {
    status: &'static str,
    #[serde(flatten)]
    instance: InstanceRow,
    checks: Vec<CheckRow>,
}

impl From<v1::Endpoint> for EndpointRow {
    fn from(endpoint: v1::Endpoint) -> Self {
        Self {
            status: status(endpoint.status()),
            instance: endpoint.instance.unwrap_or_default().into(),
            checks: endpoint.checks.into_iter().map(Into::into).collect(),
        }
    }
}

impl Row for EndpointRow {
    const HEADER: &'static [&'static str] = &["NODE", "ID", "ADDRESS", "PORT", "STATUS", "TAGS"];

    fn cells(&self) -> Vec<String> {
        let instance = &self.instance;
        vec![
            instance.node.clone(),
            instance.id.clone(),
            instance.address.clone(),
            instance.port.to_string(),
            self.status.to_owned(),
            instance.tags.join(","),
        ]
    }
}

/// Where to send traffic.
#[derive(Debug, Serialize)]
pub(super) struct TargetRow {
    address: String,
    port: u32,
    weight: u32,
    status: &'static str,
    version: String,
    node: String,
    id: String,
}

impl From<v1::ResolvedTarget> for TargetRow {
    fn from(target: v1::ResolvedTarget) -> Self {
        let status = status(target.status());
        let v1::ResolvedTarget {
            node,
            id,
            address,
            port,
            weight,
            version,
            ..
        } = target;
        Self {
            address,
            port,
            weight,
            status,
            version,
            node,
            id,
        }
    }
}

impl Row for TargetRow {
    const HEADER: &'static [&'static str] = &["ADDRESS", "PORT", "WEIGHT", "STATUS", "VERSION", "NODE", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.port.to_string(),
            self.weight.to_string(),
            self.status.to_owned(),
            self.version.clone(),
            self.node.clone(),
            self.id.clone(),
        ]
    }
}

pub(super) fn status(status: v1::Status) -> &'static str {
    match status {
        v1::Status::Unspecified => "unknown",
        v1::Status::Passing => "passing",
        v1::Status::Warning => "warning",
        v1::Status::Critical => "critical",
    }
}
