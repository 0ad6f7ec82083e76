//! Everything that expires, in one index by time. When the earliest is due the leader proposes a `Pulse`.

use serde::{Deserialize, Serialize};

use crate::{
    id::{CheckKey, Index, InstanceKey, Key, LeaseId, NodeName, SessionId},
    table::Table,
    time::Time,
    tree::{Stamped, Tree},
};

/// What a deadline is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeadlineKey {
    /// A lease ends.
    Lease(LeaseId),
    /// A TTL check was silent for too long.
    CheckTtl(CheckKey),
    /// A check was critical for too long: its instance goes.
    Critical(CheckKey),
    /// A registration without checks was not repeated.
    Heartbeat(InstanceKey),
    /// An implicit check was silent for too long.
    Implicit(CheckKey),
    /// A request session was idle for too long.
    Session(SessionId),
    /// A lock whose holder was lost may be taken again.
    LockDelay(Key),
    /// A server was lost for too long: leases on its node that nobody renews end.
    Orphans(NodeName),
}

/// When it is due, and where it stands in the queue: at that time or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// When it is due.
    pub at: Time,
    /// Its place in the queue.
    pub queued: Time,
}

impl Stamped for Deadline {
    fn index(&self) -> Index {
        Index(0)
    }
}

/// All deadlines. Moving one ahead, which is what renewals do, writes its row alone: its place in the queue stays
/// and is mended when it comes up.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    pub(crate) rows: Table<DeadlineKey, Deadline>,
    queue: Tree<(Time, DeadlineKey), ()>,
}

impl Deadlines {
    /// Sets a deadline, or moves it.
    pub fn set(&mut self, key: DeadlineKey, at: Time) {
        let queued = match self.rows.get(&key) {
            Some(row) if row.queued <= at => row.queued,
            Some(row) => {
                let queued = row.queued;
                self.queue.remove(&(queued, key.clone()));
                self.enqueue(at, &key)
            }
            None => self.enqueue(at, &key),
        };
        self.rows.put(key, Deadline { at, queued });
    }

    fn enqueue(&mut self, at: Time, key: &DeadlineKey) -> Time {
        self.queue.insert((at, key.clone()), ());
        at
    }

    /// Drops a deadline, if there is one.
    pub fn clear(&mut self, key: &DeadlineKey) {
        if let Some(row) = self.rows.remove(key) {
            self.queue.remove(&(row.queued, key.clone()));
        }
    }

    /// When something is due.
    pub fn get(&self, key: &DeadlineKey) -> Option<Time> {
        self.rows.get(key).map(|row| row.at)
    }

    /// How many lock delays run.
    pub(crate) fn lock_delays(&self) -> usize {
        let first = DeadlineKey::LockDelay(Key::new());
        let behind = DeadlineKey::Orphans(NodeName::least());
        self.rows.count(first..behind)
    }

    /// The earliest place in the queue: nothing is due before it.
    pub fn next(&self) -> Option<Time> {
        self.queue.first().map(|((at, _), ())| *at)
    }

    /// Takes out what is due at `now`, the earliest first, but looks at no more than `budget` places.
    pub fn pop(&mut self, now: Time, budget: &mut usize) -> Option<(Time, DeadlineKey)> {
        while *budget > 0 {
            let ((queued, key), ()) = self.queue.first()?;
            if *queued > now {
                return None;
            }
            *budget -= 1;
            let place = (*queued, key.clone());
            self.queue.remove(&place);
            let key = place.1;
            let row = *self.rows.get(&key).expect("each place in the queue is of a row");
            if row.at == row.queued {
                self.rows.remove(&key);
                return Some((row.at, key));
            }
            // It was moved ahead: even if it is due as well, what was due before it comes first.
            let queued = self.enqueue(row.at, &key);
            self.rows.put(key, Deadline { at: row.at, queued });
        }
        None
    }

    pub(crate) fn load(&mut self, key: DeadlineKey, row: Deadline) {
        self.queue.insert((row.queued, key.clone()), ());
        self.rows.put(key, row);
    }
}
