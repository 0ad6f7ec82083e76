//! Read indexes, shared: all that ask while a round is under way get theirs from the next one. A follower's round is one
//! call to the leader, who shares its own among all that ask it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::timeout,
};

use crate::{
    forward::Way,
    limits::READERS_WAITING_MAX,
    raft::{Consensus, Leader, ReadError},
    tasks::Task,
};

/// A round that takes longer is given up; whoever still waits takes part in the next one.
const ROUND_WITHIN: Duration = Duration::from_secs(1);

type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// Gives read indexes.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    waiting: mpsc::Sender<Waiting>,
}

/// Where rounds are held.
pub(super) struct Rounds {
    pub(super) node: u64,
    pub(super) consensus: Arc<Consensus>,
    pub(super) way: Arc<dyn Way>,
}

impl Barrier {
    /// Begins to hold rounds. The task ends with the last clone, too.
    pub(super) fn start(rounds: Rounds) -> (Self, Task) {
        let (waiting, readers) = mpsc::channel(READERS_WAITING_MAX);
        (Self { waiting }, Task::spawn(rounds.run(readers)))
    }

    /// The log index that a linearizable read which begins now must have applied; `None` if too many wait.
    pub(super) async fn read_index(&self) -> Option<Result<u64, ReadError>> {
        let (tell, told) = oneshot::channel();
        match self.waiting.try_send(tell) {
            Ok(()) => Some(told.await.unwrap_or(Err(ReadError::Ended))),
            Err(TrySendError::Closed(_)) => Some(Err(ReadError::Ended)),
            Err(TrySendError::Full(_)) => None,
        }
    }
}

impl Rounds {
    async fn run(self, mut readers: mpsc::Receiver<Waiting>) {
        let mut leads = self.consensus.leader();
        let mut waiting = Vec::new();
        while readers.recv_many(&mut waiting, READERS_WAITING_MAX).await > 0 {
            let index = self.round(&mut leads).await;
            for tell in waiting.drain(..) {
                let _ = tell.send(index.clone());
            }
        }
    }

    async fn round(&self, leads: &mut watch::Receiver<Option<Leader>>) -> Result<u64, ReadError> {
        let leader = leads.borrow_and_update().clone().ok_or(ReadError::NotLeader)?;
        if leader.id == self.node {
            let confirmed = timeout(ROUND_WITHIN, self.consensus.read_index()).await;
            return confirmed.unwrap_or(Err(ReadError::NoQuorum));
        }
        tokio::select! {
            biased;
            index = self.way.read_index(&leader, ROUND_WITHIN) => index,
            // Whoever leads now is asked at once, whatever holds the other up.
            changed = leads.changed() => Err(match changed {
                Ok(()) => ReadError::NotLeader,
                Err(_) => ReadError::Ended,
            }),
        }
    }
}

/// Readers that may wait for a round.
pub(super) const LIMIT: u64 = READERS_WAITING_MAX as u64;
