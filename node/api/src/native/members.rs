//! The servers of the cluster.

use spine_core::Members as AllMembers;
use spine_proto::v1::{self, members_server::Members};
use tonic::{Request, Response, Status};

use super::{Door, consistency, encode, reply};
use crate::registry::{AdminCommand, AdminOutcome, Context, Error};

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

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(remove_member(self, &cx, request).await)
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(transfer_leadership(self, &cx, request).await)
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let (cx, _) = self.open(request);
        reply(leave(self, &cx).await)
    }
}

async fn remove_member(
    door: &Door,
    cx: &Context,
    request: v1::RemoveMemberRequest,
) -> Result<v1::RemoveMemberResponse, Error> {
    let command = AdminCommand::RemoveMember {
        name: request.name.into(),
        forced: request.force,
    };
    match door.registry.admin(cx, command).await? {
        AdminOutcome::Removed { id } => Ok(v1::RemoveMemberResponse { id }),
        other => unreachable!("a removal has no outcome {other:?}"),
    }
}

async fn transfer_leadership(
    door: &Door,
    cx: &Context,
    request: v1::TransferLeadershipRequest,
) -> Result<v1::TransferLeadershipResponse, Error> {
    let name = Some(request.name).filter(|name| !name.is_empty());
    let command = AdminCommand::Transfer {
        name: name.map(Into::into),
    };
    match door.registry.admin(cx, command).await? {
        AdminOutcome::Transferred { name } => Ok(v1::TransferLeadershipResponse {
            name: name.to_string(),
        }),
        other => unreachable!("a transfer has no outcome {other:?}"),
    }
}

async fn leave(door: &Door, cx: &Context) -> Result<v1::LeaveResponse, Error> {
    let name = door.registry.status().name.to_string();
    door.registry.admin(cx, AdminCommand::Leave).await?;
    Ok(v1::LeaveResponse { name })
}

async fn list_members(door: &Door, cx: &Context) -> Result<v1::ListMembersResponse, Error> {
    let (members, header) = door.ask(cx, &AllMembers).await?;
    let leader = door.registry.status().leader;
    let votes = door.registry.votes();
    let voters = votes.values().filter(|votes| **votes).count();
    let members = members
        .iter()
        .map(|view| v1::Member {
            votes: votes.get(&view.member.id).copied(),
            ..encode::member(&view.member, view.liveness.status, leader.as_ref())
        })
        .collect();
    Ok(v1::ListMembersResponse {
        header: Some(header),
        members,
        rules: door.registry.status().rules,
        voters: (!votes.is_empty()).then(|| u32::try_from(voters).unwrap_or(u32::MAX)),
    })
}
