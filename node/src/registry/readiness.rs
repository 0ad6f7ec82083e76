//! Whether this node serves.

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
use crate::raft::{self, Consensus, Leader, ReadError};

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
            if self.until_abandoned().await.is_none() {
                return;
            }
            tracing::warn!(
                "no leader, or no majority, was heard of for {NO_LEADER_MAX:?}: this node is not ready"
            );
            self.ready.send_replace(false);
        }
    }

    /// Waits until this node has applied up to a read index of after now; `None` once it ends.
    async fn catch_up(&mut self) -> Option<()> {
        loop {
            match self.barrier.read_index().await {
                Some(Err(ReadError::Ended)) => return None,
                Some(Ok(index)) => {
                    self.applied
                        .wait_for(|applied| applied.reaches(index))
                        .await
                        .ok()?;
                    return Some(());
                }
                Some(Err(ReadError::NotLeader | ReadError::NoQuorum)) | None => {
                    if let Ok(changed) = timeout(LOOK_EVERY, self.leads.changed()).await {
                        changed.ok()?;
                    }
                }
            }
        }
    }

    /// Waits until nothing was heard of the cluster for too long; `None` once the node ends.
    async fn until_abandoned(&mut self) -> Option<()> {
        let mut heard = Instant::now();
        while heard.elapsed() < NO_LEADER_MAX {
            // Silence is no change.
            if let Ok(changed) = timeout(LOOK_EVERY, self.leads.changed()).await {
                changed.ok()?;
            }
            if self.consensus.hears_cluster() {
                heard = Instant::now();
            }
        }
        Some(())
    }
}
