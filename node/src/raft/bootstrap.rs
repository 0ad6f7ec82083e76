//! How a node comes to its identity, its log and its state: the first start, and every other.
//!
//! A first start writes checkpoint generation 0, which holds nothing, and then the log's first segment; once that
//! segment's header is flushed the identity exists. So a crash in between leaves generation 0 without a log, which
//! counts as an empty directory. A server that founds a cluster on its own does so at once; one of several gets a
//! [`Beginning`], and goes on when [`founding`](super::founding) says as whom. Whatever else doesn't fit together is refused with the one safe way on: a node that
//! guesses could vote twice, or serve a state that the cluster never had.

mod stopped;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::LogIdOptionExt;
use spine_core::{Index, State};

pub(super) use self::stopped::{Stopped, open_stopped};
use super::{
    checkpoint::{Checkpoints, Loaded, Progress},
    founding::{Founding, ListError, Record, Refusal},
    identity::Identity,
    recall::OldDisk,
    recovery::{Lineage, switch},
    roster::Roster,
    starts::Starts,
    state_machine::Applied,
    wire,
};
use crate::{
    storage::{
        checkpoint::{CheckpointError, Generation},
        log::{LogError, LogHooks, LogOptions, LogStore},
        place::LogHome,
    },
    world::{World, lock::DirLock},
};

/// A node's storage, opened and found consistent.
pub struct Opened {
    /// Who the node is.
    pub identity: Identity,
    /// Its starts.
    pub starts: Starts,
    /// The founding of its cluster, if several founded it, and it was one of them.
    pub founding: Option<Founding>,
    /// The members of its cluster when that took it in, if it did.
    pub joined: Option<Roster>,
    /// The clusters that its own goes on from.
    pub lineage: Lineage,
    /// The log.
    pub log: Arc<dyn LogStore>,
    /// The checkpoints.
    pub checkpoints: Checkpoints,
    /// The checkpoint that the state comes from.
    pub loaded: Loaded,
    /// Held as long as the node lives, and by whoever may still write there when it doesn't.
    pub lock: Arc<dyn DirLock>,
}

/// Whom an empty directory founds a cluster with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// With nobody.
    Alone,
    /// With other servers.
    Together,
}

/// What was found in a directory.
#[derive(Debug)]
pub enum Found {
    /// A node, from before or new and alone.
    Node(Box<Opened>),
    /// Nothing: it is to be founded with others.
    Empty(Box<Beginning>),
}

impl Found {
    /// The node id of the directory.
    pub fn node(&self) -> u64 {
        match self {
            Self::Node(opened) => opened.identity.node,
            Self::Empty(beginning) => beginning.node(),
        }
    }

    /// The directory's lock.
    pub fn lock(&self) -> &Arc<dyn DirLock> {
        match self {
            Self::Node(opened) => &opened.lock,
            Self::Empty(beginning) => &beginning.lock,
        }
    }
}

/// Why a node doesn't start with what it found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process, or another node of this one, has the data directory.
    #[error(
        "{} is in use by another process, or by a node of this one that has not quite ended: stop that one, or give this node \
         a directory of its own", .0.display()
    )]
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
    /// The directory took part in a cluster, and its log is gone.
    #[error(
        "{}: this is the directory of {identity}, and its log is gone, and with it what this server acknowledged and \
         voted: {SAFE_WAY}", .directory.display()
    )]
    LogLost {
        /// The data directory.
        directory: PathBuf,
        /// Whose it is.
        identity: Identity,
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
    /// The record of the founding is of another node than the checkpoint.
    #[error(
        "{}: the founding recorded is of {record} and the checkpoint is of {checkpoint}: files of two nodes were mixed; \
         {SAFE_WAY}", .directory.display()
    )]
    RecordDiffers {
        /// The data directory.
        directory: PathBuf,
        /// Who took part in the founding.
        record: String,
        /// Whose checkpoint it is.
        checkpoint: Identity,
    },
    /// A member of several has no port for the others.
    #[error(
        "{}: this is a member of a cluster of {members}; it needs --initial-cluster with these, or --peer-addr, to hear \
         the others", .directory.display()
    )]
    NoPeerPort {
        /// The data directory.
        directory: PathBuf,
        /// The cluster's members.
        members: String,
    },
    /// A restored directory is to found a cluster with servers that don't have its state.
    #[error(
        "{}: this directory was restored from a snapshot, which the other servers of --initial-cluster don't have: start it \
         alone, without --initial-cluster; the others come with empty directories once it runs", .0.display()
    )]
    RestoredAmongOthers(PathBuf),
    /// A snapshot was being restored into the directory, and that was cut off.
    #[error(
        "{}: a snapshot was being restored here, and that did not come to its end: run `spine snapshot restore` again; \
         this server has not begun", .0.display()
    )]
    HalfRestored(PathBuf),
    /// The list of founders is wrong.
    #[error("the list of founders {0}")]
    Founders(#[from] ListError),
    /// This server can't found a cluster, or take part in it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another server knows better what was on this disk.
    #[error(transparent)]
    OldDisk(#[from] OldDisk),
    /// The log begins after the checkpoint ends. So it is where the newest checkpoint is damaged and is that of a state which
    /// another server sent, for the log before that one has been let go.
    #[error(
        "{}: {passed_over}the newest checkpoint that can be loaded ends at log position {checkpoint}, and the log begins after \
         {purged}: what lies between is gone; {SAFE_WAY}", .directory.display()
    )]
    Gap {
        /// The data directory.
        directory: PathBuf,
        /// Where the checkpoint ends.
        checkpoint: String,
        /// Where the log begins.
        purged: u64,
        /// Newer checkpoints, and what is wrong with each.
        passed_over: String,
    },
    /// This release can't apply what is in the log: which entry, why, and what to do.
    #[error("{0}")]
    Entry(String),
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

/// A file that is in a directory while a snapshot is being restored into it ([`backup`](crate::backup)): what is there beside it
/// is no server's.
pub(crate) const RESTORING: &str = "restoring";

/// The way on that can't lose or fork anything.
const SAFE_WAY: &str = "a server that is a cluster of its own: restore its data directory from a copy taken while it was \
                        stopped, or move the directory away and start over, which loses what was only here; one of \
                        several servers: put its own newest directory back, or move the directory away and let an empty \
                        one take its place in the cluster: `spine join` with the peer address of a server that runs";

impl StartError {
    /// Whether the directory, or the servers listed, don't fit: starting again changes nothing.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::LogGone { .. }
            | Self::LogLost { .. }
            | Self::NoCheckpoint { .. }
            | Self::IdentitiesDiffer { .. }
            | Self::RecordDiffers { .. }
            | Self::NoPeerPort { .. }
            | Self::RestoredAmongOthers(_)
            | Self::HalfRestored(_)
            | Self::Founders(_)
            | Self::Refused(_)
            | Self::OldDisk(_)
            | Self::Gap { .. }
            | Self::Entry(_) => true,
            Self::Log(error) => matches!(error, LogError::OtherEngine { .. }),
            Self::InUse(_) | Self::Checkpoint(_) | Self::Io { .. } | Self::Raft(_) => false,
        }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Opens what is in `directory`, or makes a first start there. Waits for the disk.
pub fn open(
    world: &World,
    directory: &Path,
    options: LogOptions,
    hooks: LogHooks,
    first: FirstStart,
) -> Result<Found, StartError> {
    world
        .files
        .create_dir(directory)
        .map_err(StartError::io("making the data directory"))?;
    let lock = take(world, directory)?;
    let record = Record::read(&world.files, directory)
        .map_err(StartError::io("reading the record of the founding"))?;
    let checkpoints = (world.engine)(&directory.join("checkpoint"))?;
    let checkpoints = Checkpoints::new(checkpoints).holding(lock.clone());
    let held = Some(lock.clone());
    let place = LogHome::new(world, directory, options, LogHooks { held, ..hooks });
    let has_log = place.exists()?;
    let found = find_checkpoint(&checkpoints, directory, has_log)?;
    let alone = first == FirstStart::Alone;
    let member = record.as_ref().filter(|record| record.identity().is_some());
    let (loaded, log) = match (found, has_log) {
        (Some(loaded), true) => {
            let log = place.open(world)?;
            agree(&loaded, &*log, directory)?;
            (loaded, log)
        }
        (found, _) => {
            refuse_lost_log(found.as_ref(), record.as_ref(), directory)?;
            if alone && member.is_none() {
                first_start(world, &checkpoints, found, place)?
            } else {
                if !alone {
                    refuse_restored(found.as_ref(), directory)?;
                }
                return Beginning::new(world, directory, lock, record, checkpoints, found, place)
                    .map(|beginning| Found::Empty(Box::new(beginning)));
            }
        }
    };
    say_passed_over(&loaded);
    let record = own_record(record, loaded.identity, directory)?;
    let (founding, joined) = record.map_or((None, None), |record| (record.founding, record.joined));
    Ok(Found::Node(Box::new(Opened {
        lock,
        identity: loaded.identity,
        starts: another_start(world, directory)?,
        founding,
        joined,
        lineage: Lineage::read(&world.files, directory)
            .map_err(StartError::io("reading the clusters before this one"))?,
        log,
        checkpoints,
        loaded,
    })))
}

/// Takes the directory for this process, and brings a recovery that was decided there to its end. One that is half restored
/// is refused, before anything is opened there: a server that began with less would look like one that has all.
fn take(world: &World, directory: &Path) -> Result<Arc<dyn DirLock>, StartError> {
    let lock = world.locks.lock(directory).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse(directory.to_owned()),
        _ => StartError::io("locking the data directory")(error),
    })?;
    let names = world
        .files
        .list(directory)
        .map_err(StartError::io("looking into the data directory"))?;
    if names.iter().any(|name| name == RESTORING) {
        return Err(StartError::HalfRestored(directory.to_owned()));
    }
    switch::finish(&world.files, directory).map_err(StartError::io("finishing a recovery"))?;
    Ok(lock.into())
}

fn say_passed_over(loaded: &Loaded) {
    for (generation, reason) in &loaded.passed_over {
        tracing::warn!(
            generation = generation.0,
            reason,
            "a checkpoint does not verify; the one before it does"
        );
    }
}

/// An empty directory that is to be founded with others, or taken in by a cluster. Calls wait for the disk.
pub struct Beginning {
    world: World,
    directory: PathBuf,
    lock: Arc<dyn DirLock>,
    starts: Starts,
    record: Record,
    checkpoints: Checkpoints,
    found: Option<Loaded>,
    place: LogHome,
}

impl Beginning {
    fn new(
        world: &World,
        directory: &Path,
        lock: Arc<dyn DirLock>,
        record: Option<Record>,
        checkpoints: Checkpoints,
        found: Option<Loaded>,
        place: LogHome,
    ) -> Result<Self, StartError> {
        let record = record.map_or_else(|| Record::make(&world.files, directory, &*world.rng), Ok);
        Ok(Self {
            starts: another_start(world, directory)?,
            record: record.map_err(StartError::io("recording the node id"))?,
            world: world.clone(),
            directory: directory.to_owned(),
            lock,
            checkpoints,
            found,
            place,
        })
    }

    /// The node id that was made for this directory; durable.
    pub fn node(&self) -> u64 {
        self.record.node
    }

    /// Its starts.
    pub fn starts(&self) -> &Starts {
        &self.starts
    }

    /// What was decided or taken already, before a crash.
    pub fn founding(&self) -> Option<&Founding> {
        self.record.founding.as_ref()
    }

    /// The members of the cluster that has taken it in already, before a crash.
    pub fn joined(&self) -> Option<&Roster> {
        self.record.joined.as_ref()
    }

    /// The members of the cluster that it is to be in, as far as it was told.
    pub fn members(&self) -> String {
        match (&self.record.joined, &self.record.founding) {
            (Some(roster), _) => roster.list(),
            (None, Some(founding)) => founding.founders().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Makes durable that a cluster has taken it in.
    pub fn join(&mut self, roster: Roster) -> Result<(), StartError> {
        self.record
            .join(roster)
            .map_err(StartError::io("recording the cluster"))
    }

    /// Makes a founding durable, as the one who decides it or as one who takes it.
    pub fn found(&mut self, founding: Founding) -> Result<(), StartError> {
        self.record
            .found(founding)
            .map_err(StartError::io("recording the founding"))
    }

    /// Takes the identity: from here on this is a node.
    ///
    /// # Panics
    /// Nothing was [found](Self::found) or [joined](Self::join) that this directory is in.
    pub fn begin(mut self) -> Result<Opened, StartError> {
        let identity = self
            .record
            .identity()
            .expect("a cluster is taken by those who are in it");
        // What a crash left there may be of another attempt.
        let loaded = match self.found.filter(|found| found.identity == identity) {
            Some(loaded) => loaded,
            None => write_nothing(identity, &self.checkpoints)?,
        };
        let log = self.place.create(&identity.encode(), &self.world)?;
        self.record
            .begin()
            .map_err(StartError::io("recording the beginning"))?;
        tracing::info!(%identity, "this server is a member");
        Ok(Opened {
            lock: self.lock,
            identity,
            starts: self.starts,
            founding: self.record.founding,
            joined: self.record.joined,
            lineage: Lineage::default(),
            log,
            checkpoints: self.checkpoints,
            loaded,
        })
    }
}

impl fmt::Debug for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beginning")
            .field("directory", &self.directory)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

fn another_start(world: &World, directory: &Path) -> Result<Starts, StartError> {
    Starts::another(&world.files, directory, &*world.rng).map_err(StartError::io("raising the boot number"))
}

/// Refuses a directory whose log was there and is gone. One that holds nothing else counts as empty.
fn refuse_lost_log(
    found: Option<&Loaded>,
    record: Option<&Record>,
    directory: &Path,
) -> Result<(), StartError> {
    let begun = record.filter(|record| record.begun);
    if let Some(identity) = begun.and_then(Record::identity) {
        return Err(StartError::LogLost {
            directory: directory.to_owned(),
            identity,
        });
    }
    match found {
        // Without a position it holds nothing, as generation 0 does.
        Some(loaded) if loaded.generation > Generation(0) && loaded.applied.position.is_some() => {
            Err(StartError::LogGone {
                directory: directory.to_owned(),
                generation: loaded.generation.0,
            })
        }
        _ => Ok(()),
    }
}

/// Refuses a restored directory that is to found a cluster with others: they don't have its state.
fn refuse_restored(found: Option<&Loaded>, directory: &Path) -> Result<(), StartError> {
    match found {
        Some(loaded) if loaded.applied.state.index() > Index(0) => {
            Err(StartError::RestoredAmongOthers(directory.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The record of this node; `None` for one that founded its cluster on its own.
fn own_record(
    record: Option<Record>,
    identity: Identity,
    directory: &Path,
) -> Result<Option<Record>, StartError> {
    let Some(mut record) = record else {
        return Ok(None);
    };
    // Without either it began to found with others, and then did so alone.
    if record.founding.is_none() && record.joined.is_none() {
        return Ok(None);
    }
    if record.identity() != Some(identity) {
        let stranger = || format!("node {:016x}, which is not in it", record.node);
        return Err(StartError::RecordDiffers {
            directory: directory.to_owned(),
            record: record
                .identity()
                .map_or_else(stranger, |identity| identity.to_string()),
            checkpoint: identity,
        });
    }
    // A crash right after the log was made leaves this undone.
    record
        .begin()
        .map_err(StartError::io("recording the beginning"))?;
    Ok(Some(record))
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
    place: LogHome,
) -> Result<(Loaded, Arc<dyn LogStore>), StartError> {
    let loaded = found.map_or_else(|| write_nothing(Identity::found(&*world.rng), checkpoints), Ok)?;
    let log = place.create(&loaded.identity.encode(), world)?;
    Ok((loaded, log))
}

/// A generation that holds nothing: the first of a node, generation 0 but for what a crash left.
fn write_nothing(identity: Identity, checkpoints: &Checkpoints) -> Result<Loaded, CheckpointError> {
    begin_with(&State::new(), identity, checkpoints, &|_, _| {})
}

/// A generation that stands before the first entry of its log. With a state it is that of a restored directory, which
/// founds a cluster alone.
pub(crate) fn begin_with(
    state: &State,
    identity: Identity,
    checkpoints: &Checkpoints,
    progress: Progress<'_>,
) -> Result<Loaded, CheckpointError> {
    let applied = Applied {
        position: None,
        membership: Arc::default(),
        state: state.clone(),
    };
    let generation = checkpoints.write_telling(&identity, &applied, 0, progress)?;
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
        let mut passed_over = String::new();
        for (_, why) in &loaded.passed_over {
            passed_over.push_str(why);
            passed_over.push_str("; ");
        }
        return Err(StartError::Gap {
            directory,
            checkpoint,
            purged: purged.index,
            passed_over,
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
