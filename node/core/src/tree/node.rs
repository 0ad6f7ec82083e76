//! The nodes of a [`Tree`](super::Tree): leaves of entries under branches of children.
//!
//! Invariants:
//! - All leaves are at the same depth. Only the root may be empty, and then it is a leaf; a root that is a branch has at
//!   least two children.
//! - In a branch, `lows[i]` parts `children[i]`, whose keys are below it, from `children[i + 1]`, whose keys are at or
//!   above it.
//! - A [`Child`]'s summary is that of its node.
//! - No node is wider than [`LEAF_MAX`] or [`BRANCH_MAX`]. There is no least width: a node that a removal leaves with less
//!   than a quarter is merged with a neighbour if both fit into one, so that two neighbours hold at least half of what
//!   fits into two. Keys that arrive in ascending order fill their nodes to the brim.
//!
//! Keys lie apart from values and children, because a search looks at keys alone. The keys of a branch are shared
//! between its versions: they change when a child is split or merged, which is seldom, while the branch itself is copied
//! by the first write below it after each clone.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::iter::Zip;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

use super::Stamped;
use crate::id::Index;

/// Entries in a leaf, at most. Wider leaves hold less memory that they don't use, narrower ones are copied faster by the
/// first write after a clone; `node/decisions/0001-state-is-a-value.md` has the figures.
pub(super) const LEAF_MAX: usize = 16;

/// Children of a branch, at most. See [`LEAF_MAX`].
pub(super) const BRANCH_MAX: usize = 16;

/// Room is made for so many items at a time, so that a node holds little memory that it doesn't use.
const GROWTH: usize = 4;

pub(super) enum Node<K, V> {
    Leaf {
        keys: Vec<K>,
        values: Vec<V>,
    },
    Branch {
        lows: Arc<Vec<K>>,
        children: Vec<Child<K, V>>,
    },
}

/// A subtree as its parent sees it.
pub(super) struct Child<K, V> {
    summary: Summary,
    node: Arc<Node<K, V>>,
}

/// The upper part of a node that was split, and the key that parts it from the lower part.
pub(super) type Split<K, V> = (K, Child<K, V>);

/// The entries of a leaf, or some of them.
pub(super) type Run<'a, K, V> = Zip<slice::Iter<'a, K>, slice::Iter<'a, V>>;

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
        Self::Leaf {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// The entries from this rank to the end of the leaf that holds it.
    pub(super) fn run_from(&self, rank: usize) -> Run<'_, K, V> {
        let (keys, values, at) = self.leaf_at(rank);
        keys[at..].iter().zip(&values[at..])
    }

    /// The entries up to this rank, and with it, from the start of the leaf that holds it.
    pub(super) fn run_to(&self, rank: usize) -> Run<'_, K, V> {
        let (keys, values, at) = self.leaf_at(rank);
        keys[..=at].iter().zip(&values[..=at])
    }

    /// The leaf that holds the entry of this rank, and the entry's place in it.
    fn leaf_at(&self, mut rank: usize) -> (&[K], &[V], usize) {
        let mut node = self;
        loop {
            match node {
                Self::Leaf { keys, values } => return (keys, values, rank),
                Self::Branch { children, .. } => {
                    let mut at = 0;
                    while let Some(rest) = rank.checked_sub(children[at].summary.count) {
                        rank = rest;
                        at += 1;
                    }
                    node = &children[at].node;
                }
            }
        }
    }

    /// The only child, where this is a branch that has just one. Such a root is one level too high.
    pub(super) fn lone_child(&self) -> Option<Arc<Self>> {
        match self {
            Self::Branch { children, .. } if children.len() == 1 => Some(Arc::clone(&children[0].node)),
            Self::Branch { .. } | Self::Leaf { .. } => None,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf { keys, .. } => keys.len(),
            Self::Branch { children, .. } => children.len(),
        }
    }

    fn width_max(&self) -> usize {
        match self {
            Self::Leaf { .. } => LEAF_MAX,
            Self::Branch { .. } => BRANCH_MAX,
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
                Self::Leaf { keys, values } => return Some(&values[find(keys, key).ok()?]),
                Self::Branch { lows, children } => node = &children[route(lows, key)].node,
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
                Self::Leaf { keys, .. } => {
                    return before + keys.partition_point(|other| counts(other.borrow().cmp(key)));
                }
                Self::Branch { lows, children } => {
                    let at = route(lows, key);
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
            Self::Leaf { keys, .. } => keys.len(),
            Self::Branch { children, .. } => children.iter().map(|child| child.summary.count).sum(),
        };
        Summary {
            count,
            newest: self.newest(),
        }
    }

    fn newest(&self) -> Index {
        let newest = match self {
            Self::Leaf { values, .. } => values.iter().map(Stamped::index).max(),
            Self::Branch { children, .. } => children.iter().map(|child| child.summary.newest).max(),
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
            Self::Leaf { values, .. } => values[ranks].iter().map(Stamped::index).max(),
            Self::Branch { children, .. } => {
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
    pub(super) fn root(left: Arc<Self>, (low, right): Split<K, V>) -> Self {
        let left = Child {
            summary: left.summarize(),
            node: left,
        };
        Self::Branch {
            lows: Arc::new(vec![low]),
            children: vec![left, right],
        }
    }

    /// Puts the entry in; answers the value it replaced, and the upper part of this node if it had to be split. `last`
    /// says that this node is on the right edge of the tree.
    pub(super) fn insert(&mut self, key: K, value: V, last: bool) -> (Option<V>, Option<Split<K, V>>) {
        match self {
            Self::Leaf { keys, values } => match find(keys, &key) {
                Ok(at) => (Some(std::mem::replace(&mut values[at], value)), None),
                Err(at) => (None, insert_entry(keys, values, at, (key, value), last)),
            },
            Self::Branch { lows, children } => {
                let at = route(lows, &key);
                let last = last && at + 1 == children.len();
                let index = value.index();
                let child = &mut children[at];
                let (before, split) = Arc::make_mut(&mut child.node).insert(key, value, last);
                let Some(split) = split else {
                    child.summary.inserted(index, before.as_ref(), &child.node);
                    return (before, None);
                };
                child.summary = child.node.summarize();
                (
                    before,
                    insert_child(Arc::make_mut(lows), children, at, split, last),
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
            Self::Leaf { keys, values } => {
                let at = find(keys, key).ok()?;
                keys.remove(at);
                Some(values.remove(at))
            }
            Self::Branch { lows, children } => {
                let at = route(lows, key);
                let child = &mut children[at];
                let removed = Arc::make_mut(&mut child.node).remove(key)?;
                child.summary.removed(&removed, &child.node);
                mend(lows, children, at);
                Some(removed)
            }
        }
    }

    /// Takes over all that is in the right-hand neighbour, whose keys are at or above `low`.
    fn append(&mut self, low: K, right: Self) {
        match (self, right) {
            (
                Self::Leaf { keys, values },
                Self::Leaf {
                    keys: right_keys,
                    values: right_values,
                },
            ) => {
                append(keys, right_keys);
                append(values, right_values);
            }
            (
                Self::Branch { lows, children },
                Self::Branch {
                    lows: right_lows,
                    children: right_children,
                },
            ) => {
                let lows = Arc::make_mut(lows);
                lows.push(low);
                append(lows, Arc::unwrap_or_clone(right_lows));
                append(children, right_children);
            }
            _ => unreachable!("neighbours have the same height"),
        }
    }
}

impl<K, V: Stamped> Child<K, V> {
    fn new(node: Node<K, V>) -> Self {
        Self {
            summary: node.summarize(),
            node: Arc::new(node),
        }
    }
}

// Not derived: a leaf is copied because it is about to be written, so the copy has room for one entry more.
impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf { keys, values } => Self::Leaf {
                keys: copy(keys),
                values: copy(values),
            },
            Self::Branch { lows, children } => Self::Branch {
                lows: Arc::clone(lows),
                children: children.clone(),
            },
        }
    }
}

impl<K, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self {
            summary: self.summary,
            node: Arc::clone(&self.node),
        }
    }
}

/// The place of `key` in a leaf, or the place where it would be.
///
/// One after the other, here and in [`route`]: keys are pointers to bytes elsewhere, and a processor fetches the next
/// ones while it waits for the first. The standard binary search waits for each; it made reads take twice as long.
fn find<K: Borrow<Q>, Q: Ord + ?Sized>(keys: &[K], key: &Q) -> Result<usize, usize> {
    for (at, other) in keys.iter().enumerate() {
        match other.borrow().cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(at),
            Ordering::Greater => return Err(at),
        }
    }
    Err(keys.len())
}

/// The child of a branch under which `key` is, if it is anywhere.
fn route<K: Borrow<Q>, Q: Ord + ?Sized>(lows: &[K], key: &Q) -> usize {
    lows.iter()
        .position(|low| low.borrow() > key)
        .unwrap_or(lows.len())
}

/// Inserts into a leaf; answers the upper part of it if there was no room. On the right edge of the tree the upper part
/// is the new entry alone, so that ascending keys leave full leaves behind.
fn insert_entry<K: Clone, V: Stamped>(
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
    at: usize,
    (key, value): (K, V),
    last: bool,
) -> Option<Split<K, V>> {
    if keys.len() < LEAF_MAX {
        insert_at(keys, at, key);
        insert_at(values, at, value);
        return None;
    }
    let middle = if last && at == LEAF_MAX {
        LEAF_MAX
    } else {
        LEAF_MAX / 2
    };
    let (mut right_keys, mut right_values) = (keys.split_off(middle), values.split_off(middle));
    if at < middle {
        insert_at(keys, at, key);
        insert_at(values, at, value);
    } else {
        insert_at(&mut right_keys, at - middle, key);
        insert_at(&mut right_values, at - middle, value);
    }
    Some((
        right_keys[0].clone(),
        Child::new(Node::Leaf {
            keys: right_keys,
            values: right_values,
        }),
    ))
}

/// Inserts the upper part of child `at` behind it; answers the upper part of this branch if it grew too wide, by the
/// same rule as in a leaf.
fn insert_child<K, V: Stamped>(
    lows: &mut Vec<K>,
    children: &mut Vec<Child<K, V>>,
    at: usize,
    (low, right): Split<K, V>,
    last: bool,
) -> Option<Split<K, V>> {
    insert_at(lows, at, low);
    insert_at(children, at + 1, right);
    if children.len() <= BRANCH_MAX {
        return None;
    }
    let middle = if last { BRANCH_MAX } else { BRANCH_MAX / 2 };
    let right = Node::Branch {
        lows: Arc::new(lows.split_off(middle)),
        children: children.split_off(middle),
    };
    lows.pop().map(|low| (low, Child::new(right)))
}

/// After a removal below child `at`: drops it if it is empty, merges it with a neighbour if it is small and fits.
fn mend<K: Ord + Clone, V: Clone + Stamped>(
    lows: &mut Arc<Vec<K>>,
    children: &mut Vec<Child<K, V>>,
    at: usize,
) {
    let width = children[at].node.width();
    let max = children[at].node.width_max();
    if width == 0 {
        children.remove(at);
        if !lows.is_empty() {
            Arc::make_mut(lows).remove(at.saturating_sub(1));
        }
    } else if width < max / 4 {
        let fits = |left: &usize| {
            children
                .get(left + 1)
                .is_some_and(|right| children[*left].node.width() + right.node.width() <= max)
        };
        if let Some(left) = (at.saturating_sub(1)..=at).find(fits) {
            let low = Arc::make_mut(lows).remove(left);
            let right = children.remove(left + 1);
            let into = &mut children[left];
            into.summary = into.summary.and(right.summary);
            Arc::make_mut(&mut into.node).append(low, Arc::unwrap_or_clone(right.node));
        }
    }
}

fn insert_at<T>(items: &mut Vec<T>, at: usize, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(GROWTH);
    }
    items.insert(at, item);
}

fn append<T>(items: &mut Vec<T>, right: Vec<T>) {
    items.reserve_exact(right.len());
    items.extend(right);
}

fn copy<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity((items.len() + 1).next_multiple_of(GROWTH));
    copy.extend_from_slice(items);
    copy
}

/// What the tests look at.
#[cfg(test)]
impl<K: Ord + std::fmt::Debug, V: Stamped> Node<K, V> {
    /// Asserts the invariants of this subtree; answers its height.
    pub(super) fn check(&self, root: bool, low: Option<&K>, high: Option<&K>) -> usize {
        assert!(self.width() <= self.width_max());
        match self {
            Self::Leaf { keys, values } => {
                assert_eq!(keys.len(), values.len());
                assert!(root || !keys.is_empty());
                assert!(keys.is_sorted_by(|one, two| one < two));
                assert!(keys.iter().all(|key| low.is_none_or(|low| key >= low)));
                assert!(keys.iter().all(|key| high.is_none_or(|high| key < high)));
                0
            }
            Self::Branch { lows, children } => {
                assert!(children.len() >= if root { 2 } else { 1 });
                assert_eq!(lows.len() + 1, children.len());
                let heights: Vec<_> = (0..children.len())
                    .map(|at| {
                        let child = &children[at];
                        let low = if at == 0 { low } else { Some(&lows[at - 1]) };
                        let high = lows.get(at).or(high);
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
