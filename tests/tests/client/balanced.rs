//! Channels and tower services that are fed by the name of a service. The backends are registries themselves, each with
//! its own name under a key.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use spine_client::proto::kv_client::KvClient;
use spine_client::proto::watch_client::WatchClient;
use spine_client::proto::watch_server::{Watch, WatchServer};
use spine_client::proto::{GetRequest, WatchRequest, WatchResponse};
use spine_client::{Client, Registration};
use spine_tests::local_api::{LocalApi, local};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// A backend that answers with `name`.
async fn backend(name: &'static str) -> LocalApi {
    let api = LocalApi::serve(local("").await);
    let client = Client::connect(&api.address().to_string()).unwrap();
    client.kv.put("name", name).await.unwrap();
    api
}

async fn register(registry: &Client, name: &str, backend: &LocalApi, weight: u16) {
    let address = backend.address();
    let registration = Registration::new("names", &address.ip().to_string(), address.port());
    let registration = registration.id(name).weight(weight);
    registry.catalog.register(registration).await.unwrap();
}

async fn registry() -> (LocalApi, Client) {
    let api = LocalApi::serve(local("").await);
    let client = Client::connect(&api.address().to_string()).unwrap();
    (api, client)
}

/// Asks whoever gets the request for its name.
async fn name<T>(stub: &mut KvClient<T>) -> Result<String, Status>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let mut request = Request::new(GetRequest {
        key: "name".into(),
        ..GetRequest::default()
    });
    request.set_timeout(PATIENCE);
    let answer = stub.get(request).await?.into_inner();
    let value = answer.kv.unwrap_or_default().value;
    Ok(String::from_utf8_lossy(&value).into_owned())
}

#[tokio::test]
async fn a_channel_follows_the_service() {
    let (_api, client) = registry().await;
    let (red, blue) = (backend("red").await, backend("blue").await);
    let resolver = client.resolver("names").start().await.unwrap();
    let mut stub = KvClient::new(resolver.channel());
    drop(resolver);
    register(&client, "red", &red, 1).await;
    // The request was there before the instance.
    assert_eq!(name(&mut stub).await.unwrap(), "red");

    register(&client, "blue", &blue, 1).await;
    let mut seen = BTreeSet::new();
    let both = async {
        while seen.len() < 2 {
            seen.insert(name(&mut stub).await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();

    client.catalog.deregister(None, "red").await.unwrap();
    let follows = client.resolver("names").start().await.unwrap();
    assert_eq!(follows.targets().len(), 1);
    let only_blue = async {
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let is_blue = name(&mut stub).await.unwrap() == "blue";
            in_a_row = if is_blue { in_a_row + 1 } else { 0 };
        }
    };
    tokio::time::timeout(PATIENCE, only_blue).await.unwrap();
}

#[tokio::test]
async fn a_balanced_service_goes_by_weights_and_leaves_the_dead_alone() {
    let (_api, client) = registry().await;
    let (red, blue) = (backend("red").await, backend("blue").await);
    register(&client, "red", &red, 90).await;
    register(&client, "blue", &blue, 10).await;
    let resolver = client.resolver("names").start().await.unwrap();
    let mut stub = KvClient::new(resolver.balanced());
    let mut reds = 0;
    for _ in 0..400 {
        reds += usize::from(name(&mut stub).await.unwrap() == "red");
    }
    assert!(
        (310..=390).contains(&reds),
        "90 of 100 would be 360 of 400, and {reds} are"
    );

    // It dies, and stays registered. After three failures nobody meets it.
    drop(red);
    let mut failures = 0;
    for _ in 0..200 {
        match name(&mut stub).await {
            Ok(name) => assert_eq!(name, "blue"),
            Err(_) => failures += 1,
        }
    }
    assert_eq!(failures, 3);
}

#[tokio::test]
async fn without_an_instance_the_answer_says_so() {
    let (_api, client) = registry().await;
    let resolver = client.resolver("names").start().await.unwrap();
    let mut stub = KvClient::new(resolver.balanced());
    let status = name(&mut stub).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "names has no instances")
    );
}

/// A backend that begins an answer, and then can't give one.
struct Failing;

#[tonic::async_trait]
impl Watch for Failing {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let failed = Err(Status::unavailable("it has no disk"));
        Ok(Response::new(Box::pin(stream::iter([failed]))))
    }
}

#[tokio::test]
async fn an_answer_that_fails_behind_its_head_counts_as_a_failure() {
    let (_api, client) = registry().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder().add_service(WatchServer::new(Failing));
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let failing = Registration::new("names", &address.ip().to_string(), address.port());
    client.catalog.register(failing).await.unwrap();
    let resolver = client.resolver("names").start().await.unwrap();
    let mut stub = WatchClient::new(resolver.balanced());
    for _ in 0..3 {
        let mut answer = stub.watch(WatchRequest::default()).await.unwrap().into_inner();
        let status = answer.message().await.unwrap_err();
        assert_eq!(status.message(), "it has no disk");
    }
    let status = stub.watch(WatchRequest::default()).await.unwrap_err();
    assert!(status.message().contains("have failed"), "{status}");
}
