//! The state of a cluster in a file, and a new cluster that begins with it.
//!
//! A snapshot file holds a state as the checkpoints do, in the core's own chunks, under checksums of its own
//! ([`mod@file`]). [`read`] builds the state again and compares its digest; [`restore`] makes a data directory with it: that
//! of one server, whose cluster is a new one with an id of its own, so that nothing of the old one can be taken for a
//! part of it.
//!
//! The old cluster went on after the save, and its clients hold numbers from then: fencing numbers of locks, guards of
//! writes, sessions, places in watches. None of them may be given again. So the state is not taken as it was saved, but
//! [resumed](State::resumed): index and revision go on [further on](crate::raft::recovery::NUMBERS_SKIPPED), who watches
//! from before is told that what lies between is gone, and every lease and TTL gets its whole time again.

pub mod file;

use std::{
    ffi::OsString,
    io::{self, Read},
    path::{Path, PathBuf},
};

use spine_core::{Index, Revision, State, codec::DecodeError, snapshot};

use self::file::{FileError, Head, Next, Reader, Totals};
use crate::{
    raft::{
        bootstrap::{self, RESTORING},
        checkpoint::{Checkpoints, Progress},
        identity::Identity,
    },
    storage::checkpoint::CheckpointError,
    world::{World, files::Open},
};

/// A snapshot file that was read and found to be whole.
pub struct Loaded {
    /// Whose state it is.
    pub head: Head,
    /// What the state comes to.
    pub header: snapshot::Header,
    /// What the file comes to.
    pub totals: Totals,
    /// The state.
    pub state: State,
}

/// Why a snapshot file can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it says of its state can't be read.
    #[error("the file's head can't be read: {0}")]
    Head(#[from] DecodeError),
    /// Its chunks are no state.
    #[error(transparent)]
    State(#[from] snapshot::RestoreError),
}

/// Reads a snapshot file to its end; `progress` hears how many bytes have been read.
///
/// # Errors
/// [`ReadError`].
pub fn read(input: impl Read, progress: &mut dyn FnMut(u64)) -> Result<Loaded, ReadError> {
    let mut reader = Reader::new(input)?;
    let header = snapshot::Header::decode(&reader.head().state)?;
    let mut restore = snapshot::Restore::new(header)?;
    let totals = loop {
        match reader.read_on()? {
            Next::Chunk(chunk) => restore.push(&chunk)?,
            Next::End(totals) => break totals,
        }
        progress(reader.offset());
    };
    Ok(Loaded {
        head: reader.head().clone(),
        header,
        totals,
        state: restore.finish()?,
    })
}

/// Why no data directory is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is something in the directory.
    #[error("{} is not empty: name a directory that is, or that doesn't exist", .0.display())]
    NotEmpty(PathBuf),
    /// Another process has the directory.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The disk.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The checkpoint can't be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl RestoreError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// What may be in a directory that counts as empty: what the makers of file systems put there, and our own lock.
const NOTHING: [&str; 2] = ["lost+found", "lock"];
/// What a server has its state in.
const CHECKPOINT: &str = "checkpoint";

/// A directory that begins a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Of its server.
    pub identity: Identity,
    /// Index that it goes on from.
    pub index: Index,
    /// Revision that it goes on from.
    pub revision: Revision,
}

/// Makes `directory` that of a new cluster of one server, which begins with the `saved` state, and whose index and revision
/// leave `skipped` numbers out: [as many](crate::raft::recovery::NUMBERS_SKIPPED) as after a recovery, or more where a
/// cluster that began with the same state has given numbers already.
///
/// The directory may be a mount point, so all is done within it: a mark is there from before the first byte until the last
/// one is durable, and where the mark is no server starts and another restore begins anew. `progress` hears how far it is.
///
/// # Errors
/// [`RestoreError`]; nothing is restored then, and it can be tried again.
pub fn restore(
    world: &World,
    saved: &State,
    skipped: u64,
    directory: &Path,
    progress: Progress<'_>,
) -> Result<Restored, RestoreError> {
    // Before the lock is left in a directory that is somebody else's.
    check_empty(world, directory)?;
    world
        .files
        .create_dir(directory)
        .map_err(RestoreError::io("making the data directory"))?;
    let _lock = world.locks.lock(directory).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => RestoreError::InUse(directory.to_owned()),
        _ => RestoreError::io("locking the data directory")(error),
    })?;
    check_empty(world, directory)?;
    let state = saved.resumed(skipped);
    let identity = write(world, &state, directory, progress).inspect_err(|_| {
        // What stays, as after a crash, is cleared away by the next attempt, which the mark lets in.
        let _ = clear_away(world, directory);
    })?;
    Ok(Restored {
        identity,
        index: state.index(),
        revision: state.revision(),
    })
}

fn check_empty(world: &World, directory: &Path) -> Result<(), RestoreError> {
    let names = world
        .files
        .names(directory)
        .map_err(RestoreError::io("looking into the data directory"))?;
    let is_marked = names.iter().any(|name| name == RESTORING);
    let counts = |name: &OsString| {
        let own = is_marked && (name == RESTORING || name == CHECKPOINT);
        !own && !NOTHING.iter().any(|nothing| name == nothing)
    };
    if names.iter().any(counts) {
        return Err(RestoreError::NotEmpty(directory.to_owned()));
    }
    Ok(())
}

fn write(
    world: &World,
    state: &State,
    directory: &Path,
    progress: Progress<'_>,
) -> Result<Identity, RestoreError> {
    mark(world, directory).map_err(RestoreError::io("marking the data directory"))?;
    let place = directory.join(CHECKPOINT);
    world
        .files
        .remove_all(&place)
        .map_err(RestoreError::io("removing what an attempt before left"))?;
    let identity = Identity::found(&*world.rng);
    let checkpoints = Checkpoints::new((world.engine)(&place)?);
    bootstrap::begin_with(state, identity, &checkpoints, progress)?;
    drop(checkpoints);
    world
        .files
        .sync_dir(directory)
        .and_then(|()| unmark(world, directory))
        .map_err(RestoreError::io("ending the restore"))?;
    Ok(identity)
}

/// From here on what is in the directory belongs to a restore.
fn mark(world: &World, directory: &Path) -> io::Result<()> {
    match world.files.open(&directory.join(RESTORING), Open::New) {
        // Of an attempt before. It may be no more durable than ours would be.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(_) | Err(_) => {}
    }
    world.files.sync_dir(directory)
}

/// From here on it is a server's.
fn unmark(world: &World, directory: &Path) -> io::Result<()> {
    world.files.remove(&directory.join(RESTORING))?;
    world.files.sync_dir(directory)
}

fn clear_away(world: &World, directory: &Path) -> io::Result<()> {
    world.files.remove_all(&directory.join(CHECKPOINT))?;
    world.files.sync_dir(directory)?;
    unmark(world, directory)
}
