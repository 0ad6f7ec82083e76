//! The catalog: registering, listing, resolving.

use spine_core::{AllEndpoints, Command, Endpoint, Nodes, Outcome, ServiceHealth, Status as Health};
use spine_proto::v1::{self, catalog_server::Catalog};
use tonic::{Request, Response, Status};

use super::{Door, consistency, decode, encode, misfit, page, reply};
use crate::{
    limits,
    registry::{Context, Error},
};

#[tonic::async_trait]
impl Catalog for Door {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let (cx, request) = self.open_numbered(request);
        reply(register(self, &cx, request).await)
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let (cx, request) = self.open_numbered(request);
        reply(deregister(self, &cx, request).await)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list_nodes(self, &cx, request).await)
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list_services(self, &cx, request).await)
    }

    async fn service_instances(
        &self,
        request: Request<v1::ServiceInstancesRequest>,
    ) -> Result<Response<v1::ServiceInstancesResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(service_instances(self, &cx, request).await)
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(resolve(self, &cx, request).await)
    }
}

async fn register(
    door: &Door,
    cx: &Context,
    request: v1::RegisterRequest,
) -> Result<v1::RegisterResponse, Error> {
    let register = decode::register(request, door.name(), door.settings.default_service_ttl)?;
    let node = register.node.to_string();
    let (index, outcome) = door.propose(cx, Command::Register(Box::new(register))).await?;
    let changed = match outcome {
        Outcome::Registered { changed } => changed,
        Outcome::Renewed(_) => false,
        other => return Err(misfit(&other)),
    };
    Ok(v1::RegisterResponse {
        index: index.0,
        node,
        changed,
    })
}

async fn deregister(
    door: &Door,
    cx: &Context,
    request: v1::DeregisterRequest,
) -> Result<v1::DeregisterResponse, Error> {
    let deregister = decode::deregister(request, door.name())?;
    match door.propose(cx, Command::Deregister(deregister)).await? {
        (index, Outcome::Deregistered { found }) => Ok(v1::DeregisterResponse {
            index: index.0,
            found,
        }),
        (_, other) => Err(misfit(&other)),
    }
}

async fn list_nodes(
    door: &Door,
    cx: &Context,
    request: v1::ListNodesRequest,
) -> Result<v1::ListNodesResponse, Error> {
    let (nodes, header) = door.ask(cx, &Nodes).await?;
    let behind = nodes.partition_point(|node| node.name.as_str() <= request.after.as_str());
    let (nodes, more) = page::cut(
        nodes[behind..].iter().map(|node| encode::node(node)),
        page::limit(request.limit),
    );
    Ok(v1::ListNodesResponse {
        header: Some(header),
        nodes,
        more,
    })
}

async fn list_services(
    door: &Door,
    cx: &Context,
    request: v1::ListServicesRequest,
) -> Result<v1::ListServicesResponse, Error> {
    let (endpoints, header) = door.ask(cx, &AllEndpoints).await?;
    let name = |endpoint: &Endpoint| endpoint.instance.service.name.clone();
    let behind = endpoints.partition_point(|endpoint| name(endpoint).as_str() <= request.after.as_str());
    let by_service = endpoints[behind..].chunk_by(|a, b| name(a) == name(b));
    let (services, more) = page::cut(by_service.map(summary), page::limit(request.limit));
    Ok(v1::ListServicesResponse {
        header: Some(header),
        services,
        more,
    })
}

/// A service at a glance, from all of its instances.
fn summary(endpoints: &[Endpoint]) -> v1::ServiceSummary {
    let mut summary = v1::ServiceSummary::default();
    let mut tags = std::collections::BTreeSet::new();
    for endpoint in endpoints {
        let service = &endpoint.instance.service;
        summary.name = service.name.to_string();
        tags.extend(service.tags.iter().map(ToString::to_string));
        match endpoint.status() {
            Health::Passing => summary.passing += 1,
            Health::Warning => summary.warning += 1,
            Health::Critical => summary.critical += 1,
        }
    }
    v1::ServiceSummary {
        tags: page::cut(tags.into_iter(), usize::MAX).0,
        ..summary
    }
}

async fn service_instances(
    door: &Door,
    cx: &Context,
    request: v1::ServiceInstancesRequest,
) -> Result<v1::ServiceInstancesResponse, Error> {
    let (endpoints, header) = door
        .ask(cx, &ServiceHealth(decode::service_name(&request.service)?))
        .await?;
    let after = request.after.map(|after| (after.node, after.id));
    let is_behind = |endpoint: &Endpoint| {
        let service = &endpoint.instance.service;
        after.as_ref().is_none_or(|(node, id)| {
            (endpoint.node.name.as_str(), service.id.as_str()) > (node.as_str(), id.as_str())
        })
    };
    let wanted = endpoints.iter().filter(|endpoint| {
        is_behind(endpoint)
            && matches(endpoint, &request.version, &request.tags)
            && (!request.passing_only || endpoint.status() == Health::Passing)
    });
    let (endpoints, more) = page::cut(wanted.map(encode::endpoint), page::limit(request.limit));
    Ok(v1::ServiceInstancesResponse {
        header: Some(header),
        endpoints,
        more,
    })
}

async fn resolve(
    door: &Door,
    cx: &Context,
    request: v1::ResolveRequest,
) -> Result<v1::ResolveResponse, Error> {
    let (mut endpoints, header) = door
        .ask(cx, &ServiceHealth(decode::service_name(&request.service)?))
        .await?;
    endpoints.retain(|endpoint| matches(endpoint, &request.version, &request.tags));
    let registered = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let worst = if request.include_warning {
        Health::Warning
    } else {
        Health::Passing
    };
    let targets = endpoints.iter().filter(|endpoint| endpoint.status() <= worst);
    let (targets, more) = page::cut_at(
        targets.map(encode::target),
        limits::TARGETS_MAX,
        limits::TARGETS_BYTES_MAX,
    );
    Ok(v1::ResolveResponse {
        header: Some(header),
        targets,
        registered,
        more,
    })
}

/// Whether an instance has a version (any, if it is empty) and all of these tags.
fn matches(endpoint: &Endpoint, version: &str, tags: &[String]) -> bool {
    let service = &endpoint.instance.service;
    let has_tag = |wanted: &str| service.tags.iter().any(|tag| &**tag == wanted);
    let is_version = version.is_empty()
        || service.meta.get("version").is_some_and(|is| &**is == version)
        || has_tag(version);
    is_version && tags.iter().all(|tag| has_tag(tag))
}
