//! What operators do: the whole state as a stream.
//!
//! The state is a value, so sending one holds nothing up; but it keeps what has been overwritten since, so only so many
//! are sent at once, and a client that stops reading is given up.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, channel::mpsc};
use spine_core::{State, snapshot};
use spine_proto::v1::{self, admin_server::Admin, save_snapshot_response::Part};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Request, Response, Status};

use super::{Door, Host, consistency, status};
use crate::{
    limits,
    registry::{Context, Error},
};

/// Parts that are encoded and not yet taken by the connection.
const PARTS_AHEAD: usize = 4;

type Parts = mpsc::Sender<Result<v1::SaveSnapshotResponse, Status>>;

/// The service.
#[derive(Clone)]
pub(super) struct Administration {
    door: Door,
    sending: Arc<Semaphore>,
}

impl Administration {
    pub(super) fn new(door: Door) -> Self {
        Self {
            door,
            sending: Arc::new(Semaphore::new(limits::SNAPSHOTS_SENT_MAX)),
        }
    }

    /// The server around the registry.
    fn host(&self) -> Result<&dyn Host, Status> {
        let none = || Error::Unsupported("this registry is not that of a server of its own".into());
        let host = self.door.settings.host.as_deref();
        host.ok_or_else(|| status::of(&none()))
    }

    async fn begin(&self, cx: &Context) -> Result<(Sending, v1::SnapshotStart), Error> {
        let permit = self.sending.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::Overloaded {
            what: "snapshots on their way".into(),
            limit: limits::SNAPSHOTS_SENT_MAX as u64,
        })?;
        let state = self.door.registry.view(cx).await?;
        let node = self.door.registry.status();
        let start = v1::SnapshotStart {
            state: snapshot::Header::of(&state).encode().into(),
            cluster_id: node.cluster_id.to_string(),
            server: node.name.to_string(),
            version: self.door.settings.version.to_string(),
            index: state.index().0,
            revision: state.revision().0,
            time_ms: state.time().0,
            state_bytes: state.bytes(),
        };
        let sending = Sending {
            state,
            _permit: permit,
        };
        Ok((sending, start))
    }
}

#[tonic::async_trait]
impl Admin for Administration {
    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::SaveSnapshotResponse, Status>> + Send>>;

    async fn save_snapshot(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let (mut cx, request) = self.door.open(request);
        cx.consistency = consistency(request.consistency);
        let (sending, start) = self.begin(&cx).await.map_err(|error| status::of(&error))?;
        let (parts, sent) = mpsc::channel(PARTS_AHEAD);
        // It ends with the state, with the connection, or with the client's patience; nobody waits for it.
        tokio::spawn(sending.run(start, parts));
        Ok(Response::new(Box::pin(sent)))
    }

    async fn diagnose(
        &self,
        _request: Request<v1::DiagnoseRequest>,
    ) -> Result<Response<v1::DiagnoseResponse>, Status> {
        Ok(Response::new(self.host()?.diagnose().await))
    }

    async fn debug(
        &self,
        _request: Request<v1::DebugRequest>,
    ) -> Result<Response<v1::DebugResponse>, Status> {
        Ok(Response::new(self.host()?.debug().await))
    }
}

/// A state on its way.
struct Sending {
    state: Arc<State>,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    async fn run(self, start: v1::SnapshotStart, mut parts: Parts) {
        if let Err(Stopped::Silence) = self.send_all(start, &mut parts).await {
            let status = status::slow_reader(limits::SNAPSHOT_PAUSE_MAX);
            // The channel may be full: a sender of its own has a place of its own.
            let _ = parts.clone().try_send(Err(status));
        }
    }

    async fn send_all(&self, start: v1::SnapshotStart, parts: &mut Parts) -> Result<(), Stopped> {
        send(parts, Part::Start(start)).await?;
        let (mut chunks, mut bytes) = (0, 0);
        for data in snapshot::chunks(&self.state) {
            chunks += 1;
            bytes += data.len() as u64;
            let crc32c = crc32c::crc32c(&data);
            let data = data.into();
            send(parts, Part::Chunk(v1::SnapshotChunk { data, crc32c })).await?;
        }
        send(parts, Part::End(v1::SnapshotEnd { chunks, bytes })).await
    }
}

/// Why a state did not get through.
enum Stopped {
    /// The client has gone.
    Gone,
    /// It doesn't take what is sent.
    Silence,
}

async fn send(parts: &mut Parts, part: Part) -> Result<(), Stopped> {
    use futures::SinkExt;
    let message = v1::SaveSnapshotResponse { part: Some(part) };
    match timeout(limits::SNAPSHOT_PAUSE_MAX, parts.send(Ok(message))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Stopped::Gone),
        Err(_) => Err(Stopped::Silence),
    }
}
