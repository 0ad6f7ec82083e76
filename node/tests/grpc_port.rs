//! The gRPC port, from clients that keep what they have begun open and say no more.
//!
//! The clock is stopped once the server runs: whenever everybody waits, it leaps to the next moment that somebody waits for.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "strangers are part of the world outside; a test that can't go on fails"
)]

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use spine_node::{
    World,
    config::{Config, HostPort, Mode, Options, OrOff},
    limits,
    server::Server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn server() -> Server {
    let options = Options {
        name: Some("n1".into()),
        http_addr: Some(OrOff::Off),
        grpc_addr: Some(OrOff::On(HostPort::new("127.0.0.1", 0))),
        ..Options::default()
    };
    let config = Config::resolve(Mode::Dev, options, None).unwrap();
    Server::start(config, World::real()).await.unwrap()
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.places().grpc.unwrap()).await.unwrap()
}

/// That something took about as long as it may. Moments at which others wait lie between, and each takes a little.
fn took(began: Instant, bound: Duration) {
    let took = began.elapsed();
    assert!(
        took + Duration::from_secs(1) >= bound && took < bound + bound / 2,
        "{took:?} of {bound:?}"
    );
}

/// Reads to the end of a connection, however it ends.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn who_does_not_begin_to_speak_is_given_up() {
    let server = server().await;
    for begins_with in [&PREFACE[..0], &PREFACE[..PREFACE.len() - 1]] {
        let mut stream = connect(&server).await;
        stream.write_all(begins_with).await.unwrap();
        tokio::time::pause();
        let began = Instant::now();
        ended(&mut stream).await;
        took(began, limits::PREFACE_TIME_MAX);
        tokio::time::resume();
    }
    server.stop().await.unwrap();
}

/// A frame of HTTP/2.
struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// The next frame of a kind, and whether it acknowledges one; `None`: the connection has ended.
async fn next(stream: &mut TcpStream, kind: u8, acknowledges: bool) -> Option<Frame> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            payload,
        };
        if frame.kind == kind && (frame.flags & ACK != 0) == acknowledges {
            return Some(frame);
        }
    }
}

#[tokio::test]
async fn who_gives_no_sign_of_life_is_given_up() {
    let server = server().await;
    let mut stream = connect(&server).await;
    stream.write_all(PREFACE).await.unwrap();
    // Settings without any, which the server acknowledges.
    stream
        .write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    next(&mut stream, SETTINGS, true).await.unwrap();
    tokio::time::pause();
    // As long as it is answered it asks again.
    for _ in 0..3 {
        let began = Instant::now();
        let ping = next(&mut stream, PING, false).await.unwrap();
        took(began, limits::PING_EVERY);
        let head = [0, 0, 8, PING, ACK, 0, 0, 0, 0];
        stream
            .write_all(&[&head[..], &ping.payload].concat())
            .await
            .unwrap();
    }
    next(&mut stream, PING, false).await.unwrap();
    let began = Instant::now();
    assert!(next(&mut stream, PING, false).await.is_none(), "it has ended");
    took(began, limits::PING_ANSWER_TIME_MAX);
    tokio::time::resume();
    server.stop().await.unwrap();
}

/// The client lives, and answers pings; but its message has no end.
#[tokio::test]
async fn a_call_whose_message_does_not_come_is_given_up() {
    let server = server().await;
    let (mut client, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(connect(&server).await))
        .await
        .unwrap();
    tokio::spawn(connection);
    tokio::time::pause();
    for method in ["spine.v1.KV/Put", "spine.v1.Watch/Watch"] {
        let request = Request::post(format!("http://spine/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()))
            .unwrap();
        let began = Instant::now();
        let answer = client.send_request(request).await.unwrap();
        took(began, spine_api::limits::BODY_TIME_MAX);
        let said = |key: &str| answer.headers()[key].to_str().unwrap().to_owned();
        assert_eq!(said("spine-code"), "message_too_slow", "{method}");
        assert_eq!(said("spine-outcome"), "not-applied", "{method}");
    }
    tokio::time::resume();
    drop(client);
    server.stop().await.unwrap();
}
