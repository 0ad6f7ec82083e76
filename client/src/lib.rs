//! A client of Spine over its native API, `spine.v1`.
//!
//! ```no_run
//! # async fn example() -> Result<(), spine_client::Error> {
//! use spine_client::{Client, Registration};
//!
//! let client = Client::connect("10.0.0.1:8502,10.0.0.2:8502,10.0.0.3:8502")?;
//! client.catalog.register(Registration::new("photo", "10.0.0.7", 8080).version("2")).await?;
//! for target in client.catalog.resolve("photo").await?.targets {
//!     println!("{}:{} gets {}", target.address, target.port, target.weight);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Several servers may be named; any of them answers any call. A call is tried again, at another server, only where
//! that is safe: where nothing was written. What may have been written and was not answered is told as
//! [`Error::Unknown`], never as a failure. [`Error`] says what the caller can do.
//!
//! Answers are the messages of the API ([`proto`]), whose definitions document every field.

mod catalog;
mod error;
mod health;
mod kv;
mod members;
mod pool;
mod registration;
mod watch;

use std::{sync::Arc, time::Duration};

pub use spine_proto::v1 as proto;

use self::pool::{Caller, Pool};
pub use self::{
    catalog::Catalog,
    error::{Error, Refusal, Result},
    health::{CheckScope, Health},
    kv::{Guard, KeyRange, Kv},
    members::Members,
    registration::Registration,
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
    /// The servers of the cluster.
    pub members: Members,
    /// What happens, as it happens.
    pub watch: Watch,
}

impl Client {
    /// A client of these servers, `HOST:PORT,…`, with the defaults of a [`Builder`]. Connections are made when they
    /// are needed.
    ///
    /// # Errors
    /// [`Error::Config`] if an address is not one.
    pub fn connect(addresses: &str) -> Result<Self> {
        Self::builder(addresses).build()
    }

    /// A client of these servers, `HOST:PORT,…`, to be told more.
    pub fn builder(addresses: &str) -> Builder {
        Builder {
            addresses: addresses
                .split(',')
                .map(|address| address.trim().to_owned())
                .collect(),
            token: None,
            deadline: Duration::from_secs(5),
            wait_for_server: true,
        }
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
            members: Members::new(caller.clone()),
            watch: Watch::new(caller),
        }
    }
}

/// What a client is to be.
#[derive(Clone)]
pub struct Builder {
    addresses: Vec<String>,
    token: Option<String>,
    deadline: Duration,
    wait_for_server: bool,
}

impl Builder {
    /// The credential to show.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long a call may take with all of its attempts; 5 s unless told.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether a call waits, until its deadline, for a server to be reached; else it fails as soon as each was tried
    /// once. It does unless told.
    #[must_use]
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// The client. Must be called within a tokio runtime; connections are made when they are needed.
    ///
    /// # Errors
    /// [`Error::Config`] if an address or the token is not one.
    pub fn build(self) -> Result<Client> {
        let pool = Pool::new(
            &self.addresses,
            self.token.as_deref(),
            self.deadline,
            self.wait_for_server,
        )?;
        let consistency = proto::Consistency::Linearizable;
        Ok(Client::over(Caller {
            pool: Arc::new(pool),
            consistency,
        }))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}
