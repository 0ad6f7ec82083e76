//! Checkpoints: when one is due, what it consists of, and the log that may go once it is there.
//!
//! A checkpoint is the state at a log position as the core's own chunks, with a header that tells whose it is. The
//! state is a value, so that nothing waits while one is written. When it is written, read back and found to have the
//! digest of the state that it was made from (which takes no second state: [`snapshot::Proof`]), openraft is told, and
//! the log goes up to the *older* of the two generations that are kept.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use spine_core::snapshot;
use spine_proto::internal::v1 as proto;

use super::{
    identity::Identity,
    state_machine::Applied,
    types::{LogId, SnapshotMeta},
    wire::{self, Malformed},
};
use crate::{
    storage::checkpoint::{CheckpointError, Chunk, Chunks, Engine, Generation, Header},
    world::lock::DirLock,
};

/// A checkpoint is due after so many bytes of log at least.
pub const LOGGED_MIN: u64 = 32 << 20;
/// And after so many in any case. The history of the keys makes a state grow by more than is logged; without this bound
/// a checkpoint would not become due before the quota stops it. The log of two generations then stays about 1 GiB.
pub const LOGGED_MAX: u64 = 512 << 20;
/// At a graceful stop so many bytes of log are worth a checkpoint.
pub const LOGGED_AT_STOP: u64 = 1 << 20;

/// Whether a checkpoint is due after `logged` bytes, with a state of `state_bytes`: rarely enough that writing it costs
/// at most twice what the log does, often enough that a restart replays little.
pub fn due(logged: u64, state_bytes: u64) -> bool {
    logged > (state_bytes / 2).clamp(LOGGED_MIN, LOGGED_MAX)
}

/// What stands in a checkpoint's header beside the log index.
#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    /// Whose it is.
    #[prost(bytes = "bytes", tag = "1")]
    pub identity: Bytes,
    /// The last log entry in it; none in generation 0.
    #[prost(message, optional, tag = "2")]
    pub position: Option<proto::LogId>,
    /// Who votes.
    #[prost(message, optional, tag = "3")]
    pub membership: Option<proto::StoredMembership>,
    /// What the chunks come to: [`snapshot::Header`].
    #[prost(bytes = "bytes", tag = "4")]
    pub state: Bytes,
    /// Bytes of the log's stream when it was taken.
    #[prost(uint64, tag = "5")]
    pub stream_bytes: u64,
}

/// A checkpoint that was loaded.
#[derive(Clone)]
pub struct Loaded {
    /// Which one.
    pub generation: Generation,
    /// Whose it is.
    pub identity: Identity,
    /// What was in it.
    pub applied: Applied,
    /// Bytes of the log's stream when it was taken.
    pub stream_bytes: u64,
    /// Newer ones that did not verify, and why.
    pub passed_over: Vec<(Generation, String)>,
}

/// What is being done with the chunks of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// They are written.
    Written,
    /// They are read back, and compared.
    Checked,
}

/// Hears of how many bytes of chunks a step is done.
pub type Progress<'a> = &'a dyn Fn(Step, u64);

/// The checkpoints of one node. Calls wait for the disk.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    engine: Arc<dyn Engine>,
    /// The data directory's lock, where there is one: nobody else may have it while one is being written, even if the node
    /// is gone by then.
    _held: Option<Arc<dyn DirLock>>,
}

impl Checkpoints {
    /// The checkpoints in `engine`.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, _held: None }
    }

    /// The same; they hold this lock.
    #[must_use]
    pub fn holding(self, lock: Arc<dyn DirLock>) -> Self {
        Self {
            _held: Some(lock),
            ..self
        }
    }

    /// Loads the newest one that verifies; `None` if there was never one.
    ///
    /// # Errors
    /// [`CheckpointError::Newer`] if one was written by a newer release: going on from an older one, this release would meet in
    /// the log what it doesn't know.
    pub fn load(&self) -> Result<Option<Loaded>, CheckpointError> {
        let (mut found, mut newer) = (None, None);
        let loaded = self.engine.newest_verified(&mut |header, chunks| {
            if let Err(error) = check_release(header) {
                newer.get_or_insert(error.clone());
                return Err(error);
            }
            found = Some(read(header, chunks)?);
            Ok(())
        });
        if let Some(newer) = newer {
            return Err(CheckpointError::Newer(newer));
        }
        Ok(loaded?.map(|loaded| {
            let (meta, identity, applied) = found.expect("a generation verifies by being read");
            let (generation, passed_over) = (loaded.generation, loaded.passed_over);
            Loaded {
                generation,
                identity,
                applied,
                stream_bytes: meta.stream_bytes,
                passed_over,
            }
        }))
    }

    /// Writes one and verifies it.
    pub fn write(
        &self,
        identity: &Identity,
        applied: &Applied,
        stream_bytes: u64,
    ) -> Result<Generation, CheckpointError> {
        self.write_telling(identity, applied, stream_bytes, &|_, _| {})
    }

    /// The same, for somebody who waits.
    pub fn write_telling(
        &self,
        identity: &Identity,
        applied: &Applied,
        stream_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Generation, CheckpointError> {
        let state = &applied.state;
        let of = snapshot::Header::of(state);
        let meta = Meta {
            identity: identity.encode(),
            position: applied.position.as_ref().map(wire::position_message),
            membership: Some(wire::stored_membership_message(&applied.membership)),
            state: of.encode().into(),
            stream_bytes,
        };
        let header = Header {
            log_index: applied.position.map_or(0, |position| position.index),
            meta: meta.encode_to_vec().into(),
        };
        let mut chunks = (0_u64..)
            .zip(snapshot::chunks(state))
            .map(|(number, chunk)| Chunk {
                key: Bytes::copy_from_slice(&number.to_be_bytes()),
                value: chunk.into(),
            })
            .inspect(told(Step::Written, progress));
        self.engine.write(&header, &mut chunks, &mut |found, chunks| {
            if *found != header {
                return Err("its header differs from what was written".to_owned());
            }
            let mut tell = told(Step::Checked, progress);
            prove(of, &mut chunks.inspect(|chunk| chunk.iter().for_each(&mut tell)))
        })
    }

    /// The log may go up to and with this index; `None`: nothing of it may.
    pub fn log_covered(&self) -> Result<Option<u64>, CheckpointError> {
        // Generation 0 stands before the log's first entry, which has index 0: that entry is kept for it.
        Ok(self.engine.log_index_kept()?.filter(|index| *index > 0))
    }
}

/// Counts the chunks that pass.
fn told(step: Step, progress: Progress<'_>) -> impl FnMut(&Chunk) + '_ {
    let mut bytes = 0;
    move |chunk| {
        bytes += chunk.value.len() as u64;
        progress(step, bytes);
    }
}

/// Refuses what a newer release has written. What is no header is no concern of this: see [`read`].
fn check_release(header: &Header) -> Result<(), String> {
    let Ok(meta) = Meta::decode(header.meta.clone()) else {
        return Ok(());
    };
    match snapshot::Header::decode(&meta.state) {
        Ok(header) => header.check_known().map_err(|error| error.to_string()),
        Err(_) => Ok(()),
    }
}

/// Says whether the chunks are those of a state.
fn prove(of: snapshot::Header, chunks: &mut Chunks<'_>) -> Result<(), String> {
    let mut proof = snapshot::Proof::new(of).map_err(|error| error.to_string())?;
    for chunk in chunks {
        let chunk = chunk.map_err(|error| error.to_string())?;
        proof.push(&chunk.value).map_err(|error| error.to_string())?;
    }
    proof.finish().map_err(|error| error.to_string())
}

/// Builds the state of a checkpoint and compares it with what the header says.
fn read(header: &Header, chunks: &mut Chunks<'_>) -> Result<(Meta, Identity, Applied), String> {
    let malformed = |error: Malformed| error.to_string();
    let meta = Meta::decode(header.meta.clone()).map_err(|_| malformed(Malformed("header")))?;
    let identity = Identity::decode(&meta.identity).map_err(malformed)?;
    let position: Option<LogId> = meta
        .position
        .map(wire::message_position)
        .transpose()
        .map_err(malformed)?;
    if header.log_index != position.map_or(0, |position| position.index) {
        return Err("the header names two log positions".to_owned());
    }
    let membership = meta.membership.clone().unwrap_or_default();
    let membership = wire::message_stored_membership(membership).map_err(malformed)?;
    let header = snapshot::Header::decode(&meta.state).map_err(|error| error.to_string())?;
    let mut restore = snapshot::Restore::new(header).map_err(|error| error.to_string())?;
    for chunk in chunks {
        let chunk = chunk.map_err(|error| error.to_string())?;
        restore.push(&chunk.value).map_err(|error| error.to_string())?;
    }
    let state = restore.finish().map_err(|error| error.to_string())?;
    Ok((
        meta,
        identity,
        Applied {
            position,
            membership: Arc::new(membership),
            state,
        },
    ))
}

/// What openraft is told of a checkpoint; nothing of one that holds no entry.
pub(super) fn snapshot_meta(applied: &Applied) -> Option<SnapshotMeta> {
    let position = applied.position?;
    Some(SnapshotMeta {
        last_log_id: Some(position),
        last_membership: (*applied.membership).clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{storage::memory::MemoryEngine, world::rng::OsRng};

    #[test]
    fn nothing_goes_on_from_before_what_a_newer_release_wrote() {
        let engine = Arc::new(MemoryEngine::new());
        let checkpoints = Checkpoints::new(engine.clone());
        let identity = Identity::found(&OsRng);
        let applied = Applied {
            position: None,
            membership: Arc::default(),
            state: spine_core::State::new(),
        };
        checkpoints.write(&identity, &applied, 0).unwrap();
        assert!(checkpoints.load().unwrap().is_some());
        let newer = snapshot::Header {
            rules: spine_core::RULES_KNOWN + 1,
            ..snapshot::Header::of(&applied.state)
        };
        let meta = Meta {
            identity: identity.encode(),
            state: newer.encode().into(),
            ..Meta::default()
        };
        let header = Header {
            log_index: 0,
            meta: meta.encode_to_vec().into(),
        };
        let written = engine.write(&header, &mut std::iter::empty(), &mut |_, _| Ok(()));
        assert!(written.is_ok());
        let refused = checkpoints.load().map(|_| ()).unwrap_err().to_string();
        assert!(
            refused.contains("newer release") && refused.contains("start this server with that release"),
            "{refused}"
        );
    }

    #[test]
    fn due_after_half_the_state_but_between_32_and_512_mb() {
        assert!(!due(32 << 20, 0));
        assert!(due((32 << 20) + 1, 64 << 20));
        assert!(!due(33 << 20, 100 << 20));
        assert!(due(51 << 20, 100 << 20));
        assert!(!due(512 << 20, 4 << 30));
        assert!(due((512 << 20) + 1, 4 << 30));
    }
}
