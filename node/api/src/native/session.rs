//! Request sessions: opening one, and the number that a call has in it.

use spine_core::{Command, Outcome, RequestId, SessionId};
use spine_proto::v1::{self, sessions_server::Sessions};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{Door, misfit, reply};
use crate::registry::{Context, Error};

const REQUEST: &str = "spine-request";

#[tonic::async_trait]
impl Sessions for Door {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let (cx, _) = self.open(request);
        reply(open_session(self, &cx).await)
    }
}

async fn open_session(door: &Door, cx: &Context) -> Result<v1::OpenSessionResponse, Error> {
    match door.propose(cx, Command::OpenSession).await? {
        (_, Outcome::SessionOpened(SessionId(session))) => Ok(v1::OpenSessionResponse { session }),
        (_, other) => Err(misfit(&other)),
    }
}

/// The number of a call. One that can't be read is of a session that is never open: whoever sends a number relies on it,
/// so the call must not go on without one.
pub(super) fn number(metadata: &MetadataMap) -> Option<RequestId> {
    let text = metadata.get(REQUEST)?.to_str().unwrap_or_default();
    Some(parse(text).unwrap_or(RequestId {
        session: SessionId(0),
        sequence: 1,
        answered_up_to: 0,
    }))
}

/// `SESSION:SEQUENCE:ANSWERED`.
fn parse(text: &str) -> Option<RequestId> {
    let mut parts = text.split(':').map(|part| part.parse().ok());
    let id = RequestId {
        session: SessionId(parts.next()??),
        sequence: parts.next()??,
        answered_up_to: parts.next()??,
    };
    parts.next().is_none().then_some(id)
}
