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
}

/// The store as it was at each revision, and is at the last.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    revisions: Vec<BTreeMap<Key, Row>>,
    compacted: u64,
}

impl Default for Keys {
    fn default() -> Self {
        // A fresh store is at revision 1; there is nothing at 0.
        Self {
            revisions: vec![BTreeMap::new(); 2],
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

    pub(crate) fn put(&mut self, index: Index, put: &Put) -> Outcome {
        let told = Revision(self.revision());
        if !self.holds(&put.key, put.guard) {
            return Outcome::GuardFailed { revision: told };
        }
        let before = self.now().get(&put.key).cloned();
        let same = before
            .as_ref()
            .is_some_and(|row| row.value == put.value && row.flags == put.flags && row.lease == put.lease);
        if same && put.repeat == Repeat::Skip {
            return Outcome::Put {
                revision: told,
                written: false,
            };
        }
        let revision = told.next();
        let row = Row {
            value: put.value.clone(),
            flags: put.flags,
            lease: put.lease,
            created: before.as_ref().map_or((index, revision), |row| row.created),
            modified: (index, revision),
            version: before.map_or(1, |row| row.version + 1),
        };
        let mut keys = self.now().clone();
        keys.insert(put.key.clone(), row);
        self.revisions.push(keys);
        Outcome::Put {
            revision,
            written: true,
        }
    }

    pub(crate) fn delete(&mut self, delete: &Delete) -> Told {
        let start = &delete.range.start;
        if delete.guard != Guard::Always {
            if start.is_empty() || delete.range != KeyRange::one(start.clone()) {
                return Err("invalid");
            }
            // Of a key that is gone the deletion has been done.
            if self.now().contains_key(start) && !self.holds(start, delete.guard) {
                return Ok(Outcome::GuardFailed {
                    revision: Revision(self.revision()),
                });
            }
        }
        let count = self.delete_where(|key, _| delete.range.contains(key));
        Ok(Outcome::Deleted {
            count,
            revision: Revision(self.revision()),
        })
    }

    /// Deletes in one revision; how many.
    pub(crate) fn delete_where(&mut self, goes: impl Fn(&Key, &Row) -> bool) -> u64 {
        let mut keys = self.now().clone();
        keys.retain(|key, row| !goes(key, row));
        let count = self.now().len() - keys.len();
        if count > 0 {
            self.revisions.push(keys);
        }
        count as u64
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

    fn holds(&self, key: &Key, guard: Guard) -> bool {
        let row = self.now().get(key);
        match guard {
            Guard::Always => true,
            Guard::Absent => row.is_none(),
            Guard::ModifyIndex(index) => row.is_some_and(|row| row.modified.0 == index),
            Guard::ModRevision(revision) => row.is_some_and(|row| row.modified.1 == revision),
        }
    }
}
