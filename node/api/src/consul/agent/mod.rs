//! `/v1/agent/`: this server as the agent of the services registered through it.
//!
//! An agent of Consul keeps its services itself and syncs them to the catalog. Here a registration is written to
//! the log at once, under the node named after this server, so it outlives the server. Calls by ID look on this
//! server's node first and then on the other servers' nodes: the core decides which one is meant. Reading is of
//! the state of this server, leader or not, as from an agent of Consul.

pub(super) mod check;
pub(super) mod health;
pub(super) mod maintenance;
pub(super) mod server;
pub(super) mod service;

use spine_core::{CheckId, InstanceId};

/// The cluster itself is registered by the cluster, on each server's node: no agent shows it or lets go of it.
fn is_clusters_service(id: &InstanceId) -> bool {
    id.as_str() == "consul"
}

/// That a node is alive is the cluster's to say, not its agent's.
fn is_clusters_check(id: &CheckId) -> bool {
    id.as_str() == "serfHealth"
}
