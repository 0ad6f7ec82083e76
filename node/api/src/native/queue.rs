//! The queue of a lock, and of an election: places in it, and waiting until one's own is the first.
//!
//! A place is a key below the queue's name that ends with its lease; the one with the lowest create revision holds the lock.
//! Nothing of it is in this server: the order is in the replicated state, and a client whose server was lost finds its place
//! through another one. Who waits is woken by the place before it alone, so a lock that passes on wakes one, not all.
//!
//! # Whose a place is, when calls repeat
//! A lease has one place in a queue, and its client may call any number of times, at several servers, while earlier calls
//! still end. So each attempt writes the place's row as it enters, even if all of it is there: the create revision stays, it
//! is the fencing number, and the mod revision is the attempt's own. A release that an attempt makes by itself deletes that
//! mod revision alone, so it never takes away what a later attempt was told. What may meet, `1` before `2`:
//!
//! - *The holder repeats its call and gets an error, or breaks off.* The attempt found the place and did not make it: it
//!   leaves it. An attempt without an answer to its own write does the same, for it knows no revision.
//! - *1 waited in vain and gives its place back; 2 enters before that.* The row has the mod revision of 2, the deletion finds
//!   another and does nothing. *2 enters after it:* there is no place, and 2 makes one, with a greater fencing number. Besides,
//!   1 answers after its deletion, so calls one after the other don't meet at all.
//! - *1 breaks off while it waits, 2 comes at once.* The same; *while 1 is still entering:* entering goes on to its end, and
//!   its place goes back, if 1 made it and 2 has not entered since. If 2 was first, 1 found the place of 2, and leaves it.
//! - *Both wait, 1 gives up.* The place is 2's, as above. *2 gives up:* the place goes back, and 1 is told that it has none.
//! - *Both wait, the place becomes the first, 1 is told so while 2 gives up.* An attempt says that it holds the lock only of a
//!   row that it wrote last. 1 finds that it did not, and writes it again: either the deletion of 2 comes first, and 1 finds no
//!   place, or it finds another revision.
//! - *1 was told that it holds the lock, 2 enters.* The place is the first until it is deleted, and 2 sees that where it sees
//!   its own write: it is told the same, or ends with an error and leaves the place, which it did not make.
//! - *The leader proclaims, or another client writes the row.* The mod revision is nobody's, and no attempt deletes it.
//!
//! What errs on this side is a place that nobody waits for: it is found by the next call, goes back by `Release`, and ends
//! with its lease. What would err on the other side is two holders.

use std::sync::Arc;

use bytes::Bytes;
use spine_core::{
    Command, Compare, Delete, Guard, Key, KeyRange, KvRow, LeaseId, OpDone, Operand, Outcome, Put, ReadKeys,
    Rejection, Relation, Repeat, Revision, State, Topic, Txn, TxnOp,
};
use spine_proto::v1;
use tokio::{task::JoinHandle, time::Instant};

use super::{Door, encode, misfit};
use crate::{
    limits,
    read::Read,
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

    /// Every place. What lies deeper belongs to a lock of another name, and is jumped over.
    fn places<'a>(&self, state: &'a State) -> impl Iterator<Item = (&'a Key, &'a Arc<KvRow>)> {
        let name = self.prefix.len();
        let KeyRange { start, end } = KeyRange::prefix(self.prefix.clone());
        let rows = move |start| {
            state.kv().rows(&KeyRange {
                start,
                end: end.clone(),
            })
        };
        let mut rest = rows(start);
        std::iter::from_fn(move || {
            loop {
                let (key, row) = rest.next()?;
                let Some(slash) = key[name..].iter().position(|&byte| byte == b'/') else {
                    return Some((key, row));
                };
                let behind = [&key[..name + slash], &[b'/' + 1]].concat();
                rest = rows(behind.into());
            }
        })
    }

    /// The same, one after the other.
    ///
    /// # Errors
    /// There are more than are read: an answer from some of them could name a second holder.
    fn read(&self, state: &State, mut each: impl FnMut(Place)) -> Result<(), Rejection> {
        for (count, (key, row)) in self.places(state).enumerate() {
            if count == limits::LOCK_PLACES_READ_MAX {
                return Err(too_many(limits::LOCK_PLACES_READ_MAX));
            }
            each(Place {
                key: key.clone(),
                row: row.clone(),
            });
        }
        Ok(())
    }

    /// The first place, and how many are behind it.
    pub(super) fn first(&self, state: &State) -> Result<(Option<Place>, usize), Rejection> {
        let (mut first, mut count): (Option<Place>, usize) = (None, 0);
        self.read(state, |place| {
            count += 1;
            if first.as_ref().is_none_or(|first| place.age() < first.age()) {
                first = Some(place);
            }
        })?;
        Ok((first, count.saturating_sub(1)))
    }

    /// How the place of this key and age stands; `None` if it is gone.
    fn standing(&self, state: &State, key: &Key, made: Revision) -> Result<Option<Standing>, Rejection> {
        let Some(row) = state.kv().get(key).filter(|row| row.create_revision == made) else {
            return Ok(None);
        };
        let place = Place {
            key: key.clone(),
            row: row.clone(),
        };
        let (mut before, mut ahead): (Option<Place>, usize) = (None, 0);
        self.read(state, |other| {
            if other.age() >= place.age() {
                return;
            }
            ahead += 1;
            if before.as_ref().is_none_or(|before| before.age() < other.age()) {
                before = Some(other);
            }
        })?;
        Ok(Some(Standing {
            before: before.map(|before| before.key),
            ahead,
            place,
        }))
    }

    /// Takes a place for a lease, or finds the one that it has and touches it; with a value, that becomes the place's.
    async fn enter(
        &self,
        door: &Door,
        cx: &Context,
        lease: LeaseId,
        value: Option<Bytes>,
    ) -> Result<Place, Error> {
        let key = self.key(lease);
        while Instant::now() < cx.deadline {
            let state = door.registry.hub().newest();
            let seen = state.kv().get(&key).cloned();
            if seen.is_none() && self.places(&state).nth(limits::LOCK_PLACES_MAX - 1).is_some() {
                return Err(too_many(limits::LOCK_PLACES_MAX).into());
            }
            drop(state);
            // If another attempt was faster, what it wrote is applied here by now.
            let touched = touch(&key, lease, value.as_ref(), seen.as_deref());
            if let Some(place) = self.write(door, cx, touched).await? {
                return Ok(place);
            }
        }
        Err(Error::Deadline("taking a place in the queue".into()))
    }

    /// Writes a place; `None` if it was no longer as it was seen.
    async fn write(&self, door: &Door, cx: &Context, touched: Txn) -> Result<Option<Place>, Error> {
        let outcome = door.propose(cx, Command::Txn(touched)).await?.1;
        match outcome {
            Outcome::Txn { held: false, .. } => Ok(None),
            Outcome::Txn { mut done, .. } => match done.pop() {
                Some(OpDone::Read { mut rows, .. }) if rows.len() == 1 => {
                    let (key, row) = rows.remove(0);
                    Ok(Some(Place { key, row }))
                }
                other => Err(Error::Unknown(
                    format!("the registry answered with {other:?}").into(),
                )),
            },
            other => Err(misfit(&other)),
        }
    }

    /// Waits until a place is the first, or the time is over. `None`: it was given back meanwhile.
    ///
    /// # Errors
    /// Also [`Error::NoLeader`] at a server that is cut off from its cluster, which would not hear whose turn it is.
    async fn wait(
        &self,
        door: &Door,
        cx: &Context,
        (place, lease): (&Place, LeaseId),
        until: Instant,
    ) -> Result<Option<Standing>, Error> {
        let made = place.row.create_revision;
        let standing = |state: &State| -> Result<Option<Standing>, Error> {
            let standing = self.standing(state, &place.key, made)?;
            if standing.is_none() && state.leases().get(lease).is_none() {
                return Err(Rejection::UnknownLease(lease).into());
            }
            Ok(standing)
        };
        loop {
            let state = door.registry.hub().newest();
            let Some(stands) = standing(&state)? else {
                return Ok(None);
            };
            if stands.is_first() {
                // This server may be behind: what it has not applied yet may be the end of the lease.
                return standing(&*door.registry.view(&cx.renewed()).await?);
            }
            if Instant::now() >= until {
                return Ok(Some(stands));
            }
            let of = |key: &Key| Topic::Keys(KeyRange::one(key.clone()));
            let interest: Vec<_> = stands.before.iter().chain([&place.key]).map(of).collect();
            let mut ticket = door.registry.hub().enroll(&interest)?;
            if door.registry.hub().newest().index() > state.index() {
                continue;
            }
            tokio::select! {
                biased;
                () = door.registry.cut_off() => return Err(Error::NoLeader),
                woken = ticket.touched() => { woken?; }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Gives the place of a lease back, if it has this one.
    pub(super) async fn leave(
        &self,
        door: &Door,
        cx: &Context,
        lease: LeaseId,
        which: Which,
    ) -> Result<(u64, bool), Error> {
        let key = KeyRange::one(self.key(lease));
        let delete = |guard| Delete {
            range: key.clone(),
            guard,
        };
        let command = match which {
            Which::Any => Command::Delete(delete(Guard::Always)),
            Which::Touched(revision) => Command::Delete(delete(Guard::ModRevision(revision))),
            Which::Made(revision) => Command::Txn(Txn {
                when: vec![Compare {
                    range: key.clone(),
                    relation: Relation::Equal,
                    operand: Operand::CreateRevision(revision),
                }],
                then: vec![TxnOp::Delete(delete(Guard::Always))],
                otherwise: Vec::new(),
            }),
        };
        match door.propose(cx, command).await? {
            (index, Outcome::Deleted { count, .. }) => Ok((index.0, count > 0)),
            (index, Outcome::GuardFailed { .. }) => Ok((index.0, false)),
            (index, Outcome::Txn { held, .. }) => Ok((index.0, held)),
            (_, other) => Err(misfit(&other)),
        }
    }
}

/// Which place of a lease is given back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// Whatever it has.
    Any,
    /// The one with this fencing number.
    Made(Revision),
    /// The one that nobody has entered since this revision.
    Touched(Revision),
}

impl Which {
    /// As a client asks, with the fencing number or with 0.
    pub(super) fn fenced(fence: u64) -> Self {
        if fence == 0 {
            Self::Any
        } else {
            Self::Made(Revision(fence))
        }
    }
}

fn too_many(limit: usize) -> Rejection {
    Rejection::TooMany {
        what: "places in the queue of one lock".into(),
        limit: limit as u64,
    }
}

/// Writes a place's row, whether it is there or not, if it still is as it was seen; and reads it.
fn touch(key: &Key, lease: LeaseId, value: Option<&Bytes>, seen: Option<&KvRow>) -> Txn {
    let value = value.or(seen.map(|row| &row.value)).cloned().unwrap_or_default();
    let put = Put {
        key: key.clone(),
        value,
        flags: seen.map_or(0, |row| row.flags),
        lease: Some(lease),
        guard: Guard::Always,
        repeat: Repeat::Write,
    };
    let read = ReadKeys {
        range: KeyRange::one(key.clone()),
        revision: None,
        limit: None,
        required: false,
    };
    Txn {
        when: vec![Compare {
            range: KeyRange::one(key.clone()),
            relation: Relation::Equal,
            operand: Operand::ModRevision(seen.map_or(Revision(0), |row| row.mod_revision)),
        }],
        then: vec![TxnOp::Put(put), TxnOp::Read(read)],
        otherwise: Vec::new(),
    }
}

/// A call's way to a place: the place as this call wrote it, and what becomes of it when the call ends; see the module's
/// words.
pub(super) struct Attempt {
    door: Door,
    cx: Context,
    queue: Queue,
    lease: LeaseId,
    place: Place,
    /// Dropped, it gives the place back.
    leaves: bool,
}

impl Attempt {
    /// Enters a queue. That goes on when the client breaks off, for its end alone tells what there is to give back.
    pub(super) async fn begin(
        door: &Door,
        cx: &Context,
        (queue, lease): (&Queue, LeaseId),
        value: Option<Bytes>,
        keep: bool,
    ) -> Result<Self, Error> {
        let (door, cx, queue) = (door.clone(), cx.clone(), queue.clone());
        // One for each call, until its deadline. What it gives to nobody is dropped, and leaves.
        let entering = tokio::spawn(async move {
            let place = queue.enter(&door, &cx, lease, value).await?;
            let is_made = place.row.create_revision == place.row.mod_revision;
            Ok(Self {
                door,
                cx,
                queue,
                lease,
                place,
                leaves: is_made && !keep,
            })
        });
        match entering.await {
            Ok(entered) => entered,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::ShuttingDown),
            },
        }
    }

    /// Waits until the place is the first, or the time is over. `None`: it was given back meanwhile.
    pub(super) async fn wait(&mut self, until: Instant) -> Result<Option<Standing>, Error> {
        loop {
            let seat = (&self.place, self.lease);
            let waited = self.queue.wait(&self.door, &self.cx, seat, until).await?;
            let Some(standing) = waited else {
                return Ok(None);
            };
            let seen = &standing.place.row;
            if !standing.is_first() || seen.mod_revision == self.place.row.mod_revision {
                return Ok(Some(standing));
            }
            // Another attempt has entered since, and might take the place away.
            let claim = touch(&self.place.key, self.lease, None, Some(seen));
            if let Some(place) = self.queue.write(&self.door, &self.cx.renewed(), claim).await? {
                self.place = place.clone();
                return Ok(Some(Standing { place, ..standing }));
            }
        }
    }

    /// The place stays.
    pub(super) fn stay(mut self) {
        self.leaves = false;
    }

    /// Gives the place back, whoever made it, unless another call has entered since.
    pub(super) async fn leave(mut self) {
        self.leaves = false;
        // If it fails, the place ends with the lease.
        let _ = self.leaving().await;
    }

    /// One for each call that waited, so there are no more of them than of those.
    fn leaving(&self) -> JoinHandle<()> {
        let (door, cx, queue) = (self.door.clone(), self.cx.renewed(), self.queue.clone());
        let (lease, touched) = (self.lease, Which::Touched(self.place.row.mod_revision));
        tokio::spawn(async move {
            // If it fails, the place ends with the lease.
            let _ = queue.leave(&door, &cx, lease, touched).await;
        })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.leaves {
            drop(self.leaving());
        }
    }
}
