//! The servers of the cluster: who they are, and whether the others hear them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Index, NodeName},
    time::{Time, WallTime},
    tree::Stamped,
};

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, also its node's name in the catalog.
    pub name: NodeName,
    /// Its Raft node id.
    pub id: u64,
    /// The id of its node in the catalog, a UUID.
    pub node_uuid: Arc<str>,
    /// The host part of the addresses at which clients reach it.
    pub host: Arc<str>,
    /// Its address for peers.
    pub peer_address: Arc<str>,
    /// Its address for Consul's API; empty when off.
    pub http_address: Arc<str>,
    /// Its address for the native API; empty when off.
    pub grpc_address: Arc<str>,
    /// The release that it runs.
    pub version: Arc<str>,
    /// The greatest `rules` that it supports.
    pub rules: u32,
}

/// What the leader says of a server. It names the id as well, so that what was meant for a server that has been
/// replaced doesn't hit the one that took its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its name.
    pub name: NodeName,
    /// Its Raft node id.
    pub id: u64,
    /// What it is from now on.
    pub status: MemberStatus,
}

/// A server by its name and its id: what is meant for one that was replaced doesn't hit the one that took its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberName {
    /// Its name.
    pub name: NodeName,
    /// Its Raft node id.
    pub id: u64,
}

/// Whether a server is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberStatus {
    /// It is, or nobody has missed it yet.
    #[default]
    Alive,
    /// The leader has lost it: others run its checks.
    Failed,
}

impl MemberStatus {
    /// The word that people are shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Failed => "failed",
        }
    }
}

/// A server's status and its history. Servers that were never lost have no row, before one is removed; one that was
/// removed itself has one while something is on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// What it is.
    pub status: MemberStatus,
    /// Since when; 0 for one that was never lost.
    pub since: Time,
    /// The same, for people.
    pub wall: WallTime,
    /// The index of the last change, or of the last removal of another server.
    pub index: Index,
}

impl Stamped for Member {
    fn index(&self) -> Index {
        Index(0)
    }
}

impl Stamped for Liveness {
    fn index(&self) -> Index {
        self.index
    }
}
