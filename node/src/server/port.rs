//! A port: takes connections and hands their requests to a router, within bounds.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use http::{Request, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tonic::transport::server::TcpConnectInfo;
use tower::Service;
use tower_http::timeout::TimeoutBody;

use super::{
    door::Door,
    listen::{Arrival, Peer, WayIn},
};
use crate::{
    limits::{
        BODY_PAUSE_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX, HEADERS_MAX, PING_ANSWER_TIME_MAX, PING_EVERY,
        PREFACE_TIME_MAX, STREAMS_MAX,
    },
    preface::Prefaced,
    telemetry::metrics::{Metrics, OpenConnection},
    world::net::Stream,
};

/// After a failed accept, which mostly means that no file descriptors are left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, as gRPC speaks it.
    Http2,
}

/// A port, bound and not yet answering.
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) way_in: WayIn,
    pub(super) protocol: Protocol,
    pub(super) door: Door,
    pub(super) connections_max: usize,
    pub(super) metrics: Arc<Metrics>,
}

/// A port that answers.
pub(super) struct Serving(JoinHandle<()>);

impl Serving {
    /// Waits until all its connections have ended, which they do after it was told to stop.
    pub(super) async fn drained(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Ends its connections too: they are tasks of this one.
        self.0.abort();
    }
}

impl Port {
    /// Answers until told to stop.
    pub(super) fn serve(self, stop: watch::Receiver<bool>) -> Serving {
        Serving(tokio::spawn(self.run(stop)))
    }

    async fn run(self, mut stop: watch::Receiver<bool>) {
        let server = Arc::new(self.server());
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let arrival = tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.accept() => accepted,
            };
            if connections.len() >= self.connections_max {
                // Closed at once, so that a client knows, and one that goes away makes room.
                self.metrics.connection_refused(self.name);
                continue;
            }
            let open = self.metrics.connection(self.name);
            let watcher = graceful.watcher();
            connections.spawn(connection(
                server.clone(),
                self.protocol,
                self.door.clone(),
                arrival,
                stop.clone(),
                watcher,
                open,
            ));
        }
        // Nobody is let in any more, and each connection ends when its requests are answered.
        drop(self.way_in);
        graceful.shutdown().await;
    }

    async fn accept(&self) -> Arrival {
        loop {
            match self.way_in.accept().await {
                Ok(arrival) => return arrival,
                Err(error) => tracing::warn!(port = self.name, %error, "can't take a connection"),
            }
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
    }

    fn server(&self) -> auto::Builder<TokioExecutor> {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX as usize)
            .max_headers(HEADERS_MAX);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER_TIME_MAX);
        match self.protocol {
            Protocol::Http1 => server.http1_only(),
            Protocol::Http2 => server.http2_only(),
        }
    }
}

/// Waits to be told to stop; whoever could tell being gone is telling.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    server: Arc<auto::Builder<TokioExecutor>>,
    protocol: Protocol,
    door: Door,
    arrival: Arrival,
    mut stop: watch::Receiver<bool>,
    watcher: hyper_util::server::graceful::Watcher,
    _open: OpenConnection,
) {
    let peer = arrival.peer;
    let stream = tokio::select! {
        biased;
        stream = arrival.stream() => stream,
        // Who is still shaking hands has asked for nothing.
        () = told(&mut stop) => return,
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "a handshake failed");
            return;
        }
    };
    let stream: Box<dyn Stream> = match protocol {
        // There, the time for a head begins with the connection.
        Protocol::Http1 => stream,
        Protocol::Http2 => Box::new(Prefaced::new(stream, PREFACE_TIME_MAX)),
    };
    let service = service_fn(move |request| answer(door.router(), request, peer));
    let connection = server.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        // Clients go away in the middle of things; that is theirs to know.
        tracing::debug!(%peer, error = &*error, "a connection ended");
    }
}

async fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: Peer,
) -> Result<Response, Infallible> {
    // Each dialect looks for its peer in its own way.
    let extensions = request.extensions_mut();
    match peer {
        Peer::Address(address) => {
            extensions.insert(ConnectInfo(address));
            extensions.insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(address),
            });
        }
        Peer::Unix => {
            extensions.insert(ConnectInfo(Peer::UNIX));
        }
    }
    let request = match request.version() {
        // A call may be quiet for long; there, pings tell whether the client lives, and the dialect knows what it waits for.
        Version::HTTP_2 => request.map(Body::new),
        _ => request.map(|body| Body::new(TimeoutBody::new(BODY_PAUSE_MAX, body))),
    };
    // A router is always ready.
    router.call(request).await
}
