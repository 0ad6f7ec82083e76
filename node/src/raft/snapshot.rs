//! Snapshots as openraft knows them. The data is the state itself, which is a value: taking it costs nothing and holds
//! nothing up. A builder doesn't build: [`super::checkpoint`] writes checkpoints on its own, and openraft is told of
//! the newest one so that it agrees to purge the log behind it.

use std::{fmt, io};

use openraft::{RaftSnapshotBuilder, type_config::alias::SnapshotOf};
use spine_core::State;

use super::types::{SnapshotMeta, Types};

/// What a snapshot consists of.
#[derive(Clone)]
pub(super) struct SnapshotData(pub State);

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state at index {}", self.0.index())
    }
}

/// Names a snapshot that exists already.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// What is in it, or newer.
    pub data: SnapshotData,
}

impl RaftSnapshotBuilder<Types> for Ready {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, SnapshotData>> {
        Ok(openraft::Snapshot {
            meta: self.meta.clone(),
            snapshot: self.data.clone(),
        })
    }
}
