//! The one task through which all writes of this node go: into entries while it leads, to the leader while another does.
//!
//! What was not proposed when the leader changes goes on to the next one; while nobody leads it waits, until its client
//! no longer does.

use std::{sync::Arc, time::Duration};

use spine_api::hub::Hub;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{ask::Queue, clock::ClusterClock, follow::Follower, lead::Leading};
use crate::{
    leader::Policy,
    raft::{Consensus, Leader},
    world::clock::Clock,
};

/// How often the loop turns when nothing happens: a fraction of the election timeout, within which deadlines are late.
pub(super) const TURN_EVERY: Duration = Duration::from_millis(50);
/// A new leader that nobody confirms yet asks again so soon.
const CONFIRM_AGAIN: Duration = Duration::from_millis(10);
/// An attempt to be confirmed is given up after this long.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

/// Why the task stopped what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Another leads, or nobody.
    NotLeading,
    /// The registry is closed and all is answered.
    NobodyAsks,
    /// Raft has ended.
    Ended,
}

/// What the task works with.
pub(super) struct Submitter {
    pub(super) node: u64,
    pub(super) queue: Queue,
    pub(super) consensus: Arc<Consensus>,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) policy: Policy,
    pub(super) entry_bytes_max: u64,
    pub(super) follower: Follower,
}

impl Submitter {
    /// Works until Raft ends or nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut leads = self.consensus.leader();
        loop {
            let leader = leads.borrow_and_update().clone();
            let over = match leader {
                Some(leader) if leader.id == self.node => self.lead(leader.term, &mut leads).await,
                Some(leader) => self.follower.run(&mut self.queue, leader, &mut leads).await,
                None => wait(&mut self.queue, &mut leads).await,
            };
            if over != Over::NotLeading {
                return;
            }
        }
    }

    async fn lead(&mut self, term: u64, leads: &mut watch::Receiver<Option<Leader>>) -> Over {
        match self.take_lead(term, leads).await {
            Ok(leading) => {
                let over = leading
                    .run(&mut self.queue, leads, &mut self.follower.numbering)
                    .await;
                tracing::info!("this node does not lead any more");
                over
            }
            Err(over) => over,
        }
    }

    /// Waits until all that earlier leaders may have proposed is applied: the state then has the greatest stamp.
    async fn take_lead(
        &mut self,
        term: u64,
        leads: &mut watch::Receiver<Option<Leader>>,
    ) -> Result<Leading, Over> {
        let confirmed = async {
            let index = self
                .consensus
                .read_index()
                .await
                .map_err(|error| error.to_string())?;
            let mut applied = self.consensus.applied();
            let reached = applied.wait_for(|applied| applied.reaches(index)).await;
            reached
                .map(drop)
                .map_err(|_| "the state machine has ended".to_owned())
        };
        tokio::select! {
            biased;
            changed = leads.changed() => {
                return Err(if changed.is_ok() { Over::NotLeading } else { Over::Ended });
            }
            confirmed = timeout(CONFIRM_WITHIN, confirmed) => {
                let confirmed = confirmed.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                if let Err(error) = confirmed {
                    tracing::debug!(error, "not leading yet");
                    tokio::time::sleep(CONFIRM_AGAIN).await;
                    self.queue.take_in();
                    self.queue.sweep(Instant::now());
                    return Err(Over::NotLeading);
                }
            }
        }
        let state = self.hub.newest();
        // Followers were told of later moments than the log holds: no deadline is nearer than they were told.
        let time = state.time().max(self.consensus.heard_time());
        tracing::info!(index = %state.index(), time_ms = time.0, "this node leads");
        Ok(Leading::begin(
            self.consensus.clone(),
            self.hub.clone(),
            self.clock.clone(),
            ClusterClock::start(time, self.clock.monotonic()),
            (self.node, term),
            self.policy,
            self.entry_bytes_max,
        ))
    }
}

/// Keeps what clients ask while nobody leads.
pub(super) async fn wait(queue: &mut Queue, leads: &mut watch::Receiver<Option<Leader>>) -> Over {
    let mut turn = tokio::time::interval(TURN_EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if leads.borrow_and_update().is_some() {
            return Over::NotLeading;
        }
        queue.take_in();
        queue.return_forwarded();
        if queue.is_done() {
            return Over::NobodyAsks;
        }
        tokio::select! {
            biased;
            changed = leads.changed() => if changed.is_err() { return Over::Ended },
            () = queue.more() => {}
            _ = turn.tick() => queue.sweep(Instant::now()),
        }
    }
}
