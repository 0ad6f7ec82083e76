//! The servers of the cluster.

use spine_core::Members as AllMembers;
use spine_proto::v1::{self, members_server::Members};
use tonic::{Request, Response, Status};

use super::{Door, consistency, encode, reply};
use crate::registry::{Context, Error};

#[tonic::async_trait]
impl Members for Door {
    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list_members(self, &cx).await)
    }

    async fn server_status(
        &self,
        _request: Request<v1::ServerStatusRequest>,
    ) -> Result<Response<v1::ServerStatusResponse>, Status> {
        Ok(Response::new(encode::server_status(
            &self.registry.status(),
            &self.settings.version,
        )))
    }
}

async fn list_members(door: &Door, cx: &Context) -> Result<v1::ListMembersResponse, Error> {
    let (members, header) = door.ask(cx, &AllMembers).await?;
    let leader = door.registry.status().leader;
    let members = members
        .iter()
        .map(|view| encode::member(&view.member, view.liveness.status, leader.as_ref()))
        .collect();
    Ok(v1::ListMembersResponse {
        header: Some(header),
        members,
    })
}
