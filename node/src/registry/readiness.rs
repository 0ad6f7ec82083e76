//! Whether this node serves: it has caught up, hears a leader or is one that the others answer, and its disk takes what it is
//! given. A node whose disk is stuck would let every client wait: as a leader for a majority that it can't count itself
//! to, as a follower for entries that it can't apply.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::barrier::Barrier;
use crate::{
    condition::Condition,
    raft::{self, Consensus, Leader, ReadError},
};

/// A node that has heard of no leader for this long, or as the leader of no majority, is not ready: longer than elections take,
/// even a few in a row, and shorter than clients wait.
pub const NO_LEADER_MAX: Duration = Duration::from_secs(3);
/// It is looked again so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Keeps `ready` and `caught_up` up to date.
pub(super) struct Readiness {
    pub(super) consensus: Arc<Consensus>,
    pub(super) barrier: Barrier,
    pub(super) leads: watch::Receiver<Option<Leader>>,
    pub(super) condition: Arc<Condition>,
    pub(super) applied: watch::Receiver<raft::Applied>,
    /// It has applied what a leader had committed after its start, and there is a leader, with a majority.
    pub(super) ready: watch::Sender<bool>,
    /// It has applied what a leader had committed after its start: from then on it never shows less than it did before.
    pub(super) caught_up: Arc<AtomicBool>,
}

impl Readiness {
    /// Looks until the node ends.
    pub(super) async fn run(mut self) {
        while self.catch_up().await.is_some() {
            self.caught_up.store(true, Ordering::Release);
            self.ready.send_replace(true);
            tracing::info!("this node is ready");
            let Some(why) = self.until_unfit().await else {
                return;
            };
            tracing::warn!("{why}: this node is not ready");
            self.ready.send_replace(false);
        }
    }

    /// Waits until this node has applied up to a read index of after now; `None` once it ends.
    async fn catch_up(&mut self) -> Option<()> {
        loop {
            while self.condition.is_stuck() {
                self.look_again().await?;
            }
            match self.barrier.read_index().await {
                Some(Err(ReadError::Ended)) => return None,
                Some(Ok(index)) => {
                    self.applied
                        .wait_for(|applied| applied.reaches(index))
                        .await
                        .ok()?;
                    return Some(());
                }
                Some(Err(ReadError::NotLeader | ReadError::NoQuorum)) | None => self.look_again().await?,
            }
        }
    }

    /// Waits until this node can't serve, and says why; `None` once it ends.
    async fn until_unfit(&mut self) -> Option<String> {
        let mut heard = Instant::now();
        loop {
            self.look_again().await?;
            if self.condition.is_stuck() {
                return Some("a write to the disk does not come back".to_owned());
            }
            if self.consensus.hears_cluster() {
                heard = Instant::now();
            } else if heard.elapsed() >= NO_LEADER_MAX {
                return Some(format!(
                    "no leader, or no majority, was heard of for {NO_LEADER_MAX:?}"
                ));
            }
        }
    }

    /// Waits until it is time to look again: silence is no change. `None` once the node ends.
    async fn look_again(&mut self) -> Option<()> {
        match timeout(LOOK_EVERY, self.leads.changed()).await {
            Ok(changed) => changed.ok(),
            Err(_) => Some(()),
        }
    }
}
