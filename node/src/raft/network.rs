//! How openraft reaches the other servers: entries as a stream ([`super::append`]), snapshots as a stream, everything
//! else as single calls on the lane of heartbeats, where nothing large ever goes.
//!
//! Whoever can't be reached is an error, in a pre-vote too: nothing here grants a vote or acknowledges an entry in a
//! peer's name.

use std::{fmt, future::Future, iter, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption},
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use spine_proto::internal::v1::{self as proto, raft_client::RaftClient};
use tokio::{runtime::Handle, task::JoinSet, time::timeout};
use tonic::{Response, Status, transport::Channel};

use super::{
    append, gate,
    identity::Identity,
    leadership::Told,
    rpc,
    snapshot::{self, Offers, SnapshotData},
    types::{Peer, RaftVote, Types},
    wire::Malformed,
};
use crate::{
    limits::PEER_MESSAGE_BYTES_MAX,
    peer::{Lane, Link, Links},
};

/// A peer that can't be reached is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// openraft drops a heartbeat at its deadline; so long before, its link still learns that it was not answered.
const HEARD_BEFORE_DROPPED: Duration = Duration::from_millis(5);

/// What the ways to all peers have in common.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) links: Arc<Links>,
    pub(super) identity: Identity,
    pub(super) boot_number: u64,
    pub(super) told: Arc<Told>,
    /// What followers are sent that are too far behind.
    pub(super) offers: Arc<Offers>,
    /// The node's own runtime, where snapshots are encoded.
    pub(super) main: Handle,
}

/// Makes the ways.
pub(super) struct Ways(pub(super) Arc<Network>);

impl RaftNetworkFactory<Types> for Ways {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Way {
        Way {
            network: self.0.clone(),
            target,
            peer: node.clone(),
            carries: Carries::Entries,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Way {
        Way {
            carries: Carries::Heartbeats,
            ..self.new_client(target, node).await
        }
    }
}

/// The way to one peer.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) network: Arc<Network>,
    target: u64,
    pub(super) peer: Peer,
    carries: Carries,
}

/// What openraft appends over a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Entries,
    Heartbeats,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    Silence(Duration),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] Status),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Way {
    /// Who to whom.
    pub(super) fn header(&self) -> proto::Header {
        gate::header(self.network.identity, self.network.boot_number, self.target)
    }

    /// A client on one of the lanes.
    pub(super) fn client(&self, lane: Lane) -> (Link, RaftClient<Channel>) {
        let links = &self.network.links;
        // openraft keeps its ways when the log learns of another address.
        let link = links.get(lane, &links.places().of(self.target, &self.peer.address));
        let client = RaftClient::new(link.channel.clone()).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
        (link, client)
    }

    /// What openraft is told of a failure.
    pub(super) fn unreachable(&self, failure: Failure) -> Unreachable<Types> {
        Unreachable::new(&Missed {
            peer: self.peer.name.clone(),
            failure,
        })
    }

    /// One small call.
    async fn call<A, F>(
        &self,
        within: Duration,
        call: impl FnOnce(RaftClient<Channel>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let (link, client) = self.client(Lane::Heartbeat);
        let answer = match timeout(within, call(client)).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(Failure::Refused),
            Err(_) => Err(Failure::Silence(within)),
        };
        if answer.is_ok() {
            link.heard();
        } else {
            self.network.links.unheard(&link);
        }
        answer
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<Types>,
        within: Duration,
    ) -> Result<StreamAppendResult<Types>, Failure> {
        let message = rpc::append_message(request, Some(self.header()), &self.network.told);
        let answer = self
            .call(
                within,
                |mut client| async move { client.heartbeat(message).await },
            )
            .await?;
        Ok(rpc::message_appended(answer)?)
    }
}

/// A failure and whom it concerns.
#[derive(Debug)]
struct Missed {
    peer: String,
    failure: Failure,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.failure)
    }
}

impl std::error::Error for Missed {}

impl NetStreamAppend<Types> for Way {
    fn stream_append<'s, S>(
        &'s mut self,
        mut requests: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        match self.carries {
            Carries::Entries => Box::pin(append::stream(self, requests)),
            Carries::Heartbeats => Box::pin(async move {
                let Some(heartbeat) = requests.next().await else {
                    return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
                };
                // All the time that there is: on a busy machine a late answer keeps a leader that would give up without.
                let within = option.hard_ttl().saturating_sub(HEARD_BEFORE_DROPPED);
                let answer = self.heartbeat(heartbeat, within).await;
                let answer = answer.map_err(|failure| self.unreachable(failure))?;
                Ok(Box::pin(stream::iter(iter::once(Ok(answer)))) as BoxStream<'s, _>)
            }),
        }
    }
}

impl NetVote<Types> for Way {
    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = rpc::vote_request_message(&request, self.header());
        let answer = self
            .call(option.soft_ttl(), |mut client| async move {
                client.vote(message).await
            })
            .await;
        self.voted(answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = rpc::vote_request_message(&request, self.header());
        let answer = self
            .call(option.soft_ttl(), |mut client| async move {
                client.pre_vote(message).await
            })
            .await;
        self.voted(answer)
    }
}

impl Way {
    fn voted(
        &self,
        answer: Result<proto::VoteResponse, Failure>,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        answer
            .and_then(|message| Ok(rpc::message_vote_response(message)?))
            .map_err(|failure| self.unreachable(failure).into())
    }
}

impl NetTransferLeader<Types> for Way {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = rpc::transfer_message(&request, self.header());
        self.call(option.soft_ttl(), |mut client| async move {
            client.transfer_leader(message).await
        })
        .await
        .and_then(|message| Ok(rpc::message_transferred(message, &request)?))
        .map_err(|failure| self.unreachable(failure).into())
    }
}

impl NetSnapshot<Types> for Way {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData(state) = snapshot.snapshot;
        let offers = self.network.offers.clone();
        let sending = snapshot::send(self.clone(), vote, snapshot.meta, state, offers);
        // A set, because it ends what is in it when it is dropped.
        let mut task = JoinSet::new();
        task.spawn_on(sending, &self.network.main);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = task.join_next() => {
                let ended = || Status::aborted("the sending of a snapshot ended").into();
                let sent = sent.and_then(Result::ok).unwrap_or_else(|| Err(ended()));
                let vote = sent.map_err(|failure| self.unreachable(failure))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

impl NetBackoff<Types> for Way {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(iter::repeat(TRY_AGAIN)))
    }
}
