//! Walking a tree from both ends, by rank.

use std::iter::FusedIterator;
use std::ops::Range;

use super::node::Node;

/// The entries of a range of a [`Tree`](super::Tree), in the order of their keys, from either end.
///
/// It holds the ranks still to come and, for each end, what is left of the leaf it stands in. At the end of a leaf it
/// descends from the root again by rank: a few nanoseconds for each entry, and no stack of parents to keep right. The
/// two slices may overlap; the ranks alone say where the ends meet.
pub struct Iter<'a, K, V> {
    root: &'a Node<K, V>,
    ranks: Range<usize>,
    front: &'a [(K, V)],
    back: &'a [(K, V)],
}

impl<'a, K, V> Iter<'a, K, V> {
    pub(super) fn new(root: &'a Node<K, V>, ranks: Range<usize>) -> Self {
        Self {
            root,
            ranks,
            front: &[],
            back: &[],
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ranks.is_empty() {
            return None;
        }
        if self.front.is_empty() {
            let (leaf, at) = self.root.leaf_at(self.ranks.start);
            self.front = &leaf[at..];
        }
        let ((key, value), rest) = self.front.split_first()?;
        self.front = rest;
        self.ranks.start += 1;
        Some((key, value))
    }

    /// O(log n), so that `skip` is too.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let n = n.min(self.ranks.len());
        self.front = self.front.get(n..).unwrap_or_default();
        self.ranks.start += n;
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.ranks.len(), Some(self.ranks.len()))
    }

    fn count(self) -> usize {
        self.ranks.len()
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.ranks.is_empty() {
            return None;
        }
        if self.back.is_empty() {
            let (leaf, at) = self.root.leaf_at(self.ranks.end - 1);
            self.back = &leaf[..=at];
        }
        let ((key, value), rest) = self.back.split_last()?;
        self.back = rest;
        self.ranks.end -= 1;
        Some((key, value))
    }

    /// O(log n), as `nth`.
    fn nth_back(&mut self, n: usize) -> Option<Self::Item> {
        let n = n.min(self.ranks.len());
        self.back = self
            .back
            .len()
            .checked_sub(n)
            .and_then(|rest| self.back.get(..rest))
            .unwrap_or_default();
        self.ranks.end -= n;
        self.next_back()
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<K, V> FusedIterator for Iter<'_, K, V> {}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            root: self.root,
            ranks: self.ranks.clone(),
            front: self.front,
            back: self.back,
        }
    }
}
