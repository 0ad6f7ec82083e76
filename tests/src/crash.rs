//! Writers and what they know: the oracle of the crash tests.
//!
//! Each writer owns one key and raises the number in it by one with every write. So after a crash one number tells all:
//! it must not lie below the last one acknowledged, nor above the last one attempted.

use std::{fmt, sync::Arc};

use spine_node::{
    NodeSettings, World,
    storage::{memory::MemoryEngine, segment::LogOptions},
    world::{RaftHome, clock::OsClock, net::OsNet, rng::OsRng},
};

use crate::disk::{Rng, SimDisk, Unlocked};

/// What one writer knows of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The last number whose write was acknowledged; 0: none.
    pub acknowledged: u64,
    /// The last number that was to be written.
    pub attempted: u64,
}

/// A number that a key must not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An acknowledged write is gone.
    Lost {
        /// The writer.
        writer: usize,
        /// What is there.
        found: u64,
        /// What it knew.
        known: Known,
    },
    /// Something is there that nobody wrote.
    Invented {
        /// The writer.
        writer: usize,
        /// What is there.
        found: u64,
        /// What it knew.
        known: Known,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, writer, found, known) = match self {
            Self::Lost { writer, found, known } => ("lost", writer, found, known),
            Self::Invented { writer, found, known } => ("invented", writer, found, known),
        };
        let Known {
            acknowledged,
            attempted,
        } = known;
        write!(
            f,
            "writer {writer}: {what}: found {found}, acknowledged {acknowledged}, attempted {attempted}"
        )
    }
}

impl Known {
    /// Judges the number found in the key, and takes it for what is known from now on.
    pub fn meet(&mut self, writer: usize, found: u64) -> Result<(), Wrong> {
        let known = *self;
        *self = Self {
            acknowledged: found,
            attempted: found,
        };
        if found < known.acknowledged {
            Err(Wrong::Lost { writer, found, known })
        } else if found > known.attempted {
            Err(Wrong::Invented { writer, found, known })
        } else {
            Ok(())
        }
    }
}

/// The key of a writer.
pub fn key(writer: usize) -> String {
    format!("crash/{writer}")
}

/// A node's disk and checkpoints, which outlive it.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The disk.
    pub disk: SimDisk,
    /// The checkpoints.
    pub engine: MemoryEngine,
}

impl Remains {
    /// The world in which a node lives on them. Time, threads and chance are real.
    pub fn world(&self) -> World {
        let engine = self.engine.clone();
        World {
            clock: Arc::new(OsClock),
            net: Arc::new(OsNet),
            rng: Arc::new(OsRng),
            files: Arc::new(self.disk.clone()),
            run_log: Arc::new(|opened| Ok(Arc::new(opened.start()?))),
            locks: Arc::new(Unlocked),
            engine: Arc::new(move |_| Ok(Arc::new(engine.clone()))),
            raft_home: RaftHome::OwnThread,
        }
    }

    /// What a node of the crash tests is told: small segments, so that they are recycled often.
    pub fn settings() -> NodeSettings {
        let name = spine_core::NodeName::parse("n1").expect("a name");
        let mut settings = NodeSettings::new(name, "/data".into());
        settings.log = LogOptions {
            segment_bytes: 256 << 10,
            spares: 1,
            ..LogOptions::default()
        };
        settings
    }

    /// What is found after the power failed now.
    #[must_use]
    pub fn after_crash(&self, rng: &mut Rng) -> Self {
        self.engine.crash();
        Self {
            disk: self.disk.after_crash(rng),
            engine: self.engine.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_tells_lost_from_unsure_from_invented() {
        let known = Known {
            acknowledged: 5,
            attempted: 6,
        };
        for (found, fine) in [(4, false), (5, true), (6, true), (7, false)] {
            let mut judged = known;
            assert_eq!(judged.meet(0, found).is_ok(), fine, "{found}");
            assert_eq!(
                judged,
                Known {
                    acknowledged: found,
                    attempted: found
                }
            );
        }
    }
}
