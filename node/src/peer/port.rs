//! The port for peers: gRPC over HTTP/2, within bounds, on the runtime of Raft.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
};
use tonic::{service::Routes, transport::server::TcpConnectInfo};
use tower::Service;

use crate::{
    limits::{
        HEAD_BYTES_MAX, PEER_CONNECTION_WINDOW, PEER_CONNECTIONS_MAX, PEER_STREAM_WINDOW, PREFACE_TIME_MAX,
        STREAMS_MAX,
    },
    preface::Prefaced,
    world::net::{Listener, Stream},
};

/// A quiet connection is asked for a sign of life this often, and closed without one: a peer that came back after a
/// partition dials anew, and its old connections would stay for ever.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// After a failed accept, which mostly means that no file descriptors are left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The port for peers, answering. Dropped, it ends with all its connections.
#[derive(Debug)]
pub struct Port {
    task: JoinHandle<()>,
    address: SocketAddr,
}

impl Drop for Port {
    fn drop(&mut self) {
        // Its connections are tasks of this one.
        self.task.abort();
    }
}

impl Port {
    /// Answers on `listener` what `routes` know, on the runtime of `home`.
    ///
    /// # Errors
    /// The listener doesn't know its address.
    pub fn serve(listener: Arc<dyn Listener>, routes: Routes, home: &Handle) -> std::io::Result<Self> {
        let address = listener.address()?;
        let router = routes.prepare().into_axum_router();
        Ok(Self {
            task: home.spawn(run(listener, router)),
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn run(listener: Arc<dyn Listener>, router: Router) {
    let server = Arc::new(server());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // Closed at once, so that whoever it was knows, and one that goes away makes room.
            Ok(_) if connections.len() >= PEER_CONNECTIONS_MAX => {}
            Ok((stream, from)) => {
                connections.spawn(connection(server.clone(), router.clone(), stream, from));
            }
            Err(error) => {
                tracing::warn!(%error, "can't take a connection of a peer");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(PEER_STREAM_WINDOW)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_WITHIN);
    server.http2_only()
}

async fn connection(
    server: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    stream: Box<dyn Stream>,
    from: SocketAddr,
) {
    let stream = Prefaced::new(stream, PREFACE_TIME_MAX);
    let service = service_fn(move |request| answer(router.clone(), request, from));
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%from, error = &*error, "a connection of a peer ended");
    }
}

async fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    from: SocketAddr,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(from),
    });
    // A router is always ready.
    router.call(request.map(Body::new)).await
}
