//! What a node's port answers.

use tonic::service::Routes;

use super::Late;
use crate::raft::RaftService;

/// The services for peers, each of which begins when it can answer.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Raft's.
    pub raft: Late<RaftService>,
}

impl Services {
    /// All of them, for the port.
    pub fn routes(&self) -> Routes {
        Routes::new(self.raft.clone())
    }
}
