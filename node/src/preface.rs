//! The first bytes that a client of HTTP/2 sends. The library waits for them for as long as the client likes, and asks for a
//! sign of life only behind them; so who connects and says nothing would keep its place among the connections for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::world::net::Stream;

/// RFC 9113, section 3.4.
const PREFACE_BYTES: usize = 24;

/// A connection that breaks off if its client has not sent the preface in time.
pub(crate) struct Prefaced {
    stream: Box<dyn Stream>,
    /// `None`: it has come.
    awaited: Option<Awaited>,
}

struct Awaited {
    bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl Prefaced {
    pub(crate) fn new(stream: Box<dyn Stream>, within: Duration) -> Self {
        Self {
            stream,
            awaited: Some(Awaited {
                bytes: PREFACE_BYTES,
                patience: Box::pin(tokio::time::sleep(within)),
            }),
        }
    }
}

impl AsyncRead for Prefaced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(awaited) = &mut self.awaited else {
            return read;
        };
        if read.is_ready() {
            awaited.bytes = awaited.bytes.saturating_sub(buf.filled().len() - filled);
            if awaited.bytes == 0 {
                self.awaited = None;
            }
            return read;
        }
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the client did not begin to speak HTTP/2",
            )
        };
        awaited.patience.as_mut().poll(cx).map(|()| Err(late()))
    }
}

impl AsyncWrite for Prefaced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
