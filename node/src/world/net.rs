//! The network: listening and connecting, with streams behind trait objects, so that a simulator's own take their
//! place.

use std::{fmt::Debug, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection, as bytes in order.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The network of a machine.
#[async_trait]
pub trait Net: Send + Sync + Debug {
    /// Listens on `address`; port 0 takes a free one.
    async fn listen(&self, address: SocketAddr) -> io::Result<Arc<dyn Listener>>;

    /// Connects to `address`, without delaying small writes.
    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>>;

    /// The addresses of `port` at `host`, a name or an IP address, in the order in which they are to be tried.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// A place where connections come in.
#[async_trait]
pub trait Listener: Send + Sync + Debug {
    /// The next connection and where it comes from.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)>;

    /// Where it listens.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// The network of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNet;

#[async_trait]
impl Net for OsNet {
    #[expect(clippy::disallowed_methods, reason = "this is World's network")]
    async fn listen(&self, address: SocketAddr) -> io::Result<Arc<dyn Listener>> {
        Ok(Arc::new(OsListener(
            tokio::net::TcpListener::bind(address).await?,
        )))
    }

    #[expect(clippy::disallowed_methods, reason = "this is World's network")]
    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Takes `HOST:PORT` apart; the brackets of an IPv6 address are no part of the host.
pub fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[derive(Debug)]
struct OsListener(tokio::net::TcpListener);

#[async_trait]
impl Listener for OsListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
