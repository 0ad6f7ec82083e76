//! Who is in a cluster, as one entry of its log says.
//!
//! A roster that a majority has made durable is a fact that may be passed on: servers tell each other the newest one that
//! they know, so that one that was away learns who came and went meanwhile, and hears them, before its own log says so.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{
    bootstrap::StartError,
    founding::Founding,
    identity::{ClusterId, Identity},
    state_machine::Applied,
    types::{Peer, StoredMembership},
    wire::{self, Malformed},
};
use crate::storage::log::{LogState, LogStore, Position};

/// Who is in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The cluster.
    pub cluster: ClusterId,
    /// The entry that says so; `None`: the founding, of which no entry is known yet.
    pub at: Option<Position>,
    /// The members, by node id.
    pub seats: BTreeMap<u64, Seat>,
}

/// What a server knows of who is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rosters {
    /// By the newest entry of its log, which another may take the place of.
    pub newest: Roster,
    /// By the newest entry that is known to be committed.
    pub committed: Roster,
}

/// Bytes of the log that are looked through at a time.
const LOOKED_THROUGH_BYTES: usize = 4 << 20;

impl Rosters {
    /// What a server's own disk says: the newest of `base`, which is committed, its checkpoint, and the log behind that.
    /// Waits for the disk.
    pub(crate) fn on_disk(
        base: Roster,
        checkpoint: &Applied,
        log: &dyn LogStore,
    ) -> Result<Self, StartError> {
        let cluster = base.cluster;
        let malformed = |error: Malformed| StartError::Raft(error.to_string());
        let committed = match Roster::of(cluster, &checkpoint.membership) {
            Some(roster) => base.or_newer(roster),
            None => base,
        };
        let mut rosters = Self {
            newest: committed.clone(),
            committed,
        };
        let LogState { committed, last, .. } = log.state();
        let mut next = checkpoint.position.map_or(0, |position| position.index + 1);
        while let Some(end) = last.map(|last| last.index + 1).filter(|end| next < *end) {
            let entries = log.read(next..end, LOOKED_THROUGH_BYTES)?;
            let Some(read) = entries.last().map(|entry| entry.position.index) else {
                break;
            };
            next = read + 1;
            for entry in entries {
                let stored = wire::membership_in(&entry).map_err(malformed)?;
                let Some(roster) = stored.and_then(|stored| Roster::of(cluster, &stored)) else {
                    continue;
                };
                if committed.is_some_and(|committed| entry.position.index <= committed.index) {
                    rosters.committed = rosters.committed.or_newer(roster.clone());
                }
                rosters.newest = rosters.newest.or_newer(roster);
            }
        }
        Ok(rosters)
    }

    /// Whether a node is a member by either.
    pub fn has(&self, node: u64) -> bool {
        [&self.newest, &self.committed]
            .into_iter()
            .any(|roster| roster.seat(node).is_some())
    }

    /// The newer of the two.
    pub fn latest(&self) -> &Roster {
        if self.committed.is_newer_than(&self.newest) {
            &self.committed
        } else {
            &self.newest
        }
    }
}

/// A member's place in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its name and its address for peers.
    pub peer: Peer,
    /// Whether it votes, and does not only learn.
    pub votes: bool,
}

impl Roster {
    /// Those who founded the cluster.
    pub fn founded(founding: &Founding) -> Self {
        let voter = |(node, peer): (&u64, &Peer)| {
            let peer = peer.clone();
            (*node, Seat { peer, votes: true })
        };
        Self {
            cluster: founding.cluster,
            at: None,
            seats: founding.members.iter().map(voter).collect(),
        }
    }

    /// A server that founded a cluster of its own.
    pub fn alone(identity: Identity, peer: Peer) -> Self {
        Self {
            cluster: identity.cluster,
            at: None,
            seats: [(identity.node, Seat { peer, votes: true })].into(),
        }
    }

    /// Those whom an entry of the log names; `None` if there was no such entry yet.
    pub(super) fn of(cluster: ClusterId, stored: &StoredMembership) -> Option<Self> {
        let at = stored.log_id().as_ref().map(wire::position)?;
        let membership = stored.membership();
        let votes = |node: &u64| membership.voter_ids().any(|voter| voter == *node);
        let seat = |(node, peer): (&u64, &Peer)| {
            let (peer, votes) = (peer.clone(), votes(node));
            (*node, Seat { peer, votes })
        };
        Some(Self {
            cluster,
            at: Some(at),
            seats: membership.nodes().map(seat).collect(),
        })
    }

    /// What a server says of how its cluster began that was not there: who was in it when it came.
    pub fn as_founding(&self) -> Founding {
        let members = self.seats.iter();
        Founding {
            cluster: self.cluster,
            members: members.map(|(node, seat)| (*node, seat.peer.clone())).collect(),
        }
    }

    /// A member.
    pub fn seat(&self, node: u64) -> Option<&Seat> {
        self.seats.get(&node)
    }

    /// Everybody but `node`.
    pub fn others(&self, node: u64) -> impl Iterator<Item = (u64, &Seat)> {
        let seats = self.seats.iter().map(|(id, seat)| (*id, seat));
        seats.filter(move |(id, _)| *id != node)
    }

    /// Whether somebody votes beside `node`.
    pub fn has_other_voters(&self, node: u64) -> bool {
        self.others(node).any(|(_, seat)| seat.votes)
    }

    /// Whether it says something later than `other`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let place = |roster: &Self| roster.at.map(|at| (at.index, at.term));
        place(self).cmp(&place(other)) == Ordering::Greater
    }

    /// The newer of the two.
    #[must_use]
    pub fn or_newer(self, other: Self) -> Self {
        if other.is_newer_than(&self) { other } else { self }
    }

    /// The members as a list that people can read and give to `--initial-cluster`.
    pub fn list(&self) -> String {
        let named = self
            .seats
            .values()
            .map(|Seat { peer, .. }| format!("{}={}", peer.name, peer.address));
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        named.join(",")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::raft::types::Membership;

    fn peer(name: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            address: format!("{name}:8300"),
        }
    }

    fn at(term: u64, index: u64) -> Position {
        Position {
            term,
            leader: 0,
            index,
        }
    }

    #[test]
    fn a_change_of_voters_counts_both_sides_and_a_learner_has_no_vote() {
        let peers = BTreeMap::from([(1, peer("a")), (2, peer("b")), (3, peer("c"))]);
        let sets = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let membership = Membership::new(sets, peers).unwrap();
        let stored = StoredMembership::new(Some(wire::log_id(at(3, 9))), membership);
        let roster = Roster::of(ClusterId(7), &stored).unwrap();
        assert_eq!(roster.at, Some(at(3, 9)));
        let voters: Vec<_> = roster.seats.values().map(|seat| seat.votes).collect();
        assert_eq!(voters, [true, true, false]);
        assert!(roster.has_other_voters(1) && roster.has_other_voters(3));
        assert_eq!(roster.list(), "a=a:8300,b=b:8300,c=c:8300");
        assert_eq!(Roster::of(ClusterId(7), &StoredMembership::default()), None);
    }

    #[test]
    fn what_the_log_says_later_is_newer_and_the_founding_is_the_oldest() {
        let identity = Identity {
            cluster: ClusterId(7),
            node: 1,
        };
        let founded = Roster::alone(identity, peer("a"));
        let later = |position| Roster {
            at: Some(position),
            ..founded.clone()
        };
        assert!(later(at(1, 0)).is_newer_than(&founded));
        assert!(later(at(1, 5)).is_newer_than(&later(at(1, 4))));
        // An entry that another took the place of.
        assert!(later(at(2, 5)).is_newer_than(&later(at(1, 5))));
        assert!(!founded.is_newer_than(&founded) && !founded.has_other_voters(1));
        assert_eq!(founded.clone().or_newer(later(at(1, 0))).at, Some(at(1, 0)));
    }
}
