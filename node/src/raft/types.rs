//! The types that openraft is given.
//!
//! What it replicates is opaque to it: an entry's content is [`Payload`], the encoded [`spine_core::Entry`], made once
//! by the one who proposes it; the same bytes go to the log and to the followers.

use std::fmt::{self, Debug, Display};

use bytes::Bytes;
use openraft::{
    EntryPayload, OptionalSend, RaftTypeConfig,
    impls::{BoxedErrorSource, InlineBatch, Vote, leader_id_std},
    raft::responder::Responder,
    rt::deterministic_rng::DeterministicRng,
    type_config::alias,
};
use openraft_rt_tokio::TokioRuntime;
use serde::{Deserialize, Serialize};
use spine_core::Applied;

/// openraft's types, chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Payload;
    type R = Response;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    /// At most one leader in a term: dialects show a bare term.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, Peer>;
    type Entry = alias::DefaultEntryOf<Self>;
    type Responder<T>
        = Answer<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    /// Its random numbers come from a seed, in every world.
    type AsyncRuntime = DeterministicRng<TokioRuntime>;
    type ErrorSource = BoxedErrorSource;
}

/// One entry of the log.
pub(super) type LogEntry = alias::EntryOf<Types>;
/// A position in the log.
pub(super) type LogId = alias::LogIdOf<Types>;
/// A vote.
pub(super) type RaftVote = alias::VoteOf<Types>;
/// Who votes and who learns.
pub(super) type Membership = openraft::Membership<u64, Peer>;
/// A membership and the entry that brought it.
pub(super) type StoredMembership = alias::StoredMembershipOf<Types>;
/// What a snapshot is of.
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// The content of an entry: the bytes of a [`spine_core::Entry`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

impl Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self, f)
    }
}

/// What became of each request of an entry, in order; nothing for entries that hold none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Response(pub Vec<Applied>);

/// A server, as the others find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address for peers.
    pub address: String,
}

/// What is called with the result of a write. If openraft drops it instead, the closure is dropped, and whoever
/// waits for what is in it learns that no answer will come.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// Calls `answer` once, on the task that applies.
    pub fn new(answer: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(answer))
    }
}

impl<T> Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer(..)")
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
