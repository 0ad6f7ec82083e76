//! The change log: the newest events of all tables, replicated and bounded. Watchers read on from it.

use crate::{
    codec,
    event::{Event, RowId, Topic},
    id::Index,
    limits,
    tree::{Stamped, Tree},
};

impl Stamped for Event {
    fn index(&self) -> Index {
        self.index
    }
}

/// The newest events, by index and by row.
#[derive(Clone, Debug, Default)]
pub struct ChangeLog {
    pub(crate) events: Tree<(Index, u32), Event>,
    by_row: Tree<(RowId, Index, u32), ()>,
    bytes: u64,
    pub(crate) dropped: Index,
}

impl ChangeLog {
    /// The oldest index from which a watcher can read on without a gap.
    pub fn oldest(&self) -> Index {
        self.dropped.next()
    }

    /// The encoded size of the events kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The events from `from` on that touch `interest`, whole requests together, at most about `max`. With them the
    /// index up to which they are complete; `None` if they are all that there are.
    pub fn since(&self, from: Index, interest: &[Topic], max: usize) -> (Vec<Event>, Option<Index>) {
        let mut found = Vec::new();
        for ((index, _), event) in self.events.range((from, 0)..) {
            let full = found.len() >= max;
            if full && found.last().is_some_and(|last: &Event| last.index < *index) {
                let through = found.last().map(|last| last.index);
                return (found, through);
            }
            if interest.iter().any(|topic| event.change.touches(topic)) {
                found.push(event.clone());
            }
        }
        (found, None)
    }

    /// What happened to one row, oldest first, as far as the log goes back. The node itself asks for topics alone; that
    /// the log is found by key as well is promised to whoever embeds the core and wants one row's history.
    pub fn of_row(&self, row: &RowId) -> impl Iterator<Item = &Event> {
        let row = row.clone();
        self.by_row
            .range((row.clone(), Index(0), 0)..)
            .take_while(move |((of, ..), ())| *of == row)
            .filter_map(|((_, index, sub), ())| self.events.get(&(*index, *sub)))
    }

    /// Takes in what one request did, in a state that may hold `quota` bytes.
    pub(crate) fn append(&mut self, events: &[Event], quota: u64) {
        if let Some(first) = events.first()
            && events.len() > limits::LOG_EVENTS_MAX
        {
            // A request's events are dropped together: of so many neither they nor any before them would stay.
            *self = Self {
                dropped: first.index,
                ..Self::default()
            };
            return;
        }
        for (sub, event) in (0..).zip(events) {
            self.put((event.index, sub), event.clone());
        }
        self.trim(bytes_max(quota));
    }

    pub(crate) fn put(&mut self, place: (Index, u32), event: Event) {
        self.bytes += codec::encoded_len(&event);
        self.by_row.insert((event.change.row(), place.0, place.1), ());
        self.events.insert(place, event);
    }

    /// Drops the oldest requests' events, each request's together, until the log is within its bounds.
    fn trim(&mut self, bytes_max: u64) {
        let mut dropping = self.dropped;
        while let Some((place, event)) = self.events.first() {
            let full = self.events.len() > limits::LOG_EVENTS_MAX || self.bytes > bytes_max;
            if !full && place.0 > dropping {
                break;
            }
            let (place, row, bytes) = (*place, event.change.row(), codec::encoded_len(event));
            dropping = place.0;
            self.bytes -= bytes;
            self.by_row.remove(&(row, place.0, place.1));
            self.events.remove(&place);
        }
        self.dropped = dropping;
    }
}

/// The share of a quota that the events may take.
fn bytes_max(quota: u64) -> u64 {
    limits::LOG_BYTES_MAX * quota / limits::STATE_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{Change, Delta};

    /// The events of a request that did so much.
    fn request(index: u64, events: usize) -> Vec<Event> {
        let event = |number| Event {
            index: Index(index),
            change: Change::Key(
                Bytes::from(format!("{index}/{number}")),
                Delta {
                    before: None,
                    after: None,
                },
            ),
        };
        (0..events).map(event).collect()
    }

    #[test]
    fn a_request_that_did_more_than_is_kept_leaves_what_dropping_one_by_one_leaves() {
        let mut log = ChangeLog::default();
        log.append(&request(1, 3), limits::STATE_BYTES_MAX);
        let mut one_by_one = log.clone();
        let large = request(2, limits::LOG_EVENTS_MAX + 1);
        log.append(&large, limits::STATE_BYTES_MAX);
        for (sub, event) in (0..).zip(large) {
            one_by_one.put((event.index, sub), event);
        }
        one_by_one.trim(limits::LOG_BYTES_MAX);
        for log in [&log, &one_by_one] {
            let left = (log.events.len(), log.by_row.len(), log.bytes, log.dropped);
            assert_eq!(left, (0, 0, 0, Index(2)));
        }
        log.append(&request(3, limits::LOG_EVENTS_MAX), limits::STATE_BYTES_MAX);
        assert_eq!(
            (log.events.len(), log.oldest()),
            (limits::LOG_EVENTS_MAX, Index(3))
        );
    }
}
