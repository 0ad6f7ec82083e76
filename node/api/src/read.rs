//! Reading, blocking and watching on top of the door, once for every dialect.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_core::{Answer, Event, Index, Interest, Query, State};
use tokio::time::Instant;

use crate::{
    limits,
    registry::{Consistency, Context, Error, Registry},
};

/// What a blocking query waits for: an index past the client's, until a moment.
#[derive(Clone, Copy, Debug)]
pub struct Blocking {
    /// The index that the client has.
    pub floor: Index,
    /// When to answer with what there is.
    pub until: Instant,
}

/// Reading through any registry.
#[async_trait]
pub trait Read {
    /// Asks `query` of a state that is fresh enough. With `blocking`, waits until the answer's index is past the
    /// client's or the time has come.
    ///
    /// A floor above what this node has applied is waited for; a client that has seen the future of another life of
    /// this cluster gets the present, with its lower index, from a linearizable read.
    ///
    /// That nothing has happened is said of the moment of the answer, too: a linearizable read whose time has come asks the
    /// leader again, and one that waits at a node that is cut off ends with [`Error::NoLeader`]. A stale one waits on.
    async fn read<Q: Query>(
        &self,
        cx: &Context,
        query: &Q,
        blocking: Option<Blocking>,
    ) -> Result<Answer<Q::Value>, Error>;

    /// A cursor over what happens to `interest` after `from`.
    fn watch(&self, interest: Interest, from: Index) -> Cursor<'_>;

    /// Waits until this node is cut off from its cluster, and no longer serves: whoever waited here for something to happen
    /// would wait for nothing.
    async fn cut_off(&self);
}

#[async_trait]
impl<R: Registry + ?Sized> Read for R {
    async fn read<Q: Query>(
        &self,
        cx: &Context,
        query: &Q,
        blocking: Option<Blocking>,
    ) -> Result<Answer<Q::Value>, Error> {
        let mut state = self.view(cx).await?;
        let Some(Blocking { floor, until }) = blocking else {
            return Ok(query.ask(&state));
        };
        if floor > state.index() && cx.consistency == Consistency::Linearizable {
            // The leader is behind the client: another life of the cluster. Clients start over when they see this.
            return Ok(query.ask(&state));
        }
        loop {
            let answer = query.ask(&state);
            if answer.index > floor {
                return Ok(answer);
            }
            let mut ticket = self.hub().enroll(&answer.interest)?;
            // What was published between the view and the ticket is in this state; what comes later wakes the ticket.
            let fresh = self.hub().newest();
            if fresh.index() > state.index() {
                let again = query.ask(&fresh);
                if again.index > floor {
                    return Ok(again);
                }
                if again.interest != answer.interest {
                    state = fresh;
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = self.cut_off(), if cx.consistency == Consistency::Linearizable => {
                    return Err(Error::NoLeader);
                }
                woken = ticket.touched() => { woken?; }
                () = tokio::time::sleep_until(until) => {
                    return Ok(query.ask(&*self.view(&cx.renewed()).await?));
                }
            }
            state = self.hub().newest();
        }
    }

    fn watch(&self, interest: Interest, from: Index) -> Cursor<'_> {
        Cursor {
            hub: self.hub(),
            interest,
            next: from.next(),
        }
    }

    async fn cut_off(&self) {
        if self.ready().wait_for(|ready| !ready).await.is_err() {
            // The node ends, which who waits is told by the hub.
            std::future::pending::<()>().await;
        }
    }
}

/// What happened to an interest, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The events, whole requests together.
    pub events: Vec<Event>,
    /// Everything up to this index has been seen.
    pub through: Index,
}

/// The cursor's place is no longer in the change log: what lies between it and `oldest` can't be told any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change log begins at index {oldest}")]
pub struct Compacted {
    /// The oldest index from which a cursor can go on.
    pub oldest: Index,
}

/// Why a cursor ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// What it had not seen yet is gone.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The registry can't go on.
    #[error(transparent)]
    Registry(#[from] Error),
}

/// A place in the change log and an interest. It holds an index between batches, never a state; while it is parked
/// it moves with each publication that does not touch it.
pub struct Cursor<'a> {
    hub: &'a crate::hub::Hub,
    interest: Interest,
    next: Index,
}

impl Cursor<'_> {
    /// Waits for what happens next. With `idle`, an empty batch after that long without events: everything up to
    /// its index has been seen.
    ///
    /// # Errors
    /// [`CursorError::Compacted`] if events that it had not seen were dropped.
    pub async fn next(&mut self, idle: Option<Duration>) -> Result<Batch, CursorError> {
        let quiet = idle.map(|idle| Instant::now() + idle);
        loop {
            let mut ticket = self.hub.enroll(&self.interest)?;
            let state = self.hub.newest();
            let batch = self.ready(&state)?;
            if !batch.events.is_empty() {
                self.next = batch.through.next();
                return Ok(batch);
            }
            drop(state);
            let first = tokio::select! {
                biased;
                first = ticket.touched() => first?,
                () = sleep_until(quiet) => match ticket.quiet_through() {
                    // All that happened meanwhile happened elsewhere: the cursor moves past it unseen.
                    Some(through) => {
                        self.next = self.next.max(through.next());
                        return Ok(Batch { events: Vec::new(), through });
                    }
                    None => ticket.touched().await?,
                }
            };
            // Nothing before `first` touched the interest: the cursor moved along while it was parked.
            self.next = self.next.max(first);
        }
    }

    fn ready(&self, state: &Arc<State>) -> Result<Batch, Compacted> {
        let oldest = state.changes().oldest();
        if self.next < oldest {
            return Err(Compacted { oldest });
        }
        let (events, through) = state
            .changes()
            .since(self.next, &self.interest, limits::WATCH_BATCH_EVENTS);
        Ok(Batch {
            events,
            through: through.unwrap_or_else(|| state.index()),
        })
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
