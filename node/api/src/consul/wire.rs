//! The JSON that Consul's clients read: names, order and forms of its fields.
//!
//! Lists and maps are never `null`, durations are Go's strings. The core's rows have no field because one of these
//! has it; what Consul shows and the core doesn't know (proxies, mesh) is shown as Consul shows its absence.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeMap};
use spine_core::{
    Check, CheckKind, Endpoint, GrpcProbe, HttpProbe, Instance, Key, KvRow, LeaseId, Node, Pace,
    ServiceAddress, Status, TcpProbe, Ttl, Weights, query::CheckView,
};

use super::duration::GoDuration;

/// How bytes are written in JSON: what the mounts differ in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Consul's.
    #[default]
    Base64,
    /// That of the mount `/hex`.
    Hex,
}

impl Encoding {
    /// Nothing is `null`.
    fn write(self, bytes: &[u8]) -> Option<String> {
        match self {
            _ if bytes.is_empty() => None,
            Self::Base64 => Some(STANDARD.encode(bytes)),
            Self::Hex => Some(hex::encode(bytes)),
        }
    }
}

/// A key's row.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KvWire {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl KvWire {
    pub(crate) fn of(key: &Key, row: &KvRow, encoding: Encoding) -> Self {
        Self {
            lock_index: row.lock_index,
            key: key_text(key),
            flags: row.flags,
            value: encoding.write(&row.value),
            create_index: row.create_index.0,
            modify_index: row.modify_index.0,
            session: row.lock.map(session_text),
        }
    }
}

/// A key as text; JSON knows no other.
pub(crate) fn key_text(key: &Key) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// A session's id as its clients write it.
pub(crate) fn session_text(LeaseId(id): LeaseId) -> String {
    uuid::Uuid::from_u128(id).to_string()
}

/// A map with keys of the client's own.
type TextMap = BTreeMap<Arc<str>, Arc<str>>;

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeWire<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a TextMap,
    meta: &'a TextMap,
    create_index: u64,
    modify_index: u64,
}

impl<'a> NodeWire<'a> {
    pub(crate) fn of(node: &'a Node, datacenter: &'a str) -> Self {
        Self {
            id: &node.definition.id,
            node: node.name.as_str(),
            address: &node.definition.address,
            datacenter,
            tagged_addresses: &node.definition.tagged_addresses,
            meta: &node.definition.meta,
            create_index: node.create_index.0,
            modify_index: node.modify_index.0,
        }
    }
}

/// An instance's share of the traffic.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WeightsWire {
    passing: u16,
    warning: u16,
}

impl From<Weights> for WeightsWire {
    fn from(weights: Weights) -> Self {
        Self {
            passing: weights.passing,
            warning: weights.warning,
        }
    }
}

/// An address with a port.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AddressWire<'a> {
    address: &'a str,
    port: u16,
}

fn tagged(addresses: &BTreeMap<Arc<str>, ServiceAddress>) -> BTreeMap<&str, AddressWire<'_>> {
    addresses
        .iter()
        .map(|(name, at)| {
            (
                &**name,
                AddressWire {
                    address: &at.address,
                    port: at.port,
                },
            )
        })
        .collect()
}

/// A proxy that is none, as Consul writes it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoProxy {
    mode: &'static str,
    mesh_gateway: Empty,
    expose: Empty,
}

/// `{}`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Empty {}

/// A service flat with its node: `catalog/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CatalogServiceWire<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a TextMap,
    node_meta: &'a TextMap,
    service_kind: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [Arc<str>],
    service_address: &'a str,
    service_tagged_addresses: BTreeMap<&'a str, AddressWire<'a>>,
    service_weights: WeightsWire,
    service_meta: &'a TextMap,
    service_port: u16,
    service_socket_path: &'a str,
    service_enable_tag_override: bool,
    service_proxy: NoProxy,
    service_connect: Empty,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CatalogServiceWire<'a> {
    pub(crate) fn of(node: &'a Node, instance: &'a Instance, datacenter: &'a str) -> Self {
        let service = &instance.service;
        Self {
            id: &node.definition.id,
            node: node.name.as_str(),
            address: &node.definition.address,
            datacenter,
            tagged_addresses: &node.definition.tagged_addresses,
            node_meta: &node.definition.meta,
            service_kind: &service.kind,
            service_id: service.id.as_str(),
            service_name: service.name.as_str(),
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: tagged(&service.tagged_addresses),
            service_weights: service.weights.into(),
            service_meta: &service.meta,
            service_port: service.port,
            service_socket_path: &service.socket_path,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: NoProxy::default(),
            service_connect: Empty {},
            create_index: instance.create_index.0,
            modify_index: instance.modify_index.0,
        }
    }
}

/// A service by itself: `catalog/node`, `health/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceWire<'a> {
    #[serde(flatten)]
    common: ServiceFields<'a>,
    proxy: NoProxy,
    connect: Empty,
    create_index: u64,
    modify_index: u64,
}

/// A service as its agent shows it: `agent/services`, `agent/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentServiceWire<'a> {
    #[serde(flatten)]
    common: ServiceFields<'a>,
    datacenter: &'a str,
    /// Only where the client blocks on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_hash: Option<String>,
}

/// What both forms of a service have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceFields<'a> {
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [Arc<str>],
    address: &'a str,
    tagged_addresses: BTreeMap<&'a str, AddressWire<'a>>,
    meta: &'a TextMap,
    port: u16,
    socket_path: &'a str,
    weights: WeightsWire,
    enable_tag_override: bool,
}

impl<'a> ServiceFields<'a> {
    fn of(instance: &'a Instance) -> Self {
        let service = &instance.service;
        Self {
            kind: &service.kind,
            id: service.id.as_str(),
            service: service.name.as_str(),
            tags: &service.tags,
            address: &service.address,
            tagged_addresses: tagged(&service.tagged_addresses),
            meta: &service.meta,
            port: service.port,
            socket_path: &service.socket_path,
            weights: service.weights.into(),
            enable_tag_override: service.enable_tag_override,
        }
    }
}

impl<'a> ServiceWire<'a> {
    pub(crate) fn of(instance: &'a Instance) -> Self {
        Self {
            common: ServiceFields::of(instance),
            proxy: NoProxy::default(),
            connect: Empty {},
            create_index: instance.create_index.0,
            modify_index: instance.modify_index.0,
        }
    }
}

impl<'a> AgentServiceWire<'a> {
    pub(crate) fn of(instance: &'a Instance, datacenter: &'a str) -> Self {
        Self {
            common: ServiceFields::of(instance),
            datacenter,
            content_hash: None,
        }
    }
}

/// A check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckWire<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    check_id: &'a str,
    name: &'a str,
    status: &'static str,
    notes: &'a str,
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [Arc<str>],
    #[serde(rename = "Type")]
    kind: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: DefinitionWire<'a>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CheckWire<'a> {
    pub(crate) fn of(check: &'a Check, instance: Option<&'a Instance>) -> Self {
        let definition = &check.definition;
        let pace = definition_pace(&definition.kind);
        Self {
            node: check.node.as_str(),
            check_id: definition.id.as_str(),
            name: &definition.name,
            status: check.status.as_str(),
            notes: &definition.notes,
            output: &check.output,
            service_id: definition.service.as_ref().map_or("", |id| id.as_str()),
            service_name: instance.map_or("", |instance| instance.service.name.as_str()),
            service_tags: instance.map_or(&[], |instance| &instance.service.tags),
            kind: definition.kind.as_str(),
            interval: pace.map_or_else(String::new, |pace| go(pace.interval)),
            timeout: pace.map_or_else(String::new, |pace| go(pace.timeout)),
            exposed_port: 0,
            definition: DefinitionWire::of(check),
            create_index: check.create_index.0,
            modify_index: check.modify_index.0,
        }
    }

    pub(crate) fn of_view(view: &'a CheckView) -> Self {
        Self::of(&view.check, view.instance.as_deref())
    }
}

fn definition_pace(kind: &CheckKind) -> Option<Pace> {
    match kind {
        CheckKind::External | CheckKind::Ttl(_) => None,
        CheckKind::Http(HttpProbe { pace, .. })
        | CheckKind::Tcp(TcpProbe { pace, .. })
        | CheckKind::Grpc(GrpcProbe { pace, .. }) => Some(*pace),
    }
}

fn go(ttl: Ttl) -> String {
    GoDuration::from(ttl).to_string()
}

/// How a check's status comes about; what is not set is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "the wire's fields")]
struct DefinitionWire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "str::is_empty")]
    http: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
    #[serde(rename = "TLSServerName", skip_serializing_if = "str::is_empty")]
    tls_server_name: &'a str,
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_false")]
    tls_skip_verify: bool,
    #[serde(skip_serializing_if = "is_false")]
    disable_redirects: bool,
    #[serde(rename = "TCP", skip_serializing_if = "str::is_empty")]
    tcp: &'a str,
    #[serde(rename = "TCPUseTLS", skip_serializing_if = "is_false")]
    tcp_use_tls: bool,
    #[serde(rename = "GRPC", skip_serializing_if = "String::is_empty")]
    grpc: String,
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_false")]
    grpc_use_tls: bool,
    #[serde(skip_serializing_if = "is_zero")]
    success_before_passing: u32,
    #[serde(skip_serializing_if = "is_zero")]
    failures_before_warning: u32,
    #[serde(skip_serializing_if = "is_zero")]
    failures_before_critical: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'a> DefinitionWire<'a> {
    fn of(check: &'a Check) -> Self {
        let definition = &check.definition;
        let pace = definition_pace(&definition.kind);
        let common = Self {
            interval: pace.map(|pace| go(pace.interval)),
            timeout: pace.map(|pace| go(pace.timeout)),
            deregister_critical_service_after: definition.deregister_after.map(go),
            success_before_passing: definition.thresholds.success_before_passing,
            failures_before_warning: definition.thresholds.failures_before_warning,
            failures_before_critical: definition.thresholds.failures_before_critical,
            ..Self::default()
        };
        match &definition.kind {
            CheckKind::External => common,
            CheckKind::Ttl(ttl) => Self {
                ttl: Some(go(*ttl)),
                ..common
            },
            CheckKind::Http(probe) => Self {
                http: &probe.url,
                header: (!probe.header.is_empty()).then_some(&probe.header),
                method: &probe.method,
                body: &probe.body,
                tls_server_name: &probe.tls_server_name,
                tls_skip_verify: probe.tls_skip_verify,
                disable_redirects: probe.disable_redirects,
                ..common
            },
            CheckKind::Tcp(probe) => Self {
                tcp: &probe.address,
                tcp_use_tls: probe.tls,
                ..common
            },
            CheckKind::Grpc(probe) => Self {
                grpc: grpc_target(probe),
                grpc_use_tls: probe.tls,
                ..common
            },
        }
    }
}

fn grpc_target(probe: &GrpcProbe) -> String {
    if probe.service.is_empty() {
        probe.address.to_string()
    } else {
        format!("{}/{}", probe.address, probe.service)
    }
}

/// An instance with its node and all that judges it: `health/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EndpointWire<'a> {
    node: NodeWire<'a>,
    service: ServiceWire<'a>,
    checks: Vec<CheckWire<'a>>,
}

impl<'a> EndpointWire<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint, datacenter: &'a str) -> Self {
        Self {
            node: NodeWire::of(&endpoint.node, datacenter),
            service: ServiceWire::of(&endpoint.instance),
            checks: checks_of(endpoint),
        }
    }
}

/// An endpoint's checks; those of its node belong to no service.
pub(crate) fn checks_of(endpoint: &Endpoint) -> Vec<CheckWire<'_>> {
    let judged = |check: &Check| check.definition.service.is_some().then_some(&*endpoint.instance);
    endpoint
        .checks
        .iter()
        .map(|check| CheckWire::of(check, judged(check)))
        .collect()
}

/// An instance as its agent judges it: `agent/health/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentHealthWire<'a> {
    aggregated_status: &'static str,
    service: AgentServiceWire<'a>,
    checks: Vec<CheckWire<'a>>,
}

impl<'a> AgentHealthWire<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint, datacenter: &'a str) -> Self {
        Self {
            aggregated_status: aggregated(endpoint),
            service: AgentServiceWire::of(&endpoint.instance, datacenter),
            checks: checks_of(endpoint),
        }
    }
}

/// The beginning of the IDs of checks that say that an instance is under maintenance.
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";
/// The ID of the check that says so of a node.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";

/// The worst of an endpoint's checks; maintenance comes before all.
pub(crate) fn aggregated(endpoint: &Endpoint) -> &'static str {
    let maintained = endpoint.checks.iter().any(|check| {
        let id = check.definition.id.as_str();
        check.status == Status::Critical && (id == NODE_MAINTENANCE || id.starts_with(SERVICE_MAINTENANCE))
    });
    if maintained {
        "maintenance"
    } else {
        endpoint.status().as_str()
    }
}

/// A map that is written in the order given.
#[derive(Debug)]
pub(crate) struct InOrder<K, V>(pub(crate) Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for InOrder<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
