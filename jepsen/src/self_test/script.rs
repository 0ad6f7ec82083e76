//! Histories written down as they are to be, where no simulation of keys would make them.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use crate::{
    clock::Micros,
    history::{Call, Dialect, History, Operation, Out, Outcome, Process, Sight, Sighting},
};

/// A history that grows.
#[derive(Default)]
pub(super) struct Script {
    history: History,
    processes: u64,
}

/// Milliseconds of a run.
pub(super) fn ms(ms: u64) -> Micros {
    Micros(0).after(Duration::from_millis(ms))
}

impl Script {
    /// An operation by a process of its own, at any node; gives its place.
    pub(super) fn operation(
        &mut self,
        rng: &mut StdRng,
        (start, end): (Micros, Micros),
        call: Call,
        outcome: Outcome,
    ) {
        self.processes += 1;
        let is_unknown = matches!(outcome, Outcome::Unknown(_));
        self.history.operations.push(Operation {
            process: Process(self.processes),
            node: format!("n{}", rng.random_range(1..=3)),
            dialect: Dialect::Native,
            call,
            start,
            end: if is_unknown { Micros::NEVER } else { end },
            outcome,
        });
    }

    /// One that takes a millisecond and is answered.
    pub(super) fn answered(&mut self, rng: &mut StdRng, at: Micros, call: Call, out: Out) {
        let end = at.after(Duration::from_millis(1));
        self.operation(rng, (at, end), call, Outcome::Ok(out));
    }

    /// Something is seen at a node.
    pub(super) fn saw(&mut self, at: Micros, node: &str, sight: Sight) {
        let node = node.to_owned();
        self.history.sightings.push(Sighting { at, node, sight });
    }

    /// All of it, in the order of time.
    pub(super) fn end(mut self) -> History {
        self.history.operations.sort_by_key(|operation| operation.start);
        self.history.sightings.sort_by_key(|sighting| sighting.at);
        self.history
    }
}
