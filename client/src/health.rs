//! Checks.

use spine_proto::v1::{self, health_client::HealthClient, list_checks_request::Of};
use tonic::transport::Channel;

use crate::{
    error::{Kind, Result},
    pool::{Caller, MESSAGE_BYTES_MAX},
};

/// Checks: what they say, and telling them.
#[derive(Clone, Debug)]
pub struct Health(Caller);

/// Whose checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckScope {
    /// All.
    All,
    /// Those on a node, its own and its instances'.
    Node(String),
    /// Those of all instances of a service.
    Service(String),
}

impl Health {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Reports the status of a TTL check, wherever a server's node has it. Reporting the same again is a heartbeat.
    pub async fn report(
        &self,
        check: &str,
        status: v1::Status,
        output: &str,
    ) -> Result<v1::UpdateCheckResponse> {
        self.report_with(v1::UpdateCheckRequest {
            node: String::new(),
            check: check.to_owned(),
            status: status.into(),
            output: output.to_owned(),
        })
        .await
    }

    /// Reports the status of a TTL check of a node.
    pub async fn report_with(&self, request: v1::UpdateCheckRequest) -> Result<v1::UpdateCheckResponse> {
        let send = |channel, request| async move { client(channel).update_check(request).await };
        self.0.pool.once(request, send).await
    }

    /// Reads checks, by node and id.
    pub async fn checks(&self, scope: CheckScope) -> Result<Vec<v1::Check>> {
        let of = match scope {
            CheckScope::All => None,
            CheckScope::Node(node) => Some(Of::Node(node)),
            CheckScope::Service(service) => Some(Of::Service(service)),
        };
        let mut request = v1::ListChecksRequest {
            of,
            consistency: self.0.consistency(),
            ..v1::ListChecksRequest::default()
        };
        let mut all: Vec<v1::Check> = Vec::new();
        loop {
            let send = |channel, request| async move { client(channel).list_checks(request).await };
            let page: v1::ListChecksResponse = self.0.pool.call(Kind::Read, request.clone(), send).await?;
            all.extend(page.checks);
            if !page.more {
                return Ok(all);
            }
            request.after = all.last().and_then(key);
        }
    }
}

fn client(channel: Channel) -> HealthClient<Channel> {
    HealthClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn key(check: &v1::Check) -> Option<v1::CheckKey> {
    Some(v1::CheckKey {
        node: check.node.clone(),
        id: check.definition.as_ref()?.id.clone(),
    })
}
