//! Keeps checkpoints coming: when one is due, when somebody asks for one, and at a graceful stop.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    Consensus,
    checkpoint::{self, Checkpoints, LOGGED_AT_STOP},
    identity::Identity,
};
use crate::{
    metrics_sink::NodeMetrics,
    registry::CheckpointAsk,
    storage::log::LogStore,
    world::{RaftHome, clock::Clock},
};

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After one that failed the next is not tried before this.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

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
    /// Bytes of the log's stream at the newest one.
    pub stream_bytes: u64,
    /// Its log position; 0 for generation 0.
    pub position: u64,
    /// Those who ask for one.
    pub asks: mpsc::Receiver<CheckpointAsk>,
    /// Times them.
    pub clock: Arc<dyn Clock>,
    /// Is told of them.
    pub metrics: Arc<dyn NodeMetrics>,
    /// Where Raft runs, which says where one may wait for a disk.
    pub home: RaftHome,
}

impl Keeper {
    /// Works until it is told to stop, and then writes the last one, if that is worth it.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut not_before = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                Some(tell) = self.asks.recv() => {
                    let _ = tell.send(self.write().await);
                }
                _ = look.tick() => {
                    let state_bytes = self.consensus.applied().borrow().state.bytes();
                    let due = checkpoint::due(self.logged(), state_bytes);
                    if due && self.clock.monotonic() >= not_before && self.write().await.is_err() {
                        not_before = self.clock.monotonic() + PAUSE_AFTER_FAILURE;
                    }
                }
            }
        }
        if self.logged() > LOGGED_AT_STOP {
            // Why it failed has been said; the log holds what it would have.
            let _ = self.write().await;
        }
    }

    fn logged(&self) -> u64 {
        self.log.state().stream_bytes.saturating_sub(self.stream_bytes)
    }

    /// Writes one of what is applied now, and gives its log position.
    async fn write(&mut self) -> Result<u64, Arc<str>> {
        let began = self.clock.monotonic();
        let result = self.try_write().await;
        let took = self.clock.monotonic().saturating_sub(began);
        match &result {
            Ok(position) => {
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

    async fn try_write(&mut self) -> Result<u64, Arc<str>> {
        let why = |error: &dyn std::fmt::Display| Arc::from(error.to_string());
        // The stream first: it may count entries that are not in the state yet, never the other way round.
        let stream_bytes = self.log.state().stream_bytes;
        let applied = self.consensus.applied().borrow().clone();
        let position = applied.position.map_or(0, |position| position.index);
        if position == self.position {
            return Ok(position);
        }
        let (checkpoints, identity, taken) = (self.checkpoints.clone(), self.identity, applied.clone());
        let write = move || {
            let generation = checkpoints.write(&identity, &taken, stream_bytes)?;
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
        self.stream_bytes = stream_bytes;
        self.position = position;
        self.consensus
            .checkpointed(&applied, covered)
            .await
            .map_err(|error| why(&error))?;
        Ok(position)
    }
}
