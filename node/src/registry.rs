//! The real registry: validates, proposes or renews, waits for applied; and the barrier before linearizable reads.
//!
//! A request goes down once and up once: [`NodeRegistry::propose`] checks it, hands it to the one task through which
//! writes go ([`submit`]: into entries here, or to the leader), and is answered once it is applied here. What becomes of a
//! request whose answer doesn't come in time depends on how far it had come: before it was proposed nothing happened,
//! afterwards nobody knows.

mod ask;
mod barrier;
pub mod clock;
mod follow;
mod forwarded;
mod lead;
mod numbers;
mod readiness;
mod submit;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use spine_api::{
    AdminCommand, AdminOutcome, Consistency, Context, Error, NodeStatus, Registry, Role, hub::Hub,
};
use spine_core::{
    Applied, Author, Command, Index, NodeName, Outcome, Rejection, Renewal, RenewalRequest, Renewed, Request,
    Rights, State, codec,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, mpsc::error::TrySendError, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

pub use self::readiness::NO_LEADER_MAX;
use self::{
    ask::{Ask, Asked, Queue, Waiting},
    barrier::{Barrier, Rounds},
    follow::Follower,
    lead::ENTRY_OVERHEAD,
    numbers::Numbering,
    readiness::Readiness,
    submit::Submitter,
};
use crate::{
    condition::Condition,
    forward::Way,
    leader::{Policy, Quota},
    limits::{CHECKPOINT_ASKS_MAX, SUBMIT_SHARE_BYTES, SUBMIT_SHARES},
    members::changes::Members,
    metrics_sink::{Ended, NodeMetrics, Request as Counted},
    raft::{
        Consensus, ELECTION_TIMEOUT, ReadError, TransferError, identity::Identity, keeper::CheckpointAsk,
    },
    tasks::Task,
    world::{clock::Clock, rng::Rng},
};

/// How long a read waits before it asks again who leads, unless it is told earlier; and a transfer for somebody to take it.
const LEADER_ASKED_EVERY: Duration = Duration::from_millis(20);
/// A leader whose voters don't confirm it is asked again for so long: under load a round may be late.
const QUORUM_WITHIN: Duration = ELECTION_TIMEOUT.saturating_mul(2);
/// What a request's id takes, which it gets when it is forwarded.
const ID_BYTES_MAX: u64 = 32;

/// What a registry is told of its node.
#[derive(Clone, Debug)]
pub struct About {
    /// The node's name.
    pub name: NodeName,
    /// Its datacenter.
    pub datacenter: Arc<str>,
    /// Who it is.
    pub identity: Identity,
    /// What it does while it leads.
    pub policy: Policy,
    /// Bytes of an entry at most: the core's bound, or the log's if that is lower.
    pub entry_bytes_max: u64,
}

/// The registry of a node.
pub struct NodeRegistry {
    about: About,
    hub: Arc<Hub>,
    consensus: Arc<Consensus>,
    barrier: Barrier,
    /// Gone once the node is stopping.
    asks: RwLock<Option<mpsc::Sender<Asked>>>,
    shares: Arc<Semaphore>,
    ready: watch::Receiver<bool>,
    caught_up: Arc<AtomicBool>,
    checkpoints: mpsc::Sender<CheckpointAsk>,
    members: Arc<Members>,
    clock: Arc<dyn Clock>,
    metrics: Arc<dyn NodeMetrics>,
}

/// What a registry works with.
pub struct Parts {
    /// Where states are published.
    pub hub: Arc<Hub>,
    /// Raft.
    pub consensus: Arc<Consensus>,
    /// The way to whoever leads.
    pub way: Arc<dyn Way>,
    /// Where checkpoints are asked for.
    pub checkpoints: mpsc::Sender<CheckpointAsk>,
    /// The members, to be changed.
    pub members: Arc<Members>,
    /// How this node's disk does.
    pub condition: Arc<Condition>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Chance, for the moments at which something is tried again.
    pub rng: Arc<dyn Rng>,
    /// Who counts.
    pub metrics: Arc<dyn NodeMetrics>,
}

impl NodeRegistry {
    /// The registry, the task through which its writes go, which ends after [`close`](Self::close), and those that its reads
    /// take.
    pub(crate) fn new(
        about: About,
        parts: Parts,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static, [Task; 2]) {
        let Parts {
            hub,
            consensus,
            way,
            checkpoints,
            members,
            condition,
            clock,
            rng,
            metrics,
        } = parts;
        let node = about.identity.node;
        // As many places as shares: a request that has a share has a place.
        let (asks, asked) = mpsc::channel(SUBMIT_SHARES);
        let submitter = Submitter {
            node,
            queue: Queue::new(asked),
            consensus: consensus.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            policy: about.policy,
            entry_bytes_max: about.entry_bytes_max,
            follower: Follower {
                way: way.clone(),
                applied: consensus.applied(),
                bytes_max: about.entry_bytes_max - ENTRY_OVERHEAD,
                numbering: Numbering::default(),
                rng,
            },
        };
        let (barrier, rounds) = Barrier::start(Rounds {
            node,
            consensus: consensus.clone(),
            way,
        });
        let (tell_ready, ready) = watch::channel(false);
        let caught_up = Arc::new(AtomicBool::new(false));
        let readiness = Readiness {
            consensus: consensus.clone(),
            barrier: barrier.clone(),
            leads: consensus.leader(),
            applied: consensus.applied(),
            condition,
            ready: tell_ready,
            caught_up: caught_up.clone(),
        };
        let reading = [rounds, Task::spawn(readiness.run())];
        let registry = Self {
            about,
            hub,
            barrier,
            consensus,
            asks: RwLock::new(Some(asks)),
            shares: Arc::new(Semaphore::new(SUBMIT_SHARES)),
            ready,
            caught_up,
            checkpoints,
            members,
            clock,
            metrics,
        };
        (Arc::new(registry), submitter.run(), reading)
    }

    /// Takes no more requests; those on their way are still answered.
    pub fn close(&self) {
        self.asks.write().take();
        self.hub.close();
    }

    /// Has another server lead; gives its name. One that answers gets an election timeout to do so: a new leader has not heard
    /// anybody yet.
    async fn hand_over_to(&self, name: Option<&str>) -> Result<Arc<str>, Error> {
        let voter = name.map(|name| self.voter(name)).transpose()?;
        if voter == Some(self.about.identity.node) && self.consensus.leads() {
            return Ok(self.about.name.as_str().into());
        }
        let heard_by = Instant::now() + ELECTION_TIMEOUT;
        loop {
            let handed = match voter {
                None => self.consensus.transfer().await,
                Some(voter) => self.consensus.transfer_to(voter).await,
            };
            return match handed {
                Ok(leader) => Ok(leader.name.into()),
                Err(TransferError::NoFollower) if Instant::now() < heard_by => {
                    tokio::time::sleep(LEADER_ASKED_EVERY).await;
                    continue;
                }
                Err(TransferError::Ended) => Err(Error::ShuttingDown),
                Err(TransferError::NotLeader) => Err(match &*self.consensus.leader().borrow() {
                    Some(leader) => Error::Unsafe(format!("{} leads: ask that server", leader.name).into()),
                    None => Error::NoLeader,
                }),
                Err(error @ (TransferError::NoFollower | TransferError::NotTaken(_))) => {
                    Err(Error::Unsafe(error.to_string().into()))
                }
            };
        }
    }

    /// The node id of a voter.
    fn voter(&self, name: &str) -> Result<u64, Error> {
        let mut voters = self.consensus.voters().into_iter();
        let voter = voters.find_map(|(id, peer)| (peer.name == name).then_some(id));
        voter.ok_or_else(|| Error::NoMember(name.into()))
    }

    /// Lets growth wait while the state is near its quota.
    async fn feel_quota(&self, cx: &Context, command: &Command) {
        let state = self.hub.newest();
        if !command.grows(state.rules()) {
            return;
        }
        let pause = Quota(state.quota()).pause(state.bytes());
        if !pause.is_zero() {
            // At most half of the client's time: what would succeed must not fail for this.
            let left = cx.deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left / 2)).await;
        }
    }

    async fn submit_command(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let request = Box::new(Request {
            author: author(cx),
            id: cx.request,
            ..Request::internal(command)
        });
        let bytes = codec::encoded_len(&*request) + ID_BYTES_MAX;
        self.submit(request, bytes, cx.deadline, false)?.answer().await
    }

    async fn submit_renewal(&self, cx: &Context, renewal: Renewal) -> Result<(Index, Renewed), Error> {
        let request = RenewalRequest {
            author: author(cx),
            rights: Rights::Open,
            renewal,
        };
        let bytes = codec::encoded_len(&request) + ID_BYTES_MAX;
        self.submit(request, bytes, cx.deadline, false)?.answer().await
    }

    /// Puts a request on its way.
    fn submit<Q, A>(
        &self,
        content: Q,
        bytes: u64,
        deadline: Instant,
        forwarded: bool,
    ) -> Result<Submitted<A>, Error>
    where
        Asked: From<Ask<Q, A>>,
    {
        let share = self.share(bytes)?;
        let (ask, waiting) = Ask::new(content, bytes, deadline, forwarded, share);
        match &*self.asks.read() {
            Some(asks) => asks.try_send(ask.into()).map_err(|_| Error::ShuttingDown)?,
            None => return Err(Error::ShuttingDown),
        }
        Ok(Submitted { waiting, deadline })
    }

    /// A request's part of what may be on its way.
    fn share(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        // What no entry can hold would never leave the queue.
        let limit = self.about.entry_bytes_max.saturating_sub(ENTRY_OVERHEAD);
        if bytes > limit {
            return Err(Error::Refused(Rejection::TooLarge {
                what: "request".into(),
                size: bytes,
                limit,
            }));
        }
        let shares = u32::try_from(bytes / SUBMIT_SHARE_BYTES + 1).expect("an entry's bytes are few shares");
        self.shares
            .clone()
            .try_acquire_many_owned(shares)
            .map_err(|_| Error::Overloaded {
                what: "requests on their way".into(),
                limit: SUBMIT_SHARES as u64,
            })
    }

    /// A command that does what is there already, as a renewal; `None` if it turns out to be none.
    async fn try_renewal(&self, cx: &Context, command: &Command) -> Result<Option<Applied>, Error> {
        let Some(renewal) = self.hub.newest().as_renewal(command) else {
            return Ok(None);
        };
        let (index, renewed) = self.submit_renewal(cx, renewal).await?;
        Ok(match renewed {
            Renewed::Until(_) => Some(Applied {
                index,
                result: Ok(Outcome::Renewed(vec![renewed])),
            }),
            Renewed::NotARenewal => None,
        })
    }

    /// The log index that must be applied for a linearizable read. While no leader is known it asks again.
    async fn read_index(&self) -> Result<u64, Error> {
        let began = Instant::now();
        loop {
            match self.barrier.read_index().await {
                None => {
                    return Err(Error::Overloaded {
                        what: "reads on their way".into(),
                        limit: barrier::LIMIT,
                    });
                }
                Some(Ok(index)) => return Ok(index),
                Some(Err(ReadError::Ended)) => return Err(Error::ShuttingDown),
                Some(Err(ReadError::NoQuorum)) if began.elapsed() >= QUORUM_WITHIN => {
                    return Err(Error::NoLeader);
                }
                Some(Err(ReadError::NotLeader | ReadError::NoQuorum)) => {
                    let mut leads = self.consensus.leader();
                    leads.mark_unchanged();
                    // Who leads is never told again once Raft has ended: without this the loop would not wait for anything.
                    if let Ok(Err(_)) = timeout(LEADER_ASKED_EVERY, leads.changed()).await {
                        return Err(Error::ShuttingDown);
                    }
                }
            }
        }
    }

    fn count(&self, cx: &Context, command: &'static str, began: Duration, ended: Ended) {
        let took = self.clock.monotonic().saturating_sub(began);
        self.metrics.request(Counted {
            dialect: cx.dialect,
            command,
            ended,
            took,
        });
    }
}

/// A request on its way, for whoever waits for its answer.
struct Submitted<A> {
    waiting: Waiting<A>,
    deadline: Instant,
}

impl<A> Submitted<A> {
    async fn answer(self) -> Result<A, Error> {
        let Waiting { answer, stage } = self.waiting;
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // Nothing was proposed, and nothing will be.
            _ if stage.withdraw() => Err(Error::NoLeader),
            Ok(Err(_)) => Err(Error::Unknown(
                "the node stopped before the write was committed".into(),
            )),
            Err(_) => Err(Error::Unknown(
                "the write was not committed before the deadline".into(),
            )),
        }
    }
}

fn author(cx: &Context) -> Author {
    Author {
        dialect: cx.dialect,
        peer: cx.peer.clone(),
        ..Author::default()
    }
}

fn ended<T>(result: &Result<T, Error>, refused: bool) -> Ended {
    match result {
        Ok(_) if refused => Ended::Refused,
        Ok(_) => Ended::Applied,
        Err(Error::Refused(_)) => Ended::Refused,
        Err(Error::Unknown(_)) => Ended::Unknown,
        Err(
            Error::NoLeader
            | Error::Deadline(_)
            | Error::Overloaded { .. }
            | Error::ShuttingDown
            | Error::Unsupported(_)
            | Error::NoMember(_)
            | Error::Unsafe(_),
        ) => Ended::NotProposed,
    }
}

#[async_trait]
impl Registry for NodeRegistry {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let (name, began) = (command.name(), self.clock.monotonic());
        let result = async {
            command.check()?;
            // What an older release can't read must not get into the log.
            self.hub.newest().admits(&command)?;
            if let Some(applied) = self.try_renewal(cx, &command).await? {
                return Ok(applied);
            }
            self.feel_quota(cx, &command).await;
            self.submit_command(cx, command).await
        }
        .await;
        let refused = result.as_ref().is_ok_and(|applied| applied.result.is_err());
        self.count(cx, name, began, ended(&result, refused));
        result
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        let began = self.clock.monotonic();
        let result = self.submit_renewal(cx, renewal).await;
        self.count(cx, "renew", began, ended(&result, false));
        Ok(result?.1)
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        if cx.consistency == Consistency::Stale && !self.caught_up.load(Ordering::Acquire) {
            // What was read before a restart may not be there yet.
            return Err(Error::NoLeader);
        }
        match cx.consistency {
            Consistency::Stale => Ok(self.hub.newest()),
            Consistency::Linearizable => {
                let late = |what: &str| Error::Deadline(what.into());
                let index = timeout_at(cx.deadline, self.read_index())
                    .await
                    .map_err(|_| Error::NoLeader)??;
                let mut applied = self.consensus.applied();
                let reached =
                    timeout_at(cx.deadline, applied.wait_for(|applied| applied.reaches(index))).await;
                match reached {
                    Ok(Ok(_)) => Ok(self.hub.newest()),
                    Ok(Err(_)) => Err(Error::ShuttingDown),
                    Err(_) => Err(late("applying what is committed")),
                }
            }
        }
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn status(&self) -> NodeStatus {
        let raft = self.consensus.status();
        let has_cluster = self.consensus.hears_cluster();
        let leader = self.consensus.leader().borrow().clone();
        let leader = leader.filter(|_| has_cluster);
        let last_contact = match &leader {
            Some(leader) if leader.id == self.about.identity.node => Some(Duration::ZERO),
            // Who leads without a majority is followed by nobody: others may lead since.
            _ => self
                .consensus
                .majority_heard()
                .or_else(|| self.consensus.leader_heard()),
        };
        let state = self.hub.newest();
        let applied = self
            .consensus
            .applied()
            .borrow()
            .position
            .map_or(0, |position| position.index);
        NodeStatus {
            name: self.about.name.clone(),
            node_id: self.about.identity.node,
            cluster_id: self.about.identity.cluster.to_string().into(),
            datacenter: self.about.datacenter.clone(),
            role: match raft.role {
                Role::Leader if !has_cluster => Role::Candidate,
                role => role,
            },
            leader: leader.and_then(|leader| NodeName::parse(&leader.name).ok()),
            last_contact,
            term: raft.term,
            // Raft tells its figures a moment after it has had an entry applied.
            last_log: raft.last_log.max(applied),
            committed: raft.committed.max(applied),
            applied,
            index: state.index(),
            time: state.time(),
            rules: state.rules(),
            state_bytes: state.bytes(),
            state_quota: state.quota(),
            ready: *self.ready.borrow(),
        }
    }

    /// It serves once it has applied all that was committed when it first heard of a leader, and as long as it has not been
    /// without one, or as the leader without a majority, for [`NO_LEADER_MAX`] since.
    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    fn votes(&self) -> BTreeMap<u64, bool> {
        let newest = self.consensus.newest_roster(self.about.identity.cluster);
        let seats = newest.into_iter().flat_map(|roster| roster.seats);
        seats.map(|(node, seat)| (node, seat.votes)).collect()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        match command {
            AdminCommand::Checkpoint => {
                let (tell, told) = oneshot::channel();
                self.checkpoints.try_send(tell).map_err(|error| match error {
                    TrySendError::Full(_) => Error::Overloaded {
                        what: "requests for a checkpoint".into(),
                        limit: CHECKPOINT_ASKS_MAX as u64,
                    },
                    TrySendError::Closed(_) => Error::ShuttingDown,
                })?;
                match timeout_at(cx.deadline, told).await {
                    Ok(Ok(Ok(position))) => Ok(AdminOutcome::Checkpointed { position }),
                    Ok(Ok(Err(reason))) => Err(Error::Unsupported(reason)),
                    Ok(Err(_)) => Err(Error::ShuttingDown),
                    Err(_) => Err(Error::Deadline("writing the checkpoint, which goes on".into())),
                }
            }
            AdminCommand::RemoveMember { name, forced } => {
                let id = self.members.remove(&name, forced, cx.deadline).await?;
                Ok(AdminOutcome::Removed { id })
            }
            AdminCommand::Leave => {
                self.members.leave(self.about.name.as_str(), cx.deadline).await?;
                Ok(AdminOutcome::Left)
            }
            AdminCommand::Transfer { name } => {
                let name = self.hand_over_to(name.as_deref()).await?;
                Ok(AdminOutcome::Transferred { name })
            }
        }
    }
}
