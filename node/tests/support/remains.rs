//! A data directory on a disk in memory whose power fails.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that can't go on fails"
)]

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use spine_node::{
    World,
    storage::memory::MemoryEngine,
    world::files::{Files, Open},
};

#[path = "../../../tests/src/disk.rs"]
#[allow(dead_code)]
pub mod disk;

use disk::{Rng, SimDisk, Unlocked};

/// What is left of a server between its lives. Its checkpoints are in memory, and a file in their directory says which they
/// are, so that they go where the directory goes.
#[derive(Clone, Default)]
pub struct Remains {
    pub disk: SimDisk,
    engines: Arc<Mutex<Vec<MemoryEngine>>>,
}

impl Remains {
    /// What a server finds there.
    pub fn world(&self) -> World {
        let (files, engines) = (self.disk.clone(), self.engines.clone());
        World {
            files: Arc::new(self.disk.clone()),
            locks: Arc::new(Unlocked),
            engine: Arc::new(move |directory| {
                let mut engines = engines.lock().unwrap();
                let name = directory.join("which");
                let which = files.contents(&name).and_then(|bytes| bytes.first().copied());
                let which = which.unwrap_or_else(|| {
                    engines.push(MemoryEngine::new());
                    let which = u8::try_from(engines.len() - 1).unwrap();
                    // Where the power is off the checkpoints are on no disk either.
                    let _ = note(&files, directory, which);
                    which
                });
                let engine = engines[usize::from(which)].clone();
                if files.is_off() {
                    engine.interrupt_after(0);
                }
                Ok(Arc::new(engine))
            }),
            ..World::real()
        }
    }

    /// After a power cut now; what the disk has kept follows from `rng`.
    pub fn after_crash(&self, rng: &mut Rng) -> Self {
        for engine in &*self.engines.lock().unwrap() {
            engine.crash();
        }
        Self {
            disk: self.disk.after_crash(rng),
            engines: self.engines.clone(),
        }
    }
}

fn note(files: &SimDisk, directory: &Path, which: u8) -> io::Result<()> {
    let file = files.open(&directory.join("which"), Open::New)?;
    file.write_at(&[which], 0)?;
    file.sync_data()?;
    files.sync_dir(directory)
}
