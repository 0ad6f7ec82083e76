//! The nodes of a [`Tree`](super::Tree): leaves of entries under branches of children.
//!
//! Invariants:
//! - All leaves are at the same depth. Only the root may be empty, and then it is a leaf; a root that is a branch has at
//!   least two children.
//! - In a branch, every key below child `i` is at or above `children[i].low`, and every key below child `i - 1` is below
//!   it. The first child's `low` is not looked at: it may be stale.
//! - A [`Child`]'s summary is that of its node.
//! - No node is wider than [`LEAF_MAX`] or [`BRANCH_MAX`]. There is no least width: a node that a removal leaves with less
//!   than a quarter is merged with a neighbour if both fit into one, so that two neighbours hold at least half of what
//!   fits into two. Keys that arrive in ascending order fill their nodes to the brim.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::Stamped;
use crate::id::Index;

/// Entries in a leaf, at most. Measured in `node/decisions/0001-state-is-a-value.md`: wider leaves are read faster and
/// waste less, narrower ones are copied faster by the first write after a clone.
pub(super) const LEAF_MAX: usize = 32;

/// Children of a branch, at most. See [`LEAF_MAX`].
pub(super) const BRANCH_MAX: usize = 32;

/// Room is made for so many items at a time, so that a node holds little memory that it doesn't use.
const GROWTH: usize = 8;

pub(super) enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Branch(Vec<Child<K, V>>),
}

/// A subtree as its parent sees it.
pub(super) struct Child<K, V> {
    low: K,
    summary: Summary,
    node: Arc<Node<K, V>>,
}

/// What is known of a subtree without visiting it. An empty one has `Index(0)` as its newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) newest: Index,
}

impl Summary {
    /// Brings the summary of `node` up to date after an insert that replaced `before`. Values are visited only where a
    /// newer one gave way to an older one.
    pub(super) fn inserted<K, V: Stamped>(&mut self, index: Index, before: Option<&V>, node: &Node<K, V>) {
        match before.map(Stamped::index) {
            None => {
                self.count += 1;
                self.newest = self.newest.max(index);
            }
            Some(before) if before == self.newest && index < before => self.newest = node.newest(),
            Some(_) => self.newest = self.newest.max(index),
        }
    }

    /// Brings the summary of `node` up to date after `value` was removed from it.
    pub(super) fn removed<K, V: Stamped>(&mut self, value: &V, node: &Node<K, V>) {
        self.count -= 1;
        if value.index() == self.newest {
            self.newest = node.newest();
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            newest: self.newest.max(other.newest),
        }
    }
}

impl<K, V> Node<K, V> {
    pub(super) fn empty() -> Self {
        Self::Leaf(Vec::new())
    }

    /// The leaf that holds the entry of this rank, and the entry's place in it.
    pub(super) fn leaf_at(&self, mut rank: usize) -> (&[(K, V)], usize) {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(entries) => return (entries, rank),
                Self::Branch(children) => {
                    let child = children
                        .iter()
                        .find(|child| match rank.checked_sub(child.summary.count) {
                            Some(rest) => {
                                rank = rest;
                                false
                            }
                            None => true,
                        });
                    node = &child
                        .expect("a rank below the tree's count lies in one of the children")
                        .node;
                }
            }
        }
    }

    /// The only child, where this is a branch that has just one. Such a root is one level too high.
    pub(super) fn lone_child(&self) -> Option<Arc<Self>> {
        match self {
            Self::Branch(children) if children.len() == 1 => Some(Arc::clone(&children[0].node)),
            Self::Branch(_) | Self::Leaf(_) => None,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }

    fn width_max(&self) -> usize {
        match self {
            Self::Leaf(_) => LEAF_MAX,
            Self::Branch(_) => BRANCH_MAX,
        }
    }
}

impl<K: Ord, V> Node<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(entries) => return Some(&entries[find(entries, key).ok()?].1),
                Self::Branch(children) => node = &children[route(children, key)].node,
            }
        }
    }

    /// The number of entries below `key`.
    pub(super) fn rank_before<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.rank(key, |ordering| ordering == Ordering::Less)
    }

    /// The number of entries at or below `key`.
    pub(super) fn rank_after<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.rank(key, |ordering| ordering != Ordering::Greater)
    }

    /// The number of entries whose keys compare to `key` as `counts` wants.
    fn rank<Q: Ord + ?Sized>(&self, key: &Q, counts: impl Fn(Ordering) -> bool) -> usize
    where
        K: Borrow<Q>,
    {
        let mut node = self;
        let mut before = 0;
        loop {
            match node {
                Self::Leaf(entries) => {
                    return before + entries.partition_point(|(other, _)| counts(other.borrow().cmp(key)));
                }
                Self::Branch(children) => {
                    let at = route(children, key);
                    before += children[..at]
                        .iter()
                        .map(|child| child.summary.count)
                        .sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }
}

impl<K, V: Stamped> Node<K, V> {
    pub(super) fn summarize(&self) -> Summary {
        let count = match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.iter().map(|child| child.summary.count).sum(),
        };
        Summary {
            count,
            newest: self.newest(),
        }
    }

    fn newest(&self) -> Index {
        let newest = match self {
            Self::Leaf(entries) => entries.iter().map(|(_, value)| value.index()).max(),
            Self::Branch(children) => children.iter().map(|child| child.summary.newest).max(),
        };
        newest.unwrap_or_default()
    }

    /// The greatest Index among the entries of these ranks. Subtrees that lie wholly inside are not visited, so two
    /// paths at most are walked.
    pub(super) fn newest_within(&self, ranks: Range<usize>) -> Option<Index> {
        if ranks.is_empty() {
            return None;
        }
        match self {
            Self::Leaf(entries) => entries[ranks].iter().map(|(_, value)| value.index()).max(),
            Self::Branch(children) => {
                let mut newest = None;
                let mut first = 0;
                for child in children {
                    let next = first + child.summary.count;
                    let part = ranks.start.max(first)..ranks.end.min(next);
                    newest = newest.max(if part == (first..next) {
                        Some(child.summary.newest)
                    } else if part.is_empty() {
                        None
                    } else {
                        child.node.newest_within(part.start - first..part.end - first)
                    });
                    first = next;
                }
                newest
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone + Stamped> Node<K, V> {
    /// A root over two subtrees of the same height.
    pub(super) fn root(left: Arc<Self>, right: Child<K, V>) -> Self {
        // The first child's `low` is never looked at: any key will do.
        let left = Child {
            low: right.low.clone(),
            summary: left.summarize(),
            node: left,
        };
        let mut children = Vec::with_capacity(GROWTH);
        children.extend([left, right]);
        Self::Branch(children)
    }

    /// Puts the entry in; answers the value it replaced, and the upper part of this node if it had to be split. `last`
    /// says that this node is on the right edge of the tree.
    pub(super) fn insert(&mut self, key: K, value: V, last: bool) -> (Option<V>, Option<Child<K, V>>) {
        match self {
            Self::Leaf(entries) => match find(entries, &key) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    let right = insert_at(entries, at, (key, value), LEAF_MAX, last);
                    (
                        None,
                        right.map(|entries| Child::new(entries[0].0.clone(), Self::Leaf(entries))),
                    )
                }
            },
            Self::Branch(children) => {
                let at = route(children, &key);
                let last = last && at + 1 == children.len();
                let index = value.index();
                let child = &mut children[at];
                let (before, split) = Arc::make_mut(&mut child.node).insert(key, value, last);
                let Some(split) = split else {
                    child.summary.inserted(index, before.as_ref(), &child.node);
                    return (before, None);
                };
                child.summary = child.node.summarize();
                let right = insert_at(children, at + 1, split, BRANCH_MAX, last);
                (
                    before,
                    right.map(|children| Child::new(children[0].low.clone(), Self::Branch(children))),
                )
            }
        }
    }

    /// Takes the entry under `key` out, which the caller knows to be there: otherwise the path to it is copied in vain.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(entries) => Some(entries.remove(find(entries, key).ok()?).1),
            Self::Branch(children) => {
                let at = route(children, key);
                let child = &mut children[at];
                let removed = Arc::make_mut(&mut child.node).remove(key)?;
                child.summary.removed(&removed, &child.node);
                mend(children, at);
                Some(removed)
            }
        }
    }

    /// Takes over all that is in the right-hand neighbour, whose keys are at or above `low`.
    fn append(&mut self, low: K, right: Self) {
        match (self, right) {
            (Self::Leaf(entries), Self::Leaf(right)) => {
                entries.reserve_exact(right.len());
                entries.extend(right);
            }
            (Self::Branch(children), Self::Branch(mut right)) => {
                right[0].low = low;
                children.reserve_exact(right.len());
                children.extend(right);
            }
            _ => unreachable!("neighbours have the same height"),
        }
    }
}

impl<K, V: Stamped> Child<K, V> {
    fn new(low: K, node: Node<K, V>) -> Self {
        Self {
            low,
            summary: node.summarize(),
            node: Arc::new(node),
        }
    }
}

// Not derived: a node is copied because it is about to be written, so the copy has room for one item more.
impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(copy(entries)),
            Self::Branch(children) => Self::Branch(copy(children)),
        }
    }
}

impl<K: Clone, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self {
            low: self.low.clone(),
            summary: self.summary,
            node: Arc::clone(&self.node),
        }
    }
}

/// The place of `key` in a leaf, or the place where it would be.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// The child under which `key` is, if it is anywhere.
fn route<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    children[1..].partition_point(|child| child.low.borrow() <= key)
}

/// Inserts into a node's items; answers the upper part of them if there was no room. On the right edge of the tree the
/// upper part is the new item alone, so that ascending keys leave full nodes behind.
fn insert_at<T>(items: &mut Vec<T>, at: usize, item: T, max: usize, last: bool) -> Option<Vec<T>> {
    if items.len() < max {
        make_room(items);
        items.insert(at, item);
        return None;
    }
    let middle = if last && at == max { max } else { max / 2 };
    let mut right = items.split_off(middle);
    if at < middle {
        items.insert(at, item);
    } else {
        make_room(&mut right);
        right.insert(at - middle, item);
    }
    Some(right)
}

/// After a removal below child `at`: drops it if it is empty, merges it with a neighbour if it is small and fits.
fn mend<K: Ord + Clone, V: Clone + Stamped>(children: &mut Vec<Child<K, V>>, at: usize) {
    let width = children[at].node.width();
    let max = children[at].node.width_max();
    if width == 0 {
        children.remove(at);
    } else if width < max / 4 {
        let fits = |left: &usize| {
            children
                .get(left + 1)
                .is_some_and(|right| children[*left].node.width() + right.node.width() <= max)
        };
        if let Some(left) = [at.wrapping_sub(1), at]
            .into_iter()
            .filter(|left| *left <= at)
            .find(fits)
        {
            let right = children.remove(left + 1);
            let into = &mut children[left];
            into.summary = into.summary.and(right.summary);
            Arc::make_mut(&mut into.node).append(right.low, Arc::unwrap_or_clone(right.node));
        }
    }
}

fn make_room<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(GROWTH);
    }
}

fn copy<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity((items.len() + 1).next_multiple_of(GROWTH));
    copy.extend_from_slice(items);
    copy
}

/// What the tests look at: the invariants above.
#[cfg(test)]
impl<K: Ord + std::fmt::Debug, V: Stamped> Node<K, V> {
    /// Asserts the invariants of this subtree; answers its height.
    pub(super) fn check(&self, root: bool, low: Option<&K>, high: Option<&K>) -> usize {
        assert!(self.width() <= self.width_max());
        match self {
            Self::Leaf(entries) => {
                assert!(root || !entries.is_empty());
                assert!(entries.is_sorted_by(|(one, _), (two, _)| one < two));
                assert!(entries.iter().all(|(key, _)| low.is_none_or(|low| key >= low)));
                assert!(entries.iter().all(|(key, _)| high.is_none_or(|high| key < high)));
                0
            }
            Self::Branch(children) => {
                assert!(children.len() >= if root { 2 } else { 1 });
                let heights: Vec<_> = (0..children.len())
                    .map(|at| {
                        let child = &children[at];
                        let low = if at == 0 { low } else { Some(&child.low) };
                        let high = children.get(at + 1).map(|next| &next.low).or(high);
                        assert_eq!(child.summary, child.node.summarize());
                        child.node.check(false, low, high)
                    })
                    .collect();
                assert!(heights.iter().all(|height| *height == heights[0]));
                heights[0] + 1
            }
        }
    }
}
