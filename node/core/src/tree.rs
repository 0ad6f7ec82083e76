//! A persistent ordered map: the value that every table of the state is made of.
//!
//! [`Tree`] is a B+tree whose nodes are shared between versions. A clone is one reference count, and stays as it was
//! whatever happens to the original. A write copies the nodes on its path that another version still holds, and works
//! in place on those that no one else holds; so the first write after a clone copies a few nodes, and the writes of a
//! long batch copy next to nothing.
//!
//! Every branch knows, for each subtree below it, how many entries it holds and the greatest [`Index`] among them. So
//! three questions that a registry asks all the time cost the height of the tree, however wide the range: how many rows
//! are in it ([`Tree::count`]), what is the newest change in it ([`Tree::newest`]), and where does page `n` of it begin
//! ([`Tree::nth`], and `skip` on any iterator of this module).
//!
//! All of them rest on one notion, the *rank*: the number of entries before a place. A range of keys is turned into a
//! range of ranks once, and counting, summing up and walking go on from there.

mod iter;
mod node;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use crate::id::Index;
pub use iter::Iter;
use node::{Node, Summary};

/// What a [`Tree`] asks of its values: the [`Index`] of their last change.
///
/// The answer must not change while the value is in a tree, because the tree keeps sums over it. Values of which no
/// one asks for the newest answer with `Index(0)`, as `()` does.
pub trait Stamped {
    /// The Index of the request that last changed this value.
    fn index(&self) -> Index;
}

impl Stamped for () {
    fn index(&self) -> Index {
        Index(0)
    }
}

impl<T: Stamped + ?Sized> Stamped for Arc<T> {
    fn index(&self) -> Index {
        (**self).index()
    }
}

/// A persistent ordered map from `K` to `V`, with the number of entries and the newest [`Index`] of any range at hand.
///
/// `clone` is O(1). A range whose start lies behind its end is empty, not a panic: ranges come from strangers.
pub struct Tree<K, V> {
    root: Arc<Node<K, V>>,
    summary: Summary,
}

impl<K, V> Tree<K, V> {
    /// An empty tree.
    pub fn new() -> Self {
        Self {
            root: Arc::new(Node::empty()),
            summary: Summary::default(),
        }
    }

    /// The number of entries. O(1).
    pub fn len(&self) -> usize {
        self.summary.count
    }

    /// Whether there is no entry. O(1).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry with the least key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.nth(0)
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        self.nth(self.len().checked_sub(1)?)
    }

    /// The entry that has `rank` entries before it. O(log n).
    pub fn nth(&self, rank: usize) -> Option<(&K, &V)> {
        self.iter_ranks(rank..self.len()).next()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.iter_ranks(0..self.len())
    }

    fn iter_ranks(&self, ranks: Range<usize>) -> Iter<'_, K, V> {
        Iter::new(&self.root, ranks)
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// The value under `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.root.get(key)
    }

    /// Whether there is an entry under `key`.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries whose keys lie in `range`, from either end. O(log n) to begin, O(1) for each entry; `skip(n)` is
    /// O(log n).
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        self.iter_ranks(self.ranks(&range))
    }

    /// The number of entries whose keys lie in `range`. O(log n).
    pub fn count<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> usize
    where
        K: Borrow<Q>,
    {
        self.ranks(&range).len()
    }

    /// The ranks of the entries in `range`.
    fn ranks<Q: Ord + ?Sized>(&self, range: &impl RangeBounds<Q>) -> Range<usize>
    where
        K: Borrow<Q>,
    {
        let start = match range.start_bound() {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.root.rank_before(key),
            Bound::Excluded(key) => self.root.rank_after(key),
        };
        let end = match range.end_bound() {
            Bound::Unbounded => self.len(),
            Bound::Included(key) => self.root.rank_after(key),
            Bound::Excluded(key) => self.root.rank_before(key),
        };
        start..end.max(start)
    }
}

impl<K: Ord, V: Stamped> Tree<K, V> {
    /// The greatest [`Index`] among the values in `range`, or `None` where the range is empty. O(log n).
    pub fn newest<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Option<Index>
    where
        K: Borrow<Q>,
    {
        let ranks = self.ranks(&range);
        if ranks.len() == self.len() {
            return (!self.is_empty()).then_some(self.summary.newest);
        }
        self.root.newest_within(ranks)
    }
}

impl<K: Ord + Clone, V: Clone + Stamped> Tree<K, V> {
    /// Puts `value` under `key`; answers what was there. A key that was there stays, as in the standard maps.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = value.index();
        let (before, split) = Arc::make_mut(&mut self.root).insert(key, value, true);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::empty()));
            self.root = Arc::new(Node::root(left, right));
            self.summary = self.root.summarize();
        } else {
            self.summary.inserted(index, before.as_ref(), &self.root);
        }
        before
    }

    /// Takes the entry under `key` out; answers its value. Where there is none, nothing is copied.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.root).remove(key)?;
        self.summary.removed(&removed, &self.root);
        while let Some(child) = self.root.lone_child() {
            self.root = child;
        }
        Some(removed)
    }
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            summary: self.summary,
        }
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.len() == other.len() && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Tree<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Clone, V: Clone + Stamped> Extend<(K, V)> for Tree<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone + Stamped> FromIterator<(K, V)> for Tree<K, V> {
    /// Entries that come in ascending order fill their leaves to the brim.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut tree = Self::new();
        tree.extend(entries);
        tree
    }
}

impl<'a, K, V> IntoIterator for &'a Tree<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
