//! Intervals of keys.

use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::Key;

/// A half-open interval of keys, `[start, end)`; without an end it goes on to the last key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key of the interval.
    pub start: Key,
    /// The first key behind it.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self {
            start: Bytes::new(),
            end: None,
        }
    }

    /// One key alone: the interval up to its successor, which is the key with a zero byte more.
    pub fn one(key: Key) -> Self {
        let mut end = Vec::with_capacity(key.len() + 1);
        end.extend_from_slice(&key);
        end.push(0);
        Self {
            start: key,
            end: Some(end.into()),
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Key) -> Self {
        let end = prefix.iter().rposition(|&byte| byte != 0xff).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Key::from(end)
        });
        Self { start: prefix, end }
    }

    /// Whether `key` lies in the interval.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end <= &self.start)
    }

    /// The interval in the form that ordered maps take.
    pub fn bounds(&self) -> (Bound<Key>, Bound<Key>) {
        if self.is_empty() {
            // A map may refuse a start behind its end.
            return (
                Bound::Included(self.start.clone()),
                Bound::Excluded(self.start.clone()),
            );
        }
        let end = self.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.start.clone()), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_prefix() {
        let range = KeyRange::prefix(Bytes::from_static(b"a\xff"));
        assert!(range.contains(b"a\xff\xff") && !range.contains(b"b") && !range.contains(b"a\xfe"));
        assert_eq!(KeyRange::prefix(Bytes::from_static(b"\xff")).end, None);
        assert_eq!(KeyRange::prefix(Bytes::new()), KeyRange::all());
    }

    #[test]
    fn one_key_has_no_neighbours() {
        let range = KeyRange::one(Bytes::from_static(b"a"));
        assert!(range.contains(b"a") && !range.contains(b"a\0") && !range.contains(b""));
    }
}
