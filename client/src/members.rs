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
        let request = v1::ListMembersRequest {
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { MembersClient::new(channel).list_members(request).await };
        let answer: v1::ListMembersResponse = self.0.pool.call(Kind::Read, request, send).await?;
        Ok(answer.members)
    }

    /// What one server, the first that answers, knows of itself.
    pub async fn server_status(&self) -> Result<v1::ServerStatusResponse> {
        let request = v1::ServerStatusRequest {};
        let send = |channel, request| async move { MembersClient::new(channel).server_status(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }
}
