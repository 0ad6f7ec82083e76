//! Snapshots: the state for a follower whose next entries the leader's log has no more.
//!
//! The data is the state itself, which is a value: taking it costs nothing and holds nothing up. openraft's builder
//! doesn't build: [`super::checkpoint`] writes checkpoints on its own, and openraft is told of the newest one so that it
//! agrees to purge the log behind it. What a follower is sent is the state that is applied when the sending begins.
//!
//! ```text
//! leader                                             follower
//! Offers: state at P, log kept from P on
//! send:    start (P, digest) ──────────────────────► the vote is durable, entries that differ at P are gone
//!          ◄──────────────────────── received: n     n chunks of it are here from an earlier attempt
//!          chunks from n on ───────────────────────► a state grows from them
//!          ◄──────────────────────── received: …
//!          end ────────────────────────────────────► digest compared; a checkpoint at P, durable
//!          ◄───────────────────────── done: vote     state published, log goes on behind P
//! entries from P on
//! ```
//!
//! **A transfer that breaks off goes on.** openraft asks for the snapshot again; [`Offers`] gives it the same state as
//! long as that is in use, and the follower has kept what it got. **There is no loop** of snapshots that are out of date
//! when they arrive: while a state is offered the log behind it stays ([`Offers::held`]).

mod receive;
mod send;

use std::{fmt, io, time::Duration};

use openraft::{LogIdOptionExt, RaftSnapshotBuilder, type_config::alias::SnapshotOf};
use parking_lot::Mutex;
use spine_core::State;
use tokio::time::Instant;

pub(super) use self::{receive::Intake, send::send};
use super::{
    state_machine::Applied,
    types::{SnapshotMeta, Types},
};

/// A state that nobody fetched for so long is not offered any more. A follower that broke off comes back within seconds.
const OFFERED: Duration = Duration::from_secs(30);

/// What a snapshot consists of.
#[derive(Clone)]
pub(super) struct SnapshotData(pub State);

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state at index {}", self.0.index())
    }
}

/// Names a snapshot that exists already.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// What is in it, or newer.
    pub data: SnapshotData,
}

impl RaftSnapshotBuilder<Types> for Ready {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, SnapshotData>> {
        Ok(openraft::Snapshot {
            meta: self.meta.clone(),
            snapshot: self.data.clone(),
        })
    }
}

/// The state that followers are sent, shared by those who send it and those who purge the log.
#[derive(Default)]
pub(super) struct Offers(Mutex<Option<Offer>>);

struct Offer {
    applied: Applied,
    used: Instant,
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offers").field(&self.held()).finish()
    }
}

impl Offers {
    /// What a follower is to be sent: what is offered already, if the log, which begins after `purged`, goes on from
    /// there; `newest` otherwise.
    pub(super) fn offer(&self, newest: &Applied, purged: Option<u64>) -> Applied {
        let mut offer = self.0.lock();
        let goes_on =
            |offer: &Offer| offer.used.elapsed() <= OFFERED && offer.applied.position.index() >= purged;
        let applied = match offer.take().filter(goes_on) {
            Some(offer) => offer.applied,
            None => newest.clone(),
        };
        *offer = Some(Offer {
            applied: applied.clone(),
            used: Instant::now(),
        });
        applied
    }

    /// Somebody fetches it.
    pub(super) fn in_use(&self) {
        if let Some(offer) = &mut *self.0.lock() {
            offer.used = Instant::now();
        }
    }

    /// The log from behind this index on belongs to what is offered. An offer that is over ends here.
    pub(super) fn held(&self) -> Option<u64> {
        let mut offer = self.0.lock();
        if offer.as_ref().is_some_and(|offer| offer.used.elapsed() > OFFERED) {
            *offer = None;
        }
        let offer = offer.as_ref()?;
        Some(offer.applied.position.index().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{raft::wire, storage::log::Position};

    fn applied(index: u64) -> Applied {
        Applied {
            position: Some(wire::log_id(Position {
                term: 1,
                leader: 0,
                index,
            })),
            membership: Arc::default(),
            state: State::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_state_is_offered_while_it_is_in_use_and_the_log_goes_on_from_it() {
        let offers = Offers::default();
        assert_eq!(offers.held(), None);
        assert_eq!(offers.offer(&applied(10), Some(4)).position.index(), Some(10));
        assert_eq!(offers.offer(&applied(20), Some(4)).position.index(), Some(10));
        assert_eq!(offers.held(), Some(10));
        assert_eq!(
            offers.offer(&applied(20), Some(11)).position.index(),
            Some(20),
            "the log behind the old one is gone"
        );
        tokio::time::advance(OFFERED / 2).await;
        offers.in_use();
        tokio::time::advance(OFFERED / 2 + Duration::from_secs(1)).await;
        assert_eq!(offers.held(), Some(20));
        tokio::time::advance(OFFERED).await;
        assert_eq!(offers.held(), None);
    }
}
