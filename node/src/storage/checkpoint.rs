//! What a checkpoint is: the whole state at one log position, as sorted chunks, kept in numbered generations.
//!
//! A generation is written once, read back and verified by the caller, and only then becomes the current one; it is
//! never written again. Two are kept, so a generation that rots is made up for by the one before and the log that is
//! still there for it. Hence the caller purges its log up to [`Engine::log_index_kept`] at most.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

/// Longest key of a chunk in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// Longest value of a chunk in bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Longest [`Header::meta`] in bytes.
pub const META_BYTES_MAX: usize = 64 * 1024;

/// Number of a generation; each checkpoint has a greater one than all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// What is said about a checkpoint beside its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Index of the last log entry that the state holds: the log behind it is replayed.
    pub log_index: u64,
    /// Everything else that belongs to it (identity, counters, digest), opaque here; at most [`META_BYTES_MAX`] bytes.
    pub meta: Bytes,
}

/// A piece of the state. Keys rise strictly from chunk to chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it stands in the order; 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// Its content; at most [`VALUE_BYTES_MAX`] bytes.
    pub value: Bytes,
}

/// The chunks of a generation being read back. Each was checked against its own checksum; the end comes only after
/// all chunks that were written.
pub type Chunks<'a> = dyn Iterator<Item = Result<Chunk, CheckpointError>> + 'a;

/// Says whether what is read back from a generation is the right state: compares the digest. Who loads it builds the state.
///
/// It is called with the header and the chunks in order. `Err` with a reason makes the generation a bad one.
pub type Verifier<'a> = dyn FnMut(&Header, &mut Chunks<'_>) -> Result<(), String> + 'a;

/// A place for checkpoints. One writer at a time; calls wait for the disk.
///
/// Duties of an implementation: [`write`](Self::write) returns success only if the generation survives a power cut
/// from then on; a crash at any moment leaves the generations before it as they were.
pub trait Engine: Send + Sync + Debug {
    /// Writes a generation, reads it back through `verify`, makes it the current one and removes all but two.
    fn write(
        &self,
        header: &Header,
        chunks: &mut dyn Iterator<Item = Chunk>,
        verify: &mut Verifier<'_>,
    ) -> Result<Generation, CheckpointError>;

    /// Loads the newest generation that verifies, falling back to the one before; `None` if there was never one.
    ///
    /// # Errors
    /// [`CheckpointError::NoneVerified`] if there are generations and none is good.
    fn newest_verified(&self, verify: &mut Verifier<'_>) -> Result<Option<Loaded>, CheckpointError>;

    /// The log must be kept behind this index: that of the oldest good generation. `None` if there is none.
    fn log_index_kept(&self) -> Result<Option<u64>, CheckpointError>;
}

/// Which generation was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its number.
    pub generation: Generation,
    /// Its header.
    pub header: Header,
    /// Newer generations that were passed over, and why.
    pub passed_over: Vec<(Generation, String)>,
}

/// Why a checkpoint can't be written or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The caller's chunks or header broke the rules.
    #[error("checkpoint refused: {0}")]
    Refused(String),
    /// A generation doesn't hold what was written.
    #[error("checkpoint generation {generation} is damaged: {what}")]
    Damaged {
        /// Its number.
        generation: u64,
        /// What was found.
        what: String,
    },
    /// A generation was written by a newer release: what an older one says must not take its place.
    #[error("written by a newer release: {0}; start this server with that release again")]
    Newer(String),
    /// No generation verifies. The log alone can't make up for it: the state must come from a peer or a backup.
    #[error("no checkpoint generation verifies: {0}")]
    NoneVerified(String),
    /// There is no room to read a checkpoint, which says nothing of the checkpoint.
    #[error(
        "the disk is full: {0}; make room, at least 256 MiB, and start this server again if nothing else does"
    )]
    NoRoom(String),
    /// The disk or the database failed.
    #[error("checkpoint: {what}: {reason}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        reason: Arc<str>,
    },
}

impl CheckpointError {
    /// A failure of the disk or the database while doing `what`.
    pub(super) fn io<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Io {
            what,
            reason: error.to_string().into(),
        }
    }

    /// Damage to a generation.
    pub(super) fn damaged(generation: Generation, what: impl Into<String>) -> Self {
        Self::Damaged {
            generation: generation.0,
            what: what.into(),
        }
    }
}

/// Says whether a header keeps the bounds.
pub(super) fn check_header(header: &Header) -> Result<(), CheckpointError> {
    if header.meta.len() > META_BYTES_MAX {
        return Err(CheckpointError::Refused(format!(
            "meta has {} bytes",
            header.meta.len()
        )));
    }
    Ok(())
}

/// Says whether a chunk keeps the bounds and follows `previous`.
pub(super) fn check_chunk(chunk: &Chunk, previous: Option<&Bytes>) -> Result<(), CheckpointError> {
    let refused = |what: String| Err(CheckpointError::Refused(what));
    if !(1..=KEY_BYTES_MAX).contains(&chunk.key.len()) {
        return refused(format!("a key has {} bytes", chunk.key.len()));
    }
    if chunk.value.len() > VALUE_BYTES_MAX {
        return refused(format!("a value has {} bytes", chunk.value.len()));
    }
    if previous.is_some_and(|previous| *previous >= chunk.key) {
        return refused("the keys don't rise".to_owned());
    }
    Ok(())
}

/// A generation that is kept, and where in the log it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) generation: Generation,
    pub(super) log_index: u64,
}

/// Finds the newest of `candidates` (newest first) that loads, noting in `bad` those that don't.
pub(super) fn newest_good(
    candidates: &[Generation],
    bad: &mut BTreeSet<Generation>,
    mut load: impl FnMut(Generation) -> Result<Header, CheckpointError>,
) -> Result<Loaded, CheckpointError> {
    let mut passed_over = Vec::new();
    for generation in candidates {
        match load(*generation) {
            Ok(header) => {
                return Ok(Loaded {
                    generation: *generation,
                    header,
                    passed_over,
                });
            }
            Err(error @ CheckpointError::NoRoom(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(generation = generation.0, %error, "a checkpoint generation is passed over");
                bad.insert(*generation);
                passed_over.push((*generation, error.to_string()));
            }
        }
    }
    let reasons: Vec<String> = passed_over.into_iter().map(|(_, reason)| reason).collect();
    Err(CheckpointError::NoneVerified(reasons.join("; ")))
}
