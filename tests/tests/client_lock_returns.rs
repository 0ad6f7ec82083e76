//! `spine-client` gives a place in a queue back while its answers are late, and while it takes the same lock again.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::{sync::Arc, time::Duration};

use spine_api::{
    AdminCommand, AdminOutcome, Context, Error, NodeStatus, Registry,
    hub::Hub,
    local::Local,
    native::{Settings, services},
};
use spine_client::{Client, Lease};
use spine_core::{Applied, Command, NodeName, Renewal, Renewed, State, TxnOp};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// What happens at once happens within this time on any machine.
const SOON: Duration = Duration::from_secs(30);

/// A registry in memory in which what gives something back may be on its way for long.
struct Late {
    local: Local,
    hold: watch::Sender<bool>,
}

impl Late {
    fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Waits until so many are on their way.
    async fn held(&self, count: usize) {
        until("it is on its way", || self.hold.receiver_count() == count).await;
    }
}

fn gives_back(command: &Command) -> bool {
    match command {
        Command::Delete(_) | Command::LeaseRevoke(_) => true,
        Command::Txn(txn) => txn.then.iter().any(|op| matches!(op, TxnOp::Delete(_))),
        _ => false,
    }
}

#[async_trait::async_trait]
impl Registry for Late {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        if gives_back(&command) {
            let mut held = self.hold.subscribe();
            held.wait_for(|held| !held).await.expect("the registry is there");
        }
        self.local.propose(cx, command).await
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        self.local.renew(cx, renewal).await
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        self.local.view(cx).await
    }

    fn hub(&self) -> &Hub {
        self.local.hub()
    }

    fn status(&self) -> NodeStatus {
        self.local.status()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.local.ready()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        self.local.admin(cx, command).await
    }
}

async fn served() -> (Arc<Late>, Client) {
    let registry = Arc::new(Late {
        local: Local::new(NodeName::parse("n1").unwrap()),
        hold: watch::Sender::new(false),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = services(registry.clone(), Settings::default());
    tokio::spawn(async move {
        let server = Server::builder().add_routes(routes);
        let incoming = TcpListenerStream::new(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    (registry, Client::connect(&address.to_string()).unwrap())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until nothing changes any more.
async fn settled(registry: &Late) {
    let mut seen = registry.hub().newest().index();
    let mut quiet = 0;
    while quiet < 100 {
        tokio::task::yield_now().await;
        let now = registry.hub().newest().index();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}

/// The fencing number of the holder.
async fn fence(client: &Client) -> Option<u64> {
    let told = client.lock("job").holder().await.unwrap();
    told.holder.map(|place| place.fence)
}

/// Takes the lock again while its last place is on its way back, and keeps it.
async fn takes_it_again(registry: &Late, client: &Client, lease: &Lease, old: u64) {
    let lock = client.lock("job").lease(lease);
    let again: JoinHandle<_> = tokio::spawn(async move { lock.acquire().await.unwrap() });
    settled(registry).await;
    registry.hold(false);
    let guard = timeout(SOON, again).await.unwrap().unwrap();
    settled(registry).await;
    assert_eq!(fence(client).await, Some(guard.fence()));
    assert!(guard.fence() > old, "it is another place");
    guard.release().await.unwrap();
    assert_eq!(fence(client).await, None);
}

#[tokio::test]
async fn a_guard_that_was_dropped_takes_nothing_from_the_next_one() {
    let (registry, client) = served().await;
    let lease = client.lease.grant(Duration::from_secs(10)).await.unwrap();
    let guard = client.lock("job").lease(&lease).acquire().await.unwrap();
    let old = guard.fence();
    registry.hold(true);
    drop(guard);
    registry.held(1).await;
    takes_it_again(&registry, &client, &lease, old).await;
}

#[tokio::test]
async fn a_release_that_is_broken_off_goes_on() {
    let (registry, client) = served().await;
    let shared = client.lease.grant(Duration::from_secs(10)).await.unwrap();
    // On a lease of the caller's, and on one of its own.
    for lease in [Some(&shared), None] {
        let lock = client.lock("job");
        let lock = lease.map_or(lock.clone(), |lease| lock.lease(lease));
        let guard = lock.acquire().await.unwrap();
        registry.hold(true);
        let releasing = tokio::spawn(guard.release());
        registry.held(1).await;
        // The server hears of it, and what was on its way is given up; another request comes in its place.
        releasing.abort();
        releasing.await.unwrap_err();
        let given_up = registry.local.hub().newest().index();
        settled(&registry).await;
        assert_eq!(registry.local.hub().newest().index(), given_up);
        registry.hold(false);
        let free = async {
            while fence(&client).await.is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, free).await.expect("the lock is given back");
    }
}

#[tokio::test]
async fn a_revocation_that_is_broken_off_goes_on() {
    let (registry, client) = served().await;
    let lease = client.lease.grant(Duration::from_secs(10)).await.unwrap();
    registry.hold(true);
    let revoking = tokio::spawn(lease.revoke());
    registry.held(1).await;
    revoking.abort();
    revoking.await.unwrap_err();
    // That of the aborted call goes, another one comes.
    settled(&registry).await;
    registry.hold(false);
    until("the lease ends", || {
        registry.hub().newest().leases().iter().count() == 0
    })
    .await;
}

#[tokio::test]
async fn who_waited_in_vain_or_broke_off_takes_nothing_from_the_next_call() {
    let (registry, client) = served().await;
    let lease = client.lease.grant(Duration::from_secs(10)).await.unwrap();
    for breaks_off in [false, true] {
        let holder = client.lock("job").acquire().await.unwrap();
        let old = holder.fence();
        registry.hold(true);
        if breaks_off {
            let lock = client.lock("job").lease(&lease);
            let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
            until("it waits", || registry.hub().waiting() == 1).await;
            waiting.abort();
        } else {
            let tried = client.lock("job").lease(&lease).try_acquire().await.unwrap();
            assert!(tried.is_none());
        }
        registry.held(1).await;
        let next = client.lock("job").lease(&lease);
        let next = tokio::spawn(async move { next.acquire().await.unwrap() });
        let released = tokio::spawn(holder.release());
        settled(&registry).await;
        registry.hold(false);
        let guard = timeout(SOON, next).await.unwrap().unwrap();
        timeout(SOON, released).await.unwrap().unwrap().unwrap();
        settled(&registry).await;
        assert_eq!(fence(&client).await, Some(guard.fence()));
        assert!(guard.fence() > old);
        guard.release().await.unwrap();
    }
}
