//! The task that asks the others, and gives leadership away when [`Stepping`] says so.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Condition,
    decide::{Step, Stepping, View, Voter},
    peers::Asking,
};
use crate::{
    metrics_sink::NodeMetrics,
    peer::Links,
    raft::{Composition, Consensus, identity::Identity},
};

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// One that was asked to lead, and does not within this time, never will: then it is asked again.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// An answer counts for so long: three rounds.
const FRESH_FOR: Duration = Duration::from_secs(3);

/// Asks the others whenever it is time, and gives leadership away when it is time for that, until it is aborted. `me` is
/// this server, and how often it was started.
pub(crate) fn run(
    links: &Arc<Links>,
    me: (Identity, u64),
    consensus: &Arc<Consensus>,
    condition: &Arc<Condition>,
    metrics: &Arc<dyn NodeMetrics>,
) -> impl Future<Output = ()> + use<> {
    let (consensus, condition) = (consensus.clone(), condition.clone());
    let asking = Asking::new(links.clone(), me, consensus.clone(), condition.clone());
    let steward = Steward {
        asking,
        consensus,
        condition,
        metrics: metrics.clone(),
    };
    steward.run()
}

struct Steward {
    asking: Asking,
    consensus: Arc<Consensus>,
    condition: Arc<Condition>,
    metrics: Arc<dyn NodeMetrics>,
}

impl Steward {
    async fn run(self) {
        let mut rounds = interval(ASK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stepping = Stepping::default();
        let mut asked = None;
        loop {
            rounds.tick().await;
            self.asking.round().await;
            let now = self.condition.clock.monotonic();
            let asked_ago = asked.map(|asked| now.saturating_sub(asked));
            let is_asked = asked_ago.is_some_and(|ago| ago < TAKEN_WITHIN);
            let Some(composition) = self.consensus.composition() else {
                // While its disk is stuck it asks again and again, and learns of the other when the disk is back.
                if asked_ago.is_some_and(|ago| ago < 2 * TAKEN_WITHIN) {
                    self.stepped_aside(now);
                }
                asked = None;
                stepping = Stepping::default();
                continue;
            };
            if !is_asked && let Some(step) = stepping.next(&self.view(&composition)) {
                asked = Some(now);
                stepping = Stepping::default();
                self.step_aside(step).await;
            }
        }
    }

    fn view(&self, composition: &Composition) -> View {
        let now = self.condition.clock.monotonic();
        let peers = self.condition.peers.lock();
        let fresh = peers.iter().filter_map(|(id, seen)| {
            let answer = seen.answer.filter(|_| seen.failure.is_none())?;
            let standing = composition.members.get(id).filter(|member| member.votes)?;
            (now.saturating_sub(answer.at) <= FRESH_FOR).then_some(Voter {
                id: *id,
                pace: answer.pace,
                matched: standing.matched,
            })
        });
        let others = fresh.collect();
        let elsewhere = peers.values().filter_map(|seen| seen.answer?.stepped_aside);
        let last = elsewhere.chain(*self.condition.stepped_aside.lock()).max();
        drop(peers);
        View {
            now,
            own: self.condition.flushes.pace(now),
            last: last.map(|at| now.saturating_sub(at)),
            committed: composition.committed,
            others,
        }
    }

    async fn step_aside(&self, step: Step) {
        let Step { to, own, other } = step;
        tracing::warn!(
            own_ms = own.as_secs_f64() * 1e3,
            other_ms = other.as_secs_f64() * 1e3,
            "writes to this server's disk take far longer than elsewhere: leadership is handed over; see to the disk"
        );
        // That another leads this server knows once its own disk has taken the vote for it, so no answer says little.
        if let Err(error) = self.consensus.transfer_to(to).await {
            tracing::info!(%error, "whether another server leads is not known yet");
        }
    }

    fn stepped_aside(&self, now: Duration) {
        *self.condition.stepped_aside.lock() = Some(now);
        self.metrics.stepped_aside();
        tracing::warn!("another server leads now, because of this one's disk");
    }
}
