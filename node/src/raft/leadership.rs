//! Who leads, as this node sees it, and what leader and followers tell each other beside the log.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use openraft::{Instant as _, ServerState, async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use spine_core::Time;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Consensus, ELECTION_TIMEOUT, Gate, HEARTBEAT_MS, ProposeError,
    identity::ClusterId,
    roster::{Roster, Rosters},
    state_machine::StateMachine,
    types::{Membership, Peer, StoredMembership, Types},
};
use crate::peer::Links;

/// Another node takes so long at most to take over leadership that it is offered; usually a few milliseconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// The node that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// The term that it leads.
    pub term: u64,
}

/// What servers tell each other with entries and heartbeats, shared by the network, the port and the registry.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The term that this node leads or led last, and its cluster time in milliseconds then.
    present: Mutex<(u64, u64)>,
    heard: Mutex<Option<Heard>>,
}

/// What was heard of the newest leader.
#[derive(Clone, Copy, Debug)]
struct Heard {
    term: u64,
    /// The greatest cluster time that it told.
    time_ms: u64,
    /// When it was heard last.
    at: Instant,
}

impl Told {
    /// The cluster time to send along as the leader of `term`.
    ///
    /// What this node told as the leader of an earlier term is not told again: see [`hear_leader`](Self::hear_leader).
    pub(super) fn present(&self, term: u64) -> u64 {
        match *self.present.lock() {
            (of, time_ms) if of == term => time_ms,
            _ => 0,
        }
    }

    /// The leader of `term` spoke, at its cluster time.
    ///
    /// Only the newest leader's time counts. One of before may have told a later one that nobody else heard; deadlines
    /// were promised since by a clock that began without it, and would come early if it were believed again.
    pub(super) fn hear_leader(&self, term: u64, time_ms: u64) {
        let mut heard = self.heard.lock();
        let time_ms = match *heard {
            Some(before) if before.term > term => return,
            Some(before) if before.term == term => before.time_ms.max(time_ms),
            _ => time_ms,
        };
        *heard = Some(Heard {
            term,
            time_ms,
            at: Instant::now(),
        });
    }

    /// The greatest cluster time that was heard of the newest leader.
    fn heard_ms(&self) -> u64 {
        self.heard.lock().map_or(0, |heard| heard.time_ms)
    }

    /// How long ago a leader was heard.
    fn leader_heard(&self) -> Option<Duration> {
        self.heard.lock().map(|heard| heard.at.elapsed())
    }

    /// Whether a leader was heard within an election timeout.
    fn hears_leader(&self) -> bool {
        self.leader_heard().is_some_and(|ago| ago <= ELECTION_TIMEOUT)
    }
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node doesn't lead.
    #[error("this node does not lead")]
    NotLeader,
    /// No other voter answers.
    #[error("no other voter answers")]
    NoFollower,
    /// Nobody took it in time.
    #[error("{0} was asked to lead and did not in time")]
    NotTaken(String),
    /// Raft has ended.
    #[error("raft has ended")]
    Ended,
}

impl Consensus {
    /// Who leads, as it changes; `None` while this node hears of nobody. Another that was cut off or has died is not named for
    /// longer than an election timeout; a leader that was cut off itself still names itself, see
    /// [`majority_heard`](Self::majority_heard).
    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.clone()
    }

    /// How long ago each member acknowledged what this node sent as the leader; `None`: not since it leads. This node
    /// itself is among them, always heard just now. Empty on any other node.
    pub fn contacts(&self) -> BTreeMap<u64, Option<Duration>> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let Some(heartbeat) = metrics.heartbeat else {
            return BTreeMap::new();
        };
        let members = metrics.membership_config.nodes();
        members
            .map(|(id, _)| {
                let heard = heartbeat.get(id).copied().flatten();
                let ago = heard.map(|heard| heard.elapsed());
                let ago = if *id == self.node {
                    Some(Duration::ZERO)
                } else {
                    ago
                };
                (*id, ago)
            })
            .collect()
    }

    /// How long ago a leader was heard, whoever it was; `None`: never since this node's start.
    pub fn leader_heard(&self) -> Option<Duration> {
        self.told.leader_heard()
    }

    /// How long ago a majority of the voters, this node among them, last acknowledged it as their leader; `None`: not since
    /// it leads, or another does. A leader alone is a majority, always.
    ///
    /// Raft has a leader that hears of nobody lead on until it hears of another: only this tells it apart from one that
    /// leads.
    pub fn majority_heard(&self) -> Option<Duration> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return None;
        }
        if metrics.membership_config.voter_ids().all(|id| id == self.node) {
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.map(|acked| acked.elapsed())
    }

    /// Whether this node has its cluster: it hears of a leader, or leads and hears of a majority.
    pub fn hears_cluster(&self) -> bool {
        let leader = self.leader.borrow().as_ref().map(|leader| leader.id);
        leader.is_some_and(|leader| {
            leader != self.node || self.majority_heard().is_some_and(|ago| ago <= ELECTION_TIMEOUT)
        })
    }

    /// The voters, by the newest membership that this node knows.
    pub fn voters(&self) -> BTreeMap<u64, Peer> {
        let members = self.raft.metrics().borrow_watched().membership_config.clone();
        let voters = members.voter_ids();
        voters
            .filter_map(|id| Some((id, members.get_node(&id)?.clone())))
            .collect()
    }

    /// The greatest cluster time that was heard of the newest leader: this node's own clock may not start lower, should it
    /// lead next.
    pub fn heard_time(&self) -> Time {
        Time(self.told.heard_ms())
    }

    /// The cluster time of the leader of `term`, sent along with its entries and heartbeats from now on.
    pub fn tell_time(&self, term: u64, time: Time) {
        *self.told.present.lock() = (term, time.0);
    }

    /// From now on this node campaigns when it hears of no leader: [`Gate::may_vote`] has become
    /// true.
    pub fn let_campaign(&self) {
        self.raft.runtime_config().elect(true);
    }

    /// Hands leadership to the voter whose log has come furthest, and waits until it leads.
    pub async fn transfer(&self) -> Result<Leader, TransferError> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let Some(replication) = metrics.replication else {
            return Err(TransferError::NotLeader);
        };
        let members = metrics.membership_config.clone();
        let best = members
            .voter_ids()
            .filter(|id| self.answers(*id))
            .max_by_key(|id| replication.get(id).copied().flatten())
            .ok_or(TransferError::NoFollower)?;
        self.transfer_to(best).await
    }

    /// Hands leadership to a voter, and waits until it, or another, leads.
    pub async fn transfer_to(&self, node: u64) -> Result<Leader, TransferError> {
        if !self.leads() {
            return Err(TransferError::NotLeader);
        }
        let Some(peer) = self.voters().remove(&node).filter(|_| self.answers(node)) else {
            return Err(TransferError::NoFollower);
        };
        let mut leader = self.leader();
        self.raft
            .trigger()
            .transfer_leader(node)
            .await
            .map_err(|_| TransferError::Ended)?;
        let another = |leader: &Option<Leader>| leader.as_ref().is_some_and(|leader| leader.id != self.node);
        match timeout(TAKEN_WITHIN, leader.wait_for(another)).await {
            Ok(Ok(leader)) => leader.clone().ok_or(TransferError::Ended),
            Ok(Err(_)) => Err(TransferError::Ended),
            Err(_) => Err(TransferError::NotTaken(peer.name)),
        }
    }

    /// Whether another member answers this leader.
    fn answers(&self, node: u64) -> bool {
        let ago = self.contacts().get(&node).copied().flatten();
        node != self.node && ago.is_some_and(|ago| ago <= ELECTION_TIMEOUT)
    }

    /// Waits until this node leads, by what it knows.
    pub async fn until_leading(&self) -> Result<(), ProposeError> {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().state != ServerState::Leader {
            metrics.changed().await.map_err(|_| ProposeError::Ended)?;
        }
        Ok(())
    }
}

/// What this node's Raft says, and who is told.
pub(super) struct Following {
    pub(super) raft: openraft::Raft<Types, StateMachine>,
    pub(super) cluster: ClusterId,
    pub(super) told: Arc<Told>,
    pub(super) links: Arc<Links>,
    /// Is told who is in the cluster, and the rules in force.
    pub(super) gate: Arc<dyn Gate>,
    pub(super) applied: watch::Receiver<super::Applied>,
    /// Is told who leads.
    pub(super) tell: watch::Sender<Option<Leader>>,
}

/// Keeps those who are told up to date until Raft ends. It looks at each change, and once for each heartbeat, since
/// silence is no change.
pub(super) async fn follow(following: Following) {
    let Following {
        raft,
        cluster,
        told,
        links,
        gate,
        applied,
        tell,
    } = following;
    let mut metrics = raft.server_metrics();
    let mut members = None;
    let mut learned = false;
    loop {
        // A clone: a borrow would hold openraft up.
        let seen = metrics.borrow_watched().clone();
        let entries = (
            *seen.membership_config.log_id(),
            *seen.committed_membership_config.log_id(),
        );
        if members.replace(entries) != Some(entries)
            && let Some(rosters) = rosters(
                cluster,
                &seen.membership_config,
                &seen.committed_membership_config,
            )
        {
            gate.members_are(rosters);
            match part(seen.committed_membership_config.membership(), seen.id) {
                Part::Learns => learned = true,
                Part::Votes if mem::take(&mut learned) => tracing::info!("this server votes now"),
                Part::Votes | Part::Other => {}
            }
        }
        gate.rules_are(applied.borrow().state.rules());
        let heard = |id: &u64| *id == seen.id || told.hears_leader();
        let leader = seen.current_leader.filter(heard).and_then(|id| {
            let peer = seen.membership_config.membership().get_node(&id)?;
            Some(Leader {
                id,
                name: peer.name.clone(),
                peer_address: links.places().of(id, &peer.address),
                term: seen.vote.leader_id.term,
            })
        });
        tell.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
        if let Ok(Err(_)) = timeout(Duration::from_millis(HEARTBEAT_MS), metrics.changed()).await {
            return;
        }
    }
}

/// A server's part in its cluster.
enum Part {
    Learns,
    Votes,
    /// It is no member, or votes are still counted by the old members as well: if one of those is lost now, it may be that
    /// nobody can lead.
    Other,
}

fn part(membership: &Membership, node: u64) -> Part {
    if membership.get_joint_config().len() > 1 || membership.get_node(&node).is_none() {
        Part::Other
    } else if membership.voter_ids().any(|voter| voter == node) {
        Part::Votes
    } else {
        Part::Learns
    }
}

/// Who is in the cluster, by the log; `None` where the log doesn't say so yet.
fn rosters(cluster: ClusterId, newest: &StoredMembership, committed: &StoredMembership) -> Option<Rosters> {
    let newest = Roster::of(cluster, newest)?;
    // Nothing is known to be committed before the first entry is.
    let committed = Roster::of(cluster, committed).unwrap_or_else(|| Roster {
        at: None,
        ..newest.clone()
    });
    Some(Rosters { newest, committed })
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn a_leader_of_before_is_not_believed_beyond_its_term() {
        let told = Told::default();
        told.hear_leader(1, 9_000);
        told.hear_leader(1, 8_000);
        assert_eq!(
            told.heard_ms(),
            9_000,
            "what overtook another message tells nothing new"
        );
        // It had not heard of 9,000, and has promised deadlines since.
        told.hear_leader(2, 6_000);
        told.hear_leader(1, 9_100);
        assert_eq!(told.heard_ms(), 6_000);
    }

    #[test]
    fn a_leader_that_leads_again_does_not_tell_the_time_of_its_earlier_term() {
        let told = Told::default();
        *told.present.lock() = (1, 9_000);
        assert_eq!(told.present(1), 9_000);
        assert_eq!(told.present(3), 0, "its clock of term 3 has not begun");
    }
}
