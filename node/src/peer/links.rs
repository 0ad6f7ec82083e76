//! The ways to peers: a connection for each lane and address, made when it is first used.
//!
//! A channel's tasks belong to the runtime on which it was first asked for. So Raft's lanes are used from Raft's own
//! runtime, the others from the node's.
//!
//! A connection that breaks is made anew by tonic. One that only falls silent (a peer behind a partition, a segment that
//! the network lost for good) would hold its lane until TCP gives up. So whoever uses a link says what came of it
//! ([`Link::heard`], [`Links::unheard`]), and after a silence the next request gets a new one.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::Places;
use crate::{
    limits::{PEER_CONNECTION_WINDOW, PEER_STREAM_WINDOW},
    world::net::{Net, Stream, host_and_port},
};

/// A connection is made within this time, or tried anew: less than an election takes.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// A connection on which nothing was heard for so long is asked for a sign of life,
const PING_EVERY: Duration = Duration::from_millis(500);
/// and broken without one. A machine under load answers late; a network that lost it never does.
const PING_ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// A link on which requests were sent for so long, and nothing was heard, is given up: an election timeout.
const SILENCE_MAX: Duration = Duration::from_millis(600);

/// What a connection is for. What is slow or large never shares one with what must be quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Entries, as a stream.
    Raft,
    /// Heartbeats, votes, transfers of leadership: small and urgent.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Requests of clients on their way to the leader.
    Forward,
    /// Servers that make themselves known.
    Hello,
}

/// The ways to all peers.
#[derive(Debug)]
pub struct Links {
    net: Arc<dyn Net>,
    /// No more than there are lanes to peers of the membership or of this node's own configuration.
    open: Mutex<BTreeMap<(Lane, Arc<str>), Link>>,
    made: AtomicU64,
    places: Places,
}

/// A way to one peer. Clones share a connection.
#[derive(Clone)]
pub struct Link {
    /// For requests; it connects when the first one is sent.
    pub channel: Channel,
    lane: Lane,
    address: Arc<str>,
    /// Tells it from those before and after it.
    number: u64,
    /// When something was heard over it last, or when it was made.
    heard: Arc<Mutex<Instant>>,
}

impl Link {
    /// Something was heard over it.
    pub fn heard(&self) {
        *self.heard.lock() = Instant::now();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} to {}", self.lane, self.number, self.address)
    }
}

impl Links {
    /// Ways over `net`; none is used yet.
    pub fn new(net: Arc<dyn Net>) -> Self {
        Self {
            net,
            open: Mutex::default(),
            made: AtomicU64::new(0),
            places: Places::default(),
        }
    }

    /// Where the peers are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// A peer has said where it is. The ways to where it was go.
    pub fn found_at(&self, node: u64, address: &str) {
        if let Some(before) = self.places.tell(node, address) {
            self.open.lock().retain(|(_, at), _| **at != *before);
        }
    }

    /// Ends all of them: the node has ended.
    pub fn close(&self) {
        self.open.lock().clear();
    }

    /// The way to the peer at `address`, `HOST:PORT`. To be called on the runtime on which it is used.
    pub fn get(&self, lane: Lane, address: &str) -> Link {
        let mut open = self.open.lock();
        let address: Arc<str> = address.into();
        let link = open.entry((lane, address.clone())).or_insert_with(|| Link {
            channel: channel(self.net.clone(), address.clone()),
            lane,
            address,
            number: self.made.fetch_add(1, Ordering::Relaxed),
            heard: Arc::new(Mutex::new(Instant::now())),
        });
        link.clone()
    }

    /// A request over `link` failed, or was not answered in time. Where that has gone on for long the link is thrown
    /// away; a single request may fail for reasons of its own.
    pub fn unheard(&self, link: &Link) {
        if link.heard.lock().elapsed() > SILENCE_MAX {
            self.discard(link);
        }
    }

    /// Throws a link away. What others have on their way over it may still arrive.
    pub fn discard(&self, link: &Link) {
        let mut open = self.open.lock();
        let key = (link.lane, link.address.clone());
        if open.get(&key).is_some_and(|known| known.number == link.number) {
            open.remove(&key);
        }
    }
}

fn channel(net: Arc<dyn Net>, address: Arc<str>) -> Channel {
    // Where it really goes is the connector's to know; the URI is a header that nobody reads.
    Endpoint::from_static("http://peer")
        .connect_timeout(CONNECT_WITHIN)
        .initial_stream_window_size(PEER_STREAM_WINDOW)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (net, address) = (net.clone(), address.clone());
            async move { dial(&*net, &address).await.map(TokioIo::new) }
        }))
}

/// Connects to the first address of a peer that answers.
async fn dial(net: &dyn Net, address: &str) -> io::Result<Box<dyn Stream>> {
    let invalid = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{address:?} is not HOST:PORT"),
        )
    };
    let (host, port) = host_and_port(address).ok_or_else(invalid)?;
    let mut refused = None;
    for found in net.resolve(host, port).await? {
        match net.connect(found).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host:?} has no address"))))
}
