//! How a node comes to its identity, its log and its state: the first start, and every other.
//!
//! A first start writes checkpoint generation 0, which holds nothing, and then the log's first segment; once that
//! segment's header is flushed the identity exists. So a crash in between leaves generation 0 without a log, which
//! counts as an empty directory. Whatever else doesn't fit together is refused with the one safe way on: a node that
//! guesses could vote twice, or serve a state that the cluster never had.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::LogIdOptionExt;
use spine_core::State;

use super::{
    checkpoint::{Checkpoints, Loaded},
    identity::{self, Identity},
    state_machine::Applied,
    wire,
};
use crate::{
    storage::{
        checkpoint::{CheckpointError, Generation},
        log::{LogError, LogHooks, LogStore},
        segment::{LogOptions, LogPlace},
    },
    world::{World, lock::DirLock},
};

/// A node's storage, opened and found consistent.
pub struct Opened {
    /// Held as long as the node lives.
    pub lock: Box<dyn DirLock>,
    /// Who the node is.
    pub identity: Identity,
    /// How often it was started, this time included.
    pub boot_number: u64,
    /// The log.
    pub log: Arc<dyn LogStore>,
    /// The checkpoints.
    pub checkpoints: Checkpoints,
    /// The checkpoint that the state comes from.
    pub loaded: Loaded,
}

/// Why a node doesn't start with what it found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process has the data directory.
    #[error("{} is in use by another process: stop that one, or give this node a directory of its own", .0.display())]
    InUse(PathBuf),
    /// There are checkpoints, and the log that belongs to them is gone.
    #[error(
        "{}: checkpoint generation {generation} is there and the log is gone; what was acknowledged after the \
         checkpoint is lost here, and so is this node's vote: {SAFE_WAY}", .directory.display()
    )]
    LogGone {
        /// The data directory.
        directory: PathBuf,
        /// The checkpoint found.
        generation: u64,
    },
    /// There is a log, and no checkpoint that it could go on from.
    #[error(
        "{}: there is a log, and no checkpoint that can be loaded ({reason}); the log alone does not hold the whole \
         state: {SAFE_WAY}", .directory.display()
    )]
    NoCheckpoint {
        /// The data directory.
        directory: PathBuf,
        /// What is wrong with the checkpoints.
        reason: String,
    },
    /// Log and checkpoint are of different nodes.
    #[error(
        "{}: the log is of {log} and the checkpoint is of {checkpoint}: files of two nodes were mixed; {SAFE_WAY}",
        .directory.display()
    )]
    IdentitiesDiffer {
        /// The data directory.
        directory: PathBuf,
        /// Whose log it is.
        log: String,
        /// Whose checkpoint it is.
        checkpoint: Identity,
    },
    /// The log begins after the checkpoint ends.
    #[error(
        "{}: the newest checkpoint that can be loaded ends at log position {checkpoint}, and the log begins after \
         {purged}: what lies between is gone; {SAFE_WAY}", .directory.display()
    )]
    Gap {
        /// The data directory.
        directory: PathBuf,
        /// Where the checkpoint ends.
        checkpoint: String,
        /// Where the log begins.
        purged: u64,
    },
    /// The log can't be opened.
    #[error("opening the log: {0}")]
    Log(#[from] LogError),
    /// A checkpoint can't be read or written.
    #[error("opening the checkpoints: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The disk, or a thread that could not be started.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Raft did not start.
    #[error("starting Raft: {0}")]
    Raft(String),
}

/// The way on that can't lose or fork anything. Rejoining as a new learner comes with `spine join`.
const SAFE_WAY: &str = "restore this node's own data directory from a copy taken while it was stopped, or move the \
                        directory away and start over, which loses what only this node had";

impl StartError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Opens what is in `directory`, or makes a first start there. Waits for the disk.
pub fn open(
    world: &World,
    directory: &Path,
    options: LogOptions,
    hooks: LogHooks,
) -> Result<Opened, StartError> {
    world
        .files
        .create_dir(directory)
        .map_err(StartError::io("making the data directory"))?;
    let lock = world.locks.lock(directory).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse(directory.to_owned()),
        _ => StartError::io("locking the data directory")(error),
    })?;
    let checkpoints = Checkpoints::new((world.engine)(&directory.join("checkpoint"))?);
    let place = LogPlace {
        files: world.files.clone(),
        dir: directory.join("log"),
        options,
        hooks,
    };
    let has_log = place.exists()?;
    let found = find_checkpoint(&checkpoints, directory, has_log)?;
    let (loaded, log) = match (found, has_log) {
        (Some(loaded), true) => {
            let log = (world.run_log)(place.open()?)?;
            agree(&loaded, &*log, directory)?;
            (loaded, log)
        }
        (Some(loaded), false) if loaded.generation > Generation(0) => {
            return Err(StartError::LogGone {
                directory: directory.to_owned(),
                generation: loaded.generation.0,
            });
        }
        (found, _) => first_start(world, &checkpoints, found, place)?,
    };
    for (generation, reason) in &loaded.passed_over {
        tracing::warn!(
            generation = generation.0,
            reason,
            "a checkpoint does not verify; the one before it does"
        );
    }
    let boot_number = identity::raise_boot_number(&*world.files, directory)
        .map_err(StartError::io("raising the boot number"))?;
    Ok(Opened {
        lock,
        identity: loaded.identity,
        boot_number,
        log,
        checkpoints,
        loaded,
    })
}

/// The newest good checkpoint. None is refused where there is a log.
fn find_checkpoint(
    checkpoints: &Checkpoints,
    directory: &Path,
    has_log: bool,
) -> Result<Option<Loaded>, StartError> {
    let refuse = |reason: String| StartError::NoCheckpoint {
        directory: directory.to_owned(),
        reason,
    };
    match checkpoints.load() {
        Ok(None) if has_log => Err(refuse("there is none".to_owned())),
        Err(CheckpointError::NoneVerified(reason)) => Err(refuse(reason)),
        found => Ok(found?),
    }
}

/// The beginning of a node: generation 0, then the log. A generation 0 that is there already keeps its identity,
/// which nobody has heard of yet.
fn first_start(
    world: &World,
    checkpoints: &Checkpoints,
    found: Option<Loaded>,
    place: LogPlace,
) -> Result<(Loaded, Arc<dyn LogStore>), StartError> {
    let loaded = found.map_or_else(|| write_nothing(world, checkpoints), Ok)?;
    let opened = place.create(loaded.identity.encode(), world.rng.bits())?;
    let log = (world.run_log)(opened)?;
    Ok((loaded, log))
}

/// Generation 0, of a node that nobody has heard of.
fn write_nothing(world: &World, checkpoints: &Checkpoints) -> Result<Loaded, CheckpointError> {
    let identity = Identity::found(&*world.rng);
    let applied = Applied {
        position: None,
        membership: Arc::default(),
        state: State::new(),
    };
    let generation = checkpoints.write(&identity, &applied, 0)?;
    Ok(Loaded {
        generation,
        identity,
        applied,
        stream_bytes: 0,
        passed_over: Vec::new(),
    })
}

/// Whether the log goes on from the checkpoint.
fn agree(loaded: &Loaded, log: &dyn LogStore, directory: &Path) -> Result<(), StartError> {
    let directory = directory.to_owned();
    let log_identity = Identity::decode(&log.identity());
    if log_identity.as_ref() != Ok(&loaded.identity) {
        let log = log_identity.map_or_else(|error| error.to_string(), |identity| identity.to_string());
        return Err(StartError::IdentitiesDiffer {
            directory,
            log,
            checkpoint: loaded.identity,
        });
    }
    let position = loaded.applied.position;
    if let Some(purged) = log
        .state()
        .purged
        .filter(|purged| Some(wire::log_id(*purged)) > position)
    {
        let checkpoint = position
            .index()
            .map_or_else(|| "none".to_owned(), |index| index.to_string());
        return Err(StartError::Gap {
            directory,
            checkpoint,
            purged: purged.index,
        });
    }
    Ok(())
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
