//! The leader's side: what followers bring is asked as this node's own clients' requests are, but goes no further.
//!
//! The port runs where Raft runs, and only moves bytes there; the work is done on the node's own runtime.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use spine_core::codec::ENTRY_FORMAT;
use spine_proto::internal::v1::{
    self as proto,
    forward_server::{Forward, ForwardServer},
    read_index_response::Result as ReadResult,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tonic::{Request, Response, Status};

use crate::{
    limits,
    raft::{Gate, ReadError, admit, identity::Identity},
    registry::NodeRegistry,
};

/// The service for followers, for a node's port.
pub type ForwardService = ForwardServer<Service>;

/// Answers followers.
pub struct Service {
    registry: Arc<NodeRegistry>,
    identity: Identity,
    gate: Arc<dyn Gate>,
    runtime: Handle,
    /// By peer; the gate lets in members only.
    calls: Mutex<BTreeMap<u64, Arc<Semaphore>>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Asks `registry` what followers ask. To be made on the node's own runtime.
    pub fn new(registry: Arc<NodeRegistry>, identity: Identity, gate: Arc<dyn Gate>) -> Self {
        Self {
            registry,
            identity,
            gate,
            runtime: Handle::current(),
            calls: Mutex::default(),
        }
    }

    /// Lets a call in, if it is from a peer to this node and that peer has not too many on their way.
    fn admit(&self, header: Option<proto::Header>) -> Result<OwnedSemaphorePermit, Status> {
        admit(self.identity, &*self.gate, header.as_ref())?;
        let header = header.expect("a request without one is not admitted");
        let calls = self
            .calls
            .lock()
            .entry(header.from)
            .or_insert_with(|| Arc::new(Semaphore::new(limits::PEER_FORWARD_CALLS_MAX)))
            .clone();
        calls.try_acquire_owned().map_err(|_| {
            let limit = limits::PEER_FORWARD_CALLS_MAX;
            Status::resource_exhausted(format!("at most {limit} calls at once"))
        })
    }

    /// Does it on the node's own runtime, and lets go of it when the caller has gone.
    async fn here<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let mut task = JoinSet::new();
        task.spawn_on(
            async move {
                let done = work.await;
                drop(permit);
                done
            },
            &self.runtime,
        );
        match task.join_next().await {
            Some(Ok(done)) => Ok(Response::new(done)),
            // Not UNAVAILABLE: it may have been proposed.
            Some(Err(_)) | None => Err(Status::unknown("the server ended")),
        }
    }
}

fn check_format(format: u32) -> Result<(), Status> {
    if format == u32::from(ENTRY_FORMAT) {
        return Ok(());
    }
    let text = format!("requests are in format {format}, this server reads {ENTRY_FORMAT}");
    Err(Status::invalid_argument(text))
}

#[tonic::async_trait]
impl Forward for Service {
    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        let proto::ProposeRequest {
            header,
            format,
            requests,
        } = request.into_inner();
        let permit = self.admit(header)?;
        check_format(format)?;
        let registry = self.registry.clone();
        let work = async move {
            let answers = registry.propose_forwarded(requests).await;
            proto::ProposeResponse { answers }
        };
        self.here(permit, work).await
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewResponse>, Status> {
        let proto::RenewRequest {
            header,
            format,
            renewals,
        } = request.into_inner();
        let permit = self.admit(header)?;
        check_format(format)?;
        let registry = self.registry.clone();
        let work = async move {
            let answers = registry.renew_forwarded(renewals).await;
            proto::RenewResponse { answers }
        };
        self.here(permit, work).await
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        let permit = self.admit(request.into_inner().header)?;
        let registry = self.registry.clone();
        let work = async move {
            let result = match registry.own_read_index().await {
                Ok(index) => ReadResult::Index(index),
                Err(ReadError::NoQuorum) => ReadResult::NoQuorum(proto::NoQuorum {}),
                Err(ReadError::NotLeader | ReadError::Ended) => ReadResult::NotLeader(proto::NotLeader {
                    leader_id: registry.leader_id(),
                }),
            };
            proto::ReadIndexResponse { result: Some(result) }
        };
        self.here(permit, work).await
    }
}
