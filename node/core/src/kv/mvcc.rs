//! Versions of keys.
//!
//! `rows` holds what is; `history` what was: versions that a later put replaced, and tombstones. `revisions` tells
//! which key each revision changed, in order. Compaction raises a floor at once; entries that follow drop what lies
//! behind it, a bounded number each.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{KeyRange, KvRow};
use crate::{
    command::{Delete, Guard, Put, Repeat},
    event::{Change, Delta},
    id::{Index, Key, LeaseId, Revision},
    outcome::{Outcome, Rejection, Unmet},
    table::{Graves, Table},
    tree::{Stamped, Tree},
    writer::Writer,
};

/// A version that is no longer the newest, or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version(pub(crate) Option<Arc<KvRow>>);

impl Stamped for Version {
    fn index(&self) -> Index {
        Index(0)
    }
}

impl Stamped for Key {
    fn index(&self) -> Index {
        Index(0)
    }
}

/// Rows of an interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Keys with their rows, in byte order.
    pub rows: Vec<(Key, Arc<KvRow>)>,
    /// How many the interval has, whatever the limit.
    pub count: u64,
    /// Whether the limit left some out.
    pub more: bool,
    /// The store's revision.
    pub revision: Revision,
}

/// The key/value store.
#[derive(Clone, Debug)]
pub struct Kv {
    pub(crate) rows: Table<Key, Arc<KvRow>>,
    pub(crate) history: Table<(Key, Revision), Version>,
    pub(crate) revisions: Tree<(Revision, u32), Key>,
    pub(crate) graves: Graves<Key>,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    /// Where the sweep behind the compaction floor goes on.
    pub(crate) swept: (Revision, u32),
    by_lease: Tree<(LeaseId, Key), ()>,
    /// Of each key whose lock is held: the index at which it was taken.
    pub(crate) fences: Table<Key, Index>,
    by_lock: Tree<(LeaseId, Key), ()>,
}

/// The changes that make up one revision: the first of them raises the store's.
#[derive(Debug, Default)]
pub(crate) struct Stroke(u32);

/// What is to be stored under a key.
pub(super) struct Fresh {
    pub(super) value: Bytes,
    pub(super) flags: u64,
    pub(super) lease: Option<LeaseId>,
    pub(super) lock: Option<LeaseId>,
}

impl Default for Kv {
    fn default() -> Self {
        Self {
            rows: Table::default(),
            history: Table::default(),
            revisions: Tree::new(),
            graves: Graves::default(),
            // etcd's fresh store is at revision 1.
            revision: Revision(1),
            compacted: Revision(0),
            swept: (Revision(0), 0),
            by_lease: Tree::new(),
            fences: Table::default(),
            by_lock: Tree::new(),
        }
    }
}

impl Kv {
    /// The store's revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The compaction floor: reads at older revisions are refused.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// A key's row.
    pub fn get(&self, key: &Key) -> Option<&Arc<KvRow>> {
        self.rows.get(key)
    }

    /// How many keys an interval has.
    pub fn count(&self, range: &KeyRange) -> u64 {
        self.rows.count(range.bounds()) as u64
    }

    /// The rows of an interval, one after the other.
    pub fn rows(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Arc<KvRow>)> + use<'_> {
        self.rows.range(range.bounds())
    }

    /// The newest index of an interval, deletions included.
    pub fn newest(&self, range: &KeyRange) -> Index {
        self.rows
            .newest(range.bounds())
            .unwrap_or_default()
            .max(self.graves.newest(range.bounds()))
    }

    /// The rows of an interval.
    pub fn list(&self, range: &KeyRange, limit: Option<usize>) -> Page {
        let rows = self.rows.range(range.bounds()).take(limit.unwrap_or(usize::MAX));
        let rows: Vec<_> = rows.map(|(key, row)| (key.clone(), row.clone())).collect();
        let count = match limit {
            Some(limit) if rows.len() == limit => self.count(range),
            _ => rows.len() as u64,
        };
        Page {
            more: count > rows.len() as u64,
            rows,
            count,
            revision: self.revision,
        }
    }

    /// The rows of an interval as they were at a revision.
    pub fn list_at(&self, range: &KeyRange, at: Revision, limit: Option<usize>) -> Result<Page, Rejection> {
        self.check_readable(at)?;
        let mut page = Page {
            revision: self.revision,
            ..Page::default()
        };
        for (key, row) in self.merged(range, at) {
            page.count += 1;
            if limit.is_none_or(|limit| page.rows.len() < limit) {
                page.rows.push((key, row));
            }
        }
        page.more = page.count > page.rows.len() as u64;
        Ok(page)
    }

    /// The first rows of an interval as they were at a revision; how many there are is not looked at.
    pub fn first_at(
        &self,
        range: &KeyRange,
        at: Revision,
        limit: usize,
    ) -> Result<Vec<(Key, Arc<KvRow>)>, Rejection> {
        self.check_readable(at)?;
        Ok(self.merged(range, at).take(limit).collect())
    }

    fn check_readable(&self, at: Revision) -> Result<(), Rejection> {
        if at > self.revision {
            return Err(Rejection::FutureRevision {
                asked: at,
                newest: self.revision,
            });
        }
        if at < self.compacted {
            return Err(Rejection::Compacted {
                asked: at,
                oldest: self.compacted,
            });
        }
        Ok(())
    }

    /// Keys and rows as they were at a revision: the newest version of each key up to it.
    fn merged(&self, range: &KeyRange, at: Revision) -> impl Iterator<Item = (Key, Arc<KvRow>)> {
        let (start, end) = range.bounds();
        let from = start.map(|key| (key, Revision(0)));
        let to = end.map(|key| (key, Revision(0)));
        let mut old = self
            .history
            .range((from, to))
            .filter(move |((_, revision), _)| *revision <= at)
            .peekable();
        let mut now = self
            .rows
            .range(range.bounds())
            .filter(move |(_, row)| row.mod_revision <= at)
            .peekable();
        std::iter::from_fn(move || {
            loop {
                let next_old = old.peek().map(|((key, _), _)| (*key).clone());
                let next_now = now.peek().map(|(key, _)| (*key).clone());
                let key = match (next_old, next_now) {
                    (Some(old), Some(now)) => old.min(now),
                    (old, now) => old.or(now)?,
                };
                let mut newest = None;
                while let Some((_, version)) = old.next_if(|((of, _), _)| *of == key) {
                    newest.clone_from(&version.0);
                }
                if let Some((_, row)) = now.next_if(|(of, _)| **of == key) {
                    newest = Some(row.clone());
                }
                if let Some(row) = newest {
                    return Some((key, row));
                }
            }
        })
    }

    /// The names of the keys with a prefix; with a separator each is cut after its first one past the prefix.
    pub fn names(&self, prefix: &Key, separator: Option<&[u8]>) -> Vec<Key> {
        let range = KeyRange::prefix(prefix.clone());
        let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
            return self
                .rows
                .range(range.bounds())
                .map(|(key, _)| key.clone())
                .collect();
        };
        let mut names = Vec::new();
        let mut rest = range.clone();
        while let Some((key, _)) = self.rows.range(rest.bounds()).next() {
            let past = &key[prefix.len()..];
            let found = past
                .windows(separator.len())
                .position(|window| window == separator);
            // All keys that share the cut name are stepped over at once.
            let (name, next) = match found {
                Some(at) => {
                    let name = key.slice(..prefix.len() + at + separator.len());
                    (name.clone(), KeyRange::prefix(name).end)
                }
                None => (key.clone(), KeyRange::one(key.clone()).end),
            };
            names.push(name);
            let Some(next) = next else { break };
            rest.start = next;
        }
        names
    }

    /// The keys that go with a lease, in byte order.
    pub fn of_lease(&self, lease: LeaseId) -> impl Iterator<Item = &Key> {
        of(&self.by_lease, lease)
    }

    /// How many keys go with a lease.
    pub fn count_of_lease(&self, lease: LeaseId) -> usize {
        count_of(&self.by_lease, lease)
    }

    /// The keys whose lock a lease holds, in byte order.
    pub fn locked_by(&self, lease: LeaseId) -> impl Iterator<Item = &Key> {
        of(&self.by_lock, lease)
    }

    /// How many locks a lease holds.
    pub fn count_locked_by(&self, lease: LeaseId) -> usize {
        count_of(&self.by_lock, lease)
    }

    /// The fencing number of a key's lock: the index at which it was taken. Who holds it later has a greater one. `None`:
    /// nobody holds it.
    pub fn fence(&self, key: &Key) -> Option<Index> {
        self.fences.get(key).copied()
    }

    /// How many keys are locked.
    pub fn locks(&self) -> usize {
        self.fences.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes() + self.history.bytes() + self.fences.bytes()
    }

    pub(crate) fn put(&mut self, w: &mut Writer, put: &Put) -> Outcome {
        let before = self.rows.get(&put.key);
        if !put.guard.holds(before.map(|row| &**row)) {
            return Outcome::GuardFailed {
                revision: self.revision,
            };
        }
        let fresh = Fresh {
            value: put.value.clone(),
            flags: put.flags,
            lease: put.lease,
            lock: before.and_then(|row| row.lock),
        };
        let written = self.store(w, &mut Stroke::default(), &put.key, fresh, put.repeat);
        Outcome::Put {
            revision: self.revision,
            written,
        }
    }

    /// Stores a row; false if it is there already and is not to be written again.
    pub(super) fn store(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        key: &Key,
        fresh: Fresh,
        repeat: Repeat,
    ) -> bool {
        let before = self.rows.get(key).cloned();
        let Fresh {
            value,
            flags,
            lease,
            lock,
        } = fresh;
        let unchanged = before.as_ref().is_some_and(|row| {
            row.value == value && row.flags == flags && row.lease == lease && row.lock == lock
        });
        if unchanged && repeat == Repeat::Skip {
            return false;
        }
        let revision = self.revise(stroke);
        let (held, taken) = before
            .as_ref()
            .map_or((None, 0), |row| (row.lock, row.lock_index));
        let row = KvRow {
            value,
            flags,
            lease,
            lock,
            lock_index: taken + u64::from(lock.is_some() && lock != held),
            create_revision: before.as_ref().map_or(revision, |row| row.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |row| row.version + 1),
            create_index: before.as_ref().map_or(w.index, |row| row.create_index),
            modify_index: w.index,
        };
        self.write(w, stroke, key, before, Some(Arc::new(row)));
        true
    }

    pub(crate) fn delete(&mut self, w: &mut Writer, delete: &Delete) -> Outcome {
        if self.delete_unmet(delete).is_some() {
            return Outcome::GuardFailed {
                revision: self.revision,
            };
        }
        let count = self.remove_range(w, &mut Stroke::default(), &delete.range);
        Outcome::Deleted {
            count,
            revision: self.revision,
        }
    }

    /// What keeps a deletion from being done. With a guard the range is one key; a key that is absent already is deleted,
    /// whatever the guard.
    pub(super) fn delete_unmet(&self, delete: &Delete) -> Option<Unmet> {
        let row = self.rows.get(&delete.range.start)?;
        (!delete.guard.holds(Some(row))).then_some(Unmet::Changed {
            modify_index: row.modify_index,
            mod_revision: row.mod_revision,
        })
    }

    pub(super) fn remove_range(&mut self, w: &mut Writer, stroke: &mut Stroke, range: &KeyRange) -> u64 {
        let keys: Vec<_> = self
            .rows
            .range(range.bounds())
            .map(|(key, _)| key.clone())
            .collect();
        self.remove_all(w, stroke, &keys)
    }

    /// Deletes keys; those that are not there don't count.
    fn remove_all(&mut self, w: &mut Writer, stroke: &mut Stroke, keys: &[Key]) -> u64 {
        let mut count = 0;
        for key in keys {
            let Some(row) = self.rows.get(key).cloned() else {
                continue;
            };
            self.revise(stroke);
            self.write(w, stroke, key, Some(row), None);
            count += 1;
        }
        count
    }

    /// A lease is over: the keys that go with it are deleted, and its locks given back, in one revision; with `delete` the
    /// keys that it locked are deleted as well. How many are deleted, and the keys whose locks it held.
    pub(crate) fn end_lease(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        lease: LeaseId,
        delete: bool,
    ) -> (u64, Vec<Key>) {
        let locked: Vec<_> = self.locked_by(lease).cloned().collect();
        let attached: Vec<_> = self.of_lease(lease).cloned().collect();
        let mut deleted = self.remove_all(w, stroke, &attached);
        if delete {
            deleted += self.remove_all(w, stroke, &locked);
        }
        for key in &locked {
            let Some(row) = self.rows.get(key) else { continue };
            let fresh = Fresh {
                value: row.value.clone(),
                flags: row.flags,
                lease: row.lease,
                lock: None,
            };
            self.store(w, stroke, key, fresh, Repeat::Skip);
        }
        (deleted, locked)
    }

    /// The revision of a stroke's changes.
    fn revise(&mut self, stroke: &Stroke) -> Revision {
        if stroke.0 == 0 {
            self.revision = self.revision.next();
        }
        self.revision
    }

    /// Makes one change of the present revision.
    fn write(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        key: &Key,
        before: Option<Arc<KvRow>>,
        after: Option<Arc<KvRow>>,
    ) {
        if let Some(row) = &before {
            self.history
                .put((key.clone(), row.mod_revision), Version(Some(row.clone())));
        }
        self.revisions.insert((self.revision, stroke.0), key.clone());
        stroke.0 += 1;
        self.note_lock(w, key, before.as_deref(), after.as_deref());
        if let Some(lease) = before.as_ref().and_then(|row| row.lease) {
            self.by_lease.remove(&(lease, key.clone()));
        }
        if let Some(row) = &after {
            self.graves.raise(key);
            self.load_row(key.clone(), row.clone());
        } else {
            self.history.put((key.clone(), self.revision), Version(None));
            self.rows.remove(key);
            self.graves.bury(key.clone(), w.index);
        }
        w.emit(Change::Key(key.clone(), Delta { before, after }));
    }

    /// Keeps fencing numbers with the locks that they are of.
    fn note_lock(&mut self, w: &Writer, key: &Key, before: Option<&KvRow>, after: Option<&KvRow>) {
        let (held, holds) = (before.and_then(|row| row.lock), after.and_then(|row| row.lock));
        if held == holds {
            return;
        }
        if let Some(lease) = held {
            self.by_lock.remove(&(lease, key.clone()));
        }
        match holds {
            Some(_) => self.fences.put(key.clone(), w.index),
            None => self.fences.remove(key),
        };
    }

    pub(crate) fn compact(&mut self, at: Revision) -> Result<Outcome, Rejection> {
        if at > self.revision {
            return Err(Rejection::FutureRevision {
                asked: at,
                newest: self.revision,
            });
        }
        if at <= self.compacted {
            return Err(Rejection::Compacted {
                asked: at,
                oldest: self.compacted,
            });
        }
        self.compacted = at;
        self.swept = (Revision(0), 0);
        Ok(Outcome::Compacted)
    }

    /// Whether all that can be dropped behind the compaction floor is gone.
    pub fn is_swept(&self) -> bool {
        let next = self.revisions.range(self.swept..).next();
        next.is_none_or(|(place, _)| place.0 > self.compacted)
    }

    /// Drops at most about `budget` versions behind the compaction floor.
    pub(crate) fn sweep(&mut self, mut budget: usize) {
        while budget > 0 {
            let Some((&place, key)) = self.revisions.range(self.swept..).next() else {
                return;
            };
            if place.0 > self.compacted {
                return;
            }
            let key = key.clone();
            let older = (key.clone(), Revision(0))..(key.clone(), place.0);
            if let Some((version, _)) = self.history.range(older).next() {
                // Behind a version at or below the floor no older one can be read.
                let version = version.clone();
                self.history.remove(&version);
            } else if place.0 < self.compacted {
                let version = (key, place.0);
                if self
                    .history
                    .get(&version)
                    .is_some_and(|version| version.0.is_none())
                {
                    self.history.remove(&version);
                }
                self.revisions.remove(&place);
            } else {
                // The floor's own changes can still be watched; the next compaction takes them.
                self.swept = (place.0, place.1 + 1);
            }
            budget -= 1;
        }
    }

    pub(crate) fn load_row(&mut self, key: Key, row: Arc<KvRow>) {
        if let Some(lease) = row.lease {
            self.by_lease.insert((lease, key.clone()), ());
        }
        if let Some(lease) = row.lock {
            self.by_lock.insert((lease, key.clone()), ());
        }
        self.rows.put(key, row);
    }
}

/// The keys of a lease in an index by lease.
fn of(index: &Tree<(LeaseId, Key), ()>, lease: LeaseId) -> impl Iterator<Item = &Key> {
    index
        .range((lease, Bytes::new())..)
        .take_while(move |((of, _), ())| *of == lease)
        .map(|((_, key), ())| key)
}

fn count_of(index: &Tree<(LeaseId, Key), ()>, lease: LeaseId) -> usize {
    let after = lease.0.checked_add(1).map(|id| (LeaseId(id), Bytes::new()));
    let end = after.map_or(Bound::Unbounded, Bound::Excluded);
    index.count((Bound::Included((lease, Bytes::new())), end))
}

impl Guard {
    /// Whether the row that is there, or that there is none, is what the guard asks for.
    pub(super) fn holds(self, row: Option<&KvRow>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => row.is_none(),
            Self::ModifyIndex(index) => row.is_some_and(|row| row.modify_index == index),
            Self::ModRevision(revision) => row.is_some_and(|row| row.mod_revision == revision),
        }
    }
}
