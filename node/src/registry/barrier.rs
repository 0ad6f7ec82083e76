//! Read indexes, shared: all that ask while a round is under way get theirs from the next one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::limits::READERS_WAITING_MAX;
use crate::raft::{Consensus, ReadError};

type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// Gives read indexes.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    waiting: mpsc::Sender<Waiting>,
}

impl Barrier {
    /// A barrier over `consensus`. Its task ends with the last clone.
    pub(super) fn start(consensus: Arc<Consensus>) -> Self {
        let (waiting, rounds) = mpsc::channel(READERS_WAITING_MAX);
        tokio::spawn(run(consensus, rounds));
        Self { waiting }
    }

    /// The log index that a linearizable read which begins now must have applied; `None` if too many wait.
    pub(super) async fn read_index(&self) -> Option<Result<u64, ReadError>> {
        let (tell, told) = oneshot::channel();
        self.waiting.try_send(tell).ok()?;
        Some(told.await.unwrap_or(Err(ReadError::Ended)))
    }
}

async fn run(consensus: Arc<Consensus>, mut rounds: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    while rounds.recv_many(&mut waiting, READERS_WAITING_MAX).await > 0 {
        let index = consensus.read_index().await;
        for tell in waiting.drain(..) {
            let _ = tell.send(index.clone());
        }
    }
}

/// Readers that may wait for a round.
pub(super) const LIMIT: u64 = READERS_WAITING_MAX as u64;
