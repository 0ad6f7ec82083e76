//! Walking a tree from both ends, by rank.

use std::iter::FusedIterator;
use std::ops::Range;

use super::node::{Node, Run};

/// The entries of a range of a [`Tree`](super::Tree), in the order of their keys, from either end.
///
/// It holds the ranks still to come and, for each end, what is left of the leaf it stands in. At the end of a leaf it
/// descends from the root again by rank: a few nanoseconds for each entry, and no stack of parents to keep right. The
/// two runs may overlap; the ranks alone say where the ends meet.
pub struct Iter<'a, K, V> {
    root: &'a Node<K, V>,
    ranks: Range<usize>,
    front: Run<'a, K, V>,
    back: Run<'a, K, V>,
}

impl<'a, K, V> Iter<'a, K, V> {
    pub(super) fn new(root: &'a Node<K, V>, ranks: Range<usize>) -> Self {
        Self {
            root,
            ranks,
            front: empty(),
            back: empty(),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ranks.is_empty() {
            return None;
        }
        if self.front.len() == 0 {
            self.front = self.root.run_from(self.ranks.start);
        }
        let entry = self.front.next()?;
        self.ranks.start += 1;
        Some(entry)
    }

    /// O(log n), so that `skip` is too.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        if n > 0 {
            self.front = empty();
            self.ranks.start += n.min(self.ranks.len());
        }
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
        if self.back.len() == 0 {
            self.back = self.root.run_to(self.ranks.end - 1);
        }
        let entry = self.back.next_back()?;
        self.ranks.end -= 1;
        Some(entry)
    }

    /// O(log n), as `nth`.
    fn nth_back(&mut self, n: usize) -> Option<Self::Item> {
        if n > 0 {
            self.back = empty();
            self.ranks.end -= n.min(self.ranks.len());
        }
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
            front: self.front.clone(),
            back: self.back.clone(),
        }
    }
}

fn empty<'a, K, V>() -> Run<'a, K, V> {
    [].iter().zip(&[])
}
