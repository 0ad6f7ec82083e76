//! The way to a leader over the network.

use std::{error::Error, fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_proto::internal::v1::{self as proto, forward_client::ForwardClient, read_index_response};
use tokio::time::timeout;
use tonic::{Code, ConnectError, Status, transport::Channel};

use super::{CallError, Way};
use crate::{
    limits,
    peer::{Lane, Links},
    raft::{Leader, ReadError, header, identity::Identity},
};

/// Calls of this node to whoever leads.
pub struct Remote {
    links: Arc<Links>,
    identity: Identity,
    boot_number: u64,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Calls over `links` in the name of this node.
    pub fn new(links: Arc<Links>, identity: Identity, boot_number: u64) -> Self {
        Self {
            links,
            identity,
            boot_number,
        }
    }

    fn header(&self, to: &Leader) -> proto::Header {
        header(self.identity, self.boot_number, to.id)
    }

    async fn call<T, F>(
        &self,
        leader: &Leader,
        within: Duration,
        call: impl FnOnce(ForwardClient<Channel>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let link = self.links.get(Lane::Forward, &leader.peer_address);
        let client = ForwardClient::new(link.channel.clone())
            .max_decoding_message_size(limits::FORWARD_ANSWER_BYTES_MAX);
        match timeout(within, call(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let error = call_error(&status);
                if status.source().is_some() {
                    self.links.discard(&link);
                }
                Err(error)
            }
            Err(_) => {
                self.links.discard(&link);
                Err(CallError::Lost(format!("{} did not answer in time", leader.name)))
            }
        }
    }
}

/// What a failed call may have done. A server that refuses a call as a whole does so before anything is proposed.
fn call_error(status: &Status) -> CallError {
    let text = format!("{:?}: {}", status.code(), status.message());
    let mut sources = std::iter::successors(status.source(), |&error| error.source());
    let refused_there = status.source().is_none()
        && matches!(
            status.code(),
            Code::Unavailable | Code::FailedPrecondition | Code::ResourceExhausted | Code::InvalidArgument
        );
    if refused_there || sources.any(<dyn Error>::is::<ConnectError>) {
        CallError::NotSent(text)
    } else {
        CallError::Lost(text)
    }
}

#[async_trait]
impl Way for Remote {
    async fn propose(
        &self,
        leader: &Leader,
        requests: Vec<proto::Forwarded>,
        within: Duration,
    ) -> Result<Vec<proto::Answer>, CallError> {
        let request = proto::ProposeRequest {
            header: Some(self.header(leader)),
            format: spine_core::codec::ENTRY_FORMAT.into(),
            requests,
        };
        let call = |mut client: ForwardClient<Channel>| async move { client.propose(request).await };
        Ok(self.call(leader, within, call).await?.answers)
    }

    async fn renew(
        &self,
        leader: &Leader,
        renewals: Vec<proto::Forwarded>,
        within: Duration,
    ) -> Result<Vec<proto::Answer>, CallError> {
        let request = proto::RenewRequest {
            header: Some(self.header(leader)),
            format: spine_core::codec::ENTRY_FORMAT.into(),
            renewals,
        };
        let call = |mut client: ForwardClient<Channel>| async move { client.renew(request).await };
        Ok(self.call(leader, within, call).await?.answers)
    }

    async fn read_index(&self, leader: &Leader, within: Duration) -> Result<u64, ReadError> {
        let request = proto::ReadIndexRequest {
            header: Some(self.header(leader)),
        };
        let call = |mut client: ForwardClient<Channel>| async move { client.read_index(request).await };
        match self.call(leader, within, call).await {
            Ok(response) => match response.result {
                Some(read_index_response::Result::Index(index)) => Ok(index),
                Some(read_index_response::Result::NoQuorum(_)) => Err(ReadError::NoQuorum),
                Some(read_index_response::Result::NotLeader(_)) | None => Err(ReadError::NotLeader),
            },
            Err(error) => {
                tracing::debug!(%error, leader = leader.name, "no read index");
                Err(ReadError::NotLeader)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tonic::{Request, Response, service::Routes};

    use super::*;
    use crate::{
        peer::Port,
        raft::identity::ClusterId,
        world::net::{Net, OsNet},
    };
    use proto::forward_server::{Forward, ForwardServer};

    /// Behaves as the name of the leader says.
    struct Odd(u64);

    const HUGE: u64 = 1;
    const REFUSES: u64 = 2;
    const SILENT: u64 = 3;
    const BREAKS: u64 = 4;

    #[tonic::async_trait]
    impl Forward for Odd {
        async fn propose(
            &self,
            _: Request<proto::ProposeRequest>,
        ) -> Result<Response<proto::ProposeResponse>, Status> {
            let answer = |bytes| proto::Answer {
                result: Some(proto::answer::Result::Applied(vec![0; bytes].into())),
            };
            match self.0 {
                HUGE => Ok(Response::new(proto::ProposeResponse {
                    answers: vec![answer(limits::FORWARD_ANSWER_BYTES_MAX)],
                })),
                REFUSES => Err(Status::failed_precondition("not you")),
                SILENT => std::future::pending().await,
                _ => Err(Status::internal("broken")),
            }
        }

        async fn renew(
            &self,
            _: Request<proto::RenewRequest>,
        ) -> Result<Response<proto::RenewResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn read_index(
            &self,
            _: Request<proto::ReadIndexRequest>,
        ) -> Result<Response<proto::ReadIndexResponse>, Status> {
            Err(Status::unavailable(""))
        }
    }

    fn leader(address: SocketAddr) -> Leader {
        Leader {
            id: 2,
            name: "n2".into(),
            peer_address: address.to_string(),
            term: 1,
        }
    }

    fn remote() -> Remote {
        let identity = Identity {
            cluster: ClusterId(1),
            node: 1,
        };
        Remote::new(Arc::new(Links::new(Arc::new(OsNet))), identity, 1)
    }

    async fn asked(behaviour: u64) -> CallError {
        let listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let routes = Routes::new(ForwardServer::new(Odd(behaviour)));
        let port = Port::serve(listener, routes, &tokio::runtime::Handle::current()).unwrap();
        let within = Duration::from_millis(if behaviour == SILENT { 300 } else { 30_000 });
        let answers = remote()
            .propose(&leader(port.address()), Vec::new(), within)
            .await;
        answers.unwrap_err()
    }

    #[tokio::test]
    async fn it_is_known_of_a_failed_call_whether_it_may_have_done_something() {
        let huge = asked(HUGE).await;
        assert!(matches!(huge, CallError::Lost(_)), "{huge}");
        let refused = asked(REFUSES).await;
        assert!(matches!(refused, CallError::NotSent(_)), "{refused}");
        let silent = asked(SILENT).await;
        assert!(matches!(silent, CallError::Lost(_)), "{silent}");
        let broken = asked(BREAKS).await;
        assert!(matches!(broken, CallError::Lost(_)), "{broken}");
        // Nobody listens there any more.
        let listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address().unwrap();
        drop(listener);
        let nobody = remote()
            .propose(&leader(address), Vec::new(), Duration::from_secs(30))
            .await
            .unwrap_err();
        assert!(matches!(nobody, CallError::NotSent(_)), "{nobody}");
        let index = remote()
            .read_index(&leader(address), Duration::from_secs(30))
            .await;
        assert_eq!(index, Err(ReadError::NotLeader));
    }
}
