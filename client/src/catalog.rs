//! Nodes and services.

use spine_proto::v1::{self, catalog_client::CatalogClient, deregister_request::Target};
use tonic::transport::Channel;

use crate::{
    error::{Kind, Result},
    pool::{Caller, MESSAGE_BYTES_MAX},
};

/// Nodes and services.
#[derive(Clone, Debug)]
pub struct Catalog(Caller);

impl Catalog {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Registers: a [`Registration`](crate::Registration), or all that the message can say. Registering the same again
    /// is a heartbeat.
    pub async fn register(&self, request: impl Into<v1::RegisterRequest>) -> Result<v1::RegisterResponse> {
        let send = |channel, request| async move { client(channel).register(request).await };
        self.0.pool.once(request.into(), send).await
    }

    /// Removes an instance with its checks: on the node named, or wherever a server's node has it. Says whether there
    /// was such a one.
    pub async fn deregister(&self, node: Option<&str>, instance: &str) -> Result<bool> {
        let node = node.unwrap_or_default().to_owned();
        let target = Some(Target::Instance(instance.to_owned()));
        Ok(self
            .deregister_with(v1::DeregisterRequest { node, target })
            .await?
            .found)
    }

    /// Removes a node, an instance or a check.
    pub async fn deregister_with(&self, request: v1::DeregisterRequest) -> Result<v1::DeregisterResponse> {
        let send = |channel, request| async move { client(channel).deregister(request).await };
        self.0.pool.once(request, send).await
    }

    /// Lists all nodes, by name.
    pub async fn nodes(&self) -> Result<Vec<v1::Node>> {
        let mut all: Vec<v1::Node> = Vec::new();
        loop {
            let after = all.last().map(|node| node.name.clone()).unwrap_or_default();
            let request = v1::ListNodesRequest {
                limit: 0,
                after,
                consistency: self.0.consistency(),
            };
            let send = |channel, request| async move { client(channel).list_nodes(request).await };
            let page: v1::ListNodesResponse = self.0.pool.call(Kind::Read, request, send).await?;
            all.extend(page.nodes);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// Lists all services, by name.
    pub async fn services(&self) -> Result<Vec<v1::ServiceSummary>> {
        let mut all: Vec<v1::ServiceSummary> = Vec::new();
        loop {
            let after = all.last().map(|service| service.name.clone()).unwrap_or_default();
            let request = v1::ListServicesRequest {
                limit: 0,
                after,
                consistency: self.0.consistency(),
            };
            let send = |channel, request| async move { client(channel).list_services(request).await };
            let page: v1::ListServicesResponse = self.0.pool.call(Kind::Read, request, send).await?;
            all.extend(page.services);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// Reads all instances of a service with their nodes and checks, whatever their health.
    pub async fn instances(&self, service: &str) -> Result<Vec<v1::Endpoint>> {
        let mut request = v1::ServiceInstancesRequest {
            service: service.to_owned(),
            ..v1::ServiceInstancesRequest::default()
        };
        let mut all: Vec<v1::Endpoint> = Vec::new();
        loop {
            let page = self.instances_page(request.clone()).await?;
            all.extend(page.endpoints);
            if !page.more {
                return Ok(all);
            }
            request.after = all.last().and_then(key);
        }
    }

    /// Reads a page of a service's instances. `consistency` is the client's, unless it is set.
    pub async fn instances_page(
        &self,
        mut request: v1::ServiceInstancesRequest,
    ) -> Result<v1::ServiceInstancesResponse> {
        if request.consistency == 0 {
            request.consistency = self.0.consistency();
        }
        let send = |channel, request| async move { client(channel).service_instances(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Says where to send traffic for a service: its passing instances, with their weights.
    pub async fn resolve(&self, service: &str) -> Result<v1::ResolveResponse> {
        self.resolve_with(v1::ResolveRequest {
            service: service.to_owned(),
            ..v1::ResolveRequest::default()
        })
        .await
    }

    /// The same by version, tags and health. `consistency` is the client's, unless it is set.
    pub async fn resolve_with(&self, mut request: v1::ResolveRequest) -> Result<v1::ResolveResponse> {
        if request.consistency == 0 {
            request.consistency = self.0.consistency();
        }
        let send = |channel, request| async move { client(channel).resolve(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }
}

fn client(channel: Channel) -> CatalogClient<Channel> {
    CatalogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn key(endpoint: &v1::Endpoint) -> Option<v1::InstanceKey> {
    let instance = endpoint.instance.as_ref()?;
    Some(v1::InstanceKey {
        node: instance.node.clone(),
        id: instance.service.as_ref()?.id.clone(),
    })
}
