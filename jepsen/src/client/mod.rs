//! The clients of a run: one for each node and dialect, and what an error of theirs is worth.

mod backup;
mod consul;
mod hold;
mod native;
mod transact;

use std::time::Duration;

pub(crate) use self::backup::{RESTORED_WITHIN, Restored};
pub use self::consul::Consul;
pub(crate) use self::hold::uuid;
pub use self::native::Native;
pub(crate) use self::native::{row, text};
use crate::{
    endpoint::Endpoint,
    history::{Call, Dialect, Out, Process, Recorder, Workload},
};

/// How long a call may take. The servers' own deadline is 5 s: their answer, not our impatience, is what is recorded.
const DEADLINE: Duration = Duration::from_secs(6);

/// Why an operation has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It had no effect and never will. Said only where that is certain.
    Fail(String),
    /// It may have had an effect, or may yet.
    Unknown(String),
}

/// The clients of one node.
#[derive(Clone, Debug)]
pub struct NodeClient {
    /// The node's name.
    pub node: String,
    /// Over gRPC.
    pub native: Native,
    /// Over HTTP.
    pub consul: Consul,
}

impl NodeClient {
    /// Clients of a node. Connections are made when they are needed. Must be called within a tokio runtime.
    pub fn new(endpoint: &Endpoint) -> Self {
        Self {
            node: endpoint.name.clone(),
            native: Native::new(endpoint.grpc, DEADLINE),
            consul: Consul::new(endpoint.http, DEADLINE),
        }
    }

    /// Asks for something.
    pub async fn perform(&self, dialect: Dialect, call: &Call) -> Result<Out, Failure> {
        let result = match dialect {
            Dialect::Native => self.native.perform(call).await,
            Dialect::Consul => self.consul.perform(call).await,
        };
        result.map_err(|failure| match failure {
            // What changes nothing is never in doubt.
            Failure::Unknown(error) if call.is_read() => Failure::Fail(error),
            other => other,
        })
    }
}

/// A client of the history: does one thing after another, and all of it is recorded.
#[derive(Clone, Debug)]
pub struct Session {
    recorder: Recorder,
    workload: Workload,
    process: Process,
}

impl Session {
    /// A new client.
    pub fn new(recorder: &Recorder, workload: Workload) -> Self {
        Self {
            recorder: recorder.clone(),
            workload,
            process: recorder.process(),
        }
    }

    /// Asks a node for something and records what came of it. `None`: there was no answer.
    pub async fn call(&mut self, at: &NodeClient, dialect: Dialect, call: Call) -> Option<Out> {
        let invocation = self
            .recorder
            .invoke(self.process, self.workload, &at.node, dialect, call.clone());
        let (answer, process) = invocation.end(at.perform(dialect, &call).await);
        self.process = process;
        answer
    }
}

impl Call {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Read { .. }
            | Self::List { .. }
            | Self::Block { .. }
            | Self::Members { .. }
            | Self::Passing { .. }
            | Self::Alive { .. }
            | Self::Save { .. } => true,
            Self::Transact(transaction) => transaction.is_read(),
            Self::Write { .. }
            | Self::Cas { .. }
            | Self::Delete { .. }
            | Self::DeletePrefix { .. }
            | Self::Add { .. }
            | Self::RegisterInstance { .. }
            | Self::DeregisterInstance { .. }
            | Self::Grant { .. }
            | Self::Renew { .. }
            | Self::Revoke { .. }
            | Self::Attach { .. }
            | Self::Acquire { .. }
            | Self::Release { .. } => false,
        }
    }
}

/// The key that a member of a set is.
fn member_key(set: &str, member: u64) -> String {
    format!("{set}{member:08}")
}

/// The members that these keys are. A key that is none is a member that nobody added.
fn members(set: &str, keys: impl Iterator<Item = String>) -> Vec<u64> {
    let member = |key: String| key.strip_prefix(set)?.parse().ok();
    keys.map(|key| member(key).unwrap_or(u64::MAX)).collect()
}
