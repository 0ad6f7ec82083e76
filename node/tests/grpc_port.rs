//! The gRPC port, from clients that keep what they have begun open and say no more.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "strangers are part of the world outside; a test that can't go on fails"
)]

mod support;

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
use support::clock::Stopped;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
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
    let stream = TcpStream::connect(server.places().grpc.unwrap()).await.unwrap();
    // The kernel's clock, by which small packets would be kept, isn't stopped.
    stream.set_nodelay(true).unwrap();
    stream
}

/// That something took as long as it may. The server's clock may have begun a moment before, and runs on until it is seen.
fn as_long(took: Duration, bound: Duration) {
    const MOMENT: Duration = Duration::from_secs(1);
    assert!(
        took + MOMENT >= bound && took <= bound + MOMENT,
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
        let (took, ()) = Stopped::now().took(ended(&mut stream)).await;
        as_long(took, limits::PREFACE_TIME_MAX);
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
    let clock = Stopped::now();
    // As long as it is answered it asks again.
    for _ in 0..3 {
        let (took, ping) = clock.took(next(&mut stream, PING, false)).await;
        as_long(took, limits::PING_EVERY);
        let ping = ping.unwrap();
        let head = [0, 0, 8, PING, ACK, 0, 0, 0, 0];
        stream
            .write_all(&[&head[..], &ping.payload].concat())
            .await
            .unwrap();
    }
    let (_, asked) = clock.took(next(&mut stream, PING, false)).await;
    assert!(asked.is_some());
    let (took, asked) = clock.took(next(&mut stream, PING, false)).await;
    assert!(asked.is_none(), "it has ended");
    as_long(took, limits::PING_ANSWER_TIME_MAX);
    drop(clock);
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
    let clock = Stopped::now();
    for method in ["spine.v1.KV/Put", "spine.v1.Watch/Watch"] {
        let request = Request::post(format!("http://spine/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()))
            .unwrap();
        let (took, answer) = clock.took(client.send_request(request)).await;
        as_long(took, spine_api::limits::BODY_TIME_MAX);
        let answer = answer.unwrap();
        let said = |key: &str| answer.headers()[key].to_str().unwrap().to_owned();
        assert_eq!(said("spine-code"), "message_too_slow", "{method}");
        assert_eq!(said("spine-outcome"), "not-applied", "{method}");
    }
    drop((clock, client));
    server.stop().await.unwrap();
}
