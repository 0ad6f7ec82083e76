//! What a request writes with: its index, its time, and the events that it has caused so far.

use crate::{
    event::{Change, Event},
    id::Index,
    time::Time,
};

/// Handed to every table that a request changes.
pub(crate) struct Writer {
    pub(crate) index: Index,
    pub(crate) time: Time,
    pub(crate) events: Vec<Event>,
}

impl Writer {
    pub(crate) fn new(index: Index, time: Time) -> Self {
        Self {
            index,
            time,
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
