//! From a follower to the leader: writes, renewals and read indexes of this node's clients.
//!
//! ```text
//!  registry::follow ─► Way (link.rs) ─► peer port of the leader ─► service.rs ─► its registry
//!  registry::barrier ┘                                                           as its own clients' requests
//! ```
//!
//! Requests that come while calls are on their way travel together in the next one, as they do into entries. Each is
//! answered for itself. A request that was sent and not answered is sent again, to whoever leads then, under the number
//! that it has in this node's own request session ([`session`]), so that it is applied once. What comes in at
//! [`service`] is never forwarded on.

pub mod link;
pub mod service;
pub mod session;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use spine_proto::internal::v1 as proto;

use crate::raft::{Leader, ReadError};

/// The way to a leader.
#[async_trait]
pub trait Way: Send + Sync + Debug {
    /// Asks `leader` to propose requests, and gives an answer for each.
    async fn propose(
        &self,
        leader: &Leader,
        requests: Vec<proto::Forwarded>,
        within: Duration,
    ) -> Result<Vec<proto::Answer>, CallError>;

    /// Asks `leader` to renew, and gives an answer for each renewal.
    async fn renew(
        &self,
        leader: &Leader,
        renewals: Vec<proto::Forwarded>,
        within: Duration,
    ) -> Result<Vec<proto::Answer>, CallError>;

    /// Asks `leader` which position a read that begins now must have applied.
    async fn read_index(&self, leader: &Leader, within: Duration) -> Result<u64, ReadError>;
}

/// Why there is no answer to a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It didn't get there, or was refused as a whole: nothing was proposed.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent: whatever was in it may or may not be proposed.
    #[error("no answer: {0}")]
    Lost(String),
}
