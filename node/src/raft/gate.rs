//! What is asked of a peer before it is heard.
//!
//! Cluster and addressee are compared by the port itself. Who the sender is, and whether it runs on an old copy of its
//! disk, is known to whoever keeps the boot numbers: that is a [`Gate`].

use std::fmt::Debug;

use spine_proto::internal::v1 as proto;
use tonic::Status;

use super::{identity::Identity, roster::Rosters};

/// Why a peer is not heard: what differs from what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Judges peers, and this node itself.
pub trait Gate: Send + Sync + Debug {
    /// Whether the sender is known and its boot number not lower than the last one heard. Called for each call, and for
    /// a stream when it begins. Must not wait.
    fn admit(&self, header: &proto::Header) -> Result<(), Refusal>;

    /// Whether this node may grant votes and campaign: a restarted member of several only once another has confirmed
    /// that its disk is not an old one. When this becomes true, [`Consensus::let_campaign`] is to be called.
    ///
    /// [`Consensus::let_campaign`]: super::Consensus::let_campaign
    fn may_vote(&self) -> bool;

    /// Who is in the cluster has changed, by this node's own log. Must not wait.
    fn members_are(&self, rosters: Rosters);

    /// These rules are in force: whoever doesn't know them can't take part. Must not wait.
    fn rules_are(&self, rules: u32);
}

/// Who asks whom: what the other's [`admit`] judges.
pub fn header(own: Identity, boot_number: u64, to: u64) -> proto::Header {
    proto::Header {
        cluster_id: own.cluster.to_bytes(),
        from: own.node,
        to,
        boot: boot_number,
    }
}

/// Whether `identity` is meant, by somebody whom it hears.
pub fn admit(identity: Identity, gate: &dyn Gate, header: Option<&proto::Header>) -> Result<(), Status> {
    let header = header.ok_or_else(|| Status::invalid_argument("a request without a header"))?;
    let Identity { cluster, node } = identity;
    if *header.cluster_id != cluster.0.to_be_bytes() {
        return Err(Status::failed_precondition(format!(
            "this server is of cluster {cluster}, the request is for another"
        )));
    }
    if header.to != node {
        return Err(Status::failed_precondition(format!(
            "this is node {node:016x}, the request is for {:016x}",
            header.to
        )));
    }
    let judged = gate.admit(header);
    judged.map_err(|refusal| Status::failed_precondition(refusal.to_string()))
}

/// Hears every node of the cluster, and votes: for a node that has no peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl Gate for OpenGate {
    fn admit(&self, _: &proto::Header) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_vote(&self) -> bool {
        true
    }

    fn members_are(&self, _: Rosters) {}

    fn rules_are(&self, _: u32) {}
}
