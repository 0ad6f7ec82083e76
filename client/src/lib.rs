#![doc = include_str!("../README.md")]
//!
//! # In more detail
//! Several servers may be named; any of them answers any call. A call is tried again, at another server, only where
//! that is safe: where nothing was written. What may have been written and was not answered is told as
//! [`Error::Unknown`], never as a failure, unless the client numbers its writes ([`Builder::exactly_once`] says which):
//! then it is sent again and takes effect once. [`Error`] says what the caller can do.
//!
//! A [`WatchStream`] outlives the server that it began at. A [`resolver`] keeps where a service is found, chooses among
//! its healthy instances, leaves those alone that fail, and goes on doing so while no server can be reached; tonic's
//! channels and tower's services are fed by it.
//!
//! Answers are the messages of the API ([`proto`]), whose definitions document every field.

mod admin;
mod catalog;
mod error;
mod health;
mod kv;
mod lease;
mod limits;
mod lock;
mod members;
mod pool;
mod registration;
pub mod resolver;
mod seat;
mod session;
mod txn;
mod watch;

use std::time::Duration;

pub use spine_proto::v1 as proto;

use self::pool::{Caller, Pool, Settings};
pub use self::{
    admin::{Admin, SnapshotStream},
    catalog::Catalog,
    error::{Error, Reason, Refusal, Result},
    health::{CheckScope, Health},
    kv::{Guard, KeyRange, Kv, Scan},
    lease::{Lease, LeaseId, LeaseLost, Leases},
    lock::{Election, Leadership, Lock, LockGuard, Observer},
    members::Members,
    registration::Registration,
    resolver::{Resolver, ResolverBuilder},
    txn::{Compare, Op, Txn},
    watch::{Batch, Topic, Watch, WatchRequest, WatchStream},
};

/// A client: one part for each service of the API. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    /// Keys and values.
    pub kv: Kv,
    /// Nodes and services.
    pub catalog: Catalog,
    /// Checks.
    pub health: Health,
    /// Leases.
    pub lease: Leases,
    /// The servers of the cluster.
    pub members: Members,
    /// What happens, as it happens.
    pub watch: Watch,
    /// What operators do.
    pub admin: Admin,
}

impl Client {
    /// A client of these servers, `HOST:PORT,…`, with the defaults of a [`Builder`]. Connections are made when they
    /// are needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Config`] if an address is not one.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(addresses: &str) -> Result<Self> {
        Self::builder(addresses).build()
    }

    /// A client of these servers, `HOST:PORT,…`, to be told more.
    pub fn builder(addresses: &str) -> Builder {
        let addresses = addresses.split(',').map(|address| address.trim().to_owned());
        Builder(Settings {
            addresses: addresses.collect(),
            token: None,
            deadline: Duration::from_secs(5),
            wait_for_server: true,
            prefer_leader: false,
            sessions: false,
            follow_members: false,
        })
    }

    /// Where a service is found, kept up to date: to be told more and begun.
    pub fn resolver(&self, service: impl Into<String>) -> ResolverBuilder {
        ResolverBuilder::new(self.clone(), service.into())
    }

    /// The addresses of the servers that it speaks to at this moment: those that it was named, and those that it has
    /// learned of ([`Builder::follow_members`]).
    pub fn servers(&self) -> Vec<String> {
        self.kv.caller().pool.addresses()
    }

    /// The same client, whose calls may take so long with all of their attempts, at most a year. Servers obey up to 60 s.
    pub fn within(&self, deadline: Duration) -> Self {
        let caller = self.kv.caller();
        Self::over(Caller {
            pool: caller.pool.within(deadline),
            ..caller.clone()
        })
    }

    /// A lock of this name: who waits is in order, who holds it has a fencing number.
    ///
    /// ```no_run
    /// # async fn example(client: spine_client::Client) -> Result<(), spine_client::Error> {
    /// let guard = client.lock("jobs/nightly").acquire().await?;
    /// println!("it is our turn, number {}", guard.fence());
    /// guard.release().await
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<bytes::Bytes>) -> Lock {
        Lock::new(self.kv.caller().clone(), name.into())
    }

    /// An election of this name: a lock whose holder says something of itself.
    pub fn election(&self, name: impl Into<bytes::Bytes>) -> Election {
        Election::new(self.kv.caller().clone(), name.into())
    }

    /// The same client, whose reads take what the asked server has: they may be behind and need no leader.
    pub fn stale(&self) -> Self {
        Self::over(Caller {
            consistency: proto::Consistency::Stale,
            ..self.kv.caller().clone()
        })
    }

    fn over(caller: Caller) -> Self {
        Self {
            kv: Kv::new(caller.clone()),
            catalog: Catalog::new(caller.clone()),
            health: Health::new(caller.clone()),
            lease: Leases::new(caller.clone()),
            members: Members::new(caller.clone()),
            watch: Watch::new(caller.clone()),
            admin: Admin::new(caller),
        }
    }
}

/// What a client is to be.
#[derive(Clone)]
pub struct Builder(Settings);

impl Builder {
    /// The credential to show.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.0.token = Some(token.into());
        self
    }

    /// How long a call may take with all of its attempts; 5 s unless told, and at most a year. Servers obey up to 60 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.0.deadline = deadline;
        self
    }

    /// Whether a call waits, until its deadline, for a server to be reached; else it fails as soon as each was tried
    /// once. It does unless told.
    #[must_use]
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.0.wait_for_server = wait;
        self
    }

    /// Whether writes go to the leader as soon as a server has said who leads, if its address is one of those named
    /// here; they don't unless told.
    ///
    /// It saves the way from a follower to the leader. It costs the follower's care: when the leader dies, a write that
    /// was sent to a follower goes on to the next leader under a number of the follower's, and one that was sent to the
    /// leader itself is [`Error::Unknown`], unless this client numbers its writes ([`Builder::exactly_once`]).
    #[must_use]
    pub fn prefer_leader(mut self, prefer: bool) -> Self {
        self.0.prefer_leader = prefer;
        self
    }

    /// Whether writes are numbered in a request session, so that one that got no answer is sent again, at any server,
    /// and takes effect once; they aren't unless told. [`Error::Unknown`] is then left for when no server answers
    /// before the deadline, or one refuses what another may have done.
    ///
    /// These writes are numbered: puts, deletes and transactions of [`Kv`], registrations and deregistrations of
    /// [`Catalog`], and reports of [`Health`]. Those of leases, locks, elections, members and operators are not, and are
    /// as without a session.
    ///
    /// A session costs a write when it is first needed; the cluster keeps 10,000 of them, and ends one that was not
    /// used for an hour. At most 1,024 writes at once are numbered: those on top are as without a session. A repeated
    /// registration may answer that nothing changed although its first sending did the change.
    #[must_use]
    pub fn exactly_once(mut self, numbered: bool) -> Self {
        self.0.sessions = numbered;
        self
    }

    /// Whether the client learns from the cluster who its servers are, and so knows of those that come later and forgets
    /// those that go; it doesn't unless told, and then speaks to nobody but those named here.
    ///
    /// It reads the members every 10 s, and as soon as a server has failed, in the background. Servers are reached at the
    /// addresses that they advertise for the native API; those named here are tried as well, always. A client that is idle
    /// while all servers move comes back if one of the names given here leads to one of them.
    #[must_use]
    pub fn follow_members(mut self, follow: bool) -> Self {
        self.0.follow_members = follow;
        self
    }

    /// The client. Must be called within a tokio runtime; connections are made when they are needed.
    ///
    /// # Errors
    /// [`Error::Config`] if an address or the token is not one.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Client> {
        Ok(Client::over(Caller {
            pool: Pool::new(&self.0)?,
            consistency: proto::Consistency::Linearizable,
        }))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("addresses", &self.0.addresses)
            .finish_non_exhaustive()
    }
}
