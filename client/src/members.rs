//! The servers of the cluster.

use spine_proto::v1::{self, members_client::MembersClient};

use crate::{
    error::{Kind, Result},
    pool::Caller,
};

/// The servers of the cluster.
#[derive(Clone, Debug)]
pub struct Members(Caller);

impl Members {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Lists the servers, by name.
    pub async fn list(&self) -> Result<Vec<v1::Member>> {
        Ok(self.overview().await?.members)
    }

    /// The servers, by name, and the rules in force.
    pub async fn overview(&self) -> Result<v1::ListMembersResponse> {
        let request = v1::ListMembersRequest {
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { MembersClient::new(channel).list_members(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Removes a server for good, and gives its id. What is unsafe is refused, unless it is forced.
    pub async fn remove(&self, name: &str, force: bool) -> Result<u64> {
        let request = v1::RemoveMemberRequest {
            name: name.to_owned(),
            force,
        };
        let send = |channel, request| async move { MembersClient::new(channel).remove_member(request).await };
        let answer: v1::RemoveMemberResponse = self.0.pool.call(Kind::Write, request, send).await?;
        Ok(answer.id)
    }

    /// Has the leader hand leadership to a voter, or to the one whose log has come furthest; gives the name of the server that leads
    /// then. Only the leader does it: another refuses, and names it.
    pub async fn transfer_leadership(&self, name: Option<&str>) -> Result<String> {
        let request = v1::TransferLeadershipRequest {
            name: name.unwrap_or_default().to_owned(),
        };
        let send =
            |channel, request| async move { MembersClient::new(channel).transfer_leadership(request).await };
        let answer: v1::TransferLeadershipResponse = self.0.pool.call(Kind::Write, request, send).await?;
        Ok(answer.name)
    }

    /// Has one server, the first that answers, leave the cluster for good and end; gives its name.
    pub async fn leave(&self) -> Result<String> {
        let request = v1::LeaveRequest {};
        let send = |channel, request| async move { MembersClient::new(channel).leave(request).await };
        let answer: v1::LeaveResponse = self.0.pool.call(Kind::Write, request, send).await?;
        Ok(answer.name)
    }

    /// What one server, the first that answers, knows of itself.
    pub async fn server_status(&self) -> Result<v1::ServerStatusResponse> {
        let request = v1::ServerStatusRequest {};
        let send = |channel, request| async move { MembersClient::new(channel).server_status(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }
}
