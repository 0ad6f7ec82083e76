//! A server: a node with ways in.
//!
//! [`Server::start`] binds every port before anything else, so that a port in use is said at once and nothing has been
//! touched; then it starts the node, waits until it serves, sees that the cluster has a CA root, begins to probe, and
//! only then answers. Until then its ports say that it is not ready, and what it waits for. [`Server::stop`] goes the other way: nothing new comes in, what is on its way is answered, who waits
//! for a change is told that the server ends, the node writes its checkpoint.

mod door;
mod host;
mod listen;
mod ops;
mod port;
mod socket;
pub mod systemd;
mod tls;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use spine_api::{Registry, consul, native, ui};
use tokio::sync::watch;

pub use self::{socket::SocketError, tls::TlsError};

use self::{
    door::{Door, NotReady},
    host::Host,
    listen::{WayIn, WaysIn},
    ops::Ops,
    port::{Port, Protocol},
};
use crate::{
    Node, NodeSettings, World,
    ca::{self, CaError, SealKey, SealKeyError},
    cli::Exit,
    config::{Config, Endpoint, HostPort, defaults},
    node::{PeerPort, PeerSettings},
    peer::Waiting,
    probe::{Guard, NetProber, Probes},
    raft::bootstrap::StartError,
    storage::log::LogOptions,
    telemetry::{count::Count, metrics::Metrics},
    world::net::Listener,
};

/// While the node is not ready, it is looked at why so often,
const WAITING_LOOKED_AT_EVERY: Duration = Duration::from_millis(200);
/// and written to the log every so many times: every 5 s.
const WAITING_SAID_EVERY: u32 = 25;

/// Why a server does not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A port is taken.
    #[error("{option}: {address} is in use by another process; stop that one, or choose another address")]
    InUse {
        /// The option that names the address.
        option: &'static str,
        /// The address.
        address: HostPort,
    },
    /// An address can't be listened on.
    #[error("{option}: can't listen on {address}: {source}")]
    Listen {
        /// The option that names the address.
        option: &'static str,
        /// The address.
        address: HostPort,
        /// Why.
        source: io::Error,
    },
    /// The certificate or the key of the HTTPS port can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The Unix socket can't be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The data of a `dev` server has no place.
    #[error("can't make a temporary directory: {0}")]
    Temporary(io::Error),
    /// The seal key is not usable.
    #[error(transparent)]
    SealKey(#[from] SealKeyError),
    /// The node does not start.
    #[error(transparent)]
    Node(#[from] StartError),
    /// The CA has no root.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The node can't go on.
    #[error("the node can't go on: {0}")]
    Fatal(Arc<str>),
    /// The other servers refuse the node.
    #[error("{0}")]
    Refused(Arc<str>),
}

impl ServeError {
    /// What the process ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Node(error) if error.is_refusal() => Exit::Refused,
            Self::Refused(_) => Exit::Refused,
            _ => Exit::Error,
        }
    }
}

/// A running server.
pub struct Server {
    node: Node,
    probes: Probes,
    ports: Vec<port::Serving>,
    stopping: watch::Sender<bool>,
    places: Places,
    drain: Duration,
    /// Removed when the server has ended.
    temporary: Option<tempfile::TempDir>,
}

/// Where a server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Consul's API, the UI, metrics.
    pub http: Option<SocketAddr>,
    /// The same over TLS.
    pub https: Option<SocketAddr>,
    /// The same on a Unix socket.
    pub http_socket: Option<PathBuf>,
    /// The native API.
    pub grpc: Option<SocketAddr>,
    /// Traffic between servers.
    pub peer: Option<SocketAddr>,
    /// Its data.
    pub data_dir: PathBuf,
}

impl Server {
    /// Starts a server; it answers when this returns.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn start(config: Config, world: World) -> Result<Self, ServeError> {
        let seal = config.ca_seal_key.as_deref().map(SealKey::read).transpose()?;
        let ways_in = WaysIn::open(&world, &config).await?;
        let (data_dir, temporary) = data_dir(&config)?;
        let places = Places {
            http: ways_in.http.as_ref().and_then(WayIn::address),
            https: ways_in.https.as_ref().and_then(WayIn::address),
            http_socket: ways_in.socket.as_ref().and_then(WayIn::path).map(Into::into),
            grpc: ways_in.grpc.as_ref().and_then(WayIn::address),
            peer: ways_in.peer.as_ref().and_then(|peer| peer.address().ok()),
            data_dir,
        };
        let metrics = Arc::new(Metrics::new(world.clock.clone()));
        let waiting = Waiting::default();
        let doors = Doors::new(&waiting);
        let settings = settings(&config, &places, ways_in.peer.clone());
        let (stopping, stop) = watch::channel(false);
        let ports = serve(ways_in, &doors, &config, &metrics, &stop);

        // On the heap: it waits for many things, and whoever awaits it would hold room for all of them.
        let node = Node::start_waiting(settings, world.clone(), metrics.clone(), &waiting);
        let node = Box::pin(node).await?;
        let registry = node.registry();
        ready(&node, &*registry, &waiting).await?;
        ca::ensure_root(&*registry, &world, seal.as_ref()).await?;

        let own_ports = [places.http, places.https, places.grpc]
            .into_iter()
            .flatten()
            .map(|address| address.port());
        let prober = NetProber::new(
            world.net.clone(),
            Guard::new(config.probe_allow.clone(), own_ports),
        );
        let probes = Probes::start(
            registry.clone(),
            Arc::new(prober),
            world.rng.clone(),
            metrics.clone(),
        );

        let clock = world.clock.clone();
        let host = Host::new(
            &node,
            &config,
            places.data_dir.clone(),
            metrics.clone(),
            clock.clone(),
        );
        let ops = Ops {
            registry: registry.clone(),
            metrics,
            clock,
        };
        doors.http.open(http_router(&config, &ops));
        doors.grpc.open(grpc_router(&config, &ops, host));
        Ok(Self {
            ports,
            node,
            probes,
            stopping,
            places,
            drain: config.drain,
            temporary,
        })
    }

    /// Where it is found.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The way in.
    pub fn registry(&self) -> Arc<dyn Registry> {
        self.node.registry()
    }

    /// Waits until the node can't go on, and says why.
    pub async fn fatal(&self) -> ServeError {
        let reason = self.node.fatal().await;
        if self.node.is_refused() {
            ServeError::Refused(reason)
        } else {
            ServeError::Fatal(reason)
        }
    }

    /// Waits until this server has left its cluster by its own wish: it is to be stopped then.
    pub async fn left(&self) {
        self.node.left().await;
    }

    /// Ends in order: takes no more connections, answers what came in, tells those who wait for a change, writes a
    /// checkpoint.
    ///
    /// # Errors
    /// The log could not be closed in order; what was acknowledged is durable all the same.
    pub async fn stop(self) -> Result<(), ServeError> {
        self.stopping.send_replace(true);
        // Parked queries would hold their connections until their time is up.
        self.node.registry().hub().close();
        let drained = async {
            for port in self.ports {
                port.drained().await;
            }
        };
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            tracing::warn!(within = ?self.drain, "not all connections ended in time");
        }
        self.probes.ended().await;
        self.node.stop().await?;
        if let Some(temporary) = self.temporary {
            temporary.close().map_err(ServeError::Temporary)?;
        }
        Ok(())
    }
}

/// What the ports answer with.
struct Doors {
    http: Door,
    grpc: Door,
}

impl Doors {
    fn new(waiting: &Waiting) -> Self {
        Self {
            http: Door::new(NotReady(waiting.clone()).http()),
            grpc: Door::new(NotReady(waiting.clone()).grpc()),
        }
    }
}

/// Lets clients in.
fn serve(
    ways_in: WaysIn,
    doors: &Doors,
    config: &Config,
    metrics: &Arc<Metrics>,
    stop: &watch::Receiver<bool>,
) -> Vec<port::Serving> {
    let ports = [
        ("http", ways_in.http, Protocol::Http1, &doors.http),
        ("https", ways_in.https, Protocol::Http1, &doors.http),
        ("unix", ways_in.socket, Protocol::Http1, &doors.http),
        ("grpc", ways_in.grpc, Protocol::Http2, &doors.grpc),
    ];
    let ports = ports.into_iter().filter_map(|(name, way_in, protocol, door)| {
        let port = Port {
            name,
            way_in: way_in?,
            protocol,
            door: door.clone(),
            connections_max: config.connections_max,
            metrics: metrics.clone(),
        };
        Some(port.serve(stop.clone()))
    });
    ports.collect()
}

fn data_dir(config: &Config) -> Result<(PathBuf, Option<tempfile::TempDir>), ServeError> {
    if let Some(data_dir) = &config.data_dir {
        return Ok((data_dir.clone(), None));
    }
    let temporary = tempfile::Builder::new()
        .prefix("spine-dev-")
        .tempdir()
        .map_err(ServeError::Temporary)?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

fn settings(config: &Config, places: &Places, peer_port: Option<Arc<dyn Listener>>) -> NodeSettings {
    let told = |endpoint: Option<&Endpoint>, bound: Option<SocketAddr>| match (endpoint, bound) {
        (Some(endpoint), Some(bound)) => Some(
            endpoint
                .advertise
                .clone()
                .unwrap_or_else(|| HostPort::new(reachable(bound), bound.port())),
        ),
        (_, _) => None,
    };
    let http = told(config.http.as_ref(), places.http);
    let grpc = told(config.grpc.as_ref(), places.grpc);
    let text = |address: Option<&HostPort>| address.map(ToString::to_string).unwrap_or_default().into();
    let https = config.https.as_ref().map(|https| &https.endpoint);
    let https = told(https, places.https);
    let peer = told(config.peer.as_ref(), places.peer);
    let host = [&http, &https, &grpc]
        .into_iter()
        .flatten()
        .next()
        .map_or("127.0.0.1", |address| &address.host);
    NodeSettings {
        datacenter: config.datacenter.as_str().into(),
        host: host.into(),
        http_address: text(http.as_ref()),
        grpc_address: text(grpc.as_ref()),
        // A cluster of one listens to no peer; clients still tell servers apart by the address that it would have.
        peer_address: match (config.founders.address(config.name.as_str()), peer) {
            (Some(listed), _) => listed.into(),
            (None, Some(told)) => told.to_string().into(),
            (None, None) => HostPort::new(host, defaults::PEER_PORT).to_string().into(),
        },
        peers: peer_port.map(|listener| PeerSettings {
            port: PeerPort::Bound(listener),
            founders: config.founders.peers().collect(),
            join: config.join.iter().map(ToString::to_string).collect(),
            replace: config.replace.as_ref().map(ToString::to_string),
        }),
        history: config.history,
        rules_hold: config.rules_hold,
        quota: config.quota,
        log: LogOptions {
            engine: config.log_engine,
            ..LogOptions::default()
        },
        ..NodeSettings::new(config.name.clone(), places.data_dir.clone())
    }
}

/// The address at which others reach what is bound to `bound`: if that is every address of the machine, the one that it
/// would send from.
fn reachable(bound: SocketAddr) -> String {
    let ip = bound.ip();
    if !ip.is_unspecified() {
        return ip.to_string();
    }
    outward(ip).unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string()
}

/// The address that this machine sends from. Nothing is sent: a datagram socket that is connected knows its own end.
#[expect(clippy::disallowed_methods, reason = "asks the machine about its addresses")]
fn outward(any: IpAddr) -> Option<IpAddr> {
    let somewhere: IpAddr = match any {
        // Addresses for documentation, routed like any other.
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((somewhere, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Waits until the node serves, saying now and then what it waits for.
async fn ready(node: &Node, registry: &dyn Registry, waiting: &Waiting) -> Result<(), ServeError> {
    let mut ready = std::pin::pin!(node.ready());
    let mut looks = 0;
    loop {
        tokio::select! {
            ended = &mut ready => return ended.map_err(ServeError::Fatal),
            () = tokio::time::sleep(WAITING_LOOKED_AT_EVERY) => looks += 1,
        }
        let status = registry.status();
        let missing = ops::missing(&status);
        if looks % WAITING_SAID_EVERY == 0 {
            tracing::info!(
                role = ?status.role, term = status.term, applied = status.applied, committed = status.committed,
                "not ready yet: {missing}"
            );
        }
        waiting.set(missing);
    }
}

fn http_router(config: &Config, ops: &Ops) -> Router {
    let settings = consul::Settings {
        datacenter: config.datacenter.as_str().into(),
        node: config.name.clone(),
        default_service_ttl: config.default_service_ttl,
        version: env!("CARGO_PKG_VERSION").into(),
        host: Arc::new(ops.clone()),
    };
    let dialects = ui::router(ops.registry.clone()).merge(consul::router(ops.registry.clone(), settings));
    ops.router()
        .merge(dialects)
        .layer(Count::new(ops.metrics.clone(), http_dialect))
}

fn http_dialect(path: &str) -> &'static str {
    match path.trim_start_matches('/').split('/').next() {
        Some("ui") => "ui",
        Some("metrics" | "livez" | "readyz") => "ops",
        _ => "consul",
    }
}

fn grpc_router(config: &Config, ops: &Ops, host: Host) -> Router {
    let settings = native::Settings {
        default_service_ttl: config.default_service_ttl,
        host: Some(Arc::new(host)),
        ..native::Settings::default()
    };
    let services = native::services(ops.registry.clone(), settings);
    services
        .into_axum_router()
        .layer(Count::new(ops.metrics.clone(), |_| "native"))
}
