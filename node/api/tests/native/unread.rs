//! Calls that never get to the rules: their message doesn't arrive, can't be read, or is for no method.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use spine_api::limits;
use spine_proto::v1::kv_client::KvClient;
use tokio::time::Instant;
use tonic::{Code, Status, service::Routes};
use tower::ServiceExt;

use crate::{
    bounds::{put_of, served_here},
    served::{Scripted, put},
};

const PUT: &str = "/spine.v1.KV/Put";

/// A message as it goes over the wire.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// Calls a method; gives the status, if there is one.
async fn call(routes: &Routes, method: &str, packing: Option<&str>, body: Body) -> Option<Status> {
    let mut request = http::Request::post(method).header("content-type", "application/grpc");
    if let Some(packing) = packing {
        request = request.header("grpc-encoding", packing);
    }
    let router = routes.clone().into_axum_router();
    let response = router.oneshot(request.body(body).unwrap()).await.unwrap();
    Status::from_header_map(response.headers())
}

/// What a status says of itself: the code's word, the outcome, whether to retry.
fn said(status: &Status) -> [&str; 3] {
    ["spine-code", "spine-outcome", "spine-retry"]
        .map(|key| status.metadata().get(key).unwrap().to_str().unwrap())
}

fn is_there(registry: &Scripted, key: &'static str) -> bool {
    let state = spine_api::Registry::hub(registry).newest();
    state.kv().get(&Bytes::from(key)).is_some()
}

#[tokio::test]
async fn what_cannot_be_read_is_told_as_any_other_error() {
    let (_registry, routes) = served_here().await;
    let whole = || framed(&put("a", "1").encode_to_vec());
    let too_large = framed(&put_of(limits::GRPC_MESSAGE_BYTES_MAX + 1).encode_to_vec());
    // The key is a field of bytes, and these are no such field.
    let undecodable = framed(&[0x0a, 0xff]);
    let cut = whole().slice(..5);
    for (method, packing, body, code, word) in [
        (PUT, None, too_large, Code::OutOfRange, "message_too_large"),
        (PUT, None, undecodable, Code::Internal, "unreadable"),
        (PUT, None, cut, Code::Internal, "unreadable"),
        (PUT, None, Bytes::new(), Code::Internal, "unreadable"),
        (PUT, Some("gzip"), whole(), Code::Unimplemented, "unreadable"),
        (
            "/spine.v1.KV/Pat",
            None,
            whole(),
            Code::Unimplemented,
            "unknown_method",
        ),
        (
            "/spine.v9.KV/Put",
            None,
            whole(),
            Code::Unimplemented,
            "unknown_method",
        ),
    ] {
        let status = call(&routes, method, packing, body.into()).await.unwrap();
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(said(&status), [word, "not-applied", "false"], "{status}");
        assert!(status.metadata().contains_key("spine-remedy"));
    }
    assert!(call(&routes, PUT, None, whole().into()).await.is_none());
}

/// Pieces that come one after the other, each so much later.
fn trickling(
    message: &Bytes,
    pieces: usize,
    apart: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let size = message.len().div_ceil(pieces);
    let message = message.clone();
    stream::iter(0..pieces).then(move |n| {
        let piece = message.slice((n * size).min(message.len())..((n + 1) * size).min(message.len()));
        async move {
            tokio::time::sleep(apart).await;
            Ok(piece)
        }
    })
}

/// No pause between two pieces is long, so it is the message's whole time that ends it.
#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_in_is_given_up() {
    let (registry, routes) = served_here().await;
    let apart = limits::BODY_TIME_MAX / 10;
    let message = framed(&put_of(1_000).encode_to_vec());
    let began = Instant::now();
    let body = Body::from_stream(trickling(&message, 9, apart));
    assert!(call(&routes, PUT, None, body).await.is_none());
    assert_eq!(began.elapsed(), 9 * apart);
    assert!(is_there(&registry, "k"));

    let late = framed(&put("late", "1").encode_to_vec());
    let began = Instant::now();
    let body = Body::from_stream(trickling(&late, 11, apart));
    let status = call(&routes, PUT, None, body).await.unwrap();
    assert_eq!(began.elapsed(), limits::BODY_TIME_MAX);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(said(&status), ["message_too_slow", "not-applied", "true"]);
    assert!(!is_there(&registry, "late"));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_an_end_is_given_up() {
    let (_registry, routes) = served_here().await;
    // Also where the answer is a stream. A message without a field is one of each kind.
    for method in [PUT, "/spine.v1.Watch/Watch", "/grpc.health.v1.Health/Check"] {
        for begins_with in [Bytes::new(), framed(&[])] {
            let body = stream::iter([Ok::<_, Infallible>(begins_with)]).chain(stream::pending());
            let began = Instant::now();
            let status = call(&routes, method, None, Body::from_stream(body))
                .await
                .unwrap();
            assert_eq!(began.elapsed(), limits::BODY_TIME_MAX, "{method}");
            assert_eq!(said(&status)[0], "message_too_slow", "{method}: {status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_requests_may_be_quiet() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let (_registry, routes) = served_here().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = stream::iter([request.clone(), request]).then(async |request| {
        tokio::time::sleep(2 * limits::BODY_TIME_MAX).await;
        request
    });
    let mut answers = ServerReflectionClient::new(routes)
        .server_reflection_info(asked.boxed())
        .await
        .unwrap()
        .into_inner();
    for _ in 0..2 {
        assert!(answers.message().await.unwrap().is_some());
    }
}

/// The library that reads also tells the client; both ends agree on what is told.
#[tokio::test]
async fn a_client_reads_the_words() {
    let (_registry, routes) = served_here().await;
    let too_large = put_of(limits::GRPC_MESSAGE_BYTES_MAX + 1);
    let status = KvClient::new(routes).put(too_large).await.unwrap_err();
    assert_eq!(said(&status), ["message_too_large", "not-applied", "false"]);
}
