//! What a node's port answers.

use spine_proto::internal::v1::{
    condition_server::ConditionServer, digests_server::DigestsServer, hello_server::HelloServer,
};
use tonic::service::Routes;

use super::{Late, hello::Presence};
use crate::{
    condition, digests, forward::service::ForwardService, members::service::MembershipService,
    raft::RaftService,
};

/// The services for peers, each of which begins when it can answer.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Who this server is, before there is anything else.
    pub hello: Late<HelloServer<Presence>>,
    /// Raft's.
    pub raft: Late<RaftService>,
    /// That of the registry, for followers.
    pub forward: Late<ForwardService>,
    /// That of the members, for who comes.
    pub membership: Late<MembershipService>,
    /// What tells the digests of the state.
    pub digests: Late<DigestsServer<digests::peers::Telling>>,
    /// What tells how this server does.
    pub condition: Late<ConditionServer<condition::peers::Telling>>,
}

impl Services {
    /// All of them, for the port.
    pub fn routes(&self) -> Routes {
        Routes::new(self.hello.clone())
            .add_service(self.raft.clone())
            .add_service(self.forward.clone())
            .add_service(self.membership.clone())
            .add_service(self.digests.clone())
            .add_service(self.condition.clone())
    }
}
