//! A world that goes deaf: what comes back over connections that it has made is lost from a moment on.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use spine_node::{
    World,
    world::net::{Listener, Net, Stream},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether nothing is heard. A connection that has lost something hears nothing any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deaf(Arc<AtomicBool>);

impl Deaf {
    /// A world that is so.
    pub(crate) fn world(&self) -> World {
        let world = World::real();
        World {
            net: Arc::new(DeafNet {
                net: world.net.clone(),
                deaf: self.clone(),
            }),
            ..world
        }
    }

    /// From now on it is so, or not.
    pub(crate) fn set(&self, deaf: bool) {
        self.0.store(deaf, Ordering::SeqCst);
    }

    fn is_so(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct DeafNet {
    net: Arc<dyn Net>,
    deaf: Deaf,
}

#[async_trait]
impl Net for DeafNet {
    async fn listen(&self, address: SocketAddr) -> io::Result<Arc<dyn Listener>> {
        self.net.listen(address).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(DeafStream {
            stream: self.net.connect(address).await?,
            deaf: self.deaf.clone(),
            lost: false,
        }))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.net.resolve(host, port).await
    }
}

struct DeafStream {
    stream: Box<dyn Stream>,
    deaf: Deaf,
    lost: bool,
}

impl AsyncRead for DeafStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.lost {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && self.deaf.is_so() {
            self.lost = true;
            buffer.set_filled(before);
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for DeafStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
