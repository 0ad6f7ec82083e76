//! What never gets to the rules: a message that doesn't arrive, or can't be read, or is for no method that there is.
//!
//! Reading messages is the library's work, and so is the status of one that it can't read. That did nothing, and is told in
//! the words of all other errors: [`guard`] knows it by its lack of them.

use axum::{
    body::Body,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use futures::{StreamExt, stream};
use http::HeaderMap;
use http_body_util::{BodyStream, StreamBody};
use spine_core::RejectionRow;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, metadata::MetadataMap, service::Routes};

use super::status::{NOT_APPLIED, is_told, tell};
use crate::limits;

/// Stands in the status of a message that is packed in a way that the server can't unpack.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

const TOO_LARGE: RejectionRow = RejectionRow {
    code: "message_too_large",
    meaning: "the request's message is larger than a server reads",
    remedy: "make it smaller, or send it as several requests",
    retry: false,
};
const TOO_SLOW: RejectionRow = RejectionRow {
    code: "message_too_slow",
    meaning: "the request's message did not arrive in time",
    remedy: "send the whole message, and its end, at once",
    retry: true,
};
const UNREADABLE: RejectionRow = RejectionRow {
    code: "unreadable",
    meaning: "the request's message can't be read",
    remedy: "send it as the definitions say, and not compressed",
    retry: false,
};
const UNKNOWN_METHOD: RejectionRow = RejectionRow {
    code: "unknown_method",
    meaning: "this release has no such method",
    remedy: "see the documentation of this release, or ask it by reflection",
    retry: false,
};

/// The same services, which wait for a message so long and no longer, and tell what they can't read.
///
/// Their requests must be one message each: a stream of them may be quiet for as long as its client likes.
pub(super) fn guarded(routes: Routes) -> Routes {
    Routes::from(routes.into_axum_router().layer(from_fn(guard)))
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request.map(in_time)).await;
    if let Some(row) = unread(response.headers()) {
        let mut metadata = MetadataMap::new();
        tell(&mut metadata, row, NOT_APPLIED);
        response.headers_mut().extend(metadata.into_headers());
    }
    response
}

/// The same body, which breaks off if it has not ended in time. Who sends it is heard, or else pinged, so that it says nothing of
/// whether the client lives; but a call that waits for it holds its place.
fn in_time(body: Body) -> Body {
    let until = Instant::now() + limits::BODY_TIME_MAX;
    let frames = stream::unfold(Some(BodyStream::new(body)), move |frames| async move {
        let mut frames = frames?;
        match timeout_at(until, frames.next()).await {
            Ok(Some(frame)) => Some((frame, Some(frames))),
            Ok(None) => None,
            Err(_) => Some((Err(axum::Error::new(too_slow())), None)),
        }
    });
    Body::new(StreamBody::new(frames))
}

/// The status of a message that does not arrive; the library hands it on as it is.
fn too_slow() -> Status {
    let mut status = Status::deadline_exceeded(format!(
        "the message did not arrive within {:?}",
        limits::BODY_TIME_MAX
    ));
    tell(status.metadata_mut(), &TOO_SLOW, NOT_APPLIED);
    status
}

/// What the library says with these headers; `None` if it is not the library's.
fn unread(headers: &HeaderMap) -> Option<&'static RejectionRow> {
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    if is_told(headers) {
        return None;
    }
    match code {
        Code::OutOfRange => Some(&TOO_LARGE),
        Code::Unimplemented if !headers.contains_key(ACCEPT_ENCODING) => Some(&UNKNOWN_METHOD),
        Code::Unimplemented | Code::Internal => Some(&UNREADABLE),
        // Of the standard health service, which has words of its own; or the client broke off, and nobody reads this.
        _ => None,
    }
}
