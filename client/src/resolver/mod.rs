//! Where a service is found: a cache that a watch keeps, and a choice among the healthy instances.
//!
//! ```no_run
//! # async fn call(_: &str) -> bool { true }
//! # async fn example(client: spine_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use spine_client::resolver::Report;
//!
//! let photo = client.resolver("photo").version("2").start().await?;
//! let pick = photo.pick()?;
//! let served = call(&pick.address()).await;
//! pick.report(if served { Report::Success } else { Report::Failure });
//! # Ok(())
//! # }
//! ```
//!
//! [`ResolverBuilder::start`] reads the service once; from then on a task of the [`Resolver`] follows what changes, at
//! whichever server can be reached. While none can, the last that was known is served, and [`Resolver::age`] says how old
//! it is.
//!
//! [`Resolver::pick`] chooses by weight, among the instances whose checks pass ([`ResolverBuilder::include_warning`]:
//! or warn). What became of the request is told with [`Pick::report`]: an instance that fails three times in a row is
//! left alone for 30 seconds, whatever its checks say ([`BreakerPolicy`]), and then gets one request to see whether it is
//! back.
//!
//! For gRPC, [`Resolver::channel`] is a `Channel` whose connections follow the service, and [`Balanced`] a tower
//! service that sends each request where `pick` says.

mod balanced;
mod balancer;
mod breaker;
mod follow;
mod view;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use spine_proto::v1::ResolvedTarget;
use tokio::{sync::watch, task::AbortHandle};

pub use self::{balanced::Balanced, breaker::BreakerPolicy};
use self::{
    balancer::{Balancer, End, Nobody},
    breaker::Turn,
    follow::Follower,
    view::Wanted,
};
use crate::{Client, error::Result};

/// Tells the time.
type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// A resolver that has not begun.
#[derive(Clone)]
#[must_use]
pub struct ResolverBuilder {
    client: Client,
    wanted: Wanted,
    breaker: BreakerPolicy,
    clock: Clock,
}

impl ResolverBuilder {
    pub(crate) fn new(client: Client, service: String) -> Self {
        Self {
            client,
            wanted: Wanted {
                service,
                ..Wanted::default()
            },
            breaker: BreakerPolicy::default(),
            clock: Arc::new(Instant::now),
        }
    }

    /// Only instances of this version: that have it in their metadata or as a tag.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.wanted.version = version.into();
        self
    }

    /// Only instances with this tag, too.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.wanted.tags.push(tag.into());
        self
    }

    /// Instances whose checks warn get requests as well, by their weight for that.
    pub fn include_warning(mut self) -> Self {
        self.wanted.warning = true;
        self
    }

    /// When an instance is left alone; after three failures in a row for 30 s unless told.
    pub fn breaker(mut self, policy: BreakerPolicy) -> Self {
        self.breaker = policy;
        self
    }

    /// Another clock, by which breakers pause and ages are told. For tests.
    pub fn clock(mut self, clock: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Begins. Returns when the service has been read once; a service that nobody has registered is no error. Must be
    /// called within a tokio runtime, which then follows the changes.
    ///
    /// # Errors
    /// As every read: there is nothing to serve before the first one.
    pub async fn start(self) -> Result<Resolver> {
        let follower = Follower::new(self.client, self.wanted.clone());
        let heard = (self.clock)();
        let read = follower.read().await?;
        let shared = Arc::new(Shared {
            wanted: self.wanted,
            clock: self.clock,
            known: Mutex::new(Known {
                balancer: Balancer::new(self.breaker),
                registered: 0,
                heard,
            }),
            targets: watch::Sender::new(Targets::default()),
        });
        shared.publish(read.resolved(&shared.wanted));
        let following = tokio::spawn(follower.run(read, shared.clone())).abort_handle();
        Ok(Resolver {
            shared,
            _following: Arc::new(Following(following)),
        })
    }
}

impl fmt::Debug for ResolverBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverBuilder")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

/// The instances that may get requests, by node and id.
pub type Targets = Arc<[Arc<ResolvedTarget>]>;

/// Where a service is found. Clones share all of it, breakers too; when the last one is dropped the watch ends.
#[derive(Clone, Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    _following: Arc<Following>,
}

impl Resolver {
    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.shared.wanted.service
    }

    /// The instance for a request that begins now. Never waits.
    ///
    /// # Errors
    /// [`NoTarget`]: there is none, or none that may get a request now.
    pub fn pick(&self) -> Result<Pick, NoTarget> {
        let now = (self.shared.clock)();
        let mut known = self.shared.known();
        let service = || self.service().to_owned();
        match known.balancer.pick(now, &mut rand::rng()) {
            Ok((target, turn)) => Ok(Pick {
                target,
                turn,
                shared: Some(self.shared.clone()),
            }),
            Err(Nobody::Open(probe_at)) => Err(NoTarget::CircuitOpen {
                service: service(),
                retry_in: probe_at.saturating_duration_since(now),
            }),
            Err(Nobody::Empty) if known.registered == 0 => Err(NoTarget::NotFound { service: service() }),
            Err(Nobody::Empty) => Err(NoTarget::NonePasses {
                service: service(),
                registered: known.registered,
            }),
        }
    }

    /// The instances that may get requests as far as their checks say, breakers aside.
    pub fn targets(&self) -> Targets {
        self.shared.targets.borrow().clone()
    }

    /// The same as they change. A receiver sees the newest, not each.
    pub fn changes(&self) -> watch::Receiver<Targets> {
        self.shared.targets.subscribe()
    }

    /// How many instances are registered, whatever their health: of the version and with the tags that are wanted.
    pub fn registered(&self) -> usize {
        self.shared.known().registered
    }

    /// How long ago a server last said that this is how it is. While its server serves, that is about two seconds at
    /// most. One that hangs is given up 9 s after its last word, and another is asked: until then, and while none can be
    /// reached, it grows.
    pub fn age(&self) -> Duration {
        let heard = self.shared.known().heard;
        (self.shared.clock)().saturating_duration_since(heard)
    }
}

/// An instance that was picked for a request.
#[derive(Debug)]
pub struct Pick {
    target: Arc<ResolvedTarget>,
    turn: Turn,
    /// `None` once it has been reported.
    shared: Option<Arc<Shared>>,
}

/// How a request ended, as far as the instance that it went to is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The instance serves. An answer that the caller doesn't like is one, too.
    Success,
    /// The instance could not be reached, did not answer in time, or said that it can't serve.
    Failure,
}

impl Pick {
    /// The instance.
    pub fn target(&self) -> &ResolvedTarget {
        &self.target
    }

    /// Where it is reached, `HOST:PORT`.
    pub fn address(&self) -> String {
        host_and_port(&self.target)
    }

    /// Says how the request ended. Dropped without a report it says nothing.
    pub fn report(mut self, report: Report) {
        self.end(match report {
            Report::Success => End::Success,
            Report::Failure => End::Failure,
        });
    }

    fn end(&mut self, end: End) {
        if let Some(shared) = self.shared.take() {
            let now = (shared.clock)();
            shared.known().balancer.ended(&self.target, self.turn, end, now);
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.end(End::Untold);
    }
}

/// Why no instance gets a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTarget {
    /// No such instance is registered. Is the name right, and the version?
    #[error("{service} has no instances")]
    NotFound {
        /// The service.
        service: String,
    },
    /// There are instances, and the checks of none of them let it have requests. Try again when one recovers.
    #[error("{service} has {registered} instances, and none passes")]
    NonePasses {
        /// The service.
        service: String,
        /// How many there are.
        registered: usize,
    },
    /// Requests to every healthy instance have failed of late, and all are left alone. Try again later.
    #[error("{service}: requests to every instance have failed; the next one is let through in {retry_in:?}")]
    CircuitOpen {
        /// The service.
        service: String,
        /// When the first of them is tried again.
        retry_in: Duration,
    },
}

/// What the resolver and its task share.
struct Shared {
    wanted: Wanted,
    clock: Clock,
    /// Held for a choice or a change, never over a wait.
    known: Mutex<Known>,
    targets: watch::Sender<Targets>,
}

struct Known {
    balancer: Balancer,
    registered: usize,
    /// When a server last said so.
    heard: Instant,
}

impl Shared {
    /// Nothing panics while it is held, but for what would have panicked without it.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server says that nothing else has happened until now.
    fn heard(&self) {
        self.known().heard = (self.clock)();
    }

    fn publish(&self, resolved: view::Resolved) {
        let targets: Targets = {
            let mut known = self.known();
            known.balancer.replace(resolved.targets);
            known.registered = resolved.registered;
            known.balancer.targets().cloned().collect()
        };
        self.targets.send_if_modified(|before| {
            let changed = *before != targets;
            *before = targets;
            changed
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

/// The task that follows the service; it ends with this.
#[derive(Debug)]
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
fn host_and_port(target: &ResolvedTarget) -> String {
    let ResolvedTarget { address, port, .. } = target;
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
