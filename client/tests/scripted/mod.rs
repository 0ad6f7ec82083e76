//! A server that does what its script says, call after call.

mod election;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt, stream};
use spine_client::proto as v1;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::Instant};
use tonic::{Code, Request, Response, Status, transport};
use v1::{election_server, kv_server, lease_server, members_server, sessions_server, watch_server};

/// What to do with a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Answer.
    Answer,
    /// Refuse with this `spine-code`.
    Refuse(&'static str),
    /// Take the call and never answer.
    Hang,
    /// Take the call and break off without a word of the rules.
    Drop,
    /// Tell these messages, an index and the indexes of the events each, then break off.
    Tell(&'static [(u64, &'static [u64])]),
}

/// The cluster that the servers are of.
pub(crate) const CLUSTER: &str = "c1";

#[derive(Default)]
struct Log {
    acts: VecDeque<Act>,
    calls: usize,
    /// When the first one came.
    first: Option<Instant>,
    authorization: Option<String>,
    watched: Vec<(String, Option<u64>)>,
    /// The clusters of which those watches said that their place is.
    clusters: Vec<String>,
    leader: Option<String>,
    members: Vec<v1::Member>,
}

pub(crate) struct Server {
    pub(crate) address: String,
    log: Arc<Mutex<Log>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<const N: usize>(acts: [Act; N]) -> Self {
        Self::play(Arc::new(Mutex::new(Log {
            acts: acts.into(),
            ..Log::default()
        })))
        .await
    }

    /// Another server that goes on in the same script.
    pub(crate) async fn twin(&self) -> Self {
        Self::play(self.log.clone()).await
    }

    async fn play(log: Arc<Mutex<Log>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Script {
            log: log.clone(),
            address: address.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let serving = transport::Server::builder()
                .add_service(election_server::ElectionServer::new(script.clone()))
                .add_service(kv_server::KvServer::new(script.clone()))
                .add_service(lease_server::LeaseServer::new(script.clone()))
                .add_service(members_server::MembersServer::new(script.clone()))
                .add_service(sessions_server::SessionsServer::new(script.clone()))
                .add_service(watch_server::WatchServer::new(script))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
            tokio::select! {
                served = serving => served.unwrap(),
                _ = stopped => {}
            }
        });
        Self {
            address,
            log,
            stop,
            task,
        }
    }

    /// Stops at once; calls under way break off.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    pub(crate) fn calls(&self) -> usize {
        self.log.lock().unwrap().calls
    }

    /// When the first call came.
    pub(crate) fn first_call(&self) -> Instant {
        self.log.lock().unwrap().first.unwrap()
    }

    /// From now on it does this.
    pub(crate) fn go_on_with<const N: usize>(&self, acts: [Act; N]) {
        self.log.lock().unwrap().acts = acts.into();
    }

    /// From now on its answers say that the leader is there.
    pub(crate) fn name_leader(&self, leader: &Server) {
        self.log.lock().unwrap().leader = Some(leader.address.clone());
    }

    /// From now on it says that these are the members.
    pub(crate) fn name_members(&self, members: &[&Server]) {
        let member = |server: &&Server| v1::Member {
            grpc_address: server.address.clone(),
            ..v1::Member::default()
        };
        self.log.lock().unwrap().members = members.iter().map(member).collect();
    }

    pub(crate) fn authorization(&self) -> Option<String> {
        self.log.lock().unwrap().authorization.clone()
    }

    /// Where watches were begun, and from which index.
    pub(crate) fn watched(&self) -> Vec<(String, Option<u64>)> {
        self.log.lock().unwrap().watched.clone()
    }

    /// Of which clusters those watches said that their place is.
    pub(crate) fn clusters(&self) -> Vec<String> {
        self.log.lock().unwrap().clusters.clone()
    }
}

#[derive(Clone)]
struct Script {
    log: Arc<Mutex<Log>>,
    address: String,
}

impl Script {
    async fn play<T, R: Default>(&self, request: Request<T>) -> Result<Response<R>, Status> {
        match self.next(&request) {
            Act::Answer | Act::Tell(_) => {
                let mut answer = Response::new(R::default());
                if let Some(leader) = &self.log.lock().unwrap().leader {
                    let leader = leader.parse().unwrap();
                    answer.metadata_mut().insert("spine-leader", leader);
                }
                Ok(answer)
            }
            Act::Refuse(code) => Err(refusal(code)),
            Act::Hang => std::future::pending().await,
            Act::Drop => Err(Status::unavailable("broken pipe")),
        }
    }

    fn next<T>(&self, request: &Request<T>) -> Act {
        let mut log = self.log.lock().unwrap();
        log.calls += 1;
        log.first.get_or_insert_with(Instant::now);
        let authorization = request.metadata().get("authorization");
        log.authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        log.acts.pop_front().expect("no more calls than the script has")
    }
}

fn refusal(code: &'static str) -> Status {
    let grpc = match code {
        "no_leader" | "shutting_down" | "not_ready" => Code::Unavailable,
        "outcome_unknown" => Code::Unknown,
        "compacted" => Code::OutOfRange,
        _ => Code::InvalidArgument,
    };
    let mut status = Status::new(grpc, format!("it is {code}"));
    let metadata = status.metadata_mut();
    metadata.insert("spine-code", code.parse().unwrap());
    metadata.insert("spine-remedy", "the remedy".parse().unwrap());
    let outcome = if code == "outcome_unknown" {
        "unknown"
    } else {
        "not-applied"
    };
    metadata.insert("spine-outcome", outcome.parse().unwrap());
    if code == "compacted" {
        metadata.insert("spine-oldest-index", "42".parse().unwrap());
    }
    status
}

#[tonic::async_trait]
impl kv_server::Kv for Script {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.play(request).await
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        self.play(request).await
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        self.play::<_, v1::CountResponse>(request).await?;
        Ok(Response::new(v1::CountResponse {
            header: None,
            count: 7,
        }))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        self.play(request).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.play(request).await
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        self.play(request).await
    }

    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        Err(Status::unimplemented("no script has a compaction"))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("no script has a scan"))
    }
}

/// A lease is granted for as long as is asked.
#[tonic::async_trait]
impl lease_server::Lease for Script {
    async fn grant(
        &self,
        request: Request<v1::LeaseGrantRequest>,
    ) -> Result<Response<v1::LeaseGrantResponse>, Status> {
        let ttl_ms = request.get_ref().ttl_ms;
        self.play::<_, v1::LeaseGrantResponse>(request).await?;
        Ok(Response::new(v1::LeaseGrantResponse {
            ttl_ms,
            ..v1::LeaseGrantResponse::default()
        }))
    }

    async fn renew(
        &self,
        request: Request<v1::LeaseRenewRequest>,
    ) -> Result<Response<v1::LeaseRenewResponse>, Status> {
        self.play(request).await
    }

    async fn revoke(
        &self,
        request: Request<v1::LeaseRevokeRequest>,
    ) -> Result<Response<v1::LeaseRevokeResponse>, Status> {
        self.play(request).await
    }

    async fn get(
        &self,
        request: Request<v1::LeaseGetRequest>,
    ) -> Result<Response<v1::LeaseGetResponse>, Status> {
        self.play(request).await
    }

    async fn list(
        &self,
        request: Request<v1::LeaseListRequest>,
    ) -> Result<Response<v1::LeaseListResponse>, Status> {
        self.play(request).await
    }
}

#[tonic::async_trait]
impl sessions_server::Sessions for Script {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.play(request).await
    }
}

/// Whoever asks for the members is no part of the script.
#[tonic::async_trait]
impl members_server::Members for Script {
    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let members = self.log.lock().unwrap().members.clone();
        Ok(Response::new(v1::ListMembersResponse {
            members,
            ..v1::ListMembersResponse::default()
        }))
    }

    async fn server_status(
        &self,
        _: Request<v1::ServerStatusRequest>,
    ) -> Result<Response<v1::ServerStatusResponse>, Status> {
        Err(Status::unimplemented("no script has a status"))
    }

    async fn remove_member(
        &self,
        _: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        Err(Status::unimplemented("no script has a removal"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        Err(Status::unimplemented("no script has a transfer"))
    }

    async fn leave(&self, _: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        Err(Status::unimplemented("no script has a server that leaves"))
    }
}

#[tonic::async_trait]
impl watch_server::Watch for Script {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let act = {
            // A stream that comes back when the script is over finds the server stopping.
            let mut log = self.log.lock().unwrap();
            let act = log.acts.pop_front().unwrap_or(Act::Refuse("shutting_down"));
            if matches!(act, Act::Tell(_)) {
                log.watched
                    .push((self.address.clone(), request.get_ref().from_index));
                log.clusters.push(request.get_ref().cluster_id.clone());
            }
            act
        };
        let script = match act {
            Act::Tell(script) => script,
            Act::Refuse(code) => return Err(refusal(code)),
            Act::Hang => std::future::pending().await,
            Act::Answer | Act::Drop => panic!("a watch can't {act:?}"),
        };
        let opening = v1::WatchResponse {
            events: Vec::new(),
            index: request.get_ref().from_index.unwrap(),
            cluster_id: CLUSTER.to_owned(),
        };
        let messages = script.iter().map(|(index, events)| v1::WatchResponse {
            events: events
                .iter()
                .map(|&index| v1::Event { index, change: None })
                .collect(),
            index: *index,
            cluster_id: String::new(),
        });
        let told = stream::iter(std::iter::once(opening).chain(messages)).map(Ok);
        let broken = stream::iter([Err(refusal("shutting_down"))]);
        Ok(Response::new(Box::pin(told.chain(broken))))
    }
}
