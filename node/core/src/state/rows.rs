//! The state as rows, for digests and snapshots.
//!
//! Each row is a table's number, a key and a value. Derived indexes are not among them: they are built again from
//! the rows that they are derived from.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Heartbeat, State, StoredRoot};
use crate::{
    catalog::{Instance, Node},
    codec::{self, DecodeError},
    command::Member,
    deadline::{Deadline, DeadlineKey},
    dedup::Session,
    event::{Event, Topic},
    health::Check,
    id::{CheckKey, Index, InstanceKey, Key, LeaseId, NodeName, Revision, SessionId},
    kv::{KvRow, Version},
    lease::{Lease, Terms},
    limits,
    member::Liveness,
    outcome::Applied,
    snapshot::{Header, SNAPSHOT_FORMAT},
    table::row_digest,
    time::Time,
};

/// What is not in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scalars {
    index: Index,
    time: Time,
    rules: u32,
    revision: Revision,
    compacted: Revision,
    swept: (Revision, u32),
    key_floor: Index,
    topic_floor: Index,
    log_dropped: Index,
}

/// Tables by number; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Scalars,
    Keys,
    History,
    Revisions,
    KeyGraves,
    Nodes,
    Instances,
    Checks,
    Leases,
    Heartbeats,
    Deadlines,
    Sessions,
    Members,
    CaRoots,
    Touched,
    TopicGraves,
    Events,
    SessionOutcomes,
    Liveness,
    LeaseTerms,
    Fences,
    Quota,
}

/// How many sums the digest is made of.
const SUMS: usize = 12;

impl Kind {
    /// Which of the sums in [`State::digest`] the rows are added to; `None` if they are in none.
    ///
    /// Tables that came later share the sum of what they belong to: a state that has nothing there has the digest that it
    /// had before there were such tables.
    fn sum(self) -> Option<usize> {
        Some(match self {
            Self::Keys | Self::Fences => 0,
            Self::History => 1,
            Self::Nodes => 2,
            Self::Instances => 3,
            Self::Checks => 4,
            Self::Leases | Self::LeaseTerms => 5,
            Self::Heartbeats => 6,
            Self::Deadlines => 7,
            Self::Sessions | Self::SessionOutcomes => 8,
            Self::Members | Self::Liveness => 9,
            Self::CaRoots => 10,
            Self::Touched => 11,
            Self::Scalars
            | Self::Revisions
            | Self::KeyGraves
            | Self::TopicGraves
            | Self::Events
            | Self::Quota => {
                return None;
            }
        })
    }
}

/// What rows come to, without the state that they are of.
#[derive(Default)]
pub(crate) struct Sums {
    scalars: Option<Scalars>,
    tables: Tables,
    quota: Option<u64>,
}

/// The sums of which the digest is made.
#[derive(Default, Serialize)]
struct Tables([u128; SUMS]);

impl Tables {
    /// Adds what rows of a kind come to.
    fn add(&mut self, kind: Kind, digest: u128) {
        if let Some(sum) = kind.sum() {
            self.0[sum] = self.0[sum].wrapping_add(digest);
        }
    }
}

impl Sums {
    /// Adds a row that [`State::rows`] gave.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let (kind, body) = split_kind(bytes)?;
        if kind == Kind::Scalars {
            let ((), scalars) = pair(body)?;
            self.scalars = Some(scalars);
        } else if kind == Kind::Quota {
            self.quota = Some(quota(body)?);
        } else {
            self.tables.add(kind, row_digest(body));
        }
        Ok(())
    }

    /// The header of the state whose rows these were; `None` if they were none's.
    pub(crate) fn header(&self) -> Option<Header> {
        let scalars = self.scalars?;
        Some(Header {
            format: SNAPSHOT_FORMAT,
            rules: scalars.rules,
            index: scalars.index,
            revision: scalars.revision,
            time: scalars.time,
            digest: digest(&scalars, &self.tables, self.quota),
        })
    }
}

/// With the usual quota it is the digest of before there were others.
fn digest(scalars: &Scalars, tables: &Tables, quota: Option<u64>) -> u128 {
    let digest = xxhash_rust::xxh3::xxh3_128(&codec::encode_row(&(scalars, tables)));
    quota.map_or(digest, |quota| {
        xxhash_rust::xxh3::xxh3_128(&codec::encode_row(&(digest, quota)))
    })
}

/// The quota of its row; the usual one has none.
fn quota(body: &[u8]) -> Result<u64, DecodeError> {
    let ((), quota) = pair(body)?;
    if quota >= limits::STATE_BYTES_MAX {
        return Err(DecodeError::Malformed("a quota that is none".into()));
    }
    Ok(quota)
}

/// A row's table, and the rest of it. A kind is encoded as one byte.
fn split_kind(bytes: &[u8]) -> Result<(Kind, &[u8]), DecodeError> {
    let (kind, body) = bytes
        .split_at_checked(1)
        .ok_or_else(|| DecodeError::Malformed("empty row".into()))?;
    Ok((codec::decode_row(kind)?, body))
}

fn row<K: Serialize, V: Serialize>(kind: Kind) -> impl Fn((&K, &V)) -> Vec<u8> {
    move |(key, value)| codec::encode_row(&(kind, key, value))
}

impl State {
    /// A hash of everything that the state holds; the same on every node that has applied the same entries.
    ///
    /// The change log is not in it: its events repeat what rows were, and rows are hashed as they change.
    pub fn digest(&self) -> u128 {
        let mut tables = Tables::default();
        for (kind, digest) in [
            (Kind::Keys, self.kv.rows.digest()),
            (Kind::Fences, self.kv.fences.digest()),
            (Kind::History, self.kv.history.digest()),
            (Kind::Nodes, self.catalog.nodes.digest()),
            (Kind::Instances, self.catalog.instances.digest()),
            (Kind::Checks, self.health.checks.digest()),
            (Kind::Leases, self.leases.digest()),
            (Kind::Heartbeats, self.heartbeats.digest()),
            (Kind::Deadlines, self.deadlines.rows.digest()),
            (Kind::Sessions, self.sessions.digest()),
            (Kind::Members, self.members.digest()),
            (Kind::Liveness, self.liveness.digest()),
            (Kind::CaRoots, self.ca_roots.digest()),
            (Kind::Touched, self.touched.live.digest()),
        ] {
            tables.add(kind, digest);
        }
        digest(&self.scalars(), &tables, self.quota)
    }

    /// The encoded size of everything that the state holds, history and change log too.
    pub fn bytes(&self) -> u64 {
        self.kv.bytes()
            + self.catalog.nodes.bytes()
            + self.catalog.instances.bytes()
            + self.health.checks.bytes()
            + self.leases.bytes()
            + self.heartbeats.bytes()
            + self.deadlines.rows.bytes()
            + self.sessions.bytes()
            + self.members.bytes()
            + self.liveness.bytes()
            + self.ca_roots.bytes()
            + self.touched.live.bytes()
            + self.changes.bytes()
    }

    /// How many rows the tables have that people know by name.
    pub fn counts(&self) -> [(&'static str, usize); 11] {
        [
            ("keys", self.kv.rows.len()),
            ("old versions of keys", self.kv.history.len()),
            ("nodes", self.catalog.nodes.len()),
            ("service instances", self.catalog.instances.len()),
            ("checks", self.health.checks.len()),
            ("leases", self.leases.rows.len()),
            ("heartbeats", self.heartbeats.len()),
            ("request sessions", self.sessions.rows.len()),
            ("servers", self.members.len()),
            ("CA roots", self.ca_roots.len()),
            ("events", self.changes.events.len()),
        ]
    }

    fn scalars(&self) -> Scalars {
        Scalars {
            index: self.index,
            time: self.time,
            rules: self.rules,
            revision: self.kv.revision,
            compacted: self.kv.compacted,
            swept: self.kv.swept,
            key_floor: self.kv.graves.floor,
            topic_floor: self.touched.gone.floor,
            log_dropped: self.changes.dropped,
        }
    }

    /// Every row, encoded, table by table in key order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Vec<u8>> {
        std::iter::once(codec::encode_row(&(Kind::Scalars, (), self.scalars())))
            .chain(self.kv.rows.iter().map(row(Kind::Keys)))
            .chain(self.kv.history.iter().map(row(Kind::History)))
            .chain(self.kv.revisions.iter().map(row(Kind::Revisions)))
            .chain(self.kv.graves.by_key.iter().map(row(Kind::KeyGraves)))
            .chain(self.catalog.nodes.iter().map(row(Kind::Nodes)))
            .chain(self.catalog.instances.iter().map(row(Kind::Instances)))
            .chain(self.health.checks.iter().map(row(Kind::Checks)))
            .chain(self.leases.rows.iter().map(row(Kind::Leases)))
            .chain(self.heartbeats.iter().map(row(Kind::Heartbeats)))
            .chain(self.deadlines.rows.iter().map(row(Kind::Deadlines)))
            .chain(self.sessions.rows.iter().map(row(Kind::Sessions)))
            .chain(self.sessions.outcomes.iter().map(row(Kind::SessionOutcomes)))
            .chain(self.members.iter().map(row(Kind::Members)))
            .chain(self.ca_roots.iter().map(row(Kind::CaRoots)))
            .chain(self.touched.live.iter().map(row(Kind::Touched)))
            .chain(self.touched.gone.by_key.iter().map(row(Kind::TopicGraves)))
            .chain(self.changes.events.iter().map(row(Kind::Events)))
            .chain(self.liveness.iter().map(row(Kind::Liveness)))
            .chain(self.leases.terms.iter().map(row(Kind::LeaseTerms)))
            .chain(self.kv.fences.iter().map(row(Kind::Fences)))
            .chain(
                self.quota
                    .iter()
                    .map(|quota| codec::encode_row(&(Kind::Quota, (), quota))),
            )
    }

    /// Puts back a row that [`State::rows`] gave. Checks come after the instances that they judge.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let (kind, body) = split_kind(bytes)?;
        match kind {
            Kind::Scalars => {
                let ((), scalars) = pair(body)?;
                self.load_scalars(scalars);
            }
            Kind::Keys => {
                let (key, value): (Key, Arc<KvRow>) = pair(body)?;
                self.kv.load_row(key, value);
            }
            Kind::History => {
                let (key, value): ((Key, Revision), Version) = pair(body)?;
                self.kv.history.put(key, value);
            }
            Kind::Revisions => {
                let (key, value): ((Revision, u32), Key) = pair(body)?;
                self.kv.revisions.insert(key, value);
            }
            Kind::KeyGraves => {
                let (key, value): (Key, Index) = pair(body)?;
                self.kv.graves.bury(key, value);
            }
            Kind::Nodes => {
                let (_, value): (NodeName, Arc<Node>) = pair(body)?;
                self.catalog.load_node(value);
            }
            Kind::Instances => {
                let (_, value): (InstanceKey, Arc<Instance>) = pair(body)?;
                self.catalog.load_instance(value);
            }
            Kind::Checks => {
                let (_, value): (CheckKey, Arc<Check>) = pair(body)?;
                self.health.load(value);
            }
            Kind::Leases => {
                let (key, value): (LeaseId, Lease) = pair(body)?;
                self.leases.rows.put(key, value);
            }
            Kind::Heartbeats => {
                let (key, value): (InstanceKey, Heartbeat) = pair(body)?;
                self.heartbeats.put(key, value);
            }
            Kind::Deadlines => {
                let (key, value): (DeadlineKey, Deadline) = pair(body)?;
                self.deadlines.load(key, value);
            }
            Kind::Sessions => {
                let (key, value): (SessionId, Session) = pair(body)?;
                // Deadlines come before.
                if let Some(ends) = self.deadlines.get(&DeadlineKey::Session(key)) {
                    self.sessions.moved(key, None, ends);
                }
                self.sessions.rows.put(key, value);
            }
            Kind::SessionOutcomes => {
                let (key, value): ((SessionId, u64), Applied) = pair(body)?;
                self.sessions.outcomes.put(key, value);
            }
            Kind::Members => {
                let (key, value): (NodeName, Arc<Member>) = pair(body)?;
                self.members.put(key, value);
            }
            Kind::CaRoots => {
                let (key, value): (Arc<str>, Arc<StoredRoot>) = pair(body)?;
                self.ca_roots.put(key, value);
            }
            Kind::Touched => {
                let (key, value): (Topic, Index) = pair(body)?;
                self.touched.live.put(key, value);
            }
            Kind::TopicGraves => {
                let (key, value): (Topic, Index) = pair(body)?;
                self.touched.gone.bury(key, value);
            }
            Kind::Events => {
                let (key, value): ((Index, u32), Event) = pair(body)?;
                self.changes.put(key, value);
            }
            Kind::Liveness => {
                let (key, value): (NodeName, Liveness) = pair(body)?;
                self.liveness.put(key, value);
            }
            Kind::LeaseTerms => {
                let (key, value): (LeaseId, Arc<Terms>) = pair(body)?;
                self.leases.load_terms(key, value);
            }
            Kind::Fences => {
                let (key, value): (Key, Index) = pair(body)?;
                self.kv.fences.put(key, value);
            }
            Kind::Quota => self.quota = Some(quota(body)?),
        }
        Ok(())
    }

    fn load_scalars(&mut self, scalars: Scalars) {
        self.index = scalars.index;
        self.time = scalars.time;
        self.rules = scalars.rules;
        self.kv.revision = scalars.revision;
        self.kv.compacted = scalars.compacted;
        self.kv.swept = scalars.swept;
        self.kv.graves.floor = scalars.key_floor;
        self.touched.gone.floor = scalars.topic_floor;
        self.changes.dropped = scalars.log_dropped;
    }
}

fn pair<K: DeserializeOwned, V: DeserializeOwned>(bytes: &[u8]) -> Result<(K, V), DecodeError> {
    codec::decode_row(bytes)
}
