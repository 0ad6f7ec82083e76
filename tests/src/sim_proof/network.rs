//! How a node reaches the others: votes as unary calls, entries over one stream each way.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use openraft::type_config::alias::SnapshotOf;
use openraft::{BasicNode, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::types::{AppendRequest, AppendResult, PORT, Types, Vote, VoteRequest, VoteResponse};
use crate::wire::{self, Json};

/// Silence on a stream of entries after which it counts as broken. Heartbeats pass over it every 100 ms, and the simulated
/// TCP never repeats a lost segment, so without this a stream that lost one would wait for ever.
const SILENCE_MAX: Duration = Duration::from_millis(600);

/// Makes one `Peer` for each node that is to be reached.
pub(crate) struct Network;

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, _target: u64, node: &BasicNode) -> Peer {
        Peer {
            host: node.addr.clone(),
            channel: None,
        }
    }
}

/// The way to one other node.
pub(crate) struct Peer {
    host: String,
    /// Dropped after every failure, because a connection that lost a segment never recovers here.
    channel: Option<Channel>,
}

impl Peer {
    fn channel(&mut self) -> Channel {
        self.channel
            .get_or_insert_with(|| wire::channel(&self.host, PORT))
            .clone()
    }

    async fn unary<E, D>(
        &mut self,
        path: &'static str,
        request: E,
        within: Duration,
    ) -> Result<D, RPCError<Types>>
    where
        E: Serialize + Send + Sync + 'static,
        D: DeserializeOwned + Send + Sync + 'static,
    {
        let answer = tokio::time::timeout(within, wire::call(self.channel(), path, request)).await;
        let answer = answer
            .map_err(unreachable)
            .and_then(|answer| answer.map_err(unreachable));
        if answer.is_err() {
            self.channel = None;
        }
        answer
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        _request: AppendRequest,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(unreachable(io::Error::other("entries go over the stream")))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        // A channel of its own for each stream: the one before may have lost a segment.
        self.channel = None;
        let channel = self.channel();
        Box::pin(async move {
            // openraft's pause after a failure is in the stream of requests. Who connects before asking for the first one never
            // pauses, and dials a node that is down as fast as it refuses.
            let mut requests = requests.peekable();
            if Pin::new(&mut requests).peek().await.is_none() {
                return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
            }
            // hyper goes on asking for requests after the replies were dropped, and all sessions of openraft share one source
            // of them: a session that isn't ended here would take its successor's requests to a dead connection.
            let (session, ended) = oneshot::channel::<()>();
            let requests = tonic::Request::new(requests.take_until(ended));
            let mut client = tonic::client::Grpc::new(channel);
            let opened = async {
                client.ready().await.map_err(unreachable)?;
                let codec = Json::<AppendRequest, AppendResult>::default();
                let path = PathAndQuery::from_static(wire::APPEND);
                client.streaming(requests, path, codec).await.map_err(unreachable)
            };
            let opened = tokio::time::timeout(SILENCE_MAX, opened)
                .await
                .map_err(unreachable)?;
            let replies = stream::unfold(Some((opened?.into_inner(), session)), |open| async {
                let (mut replies, session) = open?;
                match tokio::time::timeout(SILENCE_MAX, replies.next()).await {
                    Ok(Some(Ok(reply))) => Some((Ok(reply), Some((replies, session)))),
                    Ok(Some(Err(status))) => Some((Err(unreachable(status)), None)),
                    Ok(None) => None,
                    Err(silence) => Some((Err(unreachable(silence)), None)),
                }
            });
            Ok(Box::pin(replies) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<Types>> {
        self.unary(wire::VOTE, request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<Types>> {
        self.unary(wire::PRE_VOTE, request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<Types, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::new(&io::Error::other(
            "snapshots are off",
        ))))
    }
}

fn unreachable(error: impl std::error::Error + 'static) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}
