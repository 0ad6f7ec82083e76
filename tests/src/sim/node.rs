//! A node as a simulated host: starts on what its machine holds, serves the native API, does what it is told to, and is
//! looked into.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use spine_api::{AdminCommand, Error, Registry, native};
use spine_core::{Dialect, NodeName};
use spine_node::metrics_sink::NodeMetrics;
use spine_node::node::{PeerPort, PeerSettings};
use spine_node::raft::{Peer, roster::Roster};
use spine_node::storage::segment::LogOptions;
use spine_node::{Node, NodeSettings};
use spine_tests::trace::Trace;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use crate::fleet::Book;
use crate::plan::Plan;
use crate::world::{Machine, SharedRng};

/// The port of the native API.
pub(crate) const PORT: u16 = 8502;

/// The port for peers, until a server moves.
const PEER_PORT: u16 = 8300;

/// The name of a node, which is its host's name too.
pub(crate) fn name(number: usize) -> String {
    format!("n{number}")
}

/// How a server comes to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is one of those who found it.
    Founder,
    /// It asks to be taken in.
    Comer,
}

/// What a server is told to do while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let another lead.
    HandOver,
    /// Have a server removed.
    Remove {
        /// Which.
        number: usize,
        /// Even if too few of those who remain answer.
        forced: bool,
    },
    /// Leave the cluster.
    Leave,
    /// End in order.
    Stop,
}

/// What became of an order; nothing while it is being carried out, or if its server died over it.
pub(crate) type Answer = Rc<RefCell<Option<Result<(), String>>>>;

/// A server over all its lives.
pub(crate) struct Subject {
    /// From 1 on.
    pub(crate) number: usize,
    origin: Cell<Origin>,
    /// How many found the cluster.
    founders: usize,
    /// Whether members come and go.
    lively: bool,
    machine: RefCell<Arc<Machine>>,
    book: Rc<Book>,
    peer_port: Cell<u16>,
    /// Bytes of log that are kept for members that are behind.
    kept_for_members: u64,
    /// The present life, once it serves.
    node: RefCell<Option<Rc<Node>>>,
    orders: RefCell<Option<mpsc::UnboundedSender<(Order, Answer)>>>,
    /// It has been a member of the cluster, with this directory.
    settled: Cell<bool>,
    /// The node id of this directory, once it is a member's.
    node_id: Cell<Option<u64>>,
    /// Why the present life can't go on.
    died: RefCell<Option<String>>,
    /// The present life has ended in order.
    stopped: Cell<bool>,
    lives: Cell<u64>,
    /// Between two checkpoints that are asked for; `None`: nobody asks.
    checkpoint_every: Option<Duration>,
    installs: Arc<Installs>,
    trace: Trace,
}

impl Subject {
    /// A server that has not lived yet.
    pub(crate) fn new(
        number: usize,
        seed: u64,
        origin: Origin,
        plan: &Plan,
        book: Rc<Book>,
        trace: Trace,
    ) -> Rc<Self> {
        let life = plan.life.as_ref();
        Rc::new(Self {
            number,
            origin: Cell::new(origin),
            founders: plan.nodes,
            lively: life.is_some(),
            machine: RefCell::new(Machine::new(seed)),
            book,
            peer_port: Cell::new(PEER_PORT),
            kept_for_members: match life {
                Some(life) if life.snapshots => 0,
                Some(_) | None => NodeSettings::LOG_KEPT_FOR_MEMBERS,
            },
            node: RefCell::default(),
            orders: RefCell::default(),
            settled: Cell::default(),
            node_id: Cell::default(),
            died: RefCell::default(),
            stopped: Cell::default(),
            lives: Cell::default(),
            checkpoint_every: plan.checkpoint_every,
            installs: Arc::default(),
            trace,
        })
    }

    /// What it runs on.
    pub(crate) fn machine(&self) -> Arc<Machine> {
        self.machine.borrow().clone()
    }

    /// The door of the present life, once there is one.
    pub(crate) fn registry(&self) -> Option<Arc<dyn Registry>> {
        let node = self.node.borrow();
        node.as_ref().map(|node| node.registry())
    }

    /// Who is in the cluster, as far as the present life knows it committed.
    pub(crate) fn roster(&self) -> Option<Roster> {
        self.node.borrow().as_ref()?.roster()
    }

    /// The node id of its directory, once that is a member's.
    pub(crate) fn node_id(&self) -> Option<u64> {
        self.node_id.get()
    }

    /// Why the present life can't go on, if it can't.
    pub(crate) fn died(&self) -> Option<String> {
        self.died.borrow().clone()
    }

    /// Whether the present life has ended in order.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// How often it was started.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.get()
    }

    /// The states that came whole to it.
    pub(crate) fn installs(&self) -> &Installs {
        &self.installs
    }

    /// Where the others reach it.
    pub(crate) fn peer_address(&self) -> String {
        format!("{}:{}", name(self.number), self.peer_port.get())
    }

    /// Has the present life do something; `None` if there is none that could.
    pub(crate) fn order(&self, order: Order) -> Option<Answer> {
        let answer = Answer::default();
        let orders = self.orders.borrow();
        orders.as_ref()?.send((order, Rc::clone(&answer))).ok()?;
        Some(answer)
    }

    /// From the next life on it is found at another address. It must not be alive.
    pub(crate) fn moves(&self) {
        self.peer_port.set(self.peer_port.get() + 1);
        self.book.is_at(self.number, self.peer_address());
    }

    /// Its disk is lost: from the next life on it is a new server of the old name. It must not be alive.
    pub(crate) fn wipe(&self, seed: u64) {
        self.machine.replace(Machine::new(seed));
        self.origin.set(Origin::Comer);
        self.settled.set(false);
        self.node_id.set(None);
    }

    /// Forgets the life that is being ended.
    pub(crate) fn bury(&self) {
        self.orders.take();
        self.node.take();
        self.died.take();
        self.stopped.set(false);
        self.installs.break_off();
    }

    fn settings(&self) -> NodeSettings {
        let own = NodeName::parse(&name(self.number)).expect("a short word is a name");
        let mut settings = NodeSettings::new(own, "/data".into());
        settings.log = LogOptions {
            // Small, so that segments are begun and recycled often.
            segment_bytes: 128 << 10,
            spares: 1,
            ..LogOptions::default()
        };
        settings.log_kept_for_members = self.kept_for_members;
        if self.founders > 1 || self.lively {
            settings.peer_address = self.peer_address().into();
            let comes = self.origin.get() == Origin::Comer;
            settings.peers = Some(PeerSettings {
                port: PeerPort::At((Ipv4Addr::UNSPECIFIED, self.peer_port.get()).into()),
                founders: if comes { Vec::new() } else { self.founders() },
                // A founder that was told of somebody to join would not found.
                join: if self.lively && (comes || self.settled.get()) {
                    self.book.others(self.number)
                } else {
                    Vec::new()
                },
                replace: None,
            });
        }
        settings
    }

    /// Those who found the cluster, where they were then.
    fn founders(&self) -> Vec<Peer> {
        let founder = |number| Peer {
            name: name(number),
            address: format!("{}:{PEER_PORT}", name(number)),
        };
        (1..=self.founders).map(founder).collect()
    }

    /// One life, from its start to its crash.
    pub(crate) async fn live(self: Rc<Self>) -> turmoil::Result {
        self.lives.set(self.lives.get() + 1);
        self.trace.record(
            name(self.number),
            format_args!("begins life {}", self.lives.get()),
        );
        let (settings, world) = (self.settings(), self.machine().world());
        let ended = match Node::start(settings, world, self.installs.clone()).await {
            Ok(node) => self.serve(Rc::new(node)).await,
            Err(error) => Err(format!("it does not start: {error}")),
        };
        match ended {
            Ok(()) => {
                self.trace.record(name(self.number), format_args!("has ended"));
                self.stopped.set(true);
            }
            Err(reason) => {
                self.trace
                    .record(name(self.number), format_args!("can't go on: {reason}"));
                self.died.replace(Some(reason));
            }
        }
        // Whoever looks at the end of this step ends this life.
        std::future::pending().await
    }

    /// Serves until it is told to end, or can't go on and says why.
    async fn serve(&self, node: Rc<Node>) -> Result<(), String> {
        let (give, orders) = mpsc::unbounded_channel();
        self.orders.replace(Some(give));
        self.settled.set(true);
        self.node_id.set(Some(node.identity().node));
        self.node.replace(Some(Rc::clone(&node)));
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("it can't listen: {error}"))?;
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
            Some((accepted, listener))
        });
        let routes = native::services(node.registry(), native::Settings::default());
        let server = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        tokio::select! {
            biased;
            reason = node.fatal() => return Err(reason.to_string()),
            ended = server => return Err(format!("its server ended: {ended:?}")),
            never = self.ask_for_checkpoints(node.registry()) => match never {},
            () = self.obey(&node, orders) => {}
        }
        self.orders.take();
        self.node.take();
        let node = Rc::into_inner(node).expect("whoever looks into it has looked");
        node.stop().await.map_err(|error| error.to_string())
    }

    /// Does what it is told until it is told to end.
    async fn obey(&self, node: &Node, mut orders: mpsc::UnboundedReceiver<(Order, Answer)>) {
        let mut doing = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((order, answer)) = orders.recv() => {
                    if order == Order::Stop {
                        return;
                    }
                    doing.push(async move {
                        let done = self.carry_out(node, order).await;
                        self.trace.record(name(self.number), format_args!("{order:?}: {done:?}"));
                        answer.replace(Some(done));
                    });
                }
                Some(()) = doing.next() => {}
                else => std::future::pending().await,
            }
        }
    }

    async fn carry_out(&self, node: &Node, order: Order) -> Result<(), String> {
        let command = match order {
            Order::HandOver => {
                let taken = node.hand_over().await;
                return taken.map(drop).map_err(|error| error.to_string());
            }
            Order::Remove { number, forced } => AdminCommand::RemoveMember {
                name: name(number).into(),
                forced,
            },
            Order::Leave => AdminCommand::Leave,
            Order::Stop => return Ok(()),
        };
        let cx = spine_api::Context::new(Dialect::Internal);
        match node.registry().admin(&cx, command).await {
            // Somebody was asked before, and his answer was lost.
            Ok(_) | Err(Error::NoMember(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
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

/// Counts the states that come whole to a server.
#[derive(Debug, Default)]
pub(crate) struct Installs {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Those that its crashes broke off.
    broken_off: AtomicU64,
    /// Those that were looked at.
    seen: AtomicU64,
}

impl Installs {
    /// So many came.
    pub(crate) fn whole(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// So many began to come, and broke off.
    pub(crate) fn interrupted(&self) -> u64 {
        let begun = self.begun.load(Ordering::Relaxed);
        begun - self.whole() - u64::from(self.is_coming())
    }

    /// Whether one has begun to come since this was asked last, and still does.
    pub(crate) fn begins(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        self.seen.swap(begun, Ordering::Relaxed) < begun && self.is_coming()
    }

    /// Whether one comes at this moment, as far as is known.
    fn is_coming(&self) -> bool {
        let gone = self.whole() + self.broken_off.load(Ordering::Relaxed);
        self.begun.load(Ordering::Relaxed) > gone
    }

    /// What is coming won't be whole.
    fn break_off(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        self.broken_off.store(begun - self.whole(), Ordering::Relaxed);
    }
}

impl NodeMetrics for Installs {
    fn install_begun(&self) {
        // Whatever came before came from a connection that broke.
        self.break_off();
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn installed(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
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
