//! A table of the state: a persistent ordered map that knows its digest and its size.

use std::ops::RangeBounds;

use serde::Serialize;

use crate::{
    codec,
    id::Index,
    tree::{Iter, Stamped, Tree},
};

/// Rows in key order, with their digest and their encoded size kept up to date by each change.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    rows: Tree<K, V>,
    digest: u128,
    bytes: u64,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            rows: Tree::new(),
            digest: 0,
            bytes: 0,
        }
    }
}

impl<K: Ord + Clone + Serialize, V: Clone + Stamped + Serialize> Table<K, V> {
    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Whether there is a row of `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every row, in key order.
    #[expect(clippy::iter_without_into_iter, reason = "nobody loops over a whole table")]
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.rows.iter()
    }

    /// The rows of an interval, in key order.
    pub fn range(&self, range: impl RangeBounds<K>) -> Iter<'_, K, V> {
        self.rows.range(range)
    }

    /// How many rows an interval has.
    pub fn count(&self, range: impl RangeBounds<K>) -> usize {
        self.rows.count(range)
    }

    /// The greatest index of the rows of an interval.
    pub fn newest(&self, range: impl RangeBounds<K>) -> Option<Index> {
        self.rows.newest(range)
    }

    /// Sets a row; gives the one before.
    #[expect(clippy::needless_pass_by_value, reason = "as a map's insert")]
    pub fn put(&mut self, key: K, value: V) -> Option<V> {
        let (digest, bytes) = fingerprint(&key, &value);
        self.digest = self.digest.wrapping_add(digest);
        self.bytes += bytes;
        let before = self.rows.insert(key.clone(), value);
        if let Some(before) = &before {
            self.forget(&key, before);
        }
        before
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let before = self.rows.remove(key)?;
        self.forget(key, &before);
        Some(before)
    }

    /// A hash of the rows that doesn't depend on the order in which they came.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The encoded size of the rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn forget(&mut self, key: &K, value: &V) {
        let (digest, bytes) = fingerprint(key, value);
        self.digest = self.digest.wrapping_sub(digest);
        self.bytes -= bytes;
    }
}

fn fingerprint<K: Serialize, V: Serialize>(key: &K, value: &V) -> (u128, u64) {
    let row = codec::encode_row(&(key, value));
    (row_digest(&row), row.len() as u64)
}

/// What a row, its key and value encoded, adds to the digest of its table.
pub fn row_digest(row: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(row)
}

/// When keys of a table were last removed, so that the newest index of an interval never falls because of a
/// removal. Bounded: dropping the oldest raises the floor, which then stands in for every interval: one wake too
/// many perhaps, but never one too few.
#[derive(Clone, Debug)]
pub struct Graves<K> {
    pub(crate) by_key: Tree<K, Index>,
    by_age: Tree<(Index, K), ()>,
    pub(crate) floor: Index,
}

impl<K> Default for Graves<K> {
    fn default() -> Self {
        Self {
            by_key: Tree::new(),
            by_age: Tree::new(),
            floor: Index(0),
        }
    }
}

impl<K: Ord + Clone> Graves<K> {
    /// `key` was removed at `index`.
    pub fn bury(&mut self, key: K, index: Index) {
        self.raise(&key);
        self.by_age.insert((index, key.clone()), ());
        self.by_key.insert(key, index);
        while self.by_key.len() > crate::limits::TOMBSTONES_MAX {
            let ((index, oldest), ()) = self.by_age.first().expect("both maps hold the same");
            let (index, oldest) = (*index, oldest.clone());
            self.raise(&oldest);
            self.floor = self.floor.max(index);
        }
    }

    /// `key` is there again: its row's own index is newer.
    pub fn raise(&mut self, key: &K) {
        if let Some(index) = self.by_key.remove(key) {
            self.by_age.remove(&(index, key.clone()));
        }
    }

    /// The newest removal in an interval.
    pub fn newest(&self, range: impl RangeBounds<K>) -> Index {
        self.by_key.newest(range).unwrap_or_default().max(self.floor)
    }
}
