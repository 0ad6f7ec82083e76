//! Keeps checkpoints coming: when one is due, when somebody asks for one, and at a graceful stop.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    Applied, Consensus,
    checkpoint::{self, Checkpoints, LOGGED_AT_STOP, Loaded},
    identity::Identity,
};
use crate::{
    metrics_sink::NodeMetrics,
    storage::log::LogStore,
    world::{RaftHome, clock::Clock},
};

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After one that failed the next is not tried before this.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// A request to write a checkpoint, and where its log position goes.
pub type CheckpointAsk = oneshot::Sender<Result<u64, Arc<str>>>;

/// A state that came from another node, to be made durable.
pub struct Received {
    /// The state and its place in the log.
    pub applied: Applied,
    /// Hears when it is durable, or why it isn't.
    pub tell: oneshot::Sender<Result<(), Arc<str>>>,
}

/// Where the newest checkpoint stands.
#[derive(Clone, Copy, Debug)]
pub struct Newest {
    /// Bytes of the log's stream when it was taken.
    stream_bytes: u64,
    /// The same for the one before; of one that was loaded it isn't known, and then it is no less.
    older_stream_bytes: u64,
    /// Its log position; 0 for generation 0.
    position: u64,
}

impl Newest {
    /// The one that was loaded.
    pub fn of(loaded: &Loaded) -> Self {
        Self {
            stream_bytes: loaded.stream_bytes,
            older_stream_bytes: loaded.stream_bytes,
            position: loaded.applied.position.map_or(0, |position| position.index),
        }
    }
}

/// Writes the checkpoints of a node, one at a time.
pub struct Keeper {
    /// Where the state comes from, and who is told.
    pub consensus: Arc<Consensus>,
    /// Where they go.
    pub checkpoints: Checkpoints,
    /// Whose they are.
    pub identity: Identity,
    /// The log that they stand for.
    pub log: Arc<dyn LogStore>,
    /// The newest one.
    pub newest: Newest,
    /// Those who ask for one.
    pub asks: mpsc::Receiver<CheckpointAsk>,
    /// States that came from other nodes.
    pub received: mpsc::Receiver<Received>,
    /// Bytes of log that are kept for members that are behind, beside what the checkpoints need.
    pub kept_for_members: u64,
    /// Times them.
    pub clock: Arc<dyn Clock>,
    /// Is told of them.
    pub metrics: Arc<dyn NodeMetrics>,
    /// Where Raft runs, which says where one may wait for a disk.
    pub home: RaftHome,
}

impl Keeper {
    /// Works until it is told to stop, and then writes the last one, if that is worth it. If nobody is left to tell it, the node
    /// has ended, and it begins none any more.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut not_before = Duration::ZERO;
        let is_orderly = loop {
            tokio::select! {
                biased;
                stop = &mut stop => break stop.is_ok(),
                Some(tell) = self.asks.recv() => {
                    let _ = tell.send(self.write().await);
                }
                Some(Received { applied, tell }) = self.received.recv() => {
                    let stream_bytes = self.log.state().stream_bytes;
                    let _ = tell.send(self.write_timed(applied, stream_bytes).await.map(drop));
                }
                _ = look.tick() => {
                    self.consensus.let_go();
                    let state_bytes = self.consensus.applied().borrow().state.bytes();
                    let due = checkpoint::due(self.logged(), state_bytes);
                    if due && self.clock.monotonic() >= not_before && self.write().await.is_err() {
                        not_before = self.clock.monotonic() + PAUSE_AFTER_FAILURE;
                    }
                }
            }
        };
        if is_orderly && self.logged() > LOGGED_AT_STOP {
            // Why it failed has been said; the log holds what it would have.
            let _ = self.write().await;
        }
    }

    fn logged(&self) -> u64 {
        self.log
            .state()
            .stream_bytes
            .saturating_sub(self.newest.stream_bytes)
    }

    /// Writes one of what is applied now, lets the log behind it go, and gives its log position.
    async fn write(&mut self) -> Result<u64, Arc<str>> {
        // The stream first: it may count entries that are not in the state yet, never the other way round.
        let stream_bytes = self.log.state().stream_bytes;
        let applied = self.consensus.applied().borrow().clone();
        let position = applied.position.map_or(0, |position| position.index);
        // A state that came from another node may be on the disk and not published yet: nothing older goes after it.
        if position <= self.newest.position {
            return Ok(self.newest.position);
        }
        let covered = self.write_timed(applied.clone(), stream_bytes).await?;
        let told = self
            .consensus
            .checkpointed(&applied, covered, self.spends_too_much());
        told.await.map_err(|error| Arc::from(error.to_string()))?;
        Ok(position)
    }

    /// Writes a checkpoint of `applied`; gives how far the log may go then.
    async fn write_timed(&mut self, applied: Applied, stream_bytes: u64) -> Result<Option<u64>, Arc<str>> {
        let position = applied.position.map_or(0, |position| position.index);
        let began = self.clock.monotonic();
        let result = self.write_checkpoint(applied, stream_bytes).await;
        let took = self.clock.monotonic().saturating_sub(began);
        match &result {
            Ok(_) => {
                self.metrics.checkpointed(took);
                tracing::info!(position, took_ms = took.as_millis(), "checkpoint written");
            }
            Err(reason) => {
                self.metrics.checkpoint_failed();
                tracing::error!(reason = &**reason, "no checkpoint was written; the log is kept");
            }
        }
        result
    }

    async fn write_checkpoint(
        &mut self,
        applied: Applied,
        stream_bytes: u64,
    ) -> Result<Option<u64>, Arc<str>> {
        let why = |error: &dyn std::fmt::Display| Arc::from(error.to_string());
        let position = applied.position.map_or(0, |position| position.index);
        let (checkpoints, identity) = (self.checkpoints.clone(), self.identity);
        let write = move || {
            let generation = checkpoints.write(&identity, &applied, stream_bytes)?;
            Ok::<_, crate::storage::checkpoint::CheckpointError>((generation, checkpoints.log_covered()?))
        };
        let written = self.home.blocking(write).await.map_err(|error| why(&error))?;
        let (generation, covered) = written.map_err(|error| why(&error))?;
        tracing::debug!(
            generation = generation.0,
            position,
            covered,
            "checkpoint verified"
        );
        self.newest = Newest {
            stream_bytes,
            older_stream_bytes: self.newest.stream_bytes,
            position,
        };
        Ok(covered)
    }

    /// Whether more log is kept for members that are behind than may be.
    fn spends_too_much(&self) -> bool {
        let log = self.log.state();
        let needed = log.stream_bytes.saturating_sub(self.newest.older_stream_bytes);
        log.kept_bytes.saturating_sub(needed) > self.kept_for_members
    }
}
