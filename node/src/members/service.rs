//! What a server answers others about the members.

use std::{future::Future, sync::Arc};

use spine_proto::internal::v1::{
    self as proto,
    members_server::{Members as Answering, MembersServer},
};
use tokio::{runtime::Handle, task::JoinSet};
use tonic::{Request, Response, Status};

use super::{changes::Members, decide::Wish, link};
use crate::{
    limits::MEMBERSHIP_BYTES_MAX,
    raft::{Gate, admit, identity::Identity},
};

/// The service of a node, for its port.
pub type MembershipService = MembersServer<Service>;

/// Answers. Clones share everything.
#[derive(Clone, Debug)]
pub struct Service {
    members: Arc<Members>,
    identity: Identity,
    gate: Arc<dyn Gate>,
    /// The node's own runtime: the port's is Raft's, and must not wait.
    runtime: Handle,
}

/// The service of the node `identity` for its port. To be called on the runtime where it works.
pub fn service(members: Arc<Members>, identity: Identity, gate: Arc<dyn Gate>) -> MembershipService {
    let service = Service {
        members,
        identity,
        gate,
        runtime: Handle::current(),
    };
    MembersServer::new(service).max_decoding_message_size(MEMBERSHIP_BYTES_MAX)
}

#[tonic::async_trait]
impl Answering for Service {
    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Response<proto::JoinResponse>, Status> {
        let members = self.members.clone();
        self.here(async move {
            let joined = members.join(request.into_inner()).await?;
            Ok(link::joined_message(joined))
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveRequest>,
    ) -> Result<Response<proto::RemoveResponse>, Status> {
        let request = request.into_inner();
        admit(self.identity, &*self.gate, request.header.as_ref())?;
        let wish = Wish {
            name: request.name,
            nodes: request.node_ids.into_iter().collect(),
            forced: request.force,
        };
        let members = self.members.clone();
        self.here(async move {
            let removed = members.remove_here(&wish).await;
            removed.map(link::removed_message).map_err(Status::unavailable)
        })
        .await
    }
}

impl Service {
    /// Works on the node's own runtime, until the one who asked has gone.
    async fn here<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let mut task = JoinSet::new();
        task.spawn_on(work, &self.runtime);
        match task.join_next().await {
            Some(Ok(done)) => done.map(Response::new),
            Some(Err(_)) | None => Err(Status::unavailable("the server ended")),
        }
    }
}
