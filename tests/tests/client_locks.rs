//! `spine-client`'s transactions, leases, locks and elections against the native API, on a registry in memory whose time passes
//! when the test says so.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::{sync::Arc, time::Duration};

use spine_api::{
    Context, Registry,
    local::Local,
    native::{Settings, services},
};
use spine_client::{Client, Compare, Error, KeyRange, LeaseId, LeaseLost, Op};
use spine_core::{Command, Dialect, NodeName, Time, Ttl};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// What happens at once happens within this time on any machine.
const SOON: Duration = Duration::from_secs(30);

struct Served {
    local: Arc<Local>,
    client: Client,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let local = Arc::new(Local::new(NodeName::parse("n1").unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = services(local.clone(), Settings::default());
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_routes(routes);
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            local,
            client: Client::connect(&address.to_string()).unwrap(),
            serving,
        }
    }

    fn lives(&self, id: LeaseId) -> bool {
        self.local.hub().newest().leases().get(core_id(id)).is_some()
    }

    /// When a lease ends if nobody renews it.
    fn ends(&self, id: LeaseId) -> Option<Time> {
        self.local.hub().newest().lease_deadline(core_id(id))
    }

    fn leases(&self) -> usize {
        self.local.hub().newest().leases().iter().count()
    }

    async fn revoke(&self, id: LeaseId) {
        let cx = Context::new(Dialect::Internal);
        self.local
            .propose(&cx, Command::LeaseRevoke(core_id(id)))
            .await
            .unwrap()
            .result
            .unwrap();
    }
}

fn core_id(id: LeaseId) -> spine_core::LeaseId {
    spine_core::LeaseId(u128::from_str_radix(&id.to_string(), 16).unwrap())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    timeout(SOON, happens)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test]
async fn a_lease_is_kept_alive_until_it_is_dropped() {
    let served = Served::start().await;
    let lease = served.client.lease.grant(Duration::from_secs(2)).await.unwrap();
    let also = lease.clone();
    for _ in 0..3 {
        let before = served.ends(lease.id());
        served.local.advance(Ttl::seconds(1));
        until("a renewal", || served.ends(lease.id()) > before).await;
    }
    assert!(served.lives(lease.id()) && lease.is_lost().is_none());
    drop(lease);
    assert!(served.lives(also.id()));
    let id = also.id();
    drop(also);
    until("the lease ends", || !served.lives(id)).await;
}

#[tokio::test]
async fn who_loses_a_lease_is_told() {
    let served = Served::start().await;
    let ended = served.client.lease.grant(Duration::from_secs(2)).await.unwrap();
    served.revoke(ended.id()).await;
    assert_eq!(soon("the loss", ended.lost()).await, LeaseLost::Ended);
    assert_eq!(ended.is_lost(), Some(LeaseLost::Ended));

    let own = served.client.lease.grant(Duration::from_secs(2)).await.unwrap();
    let clone = own.clone();
    own.revoke().await.unwrap();
    assert_eq!(soon("the end", clone.lost()).await, LeaseLost::Ended);

    // No server answers any more: after its time to live nobody knows.
    let unsure = served.client.lease.grant(Duration::from_secs(2)).await.unwrap();
    served.local.set_leaderless(true);
    assert_eq!(soon("the loss", unsure.lost()).await, LeaseLost::Unsure);
    served.serving.abort();
}

#[tokio::test]
async fn a_lock_passes_on_in_order_with_greater_fences() {
    let served = Served::start().await;
    let client = &served.client;
    let first = client.lock("job").acquire().await.unwrap();
    let mut fences = vec![first.fence()];
    let mut waiting = Vec::new();
    for place in 1..4 {
        let lock = client.lock("job");
        waiting.push(tokio::spawn(async move { lock.acquire().await.unwrap() }));
        until("it waits", || served.local.hub().waiting() == place).await;
    }
    assert!(client.lock("job").try_acquire().await.unwrap().is_none());
    let told = client.lock("job").holder().await.unwrap();
    assert_eq!(told.holder.unwrap().fence, first.fence());
    first.release().await.unwrap();
    for (turn, next) in waiting.into_iter().enumerate() {
        let guard = soon("its turn", next).await.unwrap();
        fences.push(guard.fence());
        if turn == 1 {
            // Nobody renews it for long: whoever holds it is told, and the next one has its turn.
            served.revoke(guard.lease().id()).await;
            soon("the loss", guard.lost()).await;
        }
        drop(guard);
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
    until("no lease is left", || served.leases() == 0).await;
}

#[tokio::test]
async fn who_waits_in_vain_leaves_nothing_behind() {
    let served = Served::start().await;
    let held = served.client.lock("job").acquire().await.unwrap();
    let tried = served
        .client
        .lock("job")
        .wait(Duration::from_millis(50))
        .acquire()
        .await;
    assert!(matches!(tried, Err(Error::Deadline(_))), "{tried:?}");
    until("its lease ends", || served.leases() == 1).await;
    // Nor does a future that is dropped.
    let lock = served.client.lock("job");
    let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
    until("it waits", || served.local.hub().waiting() == 1).await;
    waiting.abort();
    until("its lease ends", || served.leases() == 1).await;

    // A lease of the caller's own stays, and only the place goes.
    let lease = served.client.lease.grant(Duration::from_secs(10)).await.unwrap();
    assert!(
        served
            .client
            .lock("job")
            .lease(&lease)
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    );
    let waits = || async { served.client.lock("job").holder().await.unwrap().waiting };
    let gone = async {
        while waits().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the place is given back", gone).await;
    held.release().await.unwrap();
    let guard = served.client.lock("job").lease(&lease).acquire().await.unwrap();
    assert_eq!(guard.lease().id(), lease.id());
    guard.release().await.unwrap();
    assert!(lease.is_lost().is_none() && served.lives(lease.id()));
    // One that is lost holds nothing.
    served.revoke(lease.id()).await;
    let lost = served.client.lock("job").lease(&lease).acquire().await;
    assert_eq!(lost.map(drop), Err(Error::LeaseLost));
}

#[tokio::test]
async fn a_wait_without_an_end_is_none_that_panics() {
    let served = Served::start().await;
    let held = served
        .client
        .lock("job")
        .wait(Duration::MAX)
        .acquire()
        .await
        .unwrap();
    let next = served.client.lock("job").wait(Duration::MAX);
    let next = tokio::spawn(async move { next.acquire().await.unwrap() });
    until("it waits", || served.local.hub().waiting() == 1).await;
    held.release().await.unwrap();
    soon("its turn", next).await.unwrap().release().await.unwrap();
    let election = served.client.election("leader").wait(Duration::MAX);
    election.campaign("n1").await.unwrap().resign().await.unwrap();
}

#[tokio::test]
async fn a_leader_is_elected_observed_and_followed() {
    let served = Served::start().await;
    let election = || served.client.election("leader");
    let mut observer = election().observe();
    assert_eq!(soon("nobody", observer.next()).await.unwrap(), None);
    let first = election().campaign("n1").await.unwrap();
    let leads = async |observer: &mut spine_client::Observer| {
        soon("a leader", observer.next()).await.unwrap().unwrap().value
    };
    assert_eq!(leads(&mut observer).await, "n1");
    let next = election();
    let next = tokio::spawn(async move { next.campaign("n2").await.unwrap() });
    first.proclaim("n1, still").await.unwrap();
    assert_eq!(leads(&mut observer).await, "n1, still");
    let told = election().leader().await.unwrap().leader.unwrap();
    assert_eq!((told.fence, told.value), (first.fence(), "n1, still".into()));
    let fence = first.fence();
    served.revoke(first.lease().id()).await;
    assert_eq!(first.proclaim("n1, nevertheless").await, Err(Error::LeaseLost));
    let second = soon("its turn", next).await.unwrap();
    assert!(second.fence() > fence);
    assert_eq!(leads(&mut observer).await, "n2");
    second.resign().await.unwrap();
    assert_eq!(soon("nobody", observer.next()).await.unwrap(), None);
}

#[tokio::test]
async fn transactions_and_scans_come_whole() {
    let served = Served::start().await;
    let kv = &served.client.kv;
    let move_one = || {
        kv.txn()
            .when(Compare::value("from", "1"))
            .when(Compare::absent("to"))
            .then(Op::delete(KeyRange::Key("from".into())))
            .then(Op::put("to", "1"))
            .otherwise(Op::get(KeyRange::Prefix("".into())))
    };
    kv.put("from", "1").await.unwrap();
    let moved = move_one().commit().await.unwrap();
    assert!(moved.held && moved.results.len() == 2);
    let again = move_one().commit().await.unwrap();
    assert!(!again.held && again.revision == moved.revision);
    let lease = served.client.lease.grant(Duration::from_secs(10)).await.unwrap();
    let locked = kv
        .txn()
        .then(Op::lock("to", lease.id()))
        .then(Op::put_on("attached", "1", lease.id()))
        .commit()
        .await
        .unwrap();
    assert!(locked.unmet.is_empty());
    let unmet = kv
        .txn()
        .then(Op::check(Compare::lock("to", None)))
        .then(Op::put("x", "1"))
        .commit()
        .await
        .unwrap();
    assert_eq!((unmet.unmet.len(), unmet.results.len()), (1, 0));
    let told = served.client.lease.get(lease.id()).await.unwrap();
    assert_eq!((told.keys_count, told.locks_count), (1, 1));

    let mut scan = kv.scan(KeyRange::Prefix("".into())).await.unwrap();
    let page = scan.next().await.unwrap().unwrap();
    let keys: Vec<_> = page.kvs.iter().map(|row| row.key.clone()).collect();
    assert_eq!(keys, ["attached", "to"]);
    assert_eq!(scan.next().await.unwrap(), None);
}
