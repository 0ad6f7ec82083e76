//! A disk that doesn't answer.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use spine_node::{
    World,
    storage::checkpoint::{CheckpointError, Chunk, Engine, Generation, Header, Loaded, Verifier},
};
use tokio::sync::Notify;

/// Holds a checkpoint up that is written already: who writes it is not told that it is done.
#[derive(Debug, Default)]
pub struct Stall {
    reached: Notify,
    over: Mutex<bool>,
    ends: Condvar,
}

impl Stall {
    /// A world in which that happens.
    pub fn world(self: &Arc<Self>) -> World {
        let world = World::real();
        let (open, stall) = (world.engine.clone(), self.clone());
        World {
            engine: Arc::new(move |directory| {
                Ok(Arc::new(StallingEngine {
                    engine: open(directory)?,
                    stall: stall.clone(),
                }))
            }),
            ..world
        }
    }

    /// Waits until one is held up.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// From now on the disk answers.
    pub fn end(&self) {
        *self.over.lock() = true;
        self.ends.notify_all();
    }

    fn wait(&self) {
        self.reached.notify_one();
        let mut over = self.over.lock();
        self.ends.wait_while(&mut over, |over| !*over);
    }
}

#[derive(Debug)]
struct StallingEngine {
    engine: Arc<dyn Engine>,
    stall: Arc<Stall>,
}

impl Engine for StallingEngine {
    fn write(
        &self,
        header: &Header,
        chunks: &mut dyn Iterator<Item = Chunk>,
        verify: &mut Verifier<'_>,
    ) -> Result<Generation, CheckpointError> {
        let written = self.engine.write(header, chunks, verify);
        self.stall.wait();
        written
    }

    fn newest_verified(&self, verify: &mut Verifier<'_>) -> Result<Option<Loaded>, CheckpointError> {
        self.engine.newest_verified(verify)
    }

    fn log_index_kept(&self) -> Result<Option<u64>, CheckpointError> {
        self.engine.log_index_kept()
    }
}
