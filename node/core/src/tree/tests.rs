//! The tree against `BTreeMap`, with old versions kept and compared after later changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::{Stamped, Tree};
use crate::id::Index;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row(u64);

impl Stamped for Row {
    fn index(&self) -> Index {
        Index(self.0)
    }
}

/// Keys are few enough to meet again, and many enough for three levels.
const KEYS: u32 = 6_000;

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u64),
    Remove(u32),
    InsertUpwards { from: u32, count: u32, index: u64 },
    InsertDownwards { from: u32, count: u32, index: u64 },
    InsertScattered { from: u32, count: u32, index: u64 },
    RemoveRun { from: u32, count: u32 },
    RemoveScattered { from: u32, count: u32 },
    KeepVersion,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let count = 1..1_500_u32;
    let index = 0..1_000_000_u64;
    prop_oneof![
        4 => (key.clone(), index.clone()).prop_map(|(key, index)| Step::Insert(key, index)),
        4 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), count.clone(), index.clone())
            .prop_map(|(from, count, index)| Step::InsertUpwards { from, count, index }),
        1 => (key.clone(), count.clone(), index.clone())
            .prop_map(|(from, count, index)| Step::InsertDownwards { from, count, index }),
        2 => (key.clone(), count.clone(), index)
            .prop_map(|(from, count, index)| Step::InsertScattered { from, count, index }),
        2 => (key.clone(), count.clone()).prop_map(|(from, count)| Step::RemoveRun { from, count }),
        2 => (key, count).prop_map(|(from, count)| Step::RemoveScattered { from, count }),
        2 => Just(Step::KeepVersion),
    ]
}

/// The `n`th key of a walk over all keys in an order that looks random.
fn scattered(from: u32, n: u32) -> u32 {
    (from + n * 2_477) % KEYS
}

/// The tree and the model that it must equal.
#[derive(Clone, Default)]
struct Pair {
    tree: Tree<u32, Row>,
    model: BTreeMap<u32, Row>,
}

impl Pair {
    fn insert(&mut self, key: u32, index: u64) {
        assert_eq!(
            self.tree.insert(key, Row(index)),
            self.model.insert(key, Row(index))
        );
    }

    fn remove(&mut self, key: u32) {
        assert_eq!(self.tree.remove(&key), self.model.remove(&key));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Insert(key, index) => self.insert(key, index),
            Step::Remove(key) => self.remove(key),
            Step::InsertUpwards { from, count, index } => {
                (0..count).for_each(|n| self.insert((from + n) % KEYS, index + u64::from(n)));
            }
            Step::InsertDownwards { from, count, index } => {
                (0..count).for_each(|n| self.insert((from + KEYS - n) % KEYS, index + u64::from(n)));
            }
            Step::InsertScattered { from, count, index } => {
                (0..count).for_each(|n| self.insert(scattered(from, n), index + u64::from(n % 7)));
            }
            Step::RemoveRun { from, count } => (0..count).for_each(|n| self.remove((from + n) % KEYS)),
            Step::RemoveScattered { from, count } => (0..count).for_each(|n| self.remove(scattered(from, n))),
            Step::KeepVersion => {}
        }
    }

    fn check(&self) {
        self.tree.root.check(true, None, None);
        assert_eq!(self.tree.summary, self.tree.root.summarize());
        assert_eq!(self.tree.len(), self.model.len());
        assert_eq!(self.tree.is_empty(), self.model.is_empty());
        assert_eq!(self.tree.first(), self.model.first_key_value());
        assert_eq!(self.tree.last(), self.model.last_key_value());
        assert!(self.tree.iter().eq(&self.model));
        assert!(self.tree.iter().rev().eq(self.model.iter().rev()));
    }

    fn check_range(&self, range: (Bound<u32>, Bound<u32>), skip: usize) {
        let model = || {
            self.model
                .iter()
                .filter(|(key, _)| std::ops::RangeBounds::contains(&range, *key))
        };
        assert!(self.tree.range(range).eq(model()));
        assert!(self.tree.range(range).rev().eq(model().rev()));
        assert!(self.tree.range(range).skip(skip).eq(model().skip(skip)));
        assert!(
            self.tree
                .range(range)
                .rev()
                .skip(skip)
                .eq(model().rev().skip(skip))
        );
        assert_eq!(self.tree.range(range).len(), model().count());
        assert_eq!(self.tree.count(range), model().count());
        assert_eq!(self.tree.newest(range), model().map(|(_, row)| row.index()).max());
        assert_eq!(self.tree.nth(skip), self.model.iter().nth(skip));
    }
}

fn bound(key: impl Strategy<Value = u32>) -> impl Strategy<Value = Bound<u32>> {
    (key, 0..5).prop_map(|(key, kind)| match kind {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key),
        _ => Bound::Excluded(key),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_btree_map(
        steps in prop::collection::vec(step(), 1..40),
        ranges in prop::collection::vec((bound(0..KEYS), bound(0..KEYS), 0..300_usize), 8),
    ) {
        let mut now = Pair::default();
        let mut kept = Vec::new();
        for step in &steps {
            now.take(step);
            if matches!(step, Step::KeepVersion) {
                kept.push(now.clone());
            }
            now.tree.root.check(true, None, None);
        }
        for pair in kept.iter().chain([&now]) {
            pair.check();
            for (start, end, skip) in &ranges {
                pair.check_range((*start, *end), *skip);
            }
        }
    }

    #[test]
    fn both_ends_meet(
        count in 0..300_u32,
        moves in prop::collection::vec((any::<bool>(), 0..40_usize), 0..60),
    ) {
        let tree: Tree<_, _> = (0..count).map(|key| (key, ())).collect();
        let (mut ours, mut theirs) = (tree.iter(), 0..count);
        for (front, by) in moves {
            let (one, other) =
                if front { (ours.nth(by), theirs.nth(by)) } else { (ours.nth_back(by), theirs.nth_back(by)) };
            prop_assert_eq!(one.map(|(key, ())| *key), other);
            prop_assert_eq!(ours.len(), theirs.len());
        }
        prop_assert!(ours.map(|(key, ())| *key).eq(theirs));
    }
}

#[test]
fn a_range_from_behind_its_end_is_empty() {
    let tree: Tree<_, _> = (0..100).map(|key| (key, ())).collect();
    let (start, end) = (50, 10);
    assert_eq!(tree.range(start..end).next(), None);
    assert_eq!(tree.range(start..end).next_back(), None);
    assert_eq!(tree.count(start..end), 0);
    assert_eq!(tree.newest(start..end), None);
}

#[test]
fn borrowed_keys_find_owned_ones() {
    let names = ["app/a", "app/b", "web"];
    let tree: Tree<String, Row> = names
        .iter()
        .zip(1..)
        .map(|(name, index)| (name.to_string(), Row(index)))
        .collect();
    assert_eq!(tree.get("app/b"), Some(&Row(2)));
    let prefix = (Bound::Included("app/"), Bound::Excluded("app0"));
    assert_eq!(tree.count::<str>(prefix), 2);
    assert_eq!(tree.newest::<str>(prefix), Some(Index(2)));
}

/// Ascending keys (a log) fill their leaves; dropping the oldest keeps the tree as flat as its size asks.
#[test]
fn a_log_stays_dense() {
    let mut tree: Tree<u64, ()> = Tree::new();
    for key in 0..50_000 {
        tree.insert(key, ());
        if key >= 5_000 {
            assert_eq!(tree.remove(&(key - 5_000)), Some(()));
        }
    }
    assert_eq!(tree.len(), 5_000);
    assert!(tree.root.check(true, None, None) <= 3);
}

#[test]
fn an_emptied_tree_is_a_new_one() {
    let mut tree: Tree<u32, Row> = (0..5_000).map(|key| (key, Row(u64::from(key)))).collect();
    (0..5_000)
        .rev()
        .for_each(|key| assert!(tree.remove(&key).is_some()));
    assert!(tree.is_empty());
    assert_eq!(tree.root.check(true, None, None), 0);
    assert_eq!(tree.newest::<u32>(..), None);
    assert_eq!(tree, Tree::new());
}
