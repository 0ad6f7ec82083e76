//! A native API to call, on a registry that can be told to fail and remembers who called.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use spine_api::{
    AdminCommand, AdminOutcome, Context, Error, NodeStatus, Registry,
    hub::Hub,
    local::Local,
    native::{Settings, services},
};
use spine_core::{Applied, Command, Dialect, Guard, Member, NodeName, Put, Renewal, Renewed, Repeat, State};
use spine_proto::v1::{self, check_definition::Kind, key_range::Range};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

pub(crate) struct Served {
    pub(crate) registry: Arc<Scripted>,
    pub(crate) channel: Channel,
}

impl Served {
    pub(crate) async fn start() -> Self {
        let registry = Arc::new(Scripted::new().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = services(registry.clone(), Settings::default());
        let serving = Server::builder()
            .add_routes(routes)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Self { registry, channel }
    }

    pub(crate) fn kv(&self) -> v1::kv_client::KvClient<Channel> {
        v1::kv_client::KvClient::new(self.channel.clone())
    }

    pub(crate) fn catalog(&self) -> v1::catalog_client::CatalogClient<Channel> {
        v1::catalog_client::CatalogClient::new(self.channel.clone())
    }

    pub(crate) fn health(&self) -> v1::health_client::HealthClient<Channel> {
        v1::health_client::HealthClient::new(self.channel.clone())
    }

    pub(crate) fn members(&self) -> v1::members_client::MembersClient<Channel> {
        v1::members_client::MembersClient::new(self.channel.clone())
    }

    pub(crate) fn lease(&self) -> v1::lease_client::LeaseClient<Channel> {
        v1::lease_client::LeaseClient::new(self.channel.clone())
    }

    pub(crate) fn lock(&self) -> v1::lock_client::LockClient<Channel> {
        v1::lock_client::LockClient::new(self.channel.clone())
    }

    pub(crate) fn election(&self) -> v1::election_client::ElectionClient<Channel> {
        v1::election_client::ElectionClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> v1::admin_client::AdminClient<Channel> {
        v1::admin_client::AdminClient::new(self.channel.clone())
    }

    pub(crate) fn watch(&self) -> v1::watch_client::WatchClient<Channel> {
        v1::watch_client::WatchClient::new(self.channel.clone())
    }
}

/// A registry in memory behind a script.
pub(crate) struct Scripted {
    pub(crate) local: Local,
    told: std::sync::Mutex<Told>,
    /// Whether deletions wait.
    hold: watch::Sender<bool>,
    ready: watch::Sender<bool>,
}

struct Told {
    fail: Option<Error>,
    fail_once: Option<Error>,
    fail_view_once: Option<Error>,
    /// What is put before the next view is given.
    arrives: Option<&'static str>,
    cluster: Option<&'static str>,
    last: Option<(Duration, Context)>,
}

impl Scripted {
    pub(crate) async fn new() -> Self {
        let name = NodeName::parse("n1").unwrap();
        let local = Local::new(name.clone());
        let up = Command::MemberUp(Member {
            name,
            id: 1,
            node_uuid: "".into(),
            host: "10.0.0.1".into(),
            peer_address: "10.0.0.1:8300".into(),
            http_address: "10.0.0.1:8500".into(),
            grpc_address: "10.0.0.1:8502".into(),
            version: "0.1.0".into(),
            rules: 1,
        });
        local.propose(&Context::new(Dialect::Internal), up).await.unwrap();
        let told = Told {
            fail: None,
            fail_once: None,
            fail_view_once: None,
            arrives: None,
            cluster: None,
            last: None,
        };
        Self {
            local,
            told: told.into(),
            hold: watch::Sender::new(false),
            ready: watch::Sender::new(true),
        }
    }

    /// From now on every proposal ends so.
    pub(crate) fn fail_with(&self, error: Error) {
        self.told.lock().unwrap().fail = Some(error);
    }

    /// The next proposal alone ends so.
    pub(crate) fn fail_once_with(&self, error: Error) {
        self.told.lock().unwrap().fail_once = Some(error);
    }

    /// The next read alone ends so.
    pub(crate) fn fail_view_once_with(&self, error: Error) {
        self.told.lock().unwrap().fail_view_once = Some(error);
    }

    /// The next read waits for what this server has not heard of yet: that this key was put.
    pub(crate) fn lag_behind(&self, key: &'static str) {
        self.told.lock().unwrap().arrives = Some(key);
    }

    /// From now on it is a server of this cluster.
    pub(crate) fn set_cluster(&self, id: &'static str) {
        self.told.lock().unwrap().cluster = Some(id);
    }

    /// From now on deletions of keys are on their way until they are let go.
    pub(crate) fn hold_deletions(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Waits until so many deletions are on their way.
    pub(crate) async fn deletions_held(&self, count: usize) {
        while self.hold.receiver_count() != count {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// How much time the last call was given, and all that was said about it.
    pub(crate) fn last_call(&self) -> (Duration, Context) {
        self.told.lock().unwrap().last.clone().expect("a call was made")
    }

    /// Puts a key without a connection in between; gives the index.
    pub(crate) async fn put_here(&self, key: &'static str, value: String) -> u64 {
        let put = Put {
            key: key.into(),
            value: value.into(),
            flags: 0,
            lease: None,
            guard: Guard::Always,
            repeat: Repeat::Skip,
        };
        self.local
            .propose(&Context::new(Dialect::Native), Command::Put(put))
            .await
            .unwrap()
            .index
            .0
    }
}

#[tonic::async_trait]
impl Registry for Scripted {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let fail = {
            let mut told = self.told.lock().unwrap();
            told.last = Some((cx.deadline.saturating_duration_since(Instant::now()), cx.clone()));
            told.fail_once.take().or_else(|| told.fail.clone())
        };
        if matches!(command, Command::Delete(_)) {
            let mut held = self.hold.subscribe();
            held.wait_for(|held| !held).await.expect("the registry is there");
        }
        match fail {
            Some(error) => Err(error),
            None => self.local.propose(cx, command).await,
        }
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        self.local.renew(cx, renewal).await
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        let (fail, arrives) = {
            let mut told = self.told.lock().unwrap();
            (told.fail_view_once.take(), told.arrives.take())
        };
        if let Some(key) = arrives {
            self.put_here(key, String::new()).await;
        }
        match fail {
            Some(error) => Err(error),
            None => self.local.view(cx).await,
        }
    }

    fn hub(&self) -> &Hub {
        self.local.hub()
    }

    fn status(&self) -> NodeStatus {
        let cluster = self.told.lock().unwrap().cluster;
        let status = self.local.status();
        NodeStatus {
            ready: *self.ready.borrow(),
            cluster_id: cluster.map_or(status.cluster_id, Into::into),
            ..status
        }
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn votes(&self) -> BTreeMap<u64, bool> {
        self.local.votes()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        self.local.admin(cx, command).await
    }
}

pub(crate) fn prefix(prefix: &'static str) -> v1::KeyRange {
    v1::KeyRange {
        range: Some(Range::Prefix(prefix.into())),
    }
}

pub(crate) fn put(key: &'static str, value: &'static str) -> v1::PutRequest {
    v1::PutRequest {
        key: key.into(),
        value: value.into(),
        ..v1::PutRequest::default()
    }
}

pub(crate) fn photo(id: &str, meta_version: &str, passing: u32) -> v1::RegisterRequest {
    v1::RegisterRequest {
        service: Some(v1::Service {
            id: id.into(),
            name: "photo".into(),
            port: 80,
            meta: [("version".to_owned(), meta_version.to_owned())].into(),
            weights: Some(v1::Weights { passing, warning: 1 }),
            ..v1::Service::default()
        }),
        ..v1::RegisterRequest::default()
    }
}

pub(crate) fn ttl_check() -> v1::CheckDefinition {
    v1::CheckDefinition {
        kind: Some(Kind::TtlMs(10_000)),
        ..v1::CheckDefinition::default()
    }
}
