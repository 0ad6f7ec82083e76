//! The leader's task: looks after the members, and does what [`Steward`] says.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::decide::Steward;
use crate::raft::{ChangeError, Consensus};

/// How often the leader looks. A learner that is so far behind or less has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Looks whenever this node leads, until its Raft ends.
pub async fn run(consensus: Arc<Consensus>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut steward = Steward::default();
    loop {
        looks.tick().await;
        if !consensus.leads() {
            steward = Steward::default();
            continue;
        }
        match consensus
            .change_members(|seen| steward.next(seen).ok_or(()))
            .await
        {
            Ok(_) | Err(ChangeError::NotLeader | ChangeError::Busy) => {}
            Err(ChangeError::Ended) => return,
            Err(error) => tracing::warn!(%error, "the members were not changed; this is tried again"),
        }
    }
}
