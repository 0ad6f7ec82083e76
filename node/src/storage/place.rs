//! Where a node's log is in its data directory, whichever engine keeps it.
//!
//! `log/` holds segments, `log-sled/` the log in sled. A directory has one of the two and stays with it: what an engine
//! doesn't know of it would take for a first start, and vote a second time.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::log::{LogEngine, LogError, LogHooks, LogOptions, LogStore};
use super::segment::LogPlace;
use super::sled_log::{self, SledLogPlace};
use crate::world::{World, files::Files};

/// Where the log is, or will be.
#[derive(Clone, Debug)]
pub struct LogHome {
    engine: LogEngine,
    files: Arc<dyn Files>,
    segments: LogPlace,
    sled: SledLogPlace,
}

impl LogHome {
    /// The log of the data directory `directory`.
    pub fn new(world: &World, directory: &Path, options: LogOptions, hooks: LogHooks) -> Self {
        Self {
            engine: options.engine,
            files: world.files.clone(),
            segments: LogPlace {
                files: world.files.clone(),
                dir: directory.join("log"),
                options: options.clone(),
                hooks: hooks.clone(),
            },
            sled: SledLogPlace {
                dir: directory.join("log-sled"),
                options,
                hooks,
            },
        }
    }

    /// The same, with the engine of the log that is there, whatever `options` say.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn of_either(
        world: &World,
        directory: &Path,
        options: LogOptions,
        hooks: LogHooks,
    ) -> Result<Self, LogError> {
        let mut home = Self::new(world, directory, options, hooks);
        for engine in [LogEngine::Segment, LogEngine::Sled] {
            if home.has(engine)? {
                home.engine = engine;
            }
        }
        Ok(home)
    }

    /// What keeps it.
    pub fn engine(&self) -> LogEngine {
        self.engine
    }

    /// Whether there is a log.
    ///
    /// # Errors
    /// [`LogError::OtherEngine`] if there is one of the other engine.
    pub fn exists(&self) -> Result<bool, LogError> {
        for engine in [LogEngine::Segment, LogEngine::Sled] {
            if self.has(engine)? {
                return self.same(engine).map(|()| true);
            }
        }
        Ok(false)
    }

    fn has(&self, engine: LogEngine) -> Result<bool, LogError> {
        match engine {
            LogEngine::Segment => self.segments.exists(),
            LogEngine::Sled => match self.files.list(&self.sled.dir) {
                Ok(names) => Ok(names.iter().any(|name| name == sled_log::MARK)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(LogError::io("list the log's directory")(error)),
            },
        }
    }

    fn same(&self, found: LogEngine) -> Result<(), LogError> {
        if found == self.engine {
            return Ok(());
        }
        let dir = match found {
            LogEngine::Segment => &self.segments.dir,
            LogEngine::Sled => &self.sled.dir,
        };
        Err(LogError::OtherEngine {
            dir: dir.display().to_string(),
            found,
            asked: self.engine,
        })
    }

    /// Opens the log and lets it run.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open(self, world: &World) -> Result<Arc<dyn LogStore>, LogError> {
        match self.engine {
            LogEngine::Segment => (world.run_log)(self.segments.open()?),
            LogEngine::Sled => Ok(Arc::new(self.sled.open()?)),
        }
    }

    /// Creates a log that is `identity`'s and lets it run. When this returns the identity is durable.
    ///
    /// # Errors
    /// As the engine says.
    pub fn create(self, identity: &Bytes, world: &World) -> Result<Arc<dyn LogStore>, LogError> {
        match self.engine {
            LogEngine::Segment => (world.run_log)(self.segments.create(identity.clone(), world.rng.bits())?),
            LogEngine::Sled => Ok(Arc::new(self.sled.create(identity)?)),
        }
    }
}
