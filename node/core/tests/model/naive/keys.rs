//! Keys: a copy of all of them for each revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use spine_core::{Delete, Guard, Index, Key, KeyRange, LeaseId, Outcome, Put, Repeat, Revision};

use super::Told;

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) created: (Index, Revision),
    pub(crate) modified: (Index, Revision),
    pub(crate) version: u64,
    pub(crate) lock: Option<LeaseId>,
    /// How often the lock was taken.
    pub(crate) taken: u64,
}

/// The keys as a request makes them: one revision, whatever it does to them.
pub(crate) struct Draft {
    pub(crate) now: BTreeMap<Key, Row>,
    /// Of each key that is locked: when it was taken.
    pub(crate) fences: BTreeMap<Key, Index>,
    place: (Index, Revision),
    written: bool,
}

/// The store as it was at each revision, and is at the last.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    revisions: Vec<BTreeMap<Key, Row>>,
    pub(crate) fences: BTreeMap<Key, Index>,
    compacted: u64,
}

impl Default for Keys {
    fn default() -> Self {
        // A fresh store is at revision 1; there is nothing at 0.
        Self {
            revisions: vec![BTreeMap::new(); 2],
            fences: BTreeMap::new(),
            compacted: 0,
        }
    }
}

impl Keys {
    pub(crate) fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    pub(crate) fn now(&self) -> &BTreeMap<Key, Row> {
        self.revisions.last().expect("never empty")
    }

    /// The keys of an interval as they were at a revision.
    pub(crate) fn at(&self, revision: u64, range: &KeyRange) -> Result<Vec<(Key, Row)>, &'static str> {
        if revision < self.compacted {
            return Err("compacted");
        }
        let keys = self.revisions.get(usize::try_from(revision).expect("small"));
        let keys = keys.ok_or("future_revision")?.iter();
        let within =
            keys.filter(|(key, _)| **key >= range.start && range.end.as_ref().is_none_or(|end| *key < end));
        Ok(within.map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    pub(crate) fn draft(&self, index: Index) -> Draft {
        Draft {
            now: self.now().clone(),
            fences: self.fences.clone(),
            place: (index, Revision(self.revision() + 1)),
            written: false,
        }
    }

    pub(crate) fn take(&mut self, draft: Draft) {
        if draft.written {
            self.revisions.push(draft.now);
            self.fences = draft.fences;
        }
    }

    pub(crate) fn put(&mut self, index: Index, put: &Put) -> Outcome {
        let mut draft = self.draft(index);
        if !draft.holds(&put.key, put.guard) {
            return Outcome::GuardFailed {
                revision: Revision(self.revision()),
            };
        }
        let written = draft.put(put);
        self.take(draft);
        Outcome::Put {
            revision: Revision(self.revision()),
            written,
        }
    }

    pub(crate) fn delete(&mut self, index: Index, delete: &Delete) -> Told {
        if !is_deletion(delete) {
            return Err("invalid");
        }
        let mut draft = self.draft(index);
        let start = &delete.range.start;
        // Of a key that is gone the deletion has been done.
        if draft.now.contains_key(start) && !draft.holds(start, delete.guard) {
            return Ok(Outcome::GuardFailed {
                revision: Revision(self.revision()),
            });
        }
        let count = draft.delete_where(|key, _| delete.range.contains(key));
        self.take(draft);
        Ok(Outcome::Deleted {
            count,
            revision: Revision(self.revision()),
        })
    }

    pub(crate) fn compact(&mut self, at: u64) -> Told {
        if at > self.revision() {
            return Err("future_revision");
        }
        if at <= self.compacted {
            return Err("compacted");
        }
        self.compacted = at;
        Ok(Outcome::Compacted)
    }
}

/// With a guard it is of one key.
pub(crate) fn is_deletion(delete: &Delete) -> bool {
    let start = &delete.range.start;
    delete.guard == Guard::Always || !start.is_empty() && delete.range == KeyRange::one(start.clone())
}

impl Draft {
    /// As a put does: who holds the lock goes on holding it.
    pub(crate) fn put(&mut self, put: &Put) -> bool {
        let lock = self.now.get(&put.key).and_then(|row| row.lock);
        self.write(put, lock)
    }

    /// Stores a row with this lock; whether anything changed.
    pub(crate) fn write(&mut self, put: &Put, lock: Option<LeaseId>) -> bool {
        let before = self.now.get(&put.key).cloned();
        let same = before.as_ref().is_some_and(|row| {
            (&row.value, row.flags, row.lease, row.lock) == (&put.value, put.flags, put.lease, lock)
        });
        if same && put.repeat == Repeat::Skip {
            return false;
        }
        let held = before.as_ref().and_then(|row| row.lock);
        let taken = lock.is_some() && lock != held;
        if taken {
            self.fences.insert(put.key.clone(), self.place.0);
        } else if lock.is_none() {
            self.fences.remove(&put.key);
        }
        let row = Row {
            value: put.value.clone(),
            flags: put.flags,
            lease: put.lease,
            created: before.as_ref().map_or(self.place, |row| row.created),
            modified: self.place,
            version: before.as_ref().map_or(1, |row| row.version + 1),
            lock,
            taken: before.map_or(0, |row| row.taken) + u64::from(taken),
        };
        self.now.insert(put.key.clone(), row);
        self.written = true;
        true
    }

    /// How many go.
    pub(crate) fn delete_where(&mut self, goes: impl Fn(&Key, &Row) -> bool) -> u64 {
        let count = self.now.len();
        self.now.retain(|key, row| !goes(key, row));
        self.fences.retain(|key, _| self.now.contains_key(key));
        let count = count - self.now.len();
        self.written |= count > 0;
        count as u64
    }

    pub(crate) fn locked_by(&self, id: LeaseId) -> Vec<Key> {
        let locked = self.now.iter().filter(|(_, row)| row.lock == Some(id));
        locked.map(|(key, _)| key.clone()).collect()
    }

    /// A lease ends: how many keys go.
    pub(crate) fn end_lease(&mut self, id: LeaseId, delete: bool) -> u64 {
        let count = self.delete_where(|_, row| row.lease == Some(id) || delete && row.lock == Some(id));
        for (key, row) in self.now.clone() {
            if row.lock == Some(id) {
                let put = Put {
                    key,
                    value: row.value,
                    flags: row.flags,
                    lease: row.lease,
                    guard: Guard::Always,
                    repeat: Repeat::Skip,
                };
                self.write(&put, None);
            }
        }
        count
    }

    pub(crate) fn holds(&self, key: &Key, guard: Guard) -> bool {
        let row = self.now.get(key);
        match guard {
            Guard::Always => true,
            Guard::Absent => row.is_none(),
            Guard::ModifyIndex(index) => row.is_some_and(|row| row.modified.0 == index),
            Guard::ModRevision(revision) => row.is_some_and(|row| row.modified.1 == revision),
        }
    }
}
