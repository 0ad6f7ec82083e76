//! The real registry: validates, proposes or renews, waits for applied; and the barrier before linearizable reads.
//!
//! A request goes down once and up once: [`NodeRegistry::propose`] checks it, hands it to the one task that makes
//! entries ([`submit`]), and is answered by the task that applies. What becomes of a request whose answer doesn't come
//! in time depends on how far it had come: before it was proposed nothing happened, afterwards nobody knows.

mod barrier;
pub mod clock;
mod submit;

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use parking_lot::RwLock;
use spine_api::{AdminCommand, AdminOutcome, Consistency, Context, Error, NodeStatus, Registry, hub::Hub};
use spine_core::{
    Applied, Author, Command, Index, NodeName, Outcome, Rejection, Renewal, RenewalRequest, Renewed, Request,
    Rights, State, codec,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, mpsc::error::TrySendError, oneshot, watch},
    time::{Instant, timeout_at},
};

use self::{
    barrier::Barrier,
    submit::{Ask, Content, ENTRY_OVERHEAD, Reply, Stage, Submitter},
};
use crate::{
    limits::{CHECKPOINT_ASKS_MAX, SUBMIT_SHARE_BYTES, SUBMIT_SHARES},
    metrics_sink::{Ended, NodeMetrics, Request as Counted},
    raft::{Consensus, ReadError, identity::Identity},
    world::clock::Clock,
};

/// How long a read waits before it asks again who leads.
const LEADER_ASKED_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// What a registry is told of its node.
#[derive(Clone, Debug)]
pub struct About {
    /// The node's name.
    pub name: NodeName,
    /// Its datacenter.
    pub datacenter: Arc<str>,
    /// Who it is.
    pub identity: Identity,
    /// Revisions of history that the leader keeps.
    pub history_revisions: u64,
    /// Bytes of an entry at most: the core's bound, or the log's if that is lower.
    pub entry_bytes_max: u64,
}

/// A request to write a checkpoint, and where its log position goes.
pub type CheckpointAsk = oneshot::Sender<Result<u64, Arc<str>>>;

/// The registry of a node.
pub struct NodeRegistry {
    about: About,
    hub: Arc<Hub>,
    consensus: Arc<Consensus>,
    barrier: Barrier,
    /// Gone once the node is stopping.
    asks: RwLock<Option<mpsc::Sender<Ask>>>,
    shares: Arc<Semaphore>,
    ready: watch::Receiver<bool>,
    checkpoints: mpsc::Sender<CheckpointAsk>,
    clock: Arc<dyn Clock>,
    metrics: Arc<dyn NodeMetrics>,
}

impl NodeRegistry {
    /// The registry over `consensus`, and the task that makes its entries, which ends after [`close`](Self::close).
    pub fn new(
        about: About,
        hub: Arc<Hub>,
        consensus: Arc<Consensus>,
        checkpoints: mpsc::Sender<CheckpointAsk>,
        clock: Arc<dyn Clock>,
        metrics: Arc<dyn NodeMetrics>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        // As many places as shares: a request that has a share has a place.
        let (asks, asked) = mpsc::channel(SUBMIT_SHARES);
        let (tell_ready, ready) = watch::channel(false);
        let submitter = Submitter {
            asks: asked,
            consensus: consensus.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            node: about.identity.node,
            history_revisions: about.history_revisions,
            entry_bytes_max: about.entry_bytes_max,
            ready: tell_ready,
        };
        let registry = Self {
            about,
            hub,
            barrier: Barrier::start(consensus.clone()),
            consensus,
            asks: RwLock::new(Some(asks)),
            shares: Arc::new(Semaphore::new(SUBMIT_SHARES)),
            ready,
            checkpoints,
            clock,
            metrics,
        };
        (Arc::new(registry), submitter.run())
    }

    /// Whether the node has caught up with what it knew to be committed, as it changes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Takes no more requests; those on their way are still answered.
    pub fn close(&self) {
        self.asks.write().take();
        self.hub.close();
    }

    async fn submit_command(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let request = Box::new(Request {
            author: author(cx),
            ..Request::internal(command)
        });
        let bytes = codec::encoded_len(&*request);
        self.submit(cx.deadline, bytes, |reply| Content::Command(request, reply))
            .await
    }

    async fn submit_renewal(&self, cx: &Context, renewal: Renewal) -> Result<(Index, Renewed), Error> {
        let request = RenewalRequest {
            author: author(cx),
            rights: Rights::Open,
            renewal,
        };
        let bytes = codec::encoded_len(&request);
        self.submit(cx.deadline, bytes, |reply| Content::Renewal(request, reply))
            .await
    }

    async fn submit<T>(
        &self,
        deadline: Instant,
        bytes: u64,
        content: impl FnOnce(Reply<T>) -> Content,
    ) -> Result<T, Error> {
        let share = self.share(bytes)?;
        let stage = Arc::new(Stage::default());
        let (to, answer) = oneshot::channel();
        let content = content(Reply { to, _share: share });
        let ask = Ask {
            content,
            bytes,
            deadline,
            stage: stage.clone(),
        };
        match &*self.asks.read() {
            Some(asks) => asks.try_send(ask).map_err(|_| Error::ShuttingDown)?,
            None => return Err(Error::ShuttingDown),
        }
        match timeout_at(deadline, answer).await {
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
                Some(Err(ReadError::NoQuorum)) => return Err(Error::NoLeader),
                Some(Err(ReadError::NotLeader)) => tokio::time::sleep(LEADER_ASKED_EVERY).await,
            }
        }
    }

    fn count(&self, cx: &Context, command: &'static str, began: std::time::Duration, ended: Ended) {
        let took = self.clock.monotonic().saturating_sub(began);
        self.metrics.request(Counted {
            dialect: cx.dialect,
            command,
            ended,
            took,
        });
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
            | Error::Unsupported(_),
        ) => Ended::NotProposed,
    }
}

#[async_trait]
impl Registry for NodeRegistry {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let (name, began) = (command.name(), self.clock.monotonic());
        let result = async {
            command.check()?;
            match self.try_renewal(cx, &command).await? {
                Some(applied) => Ok(applied),
                None => self.submit_command(cx, command).await,
            }
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
        if !*self.ready.borrow() && cx.consistency == Consistency::Stale {
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
            role: raft.role,
            leader: raft.leader.and_then(|peer| NodeName::parse(&peer.name).ok()),
            last_contact: (raft.role == spine_api::Role::Leader).then_some(std::time::Duration::ZERO),
            term: raft.term,
            last_log: raft.last_log,
            committed: raft.committed,
            applied,
            index: state.index(),
            time: state.time(),
            state_bytes: state.bytes(),
            ready: *self.ready.borrow(),
        }
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
        }
    }
}
