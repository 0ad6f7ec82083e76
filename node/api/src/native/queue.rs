//! The queue of a lock, and of an election: places in it, and waiting until one's own is the first.
//!
//! A place is a key below the queue's name that ends with its lease; the one with the lowest create revision holds the lock.
//! Nothing of it is in this server: the order is in the replicated state, and a client whose server was lost finds its place
//! through another one. Who waits is woken by the place before it alone, so a lock that passes on wakes one, not all.

use std::sync::Arc;

use bytes::Bytes;
use spine_core::{
    Command, Compare, Guard, Key, KeyRange, KvRow, LeaseId, OpDone, Operand, Outcome, Put, Rejection,
    Relation, Repeat, Revision, State, Topic, Txn, TxnOp,
};
use spine_proto::v1;
use tokio::time::Instant;

use super::{Door, encode, misfit};
use crate::{
    limits,
    registry::{Context, Error},
};

/// The queue of one name.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// The name and a slash: what the keys of its places begin with.
    prefix: Key,
}

/// A place in a queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) row: Arc<KvRow>,
}

/// How a place stands in its queue.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// As it was read last.
    pub(super) place: Place,
    /// The key of the place before it; `None`: it is the first.
    before: Option<Key>,
    /// How many are before it.
    pub(super) ahead: usize,
}

impl Standing {
    pub(super) fn is_first(&self) -> bool {
        self.before.is_none()
    }
}

impl Place {
    /// The revision that made it: an older place has a lower one.
    fn age(&self) -> (Revision, &Key) {
        (self.row.create_revision, &self.key)
    }

    pub(super) fn encode(&self) -> v1::Place {
        v1::Place {
            key: self.key.clone(),
            lease: self.row.lease.map(encode::lease_id).unwrap_or_default(),
            fence: self.row.create_revision.0,
            value: self.row.value.clone(),
        }
    }
}

impl Queue {
    pub(super) fn new(name: &[u8]) -> Result<Self, Rejection> {
        if name.is_empty() {
            return Err(Rejection::Invalid("a lock needs a name".into()));
        }
        if name.len() > limits::LOCK_NAME_BYTES_MAX {
            return Err(Rejection::TooLarge {
                what: "name of the lock".into(),
                size: name.len() as u64,
                limit: limits::LOCK_NAME_BYTES_MAX as u64,
            });
        }
        Ok(Self {
            prefix: [name, b"/"].concat().into(),
        })
    }

    pub(super) fn key(&self, lease: LeaseId) -> Key {
        [&self.prefix[..], lease.to_string().as_bytes()].concat().into()
    }

    pub(super) fn topic(&self) -> Topic {
        Topic::Keys(KeyRange::prefix(self.prefix.clone()))
    }

    /// Every place. What lies deeper belongs to a lock of another name.
    fn places(&self, state: &State) -> Vec<Place> {
        let range = KeyRange::prefix(self.prefix.clone());
        let below = state.kv().list(&range, Some(limits::LOCK_PLACES_MAX)).rows;
        let own = |(key, _): &(Key, Arc<KvRow>)| !key[self.prefix.len()..].contains(&b'/');
        below
            .into_iter()
            .filter(own)
            .map(|(key, row)| Place { key, row })
            .collect()
    }

    /// The first place, and how many are behind it.
    pub(super) fn first(&self, state: &State) -> (Option<Place>, usize) {
        let places = self.places(state);
        let waiting = places.len().saturating_sub(1);
        let first = places.into_iter().min_by(|a, b| a.age().cmp(&b.age()));
        (first, waiting)
    }

    /// How the place of this key and age stands; `None` if it is gone.
    fn standing(&self, state: &State, key: &Key, made: Revision) -> Option<Standing> {
        let row = state.kv().get(key).filter(|row| row.create_revision == made)?;
        let place = Place {
            key: key.clone(),
            row: row.clone(),
        };
        let older: Vec<_> = self
            .places(state)
            .into_iter()
            .filter(|other| other.age() < place.age())
            .collect();
        let before = older.iter().max_by(|a, b| a.age().cmp(&b.age()));
        Some(Standing {
            before: before.map(|before| before.key.clone()),
            ahead: older.len(),
            place,
        })
    }

    /// Takes a place for a lease, or finds the one that it has; with a value, that becomes the place's.
    pub(super) async fn enter(
        &self,
        door: &Door,
        cx: &Context,
        lease: LeaseId,
        value: Option<Bytes>,
    ) -> Result<Place, Error> {
        let key = self.key(lease);
        let state = door.registry.hub().newest();
        let below = state.kv().count(&KeyRange::prefix(self.prefix.clone()));
        if below >= limits::LOCK_PLACES_MAX as u64 && state.kv().get(&key).is_none() {
            return Err(Rejection::TooMany {
                what: "places in the queue of one lock".into(),
                limit: limits::LOCK_PLACES_MAX as u64,
            }
            .into());
        }
        let read = TxnOp::Read(spine_core::ReadKeys {
            range: KeyRange::one(key.clone()),
            revision: None,
            limit: None,
            required: false,
        });
        let put = |value: Bytes| {
            TxnOp::Put(Put {
                key: key.clone(),
                value,
                flags: 0,
                lease: Some(lease),
                guard: Guard::Always,
                repeat: Repeat::Skip,
            })
        };
        let renamed = value.clone().map(put).into_iter();
        let txn = Txn {
            when: vec![Compare {
                range: KeyRange::one(key.clone()),
                relation: Relation::Equal,
                operand: Operand::Version(0),
            }],
            then: vec![put(value.unwrap_or_default()), read.clone()],
            otherwise: renamed.chain([read]).collect(),
        };
        let (_, outcome) = door.propose(cx, Command::Txn(txn)).await?;
        let Outcome::Txn { mut done, .. } = outcome else {
            return Err(misfit(&outcome));
        };
        match done.pop() {
            Some(OpDone::Read { mut rows, .. }) if rows.len() == 1 => {
                let (key, row) = rows.remove(0);
                Ok(Place { key, row })
            }
            other => Err(Error::Unknown(
                format!("the registry answered with {other:?}").into(),
            )),
        }
    }

    /// Waits until a place is the first, or the time is over.
    pub(super) async fn wait(
        &self,
        door: &Door,
        cx: &Context,
        place: &Place,
        until: Instant,
    ) -> Result<Standing, Error> {
        let made = place.row.create_revision;
        let gone = || Error::Refused(Rejection::UnknownLease(place.row.lease.unwrap_or(LeaseId(0))));
        loop {
            let state = door.registry.hub().newest();
            let standing = self.standing(&state, &place.key, made).ok_or_else(gone)?;
            if standing.is_first() {
                // This server may be behind: what it has not applied yet may be the end of the lease.
                let state = door.registry.view(&fresh(cx)).await?;
                return self.standing(&state, &place.key, made).ok_or_else(gone);
            }
            if Instant::now() >= until {
                return Ok(standing);
            }
            let of = |key: &Key| Topic::Keys(KeyRange::one(key.clone()));
            let interest: Vec<_> = standing.before.iter().chain([&place.key]).map(of).collect();
            let mut ticket = door.registry.hub().enroll(&interest)?;
            if door.registry.hub().newest().index() > state.index() {
                continue;
            }
            tokio::select! {
                biased;
                woken = ticket.touched() => { woken?; }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Gives the place of a lease back, if it has one.
    pub(super) async fn leave(
        &self,
        door: &Door,
        cx: &Context,
        lease: LeaseId,
    ) -> Result<(u64, bool), Error> {
        let delete = Command::Delete(spine_core::Delete {
            range: KeyRange::one(self.key(lease)),
            guard: Guard::Always,
        });
        match door.propose(cx, delete).await? {
            (index, Outcome::Deleted { count, .. }) => Ok((index.0, count > 0)),
            (_, other) => Err(misfit(&other)),
        }
    }
}

/// Who asks, as before, with time of its own: a wait may outlast the deadline of other calls.
pub(super) fn fresh(cx: &Context) -> Context {
    Context {
        deadline: Instant::now() + limits::REQUEST_DEADLINE,
        ..cx.clone()
    }
}

/// Gives a place back when its call ends without the lock, also when the client breaks off.
pub(super) struct Leaving {
    of: Option<(Door, Context, Queue, LeaseId)>,
}

impl Leaving {
    pub(super) fn new(door: &Door, cx: &Context, queue: &Queue, lease: LeaseId) -> Self {
        Self {
            of: Some((door.clone(), cx.clone(), queue.clone(), lease)),
        }
    }

    /// The place stays.
    pub(super) fn stay(mut self) {
        self.of = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some((door, cx, queue, lease)) = self.of.take() {
            // One for each call that waited, so there are no more of them than of those. If it fails, the place ends with
            // the lease.
            tokio::spawn(async move { queue.leave(&door, &fresh(&cx), lease).await.map(drop) });
        }
    }
}
