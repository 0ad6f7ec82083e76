//! The hub: the newest state, and everybody who waits for it to change.
//!
//! It only wakes. A waiter enrols with an interest and gets a [`Ticket`]; a publication that touches the interest
//! marks the ticket with the publication's first index. The waiter then reads what is new from the state itself,
//! so there is no queue for each watcher, no slow-consumer state, and nothing to lose.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use spine_core::{Event, Index, Key, KeyRange, State, Topic};
use tokio::sync::Notify;

use crate::{limits, registry::Error};

/// Where states are published and waited for.
pub struct Hub {
    newest: RwLock<Arc<State>>,
    waiters: Mutex<Waiters>,
    waiting_max: usize,
}

/// Tickets by what they wait for. A ticket stands in one place for each topic of its interest.
#[derive(Default)]
struct Waiters {
    next_id: u64,
    waiting: usize,
    by_topic: BTreeMap<Topic, BTreeMap<u64, Arc<Mark>>>,
    by_range: Ranges,
    closed: bool,
}

/// What a publication leaves for a ticket.
struct Mark {
    /// The first index of the first publication that touched it; 0: none yet.
    first: AtomicU64,
    notify: Notify,
}

impl Mark {
    fn touch(&self, index: Index) {
        // Only the first touch counts: the waiter reads on from there.
        let _ = self
            .first
            .compare_exchange(0, index.0.max(1), Ordering::AcqRel, Ordering::Acquire);
        self.notify.notify_one();
    }
}

impl Hub {
    /// A hub that begins with `state`.
    pub fn new(state: State) -> Self {
        Self::with_bound(state, limits::WAITERS_MAX)
    }

    /// The same with another bound on the number of waiters.
    pub fn with_bound(state: State, waiting_max: usize) -> Self {
        Self {
            newest: RwLock::new(Arc::new(state)),
            waiters: Mutex::default(),
            waiting_max,
        }
    }

    /// The newest state published.
    pub fn newest(&self) -> Arc<State> {
        self.newest.read().clone()
    }

    /// Publishes a state and wakes those whose interest the events touch.
    pub fn publish(&self, state: State, events: &[Event]) {
        let state = Arc::new(state);
        let before = {
            // Held from state to wake: see `Ticket::quiet_through`.
            let waiters = self.waiters.lock();
            let before = std::mem::replace(&mut *self.newest.write(), state);
            if let Some(first) = events.first() {
                waiters.wake(first.index, events);
            }
            before
        };
        // A state that nobody holds any more is taken apart outside the lock.
        drop(before);
    }

    /// Publishes a state that came whole, not by events: nobody knows what changed since the one before, so everybody
    /// is woken and reads on in the new state's change log, or is told that it doesn't reach back so far.
    pub fn replace(&self, state: State) {
        let state = Arc::new(state);
        let before = {
            let waiters = self.waiters.lock();
            let before = std::mem::replace(&mut *self.newest.write(), state);
            waiters.all().for_each(|mark| mark.touch(before.index().next()));
            before
        };
        drop(before);
    }

    /// Enrols a waiter. Dropping the ticket ends it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many wait, [`Error::ShuttingDown`] after [`Hub::close`].
    pub fn enroll(&self, interest: &[Topic]) -> Result<Ticket<'_>, Error> {
        let mut waiters = self.waiters.lock();
        if waiters.closed {
            return Err(Error::ShuttingDown);
        }
        if waiters.waiting >= self.waiting_max {
            return Err(Error::Overloaded {
                what: "waiting requests".into(),
                limit: self.waiting_max as u64,
            });
        }
        let mark = Arc::new(Mark {
            first: AtomicU64::new(0),
            notify: Notify::new(),
        });
        let id = waiters.add(interest, &mark);
        Ok(Ticket {
            hub: self,
            id,
            interest: interest.to_vec(),
            mark,
        })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.lock().waiting
    }

    /// Wakes everybody, and lets nobody wait any more.
    pub fn close(&self) {
        let mut waiters = self.waiters.lock();
        waiters.closed = true;
        waiters.all().for_each(|mark| mark.notify.notify_one());
    }

    fn closed(&self) -> bool {
        self.waiters.lock().closed
    }
}

impl Waiters {
    fn all(&self) -> impl Iterator<Item = &Arc<Mark>> {
        let by_topic = self.by_topic.values().flat_map(BTreeMap::values);
        by_topic.chain(self.by_range.all())
    }

    fn add(&mut self, interest: &[Topic], mark: &Arc<Mark>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting += 1;
        for topic in interest {
            match topic {
                Topic::Keys(range) => self.by_range.add(range, id, mark),
                other => {
                    self.by_topic
                        .entry(other.clone())
                        .or_default()
                        .insert(id, mark.clone());
                }
            }
        }
        id
    }

    fn remove(&mut self, interest: &[Topic], id: u64) {
        self.waiting -= 1;
        for topic in interest {
            match topic {
                Topic::Keys(range) => self.by_range.remove(range, id),
                other => {
                    if let Some(marks) = self.by_topic.get_mut(other) {
                        marks.remove(&id);
                        if marks.is_empty() {
                            self.by_topic.remove(other);
                        }
                    }
                }
            }
        }
    }

    fn wake(&self, first: Index, events: &[Event]) {
        let touch = |topic: &Topic| {
            for mark in self.by_topic.get(topic).into_iter().flat_map(BTreeMap::values) {
                mark.touch(first);
            }
        };
        touch(&Topic::All);
        for event in events {
            event.change.topics().iter().for_each(touch);
            if let Some(key) = event.change.key() {
                self.by_range.containing(key, |mark| mark.touch(first));
            }
        }
    }
}

/// Waiters for intervals of keys. Those for one key and those for a prefix, which is nearly all, are found by the
/// key's own prefixes; what is left is searched one by one.
#[derive(Default)]
struct Ranges {
    /// By the start of an interval that is one key, or all keys with a prefix.
    exact: BTreeMap<Key, BTreeMap<u64, Arc<Mark>>>,
    prefix: BTreeMap<Key, BTreeMap<u64, Arc<Mark>>>,
    other: BTreeMap<u64, Vec<(KeyRange, Arc<Mark>)>>,
}

enum Shape {
    Exact,
    Prefix,
    Other,
}

impl Ranges {
    fn shape(range: &KeyRange) -> Shape {
        if *range == KeyRange::one(range.start.clone()) {
            Shape::Exact
        } else if *range == KeyRange::prefix(range.start.clone()) {
            Shape::Prefix
        } else {
            Shape::Other
        }
    }

    fn add(&mut self, range: &KeyRange, id: u64, mark: &Arc<Mark>) {
        let marks = match Self::shape(range) {
            Shape::Exact => &mut self.exact,
            Shape::Prefix => &mut self.prefix,
            Shape::Other => {
                self.other
                    .entry(id)
                    .or_default()
                    .push((range.clone(), mark.clone()));
                return;
            }
        };
        marks
            .entry(range.start.clone())
            .or_default()
            .insert(id, mark.clone());
    }

    fn remove(&mut self, range: &KeyRange, id: u64) {
        let marks = match Self::shape(range) {
            Shape::Exact => &mut self.exact,
            Shape::Prefix => &mut self.prefix,
            Shape::Other => {
                self.other.remove(&id);
                return;
            }
        };
        if let Some(at_start) = marks.get_mut(&range.start) {
            at_start.remove(&id);
            if at_start.is_empty() {
                marks.remove(&range.start);
            }
        }
    }

    fn containing(&self, key: &Key, mut found: impl FnMut(&Mark)) {
        let marks =
            |map: &BTreeMap<Key, BTreeMap<u64, Arc<Mark>>>, start: &[u8], found: &mut dyn FnMut(&Mark)| {
                for mark in map.get(start).into_iter().flat_map(BTreeMap::values) {
                    found(mark);
                }
            };
        marks(&self.exact, key, &mut found);
        // Only lengths at which somebody waits for a prefix of the key are looked at: each step finds the longest
        // waited-for start that is not past the prefix tried.
        let mut end = key.len();
        loop {
            let up_to = (Bound::Unbounded, Bound::Included(&key[..end]));
            let Some((start, _)) = self.prefix.range::<[u8], _>(up_to).next_back() else {
                break;
            };
            let common = start.iter().zip(&key[..end]).take_while(|(a, b)| a == b).count();
            if common == start.len() {
                marks(&self.prefix, start, &mut found);
                if common == 0 {
                    break;
                }
                end = common - 1;
            } else {
                end = common;
            }
        }
        for (range, mark) in self.other.values().flatten() {
            if range.contains(key) {
                found(mark);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Mark>> {
        let exact = self.exact.values().flat_map(BTreeMap::values);
        let prefix = self.prefix.values().flat_map(BTreeMap::values);
        exact
            .chain(prefix)
            .chain(self.other.values().flatten().map(|(_, mark)| mark))
    }
}

/// A place in the hub. Dropping it leaves no trace.
pub struct Ticket<'a> {
    hub: &'a Hub,
    id: u64,
    interest: Vec<Topic>,
    mark: Arc<Mark>,
}

impl Ticket<'_> {
    /// Waits until a publication touches the interest; gives that publication's first index.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] when the hub closes.
    pub async fn touched(&mut self) -> Result<Index, Error> {
        loop {
            let first = self.mark.first.load(Ordering::Acquire);
            if first > 0 {
                return Ok(Index(first));
            }
            if self.hub.closed() {
                return Err(Error::ShuttingDown);
            }
            self.mark.notify.notified().await;
        }
    }

    /// The newest index published, if nothing up to it touched the interest since the ticket was taken.
    pub fn quiet_through(&self) -> Option<Index> {
        // A publication holds this lock from state to wake, so the state seen here has marked whom it touches.
        let _publishing = self.hub.waiters.lock();
        let touched = self.mark.first.load(Ordering::Acquire) > 0;
        (!touched).then(|| self.hub.newest().index())
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.hub.waiters.lock().remove(&self.interest, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may_and_room_comes_back() {
        let hub = Hub::with_bound(State::new(), 2);
        let held = hub.enroll(&[Topic::Nodes]).expect("room");
        let also_held = hub.enroll(&[Topic::Keys(KeyRange::all())]).expect("room");
        let refused = hub.enroll(&[Topic::Nodes]).map(drop);
        let overloaded = Error::Overloaded {
            what: "waiting requests".into(),
            limit: 2,
        };
        assert_eq!(refused, Err(overloaded));
        drop(held);
        assert!(hub.enroll(&[Topic::Nodes]).is_ok());
        drop(also_held);
        assert_eq!(hub.waiting(), 0);
    }

    #[tokio::test]
    async fn a_state_that_comes_whole_wakes_everybody() {
        let hub = Hub::new(State::new());
        let mut nodes = hub.enroll(&[Topic::Nodes]).expect("room");
        let mut keys = hub.enroll(&[Topic::Keys(KeyRange::all())]).expect("room");
        hub.replace(State::new());
        assert_eq!(nodes.quiet_through(), None);
        assert_eq!(nodes.touched().await, Ok(Index(1)));
        assert_eq!(keys.touched().await, Ok(Index(1)));
    }
}
