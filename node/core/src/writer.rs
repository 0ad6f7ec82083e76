//! What a request writes with: its index, its time, and the events that it has caused so far.

use crate::{
    event::{Change, Event},
    id::Index,
    time::{Time, WallTime},
};

/// Handed to every table that a request changes.
pub(crate) struct Writer {
    pub(crate) index: Index,
    pub(crate) time: Time,
    /// For people to read; no rule does.
    pub(crate) wall: WallTime,
    pub(crate) events: Vec<Event>,
}

impl Writer {
    pub(crate) fn new(index: Index, time: Time, wall: WallTime) -> Self {
        Self {
            index,
            time,
            wall,
            events: Vec::new(),
        }
    }

    pub(crate) fn emit(&mut self, change: Change) {
        self.events.push(Event {
            index: self.index,
            change,
        });
    }
}
