//! What operators do.

use std::time::Duration;

use spine_proto::v1::{self, admin_client::AdminClient, save_snapshot_response::Part};
use tokio::time::timeout;
use tonic::{Streaming, transport::Channel};

use crate::{
    error::{Error, Kind, Result, broken_off},
    pool::{Caller, MESSAGE_BYTES_MAX},
};

/// A server that sends nothing for so long has gone. It gives up a client earlier than this.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// What operators do.
#[derive(Clone, Debug)]
pub struct Admin(Caller);

impl Admin {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Asks one server, the first that answers, how it does. It needs no leader.
    pub async fn diagnose(&self) -> Result<v1::DiagnoseResponse> {
        let send = |channel, request| async move { AdminClient::new(channel).diagnose(request).await };
        self.0.pool.call(Kind::Read, v1::DiagnoseRequest {}, send).await
    }

    /// Asks one server, the first that answers, for what a report of a defect needs. It holds no secret.
    pub async fn debug(&self) -> Result<v1::DebugResponse> {
        let send = |channel: Channel, request| async move {
            AdminClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .debug(request)
                .await
        };
        self.0.pool.call(Kind::Read, v1::DebugRequest {}, send).await
    }

    /// Begins to fetch the whole state of one moment, from the first server that gives it.
    pub async fn save_snapshot(&self) -> Result<SnapshotStream> {
        let request = v1::SaveSnapshotRequest {
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { AdminClient::new(channel).save_snapshot(request).await };
        let parts = self.0.pool.call(Kind::Read, request, send).await?;
        let mut stream = SnapshotStream {
            parts,
            start: v1::SnapshotStart::default(),
        };
        match stream.next().await? {
            Part::Start(start) => Ok(SnapshotStream { start, ..stream }),
            Part::Chunk(_) | Part::End(_) => Err(broken("it does not begin with its start")),
        }
    }
}

/// A snapshot on its way. What comes is not checked here.
#[derive(Debug)]
pub struct SnapshotStream {
    parts: Streaming<v1::SaveSnapshotResponse>,
    start: v1::SnapshotStart,
}

impl SnapshotStream {
    /// What it is of.
    pub fn start(&self) -> &v1::SnapshotStart {
        &self.start
    }

    /// The next part: chunks, and then the end.
    ///
    /// # Errors
    /// The stream broke off: what came so far is not a snapshot. A new one begins anew.
    pub async fn next(&mut self) -> Result<Part> {
        let silent = || broken(&format!("the server sent nothing for {SILENCE_MAX:?}"));
        let message = timeout(SILENCE_MAX, self.parts.message())
            .await
            .map_err(|_| silent())?;
        let message = message.map_err(|status| broken_off(BROKEN_OFF, &status))?;
        message
            .and_then(|message| message.part)
            .ok_or_else(|| broken("it ends before its end"))
    }
}

const BROKEN_OFF: &str = "the snapshot broke off";

fn broken(why: &str) -> Error {
    Error::BrokenOff(format!("{BROKEN_OFF}: {why}").into())
}
