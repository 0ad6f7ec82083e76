//! The state of a cluster in a file, and a new cluster that begins with it.
//!
//! A snapshot file holds a state as the checkpoints do, in the core's own chunks, under checksums of its own
//! ([`mod@file`]). [`read`] builds the state again and compares its digest; [`restore`] makes a data directory with it: that
//! of one server, whose cluster is a new one with an id of its own, so that nothing of the old one can be taken for a
//! part of it. Index, revision and cluster time go on from where they were, so whoever watched or cached sees no number
//! fall.

pub mod file;

use std::{
    ffi::OsString,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use spine_core::{State, codec::DecodeError, snapshot};

use self::file::{FileError, Head, Next, Reader, Totals};
use crate::{
    raft::{
        bootstrap,
        checkpoint::{Checkpoints, Progress},
        identity::Identity,
    },
    storage::checkpoint::CheckpointError,
    world::World,
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
    /// The path names no directory that can be made.
    #[error("{} is no name for a directory", .0.display())]
    NoName(PathBuf),
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

/// Makes a data directory that begins a new cluster of one server with `state`. It gets its name when all of it is
/// durable, so a start never finds a part of it. `progress` hears how far that is.
///
/// # Errors
/// [`RestoreError`]; the directory is then as it was.
pub fn restore(
    world: &World,
    state: &State,
    directory: &Path,
    progress: Progress<'_>,
) -> Result<Identity, RestoreError> {
    if !is_empty(directory).map_err(RestoreError::io("looking into the data directory"))? {
        return Err(RestoreError::NotEmpty(directory.to_owned()));
    }
    let draft = draft_of(directory).ok_or_else(|| RestoreError::NoName(directory.to_owned()))?;
    let parent = parent_of(&draft);
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(RestoreError::io("removing what an attempt before left"))?;
    }
    world
        .files
        .create_dir(&draft)
        .map_err(RestoreError::io("making the data directory"))?;
    let identity = Identity::found(&*world.rng);
    let checkpoints = Checkpoints::new((world.engine)(&draft.join("checkpoint"))?);
    bootstrap::begin_with(state, identity, &checkpoints, progress)?;
    drop(checkpoints);
    world
        .files
        .sync_dir(&draft)
        .and_then(|()| world.files.rename(&draft, directory))
        .and_then(|()| world.files.sync_dir(&parent))
        .map_err(RestoreError::io("naming the data directory"))?;
    Ok(identity)
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Where the directory grows: beside its place, on the same disk.
fn draft_of(directory: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(directory.file_name()?);
    name.push(".restoring");
    Some(directory.with_file_name(name))
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
