//! Consul's HTTP API, version 1.
//!
//! A request goes down one road: `routes` finds the handler, `call` holds what was asked, the handler decodes
//! it into a command or a query (`params`, `body`, `duration`, `filter`), asks the registry (`blocking`
//! waits where the client wants to), and encodes the answer (`wire`, `reply`). What can go wrong stands with its
//! text and status code in `error`, and what this release leaves out in `unsupported`.
//!
//! No rule of the registry is decided here: the same registration through another dialect comes to the same.

mod agent;
mod blocking;
mod body;
mod cache;
mod call;
mod catalog;
mod connect;
mod definition;
mod duration;
mod error;
mod filter;
mod health;
mod kv;
mod metrics;
mod moment;
mod params;
mod reply;
mod routes;
mod session;
mod status;
mod txn;
mod unsupported;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Router, extract::Request};
use spine_core::{LeaseId, NodeName, Ttl, WallTime};

use self::{cache::Cache, error::Failure, wire::Encoding};
use crate::{draw::Draw, registry::Registry};

/// The release of Consul whose behaviour is kept: clients branch on it.
pub const CONSUL_VERSION: &str = "1.22.0";

/// What the dialect must be told.
#[derive(Clone)]
pub struct Settings {
    /// The datacenter's name; a request for another is refused.
    pub datacenter: Arc<str>,
    /// This server's node: what is registered through its agent endpoints belongs to it.
    pub node: NodeName,
    /// The time to live of registrations without checks that heartbeat; `None`: they stay.
    pub default_service_ttl: Option<Ttl>,
    /// The release of Spine.
    pub version: Arc<str>,
    /// What only the node around it knows.
    pub host: Arc<dyn Host>,
}

/// What only the node around the dialect knows.
pub trait Host: Send + Sync {
    /// Every metric in the text format of Prometheus.
    fn metrics(&self) -> String;

    /// Wall time, to be shown to people.
    fn wall(&self) -> WallTime;
}

/// The routes of the dialect: `/v1/**`, the mount `/hex/v1/kv/**`, and `/`, which leads to the UI. Every other path
/// is answered as an unknown one, unless a router that knows it is merged.
///
/// Where a `ConnectInfo<SocketAddr>` travels with a request, that is its peer; a `ConnectInfo<&'static str>` names one
/// that has no address.
pub fn router(registry: Arc<dyn Registry>, settings: Settings) -> Router {
    mounted(registry, settings, Encoding::Base64)
}

/// The same with what `/hex` mounts at the root as well: for a listener of its own, where the second tutorial's
/// class is to be used without touching even its URL.
pub fn hex_router(registry: Arc<dyn Registry>, settings: Settings) -> Router {
    mounted(registry, settings, Encoding::Hex)
}

fn mounted(registry: Arc<dyn Registry>, settings: Settings, root_encoding: Encoding) -> Router {
    let dialect = Arc::new(Dialect {
        registry,
        settings,
        root_encoding,
        cache: Cache::default(),
        drawn: AtomicU64::new(0),
        leases: Draw::default(),
    });
    Router::new().fallback(move |request: Request| {
        let dialect = dialect.clone();
        async move { routes::answer(dialect, request).await }
    })
}

/// What the handlers share.
struct Dialect {
    registry: Arc<dyn Registry>,
    settings: Settings,
    /// How values are written where the path names no mount.
    root_encoding: Encoding,
    cache: Cache,
    /// How many numbers [`Dialect::draw`] has given.
    drawn: AtomicU64,
    leases: Draw,
}

impl Dialect {
    /// Refuses the name of another datacenter; an empty one is ours.
    fn check_datacenter(&self, name: &str) -> Result<(), Failure> {
        if name.is_empty() || name == &*self.settings.datacenter {
            Ok(())
        } else {
            Err(Failure::NoDatacenter)
        }
    }

    /// An id for a new session.
    fn draw_lease(&self) -> LeaseId {
        self.leases.lease_id(&self.registry.status())
    }

    /// A number that spreads well: no two waiters get the same. Not chance, so that a simulated world repeats.
    fn draw(&self) -> u64 {
        // One step of SplitMix64.
        let n = self
            .drawn
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }
}
