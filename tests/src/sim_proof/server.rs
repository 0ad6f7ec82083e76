//! A node's gRPC server on the simulated network, and the record of what it is asked and answers.
//!
//! openraft's seeded chance is bound to the tasks that openraft itself spawns. A handler runs in a task of hyper's, where a call
//! that spawns or draws would panic. So each request enters a scope of its own, with a seed drawn when it arrives.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, future, stream};
use http::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Status, Streaming};
use tower::Service;
use turmoil::net::TcpListener;

use crate::faults::Chance;
use crate::types::{AppendRequest, AppendResult, PORT, Raft, Runtime, VoteRequest, VoteResponse, Write};
use crate::wire::{self, Accepted, Json};
use spine_tests::trace::Trace;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What answers on a node's port.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) node: u64,
    pub(crate) raft: Raft,
    pub(crate) trace: Trace,
    /// Seeds for the scopes of requests.
    pub(crate) chance: Arc<Mutex<Chance>>,
}

impl Server {
    /// Runs a handler where openraft finds a seed.
    fn scoped<F>(&self, handler: F) -> BoxFuture<Result<Response<Body>, Infallible>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let seed = self.chance.lock().expect("the simulation has one thread").next();
        Box::pin(Runtime::scope(seed, handler.map(Ok)))
    }

    /// Serves until the host crashes.
    pub(crate) async fn run(self) -> turmoil::Result {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let accepted = stream::unfold(listener, |listener| async {
            let next = listener.accept().await.map(|(stream, _from)| Accepted(stream));
            Some((next, listener))
        });
        let mut server = tonic::transport::Server::builder()
            // Connections that lost a segment are found and closed, as they would be on a real network by the kernel.
            .http2_keepalive_interval(Some(Duration::from_secs(1)))
            .http2_keepalive_timeout(Some(Duration::from_secs(1)));
        server
            .add_service(RaftCalls(self.clone()))
            .add_service(ClientCalls(self))
            .serve_with_incoming(accepted)
            .await?;
        Ok(())
    }

    async fn vote(self, request: VoteRequest) -> Result<VoteResponse, Status> {
        self.trace.record(self.node, format_args!("<- {request}"));
        let answer = self.raft.vote(request).await.map_err(internal)?;
        self.trace.record(self.node, format_args!("-> {answer}"));
        Ok(answer)
    }

    async fn pre_vote(self, request: VoteRequest) -> Result<VoteResponse, Status> {
        self.trace.record(self.node, format_args!("<- pre {request}"));
        let answer = self.raft.pre_vote(request).await.map_err(internal)?;
        self.trace.record(self.node, format_args!("-> pre {answer}"));
        Ok(answer)
    }

    async fn write(self, write: Write) -> Result<(), Status> {
        self.trace.record(self.node, format_args!("<- {write}"));
        let outcome = self.raft.client_write(write).await;
        match outcome {
            Ok(done) => {
                self.trace
                    .record(self.node, format_args!("-> {write} at {}", done.log_id));
                Ok(())
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    fn append(self, requests: Streaming<AppendRequest>) -> Replies {
        let Self {
            node, raft, trace, ..
        } = self;
        let replies = trace.clone();
        let requests = requests
            .take_while(|request| future::ready(request.is_ok()))
            .filter_map(move |request| {
                let request = request.ok();
                if let Some(request) = &request {
                    trace.record(node, format_args!("<- {request}"));
                }
                future::ready(request)
            });
        Box::pin(raft.stream_append(requests.boxed()).map(move |reply| {
            let reply = reply.map_err(internal)?;
            match &reply {
                Ok(matching) => replies.record(node, format_args!("-> matching {matching:?}")),
                Err(refusal) => replies.record(node, format_args!("-> {refusal}")),
            }
            Ok(reply)
        }))
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<AppendResult, Status>> + Send>>;

fn internal(error: impl std::error::Error) -> Status {
    Status::internal(error.to_string())
}

/// The calls of other nodes.
#[derive(Clone)]
struct RaftCalls(Server);

impl NamedService for RaftCalls {
    const NAME: &'static str = "proof.Raft";
}

impl Service<Request<Body>> for RaftCalls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.0.clone();
        self.0.scoped(async move {
            match request.uri().path() {
                wire::APPEND => {
                    Grpc::new(Json::default())
                        .streaming(Append(server), request)
                        .await
                }
                wire::VOTE => unary(request, |vote| server.vote(vote)).await,
                wire::PRE_VOTE => unary(request, |vote| server.pre_vote(vote)).await,
                _ => Status::unimplemented("no such call").into_http(),
            }
        })
    }
}

/// The calls of clients.
#[derive(Clone)]
struct ClientCalls(Server);

impl NamedService for ClientCalls {
    const NAME: &'static str = "proof.Client";
}

impl Service<Request<Body>> for ClientCalls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.0.clone();
        self.0
            .scoped(async move { unary(request, |write| server.write(write)).await })
    }
}

struct Append(Server);

impl StreamingService<AppendRequest> for Append {
    type Response = AppendResult;
    type ResponseStream = Replies;
    type Future = future::Ready<Result<tonic::Response<Replies>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<AppendRequest>>) -> Self::Future {
        // The answer's head goes out before the first reply; a leader that waits for it would wait for ever otherwise.
        future::ready(Ok(tonic::Response::new(
            self.0.clone().append(request.into_inner()),
        )))
    }
}

/// Answers a unary call with what `handle` makes of it.
async fn unary<D, E, H, F>(request: Request<Body>, handle: H) -> Response<Body>
where
    D: DeserializeOwned + Send + Sync + 'static,
    E: Serialize + Send + Sync + 'static,
    H: FnOnce(D) -> F,
    F: Future<Output = Result<E, Status>> + Send,
{
    Grpc::new(Json::<E, D>::default())
        .unary(Once(Some(handle)), request)
        .await
}

/// A unary service that is called once.
struct Once<H>(Option<H>);

impl<D, E, H, F> UnaryService<D> for Once<H>
where
    H: FnOnce(D) -> F,
    F: Future<Output = Result<E, Status>> + Send,
{
    type Response = E;
    type Future = future::Map<F, fn(Result<E, Status>) -> Result<tonic::Response<E>, Status>>;

    fn call(&mut self, request: tonic::Request<D>) -> Self::Future {
        let handle = self
            .0
            .take()
            .expect("tonic calls a unary service once for each request");
        handle(request.into_inner()).map(|answer| answer.map(tonic::Response::new))
    }
}
