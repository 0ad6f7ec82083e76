//! Who is in the cluster, as its leader sees it, and how that is changed: through the log, one change at a time.
//!
//! Whom to change is decided elsewhere ([`crate::members`]). openraft goes from one set of voters to another in two
//! entries; a leader that dies between them leaves both sets in force, and [`Change::Finish`] is what its successor does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, LogIdOptionExt,
    async_runtime::watch::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    raft::Precondition,
};

use super::{
    Consensus,
    identity::ClusterId,
    roster::Roster,
    types::{Peer, Types},
    wire,
};
use crate::storage::log::Position;

/// The members, as the leader sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composition {
    /// The leader.
    pub leader: u64,
    /// The entry that says who they are.
    pub at: Option<Position>,
    /// How far the last change has come.
    pub phase: Phase,
    /// The last index that is committed.
    pub committed: u64,
    /// All members, by node id, the leader too.
    pub members: BTreeMap<u64, Standing>,
}

/// How far a change of the members has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is over.
    Settled,
    /// Its entry is not committed yet.
    Uncommitted,
    /// Two sets of voters are in force.
    Halfway,
}

/// A member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name, and its address by the log.
    pub peer: Peer,
    /// Where it says that it is, if it has said so.
    pub said: Option<String>,
    /// Whether it votes.
    pub votes: bool,
    /// The last entry that it is known to have; `None`: nothing is known.
    pub matched: Option<u64>,
    /// How long ago it was heard; `None`: not since this leader leads.
    pub heard: Option<Duration>,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ends a change that an earlier leader left half done.
    Finish,
    /// Takes in a server that learns, in the place of some that learn.
    Add {
        /// Its node id.
        node: u64,
        /// Its name and its address.
        peer: Peer,
        /// Learners that go.
        instead_of: BTreeSet<u64>,
    },
    /// Gives a learner a vote, and takes away the voters whose place it takes.
    Promote {
        /// The learner.
        node: u64,
        /// Voters that go.
        instead_of: BTreeSet<u64>,
    },
    /// Notes another address.
    Move {
        /// Whose.
        node: u64,
        /// Its name and its address.
        peer: Peer,
    },
    /// Takes members out.
    Remove {
        /// Those who vote.
        voters: BTreeSet<u64>,
        /// Those who learn.
        learners: BTreeSet<u64>,
    },
}

/// Why the members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node doesn't lead. Nothing was proposed, or a change of voters is half done, which the next leader ends.
    #[error("this node does not lead")]
    NotLeader,
    /// Another change is under way, or was a moment ago: nothing was proposed.
    #[error("another change of the members is under way")]
    Busy,
    /// It was proposed, and may or may not take effect.
    #[error("leadership changed before it was committed")]
    Unknown,
    /// Raft does not know how to.
    #[error("{0}")]
    Impossible(String),
    /// Raft has ended.
    #[error("raft has ended")]
    Ended,
}

impl Consensus {
    /// The members and how they stand; `None` while this node doesn't lead.
    pub fn composition(&self) -> Option<Composition> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let matched = metrics.replication?;
        let newest = metrics.membership_config;
        let voters: BTreeSet<u64> = newest.voter_ids().collect();
        let contacts = self.contacts();
        let standing = |(id, peer): (&u64, &Peer)| {
            let matched = if *id == self.node {
                metrics.last_log_index
            } else {
                matched.get(id).copied().flatten().index()
            };
            let standing = Standing {
                peer: peer.clone(),
                said: self.links.places().said(*id),
                votes: voters.contains(id),
                matched,
                heard: contacts.get(id).copied().flatten(),
            };
            (*id, standing)
        };
        Some(Composition {
            leader: self.node,
            at: newest.log_id().as_ref().map(wire::position),
            phase: if newest.log_id() != metrics.committed_membership_config.log_id() {
                Phase::Uncommitted
            } else if newest.membership().get_joint_config().len() > 1 {
                Phase::Halfway
            } else {
                Phase::Settled
            },
            committed: metrics.local_committed.index().unwrap_or(0),
            members: newest.nodes().map(standing).collect(),
        })
    }

    /// The names of the members by their ids, those included that are about to come or to go.
    pub fn member_names(&self) -> BTreeMap<u64, String> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let rosters = [metrics.membership_config, metrics.committed_membership_config];
        let members = rosters.iter().flat_map(|roster| roster.nodes());
        members.map(|(id, peer)| (*id, peer.name.clone())).collect()
    }

    /// The members by the newest entry that is known to be committed.
    pub fn roster(&self, cluster: ClusterId) -> Option<Roster> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        Roster::of(cluster, &metrics.committed_membership_config)
    }

    /// The members by the newest entry of the log, committed or not: by it votes are counted.
    pub fn newest_roster(&self, cluster: ClusterId) -> Option<Roster> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        Roster::of(cluster, &metrics.membership_config)
    }

    /// Changes the members as `decide` says from how they stand, and waits until that is committed; where it gives no
    /// change, nothing is done.
    pub async fn change_members<T>(
        &self,
        decide: impl FnOnce(&Composition) -> Result<Change, T>,
    ) -> Result<Result<(), T>, ChangeError> {
        let Ok(_changing) = self.changing.try_lock() else {
            return Err(ChangeError::Busy);
        };
        let composition = self.composition().ok_or(ChangeError::NotLeader)?;
        let change = match decide(&composition) {
            Ok(change) => change,
            Err(nothing) => return Ok(Err(nothing)),
        };
        tracing::info!(?change, "the members change");
        let as_seen = Precondition::LastMembershipLogId {
            last_membership_log_id: composition.at.map(wire::log_id),
        };
        // Voters that go are members no longer: nothing is left of them as learners.
        let changed = self
            .raft
            .change_membership_if(wanted(change), false, [as_seen])
            .await;
        changed.map(|_| Ok(())).map_err(|error| change_error(&error))
    }
}

fn wanted(change: Change) -> ChangeMembers<u64, Peer> {
    match change {
        Change::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
        Change::Add {
            node,
            peer,
            instead_of,
        } => ChangeMembers::Batch(vec![
            ChangeMembers::RemoveNodes(instead_of),
            ChangeMembers::AddNodes([(node, peer)].into()),
        ]),
        Change::Promote { node, instead_of } => ChangeMembers::Batch(vec![
            ChangeMembers::RemoveVoters(instead_of),
            ChangeMembers::AddVoterIds([node].into()),
        ]),
        Change::Move { node, peer } => ChangeMembers::SetNodes([(node, peer)].into()),
        Change::Remove { voters, learners } => ChangeMembers::Batch(vec![
            ChangeMembers::RemoveNodes(learners),
            ChangeMembers::RemoveVoters(voters),
        ]),
    }
}

fn change_error(error: &RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
    match error {
        RaftError::Fatal(_) => ChangeError::Ended,
        RaftError::APIError(error) => match error {
            ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
            ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown,
            ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
                ChangeError::Busy
            }
            ClientWriteError::ChangeMembershipError(error) => ChangeError::Impossible(error.to_string()),
        },
    }
}
