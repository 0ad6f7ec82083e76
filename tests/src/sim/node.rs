//! A node as a simulated host: starts on what its machine holds, serves the native API, and is looked into.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream;
use spine_api::{AdminCommand, Registry, native};
use spine_core::{Dialect, NodeName};
use spine_node::metrics_sink::Uncounted;
use spine_node::node::{PeerPort, PeerSettings};
use spine_node::raft::Peer;
use spine_node::storage::segment::LogOptions;
use spine_node::{Node, NodeSettings};
use spine_tests::trace::Trace;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use crate::plan::Plan;
use crate::world::{Machine, SharedRng};

/// The port of the native API.
pub(crate) const PORT: u16 = 8502;

/// The port for peers.
const PEER_PORT: u16 = 8300;

/// The name of a node, which is its host's name too.
pub(crate) fn name(number: usize) -> String {
    format!("n{number}")
}

/// A node, as the others find it.
fn peer(number: usize) -> Peer {
    let name = name(number);
    Peer {
        address: format!("{name}:{PEER_PORT}"),
        name,
    }
}

/// A node over all its lives.
pub(crate) struct Subject {
    /// From 1 on.
    pub(crate) number: usize,
    /// How many found the cluster.
    founders: usize,
    pub(crate) machine: Arc<Machine>,
    /// The door of the present life.
    registry: RefCell<Option<Arc<dyn Registry>>>,
    /// Why the present life can't go on.
    died: RefCell<Option<String>>,
    lives: Cell<u64>,
    /// Between two checkpoints that are asked for; `None`: nobody asks.
    checkpoint_every: Option<Duration>,
    trace: Trace,
}

impl Subject {
    /// A node that has not lived yet.
    pub(crate) fn new(number: usize, seed: u64, plan: &Plan, trace: Trace) -> Rc<Self> {
        Rc::new(Self {
            number,
            founders: plan.nodes,
            machine: Machine::new(seed),
            registry: RefCell::default(),
            died: RefCell::default(),
            lives: Cell::default(),
            checkpoint_every: plan.checkpoint_every,
            trace,
        })
    }

    /// The door of the present life, once there is one.
    pub(crate) fn registry(&self) -> Option<Arc<dyn Registry>> {
        self.registry.borrow().clone()
    }

    /// Why the present life can't go on, if it can't.
    pub(crate) fn died(&self) -> Option<String> {
        self.died.borrow().clone()
    }

    /// How often it was started.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.get()
    }

    /// Forgets the life that is being ended.
    pub(crate) fn bury(&self) {
        self.registry.take();
        self.died.take();
    }

    fn settings(&self) -> NodeSettings {
        let name = NodeName::parse(&name(self.number)).expect("a short word is a name");
        let mut settings = NodeSettings::new(name, "/data".into());
        settings.log = LogOptions {
            // Small, so that segments are begun and recycled often.
            segment_bytes: 128 << 10,
            spares: 1,
            ..LogOptions::default()
        };
        if self.founders > 1 {
            settings.peer_address = peer(self.number).address.into();
            settings.peers = Some(PeerSettings {
                port: PeerPort::At((Ipv4Addr::UNSPECIFIED, PEER_PORT).into()),
                founders: (1..=self.founders).map(peer).collect(),
                join: Vec::new(),
            });
        }
        settings
    }

    /// One life, from its start to its crash.
    pub(crate) async fn live(self: Rc<Self>) -> turmoil::Result {
        self.lives.set(self.lives.get() + 1);
        self.trace.record(
            name(self.number),
            format_args!("begins life {}", self.lives.get()),
        );
        let reason = match Node::start(self.settings(), self.machine.world(), Arc::new(Uncounted)).await {
            Ok(node) => {
                self.registry.replace(Some(node.registry()));
                self.serve(&node).await
            }
            Err(error) => format!("it does not start: {error}"),
        };
        self.trace
            .record(name(self.number), format_args!("can't go on: {reason}"));
        self.died.replace(Some(reason));
        // Whoever looks at the end of this step ends this life.
        std::future::pending().await
    }

    /// Serves until the node can't go on, and says why.
    async fn serve(&self, node: &Node) -> String {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => return format!("it can't listen: {error}"),
        };
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
            Some((accepted, listener))
        });
        let routes = native::services(node.registry(), native::Settings::default());
        let server = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        tokio::select! {
            biased;
            reason = node.fatal() => reason.to_string(),
            ended = server => format!("its server ended: {ended:?}"),
            never = self.ask_for_checkpoints(node.registry()) => match never {},
        }
    }

    /// Has a checkpoint written now and then; the log behind it goes.
    async fn ask_for_checkpoints(&self, registry: Arc<dyn Registry>) -> Infallible {
        let Some(every) = self.checkpoint_every else {
            return std::future::pending().await;
        };
        let rng = SharedRng::new(self.lives.get());
        loop {
            let share = rng.with(|rng| u32::try_from(1 + rng.below(8)).expect("below 9"));
            tokio::time::sleep(every * share / 4).await;
            let cx = spine_api::Context::new(Dialect::Internal);
            let written = registry.admin(&cx, AdminCommand::Checkpoint).await;
            self.trace
                .record(name(self.number), format_args!("checkpoint: {written:?}"));
        }
    }
}

/// An accepted connection of the simulated network, as tonic's server wants it.
struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.peer_addr().ok()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
