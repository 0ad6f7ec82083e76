//! Bytes of what Raft keeps beside the entries: votes, memberships, positions. They are the messages that servers
//! exchange, so that fields can be added; the payload of an entry is opaque here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::{EntryPayload, impls::leader_id_std::LeaderId, type_config::alias::CommittedLeaderIdOf};
use prost::Message;
use spine_proto::internal::v1 as proto;

use super::{
    founding::Founding,
    identity::ClusterId,
    recall::{Ballot, Durable},
    roster::{Roster, Seat},
    starts::Boot,
    types::{LogEntry, LogId, Membership, Payload, Peer, RaftVote, StoredMembership, Types},
};
use crate::storage::log::Position;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// An entry's bytes begin with their format number, as `spine_core::codec` writes it. This one stands for a change of
/// membership; an entry without any bytes is a new leader's first.
const MEMBERSHIP_FORMAT: [u8; 2] = [0xff, 0xff];

/// A position, as the log keeps it. A term has one leader, so its number is left out.
pub(super) fn position(id: &LogId) -> Position {
    Position {
        term: id.leader_id.term,
        leader: 0,
        index: id.index,
    }
}

/// The position that the log kept.
pub(super) fn log_id(position: Position) -> LogId {
    LogId {
        leader_id: CommittedLeaderIdOf::<Types>::new(position.term),
        index: position.index,
    }
}

/// The bytes of an entry's payload.
pub(super) fn encode_payload(payload: &EntryPayload<Payload, u64, Peer>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(Payload(bytes)) => {
            debug_assert!(
                !bytes.is_empty() && !bytes.starts_with(&MEMBERSHIP_FORMAT),
                "an entry has a format"
            );
            bytes.clone()
        }
        EntryPayload::Membership(membership) => {
            let message = membership_message(membership);
            let mut bytes = BytesMut::with_capacity(MEMBERSHIP_FORMAT.len() + message.encoded_len());
            bytes.put_slice(&MEMBERSHIP_FORMAT);
            message.encode(&mut bytes).expect("the buffer grows");
            bytes.freeze()
        }
    }
}

/// An entry as the log kept it.
pub(super) fn decode_entry(entry: crate::storage::log::LogEntry) -> Result<LogEntry, Malformed> {
    let payload = match entry.payload {
        bytes if bytes.is_empty() => EntryPayload::Blank,
        bytes if bytes.starts_with(&MEMBERSHIP_FORMAT) => {
            let message = proto::Membership::decode(&bytes[MEMBERSHIP_FORMAT.len()..])
                .map_err(|_| Malformed("membership"))?;
            EntryPayload::Membership(message_membership(message)?)
        }
        bytes => EntryPayload::Normal(Payload(bytes)),
    };
    Ok(LogEntry {
        log_id: log_id(entry.position),
        payload,
    })
}

/// The membership that an entry of the log brings, if it brings one.
pub(super) fn membership_in(
    entry: &crate::storage::log::LogEntry,
) -> Result<Option<StoredMembership>, Malformed> {
    let Some(bytes) = entry.payload.strip_prefix(&MEMBERSHIP_FORMAT[..]) else {
        return Ok(None);
    };
    let message = proto::Membership::decode(bytes).map_err(|_| Malformed("membership"))?;
    let id = log_id(entry.position);
    Ok(Some(StoredMembership::new(
        Some(id),
        message_membership(message)?,
    )))
}

/// The commands that an entry of the log brings, encoded, if it brings any.
pub(super) fn commands_in(entry: &crate::storage::log::LogEntry) -> Option<&[u8]> {
    let bytes = &entry.payload[..];
    (!bytes.is_empty() && !bytes.starts_with(&MEMBERSHIP_FORMAT)).then_some(bytes)
}

/// The bytes of a vote.
pub(super) fn encode_vote(vote: &RaftVote) -> Bytes {
    vote_message(vote).encode_to_vec().into()
}

/// The vote of these bytes.
pub(super) fn decode_vote(bytes: &[u8]) -> Result<RaftVote, Malformed> {
    message_vote(&proto::Vote::decode(bytes).map_err(|_| Malformed("vote"))?)
}

/// The message of a vote.
pub(super) fn vote_message(vote: &RaftVote) -> proto::Vote {
    proto::Vote {
        leader_id: Some(proto::LeaderId {
            term: vote.leader_id.term,
            node_id: vote.leader_id.voted_for,
        }),
        committed: vote.committed,
    }
}

/// The vote of a message.
pub(super) fn message_vote(message: &proto::Vote) -> Result<RaftVote, Malformed> {
    let proto::LeaderId { term, node_id } = message.leader_id.ok_or(Malformed("vote"))?;
    Ok(RaftVote {
        leader_id: LeaderId {
            term,
            voted_for: node_id,
        },
        committed: message.committed,
    })
}

/// The message of a position.
pub(super) fn position_message(id: &LogId) -> proto::LogId {
    proto::LogId {
        leader_id: Some(proto::LeaderId {
            term: id.leader_id.term,
            node_id: 0,
        }),
        index: id.index,
    }
}

/// The position of a message.
pub(super) fn message_position(message: proto::LogId) -> Result<LogId, Malformed> {
    let term = message.leader_id.ok_or(Malformed("position"))?.term;
    Ok(log_id(Position {
        term,
        leader: 0,
        index: message.index,
    }))
}

/// The message of a server.
pub(crate) fn server_message(peer: &Peer) -> proto::Server {
    proto::Server {
        name: peer.name.clone(),
        peer_address: peer.address.clone(),
    }
}

/// The server of a message.
pub(crate) fn message_server(message: proto::Server) -> Peer {
    Peer {
        name: message.name,
        address: message.peer_address,
    }
}

/// The message of a founding.
pub(crate) fn founding_message(founding: &Founding) -> proto::Founding {
    let members = founding.members.iter();
    proto::Founding {
        cluster_id: founding.cluster.to_bytes(),
        members: members.map(|(id, peer)| (*id, server_message(peer))).collect(),
    }
}

/// The founding of a message.
pub(crate) fn message_founding(message: proto::Founding) -> Result<Founding, Malformed> {
    let cluster = ClusterId::of_bytes(&message.cluster_id).ok_or(Malformed("founding"))?;
    let members = message.members.into_iter();
    Ok(Founding {
        cluster,
        members: members.map(|(id, server)| (id, message_server(server))).collect(),
    })
}

/// The message of a roster.
pub(crate) fn roster_message(roster: &Roster) -> proto::Roster {
    let servers = |votes: bool| {
        let seats = roster.seats.iter().filter(move |(_, seat)| seat.votes == votes);
        seats
            .map(|(id, seat)| (*id, server_message(&seat.peer)))
            .collect()
    };
    proto::Roster {
        cluster_id: roster.cluster.to_bytes(),
        at: roster.at.map(|at| position_message(&log_id(at))),
        voters: servers(true),
        learners: servers(false),
    }
}

/// The roster of a message.
pub(crate) fn message_roster(message: proto::Roster) -> Result<Roster, Malformed> {
    let cluster = ClusterId::of_bytes(&message.cluster_id).ok_or(Malformed("roster"))?;
    let at = message.at.map(message_position).transpose()?;
    let seat = |(id, server), votes| {
        let peer = message_server(server);
        (id, Seat { peer, votes })
    };
    let learners = message.learners.into_iter().map(|learner| seat(learner, false));
    let voters = message.voters.into_iter().map(|voter| seat(voter, true));
    Ok(Roster {
        cluster,
        at: at.as_ref().map(position),
        seats: learners.chain(voters).collect(),
    })
}

/// The message of a start.
pub(crate) fn boot_message(boot: Boot) -> proto::Boot {
    let Boot { number, start } = boot;
    proto::Boot { number, start }
}

/// The start of a message.
pub(crate) fn message_boot(message: proto::Boot) -> Boot {
    let proto::Boot { number, start } = message;
    Boot { number, start }
}

/// The message of what a server has durably.
pub(crate) fn durable_message(durable: &Durable) -> proto::Durable {
    proto::Durable {
        boot: Some(boot_message(durable.boot)),
        vote: durable
            .vote
            .map(|Ballot { term, node, .. }| proto::LeaderId { term, node_id: node }),
        vote_won: durable.vote.is_some_and(|vote| vote.won),
        committed: durable
            .committed
            .map(|position| position_message(&log_id(position))),
    }
}

/// What a server has durably, by its message.
pub(crate) fn message_durable(message: proto::Durable) -> Result<Durable, Malformed> {
    let boot = message.boot.map(message_boot).ok_or(Malformed("boot"))?;
    let committed = message.committed.map(message_position).transpose()?;
    Ok(Durable {
        boot,
        vote: message.vote.map(|proto::LeaderId { term, node_id }| Ballot {
            term,
            won: message.vote_won,
            node: node_id,
        }),
        committed: committed.as_ref().map(position),
    })
}

/// The message of a membership.
pub(super) fn membership_message(membership: &Membership) -> proto::Membership {
    let configs = membership.get_joint_config().iter();
    let servers = membership.nodes();
    proto::Membership {
        configs: configs
            .map(|ids| proto::NodeIdSet {
                node_ids: ids.iter().copied().collect(),
            })
            .collect(),
        servers: servers.map(|(id, peer)| (*id, server_message(peer))).collect(),
    }
}

/// The membership of a message.
pub(super) fn message_membership(message: proto::Membership) -> Result<Membership, Malformed> {
    let configs = message
        .configs
        .into_iter()
        .map(|set| set.node_ids.into_iter().collect::<BTreeSet<_>>());
    let servers = message.servers.into_iter();
    let peers = servers.map(|(id, server)| (id, message_server(server)));
    Membership::new(configs.collect(), peers.collect::<BTreeMap<_, _>>()).map_err(|_| Malformed("membership"))
}

/// The message of a membership and the entry that brought it.
pub(super) fn stored_membership_message(stored: &StoredMembership) -> proto::StoredMembership {
    proto::StoredMembership {
        log_id: stored.log_id().as_ref().map(position_message),
        membership: stored
            .log_id()
            .is_some()
            .then(|| membership_message(stored.membership())),
    }
}

/// The membership of a message, and the entry that brought it.
pub(super) fn message_stored_membership(
    message: proto::StoredMembership,
) -> Result<StoredMembership, Malformed> {
    match (message.log_id, message.membership) {
        (Some(id), Some(membership)) => Ok(StoredMembership::new(
            Some(message_position(id)?),
            message_membership(membership)?,
        )),
        (None, None) => Ok(StoredMembership::default()),
        (Some(_), None) | (None, Some(_)) => Err(Malformed("stored membership")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let peer = |name: &str| Peer {
            name: name.to_owned(),
            address: format!("{name}:8300"),
        };
        let peers = BTreeMap::from([(1, peer("a")), (2, peer("b")), (3, peer("c"))]);
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2])], peers).unwrap()
    }

    #[test]
    fn payloads_survive_their_bytes() {
        let place = Position {
            term: 7,
            leader: 0,
            index: 9,
        };
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"\x01\0entry"))),
            EntryPayload::Membership(membership()),
        ];
        for payload in payloads {
            let stored = crate::storage::log::LogEntry {
                position: place,
                payload: encode_payload(&payload),
            };
            let entry = decode_entry(stored).unwrap();
            assert_eq!(wire_of(&entry), (place, payload));
        }
    }

    fn wire_of(entry: &LogEntry) -> (Position, EntryPayload<Payload, u64, Peer>) {
        (position(&entry.log_id), entry.payload.clone())
    }

    #[test]
    fn votes_and_memberships_survive_their_bytes() {
        let vote = RaftVote::new_committed(3, 5);
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        let id = log_id(Position {
            term: 1,
            leader: 0,
            index: 2,
        });
        for stored in [
            StoredMembership::default(),
            StoredMembership::new(Some(id), membership()),
        ] {
            assert_eq!(
                message_stored_membership(stored_membership_message(&stored)),
                Ok(stored)
            );
        }
    }

    #[test]
    fn rosters_survive_their_bytes() {
        let id = log_id(Position {
            term: 3,
            leader: 0,
            index: 9,
        });
        let stored = StoredMembership::new(Some(id), membership());
        let roster = Roster::of(ClusterId(u128::MAX - 1), &stored).unwrap();
        assert_eq!(message_roster(roster_message(&roster)), Ok(roster.clone()));
        let founding = Roster { at: None, ..roster };
        assert_eq!(message_roster(roster_message(&founding)), Ok(founding.clone()));
        let mut nonsense = roster_message(&founding);
        nonsense.cluster_id = vec![1; 15].into();
        assert_eq!(message_roster(nonsense), Err(Malformed("roster")));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decode_vote(b"\xff\xff"), Err(Malformed("vote")));
        let entry = crate::storage::log::LogEntry {
            position: Position {
                term: 1,
                leader: 0,
                index: 0,
            },
            payload: Bytes::from_static(b"\xff\xff\xff"),
        };
        assert_eq!(decode_entry(entry).unwrap_err(), Malformed("membership"));
    }
}
