//! Ways in: where connections come from, and what each goes through before its first request.

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc};

use tokio_rustls::TlsAcceptor;

use super::{ServeError, socket::SocketFile, tls};
use crate::limits::HANDSHAKE_TIME_MAX;
use crate::{
    World,
    config::{Config, Endpoint},
    world::net::{Listener, Stream},
};

/// Everything that a server listens on, bound and not yet answering.
pub(super) struct WaysIn {
    /// Consul's API, the UI, metrics.
    pub(super) http: Option<WayIn>,
    /// The same over TLS.
    pub(super) https: Option<WayIn>,
    /// The same on a Unix socket.
    pub(super) socket: Option<WayIn>,
    /// The native API.
    pub(super) grpc: Option<WayIn>,
    /// Traffic between servers.
    pub(super) peer: Option<Arc<dyn Listener>>,
}

impl WaysIn {
    /// Binds what the configuration names; if one can't be, the others are let go.
    pub(super) async fn open(world: &World, config: &Config) -> Result<Self, ServeError> {
        // First, since a wrong certificate needs no port to be found out.
        let acceptor = config.https.as_ref().map(tls::acceptor).transpose()?;
        let http = bind(world, "--http-addr", config.http.as_ref()).await?;
        let https = config.https.as_ref().map(|https| &https.endpoint);
        let https = bind(world, "--https-addr", https).await?;
        let grpc = bind(world, "--grpc-addr", config.grpc.as_ref()).await?;
        let peer = bind(world, "--peer-addr", config.peer.as_ref()).await?;
        let socket = match &config.http_socket {
            Some(path) => Some(SocketFile::bind(path).await?),
            None => None,
        };
        Ok(Self {
            http: http.map(WayIn::Tcp),
            https: https
                .zip(acceptor)
                .map(|(listener, acceptor)| WayIn::Tls(listener, acceptor)),
            socket: socket.map(WayIn::Unix),
            grpc: grpc.map(WayIn::Tcp),
            peer,
        })
    }
}

/// One way in.
pub(super) enum WayIn {
    /// A TCP port, in the clear.
    Tcp(Arc<dyn Listener>),
    /// A TCP port with TLS.
    Tls(Arc<dyn Listener>, TlsAcceptor),
    /// A Unix socket.
    Unix(SocketFile),
}

impl WayIn {
    /// Its address, if it is a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.address().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Its path, if it is a socket.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) | Self::Tls(..) => None,
            Self::Unix(socket) => Some(socket.path()),
        }
    }

    /// The next client, of whom nothing has been read yet.
    pub(super) async fn accept(&self) -> io::Result<Arrival> {
        let (stream, peer, acceptor) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (stream, Peer::Address(peer), None)
            }
            Self::Tls(listener, acceptor) => {
                let (stream, peer) = listener.accept().await?;
                (stream, Peer::Address(peer), Some(acceptor.clone()))
            }
            Self::Unix(socket) => (socket.accept().await?, Peer::Unix, None),
        };
        Ok(Arrival {
            stream,
            peer,
            acceptor,
        })
    }
}

/// A client that has come in.
pub(super) struct Arrival {
    stream: Box<dyn Stream>,
    /// Who it is.
    pub(super) peer: Peer,
    acceptor: Option<TlsAcceptor>,
}

impl Arrival {
    /// The stream of its requests, after the TLS handshake where there is one. That waits for the client, so it belongs
    /// into the connection's own task, where it counts against the bound of connections.
    pub(super) async fn stream(self) -> io::Result<Box<dyn Stream>> {
        let Some(acceptor) = self.acceptor else {
            return Ok(self.stream);
        };
        let handshake = acceptor.accept(self.stream);
        let stream = tokio::time::timeout(HANDSHAKE_TIME_MAX, handshake)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        Ok(Box::new(stream))
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Somebody on the network.
    Address(SocketAddr),
    /// Somebody on this machine, who may open the socket.
    Unix,
}

impl Peer {
    /// What a peer without an address is called.
    pub(super) const UNIX: &str = "unix";
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str(Self::UNIX),
        }
    }
}

async fn bind(
    world: &World,
    option: &'static str,
    endpoint: Option<&Endpoint>,
) -> Result<Option<Arc<dyn Listener>>, ServeError> {
    let Some(Endpoint { bind, .. }) = endpoint else {
        return Ok(None);
    };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::InUse {
            option,
            address: bind.clone(),
        },
        _ => ServeError::Listen {
            option,
            address: bind.clone(),
            source,
        },
    };
    let found = tokio::net::lookup_host((bind.host.as_str(), bind.port))
        .await
        .map_err(failed)?;
    // "localhost" is two addresses; the first is where it is looked for, and IPv4 is what every client tries.
    let found: Vec<_> = found.collect();
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let address = address.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    world.net.listen(*address).await.map(Some).map_err(failed)
}
