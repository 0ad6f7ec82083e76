//! The port for peers, gone past its bounds by something that is no peer of ours.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "strangers are part of the world outside; a test that can't go on fails"
)]

mod support;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use spine_node::{
    limits::{PEER_CONNECTION_WINDOW, PEER_CONNECTIONS_MAX, PEER_STREAM_WINDOW, PREFACE_TIME_MAX},
    peer::port::Port,
    world::net::{Net, OsNet},
};
use support::clock::Stopped;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    time::{Instant, timeout},
};
use tonic::service::Routes;

const PATIENCE: Duration = Duration::from_secs(20);

/// A port whose `/late` never takes what is sent to it.
async fn port() -> Port {
    let late = async |request: Request<Body>| {
        let _held = request;
        std::future::pending::<()>().await;
    };
    let router = Router::new()
        .route("/late", axum::routing::post(late))
        .route("/soon", axum::routing::post(async || "here"));
    let listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    Port::serve(listener, Routes::from(router), &Handle::current()).unwrap()
}

/// Greets as a client of HTTP/2 does; gives the connection if it is greeted back, `None` if it is closed.
async fn greet(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let answer = timeout(PATIENCE, stream.read_u8())
        .await
        .expect("an answer or an end");
    answer.is_ok().then_some(stream)
}

#[tokio::test]
async fn connections_past_the_bound_are_closed_and_room_comes_back() {
    let port = port().await;
    let mut open = Vec::new();
    for _ in 0..PEER_CONNECTIONS_MAX {
        open.push(greet(port.address()).await.expect("room"));
    }
    assert!(greet(port.address()).await.is_none(), "one too many");
    open.pop();
    let until = Instant::now() + PATIENCE;
    while greet(port.address()).await.is_none() {
        assert!(Instant::now() < until, "room comes back");
    }
}

#[tokio::test]
async fn who_does_not_begin_to_speak_is_given_up() {
    let port = port().await;
    let mut silent = TcpStream::connect(port.address()).await.unwrap();
    let mut said = Vec::new();
    let (took, _) = Stopped::now().took(silent.read_to_end(&mut said)).await;
    assert!(
        took + PATIENCE / 10 >= PREFACE_TIME_MAX && took <= PREFACE_TIME_MAX + PATIENCE / 10,
        "{took:?}"
    );
}

/// A body without end, and how much of it was asked for.
fn endless(taken: &Arc<AtomicUsize>) -> Body {
    const PIECE: usize = 16 << 10;
    let taken = taken.clone();
    Body::from_stream(futures::stream::repeat_with(move || {
        taken.fetch_add(PIECE, Ordering::Relaxed);
        Ok::<_, Infallible>(Bytes::from_static(&[0; PIECE]))
    }))
}

#[tokio::test]
async fn what_is_not_taken_is_not_sent_beyond_the_windows() {
    /// Taken from a body and not sent yet: the client's own, some pieces a call.
    const SPARE: usize = 1 << 20;
    let port = port().await;
    let stream = TcpStream::connect(port.address()).await.unwrap();
    let (client, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let taken = Arc::new(AtomicUsize::new(0));
    let post = |path: &str, body: Body| {
        let mut client = client.clone();
        let request = Request::post(format!("http://peer{path}")).body(body).unwrap();
        async move {
            client.ready().await.unwrap();
            client.send_request(request).await.unwrap()
        }
    };
    let reached = async |bytes: usize| {
        let until = Instant::now() + PATIENCE;
        while taken.load(Ordering::Relaxed) < bytes {
            assert!(
                Instant::now() < until,
                "{} of {bytes}",
                taken.load(Ordering::Relaxed)
            );
            tokio::task::yield_now().await;
        }
        // Calls without a body get through all the while, so there is time to send more.
        for _ in 0..100 {
            assert_eq!(post("/soon", Body::empty()).await.status(), 200);
        }
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < bytes + SPARE, "{taken} of {bytes}");
    };
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(post("/late", endless(&taken)));
    reached(PEER_STREAM_WINDOW as usize).await;
    for _ in 0..3 {
        calls.spawn(post("/late", endless(&taken)));
    }
    reached(PEER_CONNECTION_WINDOW as usize).await;
}
