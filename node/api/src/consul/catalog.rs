//! `/v1/catalog/`: nodes, services and who registers them from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use spine_core::{
    AllEndpoints, CheckDefinition, CheckId, CheckKind, Command, Deregister, ExistingChecks, InstanceId, Node,
    NodeDefinition, NodeName, NodeServices, NodeWithInstances, Nodes, Register, Rejection, Scope, Service,
    ServiceHealth, ServiceName, Services, Target, Thresholds,
};

use super::{
    body::{self, CatalogCheckBody, DeregisterBody, RegisterBody, ServiceBody},
    call::{Call, Handled},
    definition,
    error::Failure,
    filter::{CATALOG_SERVICE, NODE, SERVICE},
    wire::{CatalogServiceWire, InOrder, NodeWire, ServiceWire},
};

/// Registers a node, a service and checks in one step.
pub(crate) async fn register(call: Call) -> Handled {
    let body: RegisterBody = body::decode(&call.body)?;
    call.dialect.check_datacenter(&body.datacenter)?;
    if body.node.is_empty() || body.address.is_empty() {
        return Err(Failure::MissingNodeAndAddress);
    }
    let skip_node_update = body.skipnodeupdate;
    let register = registration(body)?;
    if skip_node_update {
        let kept = Register {
            node_update: None,
            ..register.clone()
        };
        match call.propose_checks(kept).await {
            // There is no node whose row could be left as it is.
            Err(Failure::Refused(Rejection::UnknownNode(_))) => {}
            outcome => return outcome.map(|_| call.json(&true)),
        }
    }
    call.propose_checks(register).await.map(|_| call.json(&true))
}

fn registration(body: RegisterBody) -> Result<Register, Failure> {
    let node = NodeName::parse(&body.node)?;
    let service = body.service.map(catalog_service).transpose()?;
    let checks = body.checks.into_iter().chain(body.check);
    let checks = checks
        .map(|check| catalog_check(&node, check))
        .collect::<Result<_, _>>()?;
    let definition = NodeDefinition {
        id: body.id.into(),
        address: body.address.into(),
        tagged_addresses: definition::text_map(body.taggedaddresses),
        meta: definition::text_map(body.nodemeta),
    };
    Ok(Register {
        node,
        node_update: Some(definition),
        service,
        checks,
        existing: ExistingChecks::Overwrite,
        heartbeat: None,
    })
}

pub(crate) fn catalog_service(mut body: ServiceBody) -> Result<Service, Failure> {
    body.name = std::mem::take(&mut body.service);
    if body.name.is_empty() {
        return Err(Failure::bad_request(
            "Must provide service name (Service.Service) when service ID is provided",
        ));
    }
    definition::service(body)
}

pub(crate) fn catalog_check(node: &NodeName, body: CatalogCheckBody) -> Result<CheckDefinition, Failure> {
    if !body.node.is_empty() && body.node != node.as_str() {
        return Err(Failure::bad_request(format!(
            "check node {:?} does not match node {:?}",
            body.node,
            node.as_str()
        )));
    }
    let id = if body.checkid.is_empty() {
        &body.name
    } else {
        &body.checkid
    };
    Ok(CheckDefinition {
        id: CheckId::parse(id)?,
        name: body.name.into(),
        notes: body.notes.into(),
        service: if body.serviceid.is_empty() {
            None
        } else {
            Some(InstanceId::parse(&body.serviceid)?)
        },
        status: definition::status(&body.status)?,
        output: body.output.into(),
        kind: CheckKind::External,
        deregister_after: None,
        thresholds: Thresholds::default(),
    })
}

/// Removes a node, an instance or a check; what is not there is as good as removed.
pub(crate) async fn deregister(call: Call) -> Handled {
    let body: DeregisterBody = body::decode(&call.body)?;
    call.dialect.check_datacenter(&body.datacenter)?;
    if body.node.is_empty() {
        return Err(Failure::MissingNode);
    }
    let target = match (&*body.serviceid, &*body.checkid) {
        ("", "") => Target::Node,
        ("", check) => Target::Check(CheckId::parse(check)?),
        (service, _) => Target::Instance(InstanceId::parse(service)?),
    };
    let node = NodeName::parse(&body.node)?;
    call.propose(Command::Deregister(Deregister {
        node,
        target,
        scope: Scope::Node,
    }))
    .await?;
    Ok(call.json(&true))
}

/// The one datacenter.
pub(crate) async fn datacenters(call: Call) -> Handled {
    Ok(call.json(&[call.datacenter()]))
}

/// `?node-meta`: pairs that a node must have.
pub(crate) struct NodeMeta(Vec<(String, String)>);

impl NodeMeta {
    pub(crate) fn of(call: &Call) -> Self {
        let pairs = call.params.all("node-meta").filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
                .map(owned)
                .collect(),
        )
    }

    pub(crate) fn fits(&self, node: &Node) -> bool {
        self.0.iter().all(|(key, value)| {
            node.definition
                .meta
                .get(key.as_str())
                .is_some_and(|there| **there == **value)
        })
    }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// `?tag`: labels that an instance must have, whatever their case.
pub(crate) struct Tags(Vec<String>);

impl Tags {
    pub(crate) fn of(call: &Call) -> Self {
        Self(
            call.params
                .all("tag")
                .filter(|tag| !tag.is_empty())
                .map(str::to_lowercase)
                .collect(),
        )
    }

    pub(crate) fn fit(&self, service: &Service) -> bool {
        self.0
            .iter()
            .all(|wanted| service.tags.iter().any(|tag| tag.to_lowercase() == *wanted))
    }
}

/// Every node.
pub(crate) async fn nodes(call: Call) -> Handled {
    let (keep, meta) = (call.filter(&NODE)?, NodeMeta::of(&call));
    let found = call.ask(&Nodes).await?;
    let nodes = found.value.iter().filter(|node| meta.fits(node));
    let nodes: Vec<_> = nodes
        .map(|node| NodeWire::of(node, call.datacenter()))
        .filter(|node| keep.holds(node))
        .collect();
    Ok(call.json(&nodes).with_all(found.headers))
}

/// The names of services with their tags.
pub(crate) async fn services(call: Call) -> Handled {
    if !call.params.has("filter") && !call.params.has("node-meta") {
        let found = call.ask(&Services).await?;
        return Ok(call.json(&by_name(&found.value)).with_all(found.headers));
    }
    let (keep, meta) = (call.filter(&CATALOG_SERVICE)?, NodeMeta::of(&call));
    let found = call.ask(&AllEndpoints).await?;
    let mut services: BTreeMap<ServiceName, BTreeSet<Arc<str>>> = BTreeMap::new();
    for endpoint in found.value.iter().filter(|endpoint| meta.fits(&endpoint.node)) {
        if keep.holds(&CatalogServiceWire::of(
            &endpoint.node,
            &endpoint.instance,
            call.datacenter(),
        )) {
            let service = &endpoint.instance.service;
            services
                .entry(service.name.clone())
                .or_default()
                .extend(service.tags.iter().cloned());
        }
    }
    Ok(call.json(&by_name(&services)).with_all(found.headers))
}

fn by_name(services: &BTreeMap<ServiceName, BTreeSet<Arc<str>>>) -> InOrder<&str, &BTreeSet<Arc<str>>> {
    InOrder(
        services
            .iter()
            .map(|(name, tags)| (name.as_str(), tags))
            .collect(),
    )
}

/// The instances of a service.
pub(crate) async fn service(call: Call) -> Handled {
    let name = ServiceName::parse(&call.name_or(Failure::MissingServiceName)?)?;
    let (keep, meta, tags) = (
        call.filter(&CATALOG_SERVICE)?,
        NodeMeta::of(&call),
        Tags::of(&call),
    );
    let found = call.ask(&ServiceHealth(name)).await?;
    let instances: Vec<_> = found
        .value
        .iter()
        .filter(|endpoint| meta.fits(&endpoint.node) && tags.fit(&endpoint.instance.service))
        .map(|endpoint| CatalogServiceWire::of(&endpoint.node, &endpoint.instance, call.datacenter()))
        .filter(|instance| keep.holds(instance))
        .collect();
    Ok(call.json(&instances).with_all(found.headers))
}

/// A node with its services by ID; `null` if there is none.
pub(crate) async fn node(call: Call) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct NodeServicesWire<'a> {
        node: NodeWire<'a>,
        services: InOrder<&'a str, ServiceWire<'a>>,
    }
    let query = NodeServices {
        node: call.name_or(Failure::MissingNodeName)?.into(),
    };
    let keep = call.filter(&SERVICE)?;
    let found = call.ask(&query).await?;
    let wire = found.value.as_ref().map(|NodeWithInstances { node, instances }| {
        let services = instances
            .iter()
            .map(|instance| (instance.service.id.as_str(), ServiceWire::of(instance)));
        NodeServicesWire {
            node: NodeWire::of(node, call.datacenter()),
            services: InOrder(services.filter(|(_, service)| keep.holds(service)).collect()),
        }
    });
    Ok(call.json(&wire).with_all(found.headers))
}

/// The same as a list.
pub(crate) async fn node_services(call: Call) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct NodeServiceListWire<'a> {
        node: NodeWire<'a>,
        services: Vec<ServiceWire<'a>>,
    }
    let query = NodeServices {
        node: call.name_or(Failure::MissingNodeName)?.into(),
    };
    let keep = call.filter(&SERVICE)?;
    let found = call.ask(&query).await?;
    let wire = found.value.as_ref().map(|NodeWithInstances { node, instances }| {
        let services = instances.iter().map(|instance| ServiceWire::of(instance));
        NodeServiceListWire {
            node: NodeWire::of(node, call.datacenter()),
            services: services.filter(|service| keep.holds(service)).collect(),
        }
    });
    Ok(call.json(&wire).with_all(found.headers))
}
