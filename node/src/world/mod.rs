//! The seams between the node and the world outside: small traits and their real versions.
//!
//! Nothing else in the node touches the real thing, so a simulator that hands over other implementations runs
//! exactly the node's own code.

pub mod clock;
pub mod files;
pub mod home;
pub mod lock;
pub mod net;
pub mod rng;

use std::{path::Path, sync::Arc};

pub use self::home::RaftHome;
use crate::storage::{
    checkpoint::{CheckpointError, Engine},
    log::{LogError, LogStore},
    segment::Opened,
    sled::{SledEngine, SledOptions},
};

/// Opens the checkpoints in a directory.
pub type OpenEngine = Arc<dyn Fn(&Path) -> Result<Arc<dyn Engine>, CheckpointError> + Send + Sync>;

/// Lets a log run that was created or opened: on threads of its own, or driven by who keeps the disk.
pub type RunLog = Arc<dyn Fn(Opened) -> Result<Arc<dyn LogStore>, LogError> + Send + Sync>;

/// The world that a node lives in.
#[derive(Clone)]
pub struct World {
    /// The clocks.
    pub clock: Arc<dyn clock::Clock>,
    /// The network.
    pub net: Arc<dyn net::Net>,
    /// Chance.
    pub rng: Arc<dyn rng::Rng>,
    /// The disk, as the log and the boot number need it.
    pub files: Arc<dyn files::Files>,
    /// What lets the log run.
    pub run_log: RunLog,
    /// Locks of data directories.
    pub locks: Arc<dyn lock::DirLocks>,
    /// Where checkpoints lie.
    pub engine: OpenEngine,
    /// Where Raft runs.
    pub raft_home: RaftHome,
}

impl World {
    /// This machine.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(clock::OsClock),
            net: Arc::new(net::OsNet),
            rng: Arc::new(rng::OsRng),
            files: Arc::new(files::OsFiles),
            run_log: Arc::new(|opened| Ok(Arc::new(opened.start()?))),
            locks: Arc::new(lock::OsDirLocks),
            engine: Arc::new(|directory| {
                Ok(Arc::new(SledEngine::open(
                    directory.to_owned(),
                    SledOptions::default(),
                )?))
            }),
            raft_home: RaftHome::OwnThread,
        }
    }
}
