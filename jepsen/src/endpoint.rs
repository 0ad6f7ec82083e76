//! Where the clients of a run find the nodes, and the nodes the clients' own servers.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A cluster as its clients see it. Addresses stay the same for the whole run, whatever becomes of the processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The nodes, by name.
    pub nodes: Vec<Endpoint>,
    /// An address of the harness that the nodes can reach: health-checked services are served there.
    pub harness: IpAddr,
}

/// A node's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The node's name: `n1`.
    pub name: String,
    /// Consul's HTTP API.
    pub http: SocketAddr,
    /// The native gRPC API.
    pub grpc: SocketAddr,
}
