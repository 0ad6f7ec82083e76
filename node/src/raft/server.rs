//! What a server answers its peers about Raft.
//!
//! openraft's chance is seeded for each task that it spawns. A handler runs in a task of hyper's, where a call that spawns
//! or draws would panic, so each enters a scope of its own with a seed drawn when it arrives.

use std::{collections::VecDeque, fmt, future::Future, sync::Arc};

use futures::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use openraft::{
    Raft,
    raft::{AppendEntriesRequest, StreamAppendResult},
    rt::deterministic_rng::DeterministicRng,
};
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;
use spine_proto::internal::v1::{self as proto, raft_server};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{
    gate::{self, Gate},
    identity::Identity,
    leadership::Told,
    rpc,
    snapshot::Intake,
    state_machine::StateMachine,
    types::Types,
    wire::Malformed,
};
use crate::{limits::PEER_MESSAGE_BYTES_MAX, world::rng::Rng};

/// The Raft service of a node, for its port.
pub type RaftService = raft_server::RaftServer<Answering>;

/// Answers peers. Clones share everything.
#[derive(Clone)]
pub struct Answering(Arc<Inner>);

pub(super) struct Inner {
    pub(super) raft: Raft<Types, StateMachine>,
    pub(super) identity: Identity,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) told: Arc<Told>,
    pub(super) rng: Arc<dyn Rng>,
    /// Snapshots that come.
    pub(super) intake: Arc<Intake>,
    /// The node's own runtime, where snapshots are decoded.
    pub(super) main: Handle,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answering").field(&self.0.identity).finish()
    }
}

/// The service that answers with `inner`.
pub(super) fn service(inner: Inner) -> RaftService {
    raft_server::RaftServer::new(Answering(Arc::new(inner)))
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
}

impl Answering {
    /// openraft; whatever is called on it is to be [scoped](Self::scoped).
    pub(super) fn raft(&self) -> &Raft<Types, StateMachine> {
        &self.0.raft
    }

    /// Runs what calls into openraft.
    pub(super) async fn scoped<T>(&self, work: impl Future<Output = T>) -> T {
        DeterministicRng::<TokioRuntime>::scope(self.0.rng.bits(), work).await
    }

    pub(super) fn admit(&self, header: Option<&proto::Header>) -> Result<(), Status> {
        gate::admit(self.0.identity, &*self.0.gate, header)
    }

    fn may_vote(&self) -> Result<(), Status> {
        if self.0.gate.may_vote() {
            return Ok(());
        }
        Err(Status::failed_precondition(
            "this server has restarted, and no other has confirmed yet that its disk is not an old one",
        ))
    }

    /// Hears a heartbeat. openraft answers once everything before it is flushed. A leader that only asks whether it is
    /// still the leader need not wait for that: it is answered as soon as it has been heard, unless openraft has more to
    /// say.
    async fn hear(&self, request: AppendEntriesRequest<Types>) -> Result<StreamAppendResult<Types>, Status> {
        let (vote, matching) = (request.vote, request.prev_log_id);
        let raft = &self.0.raft;
        // In this order: the second looks at the vote after the first was heard.
        let appended = std::pin::pin!(raft.append_entries(request));
        let looked = std::pin::pin!(raft.with_raft_state(|state| *state.vote_ref()));
        let answer = match future::select(appended, looked).await {
            future::Either::Right((Ok(heard), _)) if heard == vote => return Ok(Ok(matching)),
            future::Either::Right((_, appended)) => appended.await,
            future::Either::Left((answer, looked)) => {
                // The next thing that openraft does; it would complain of an answer that nobody takes.
                let _ = looked.await;
                answer
            }
        };
        Ok(answer.map_err(ended)?.into_stream_result(matching, matching))
    }

    /// openraft's answers to entries.
    fn appended(self, requests: Streaming<proto::AppendRequest>) -> Answers {
        let intake = Arc::new(Taken::default());
        let (taken, server) = (intake.clone(), self.clone());
        let requests = requests
            .enumerate()
            .map(move |(number, message)| server.take(&taken, number == 0, message))
            // The first error ends the stream and is the last answer.
            .scan(intake.clone(), |intake, request| {
                future::ready(
                    request
                        .map_err(|status| *intake.failure.lock() = Some(status))
                        .ok(),
                )
            });
        let (answered, told) = (intake.clone(), self.0.told.clone());
        let answers = self.0.raft.stream_append(requests).map(move |answer| {
            let answer = answer.map_err(ended)?;
            let said = answered.times.lock().pop_front();
            if let (Ok(_), Some((term, time_ms))) = (&answer, said) {
                told.hear_leader(term, time_ms);
            }
            Ok(rpc::appended_message(&answer))
        });
        let last = stream::once(async move { intake.failure.lock().take() });
        answers
            .chain(last.filter_map(|failure| future::ready(failure.map(Err))))
            .boxed()
    }

    fn take(
        &self,
        intake: &Taken,
        first: bool,
        message: Result<proto::AppendRequest, Status>,
    ) -> Result<AppendEntriesRequest<Types>, Status> {
        let message = message?;
        if first {
            self.admit(message.header.as_ref())?;
        }
        let time_ms = message.cluster_time_ms;
        let request = rpc::message_append(message).map_err(malformed)?;
        let term = request.vote.leader_id.term;
        intake.times.lock().push_back((term, time_ms));
        Ok(request)
    }
}

/// Answers on a snapshot that wait for the connection.
const SNAPSHOT_ANSWERS: usize = 4;

type Answers = BoxStream<'static, Result<proto::AppendResponse, Status>>;

/// What is known of the requests of a stream that are not answered yet. openraft takes a bounded number of them.
#[derive(Debug, Default)]
struct Taken {
    /// The leader's term and cluster time in each.
    times: Mutex<VecDeque<(u64, u64)>>,
    /// Why no more were taken.
    failure: Mutex<Option<Status>>,
}

#[tonic::async_trait]
impl raft_server::Raft for Answering {
    type AppendStream = Answers;
    type InstallSnapshotStream = ReceiverStream<Result<proto::SnapshotAnswer, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Answers>, Status> {
        // The head of the answer goes out now. A leader that waited for the first answer would wait for ever.
        let server = self.clone();
        let answers = self
            .scoped(async move { server.appended(request.into_inner()) })
            .await;
        Ok(Response::new(answers))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref())?;
        let time_ms = message.cluster_time_ms;
        let request = rpc::message_append(message).map_err(malformed)?;
        if !request.entries.is_empty() {
            return Err(Status::invalid_argument("a heartbeat with entries"));
        }
        let term = request.vote.leader_id.term;
        let answer = self.scoped(self.hear(request)).await?;
        if answer.is_ok() {
            self.0.told.hear_leader(term, time_ms);
        }
        Ok(Response::new(rpc::appended_message(&answer)))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref())?;
        self.may_vote()?;
        let request = rpc::message_vote_request(&message).map_err(malformed)?;
        let answer = self.scoped(self.0.raft.vote(request)).await.map_err(ended)?;
        Ok(Response::new(rpc::vote_response_message(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref())?;
        self.may_vote()?;
        let request = rpc::message_vote_request(&message).map_err(malformed)?;
        let answer = self.scoped(self.0.raft.pre_vote(request)).await.map_err(ended)?;
        Ok(Response::new(rpc::vote_response_message(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let (answers, heard) = mpsc::channel(SNAPSHOT_ANSWERS);
        let intake = self.0.intake.clone();
        // It ends when the sender has gone or fell silent.
        self.0
            .main
            .spawn(intake.receive(self.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(heard)))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref())?;
        self.may_vote()?;
        let request = rpc::message_transfer(&message).map_err(malformed)?;
        let transfer = self.0.raft.handle_transfer_leader(request);
        let answer = self.scoped(transfer).await.map_err(ended)?;
        Ok(Response::new(rpc::transferred_message(&answer)))
    }
}

/// What a peer is told of a message that makes no sense.
pub(super) fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What a peer is told when Raft has ended.
pub(super) fn ended(error: impl std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}
