//! What is made of the others' marks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use spine_core::Index;

use super::Mark;
use crate::limits::DIGEST_MARKS_MAX;

/// Two marks that should be one: left after the same entry, or one of the two servers applied something else before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What this server has.
    pub own: Mark,
    /// What the peer has.
    pub theirs: Mark,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, theirs } = self;
        write!(f, "here {own}, there {theirs}")
    }
}

/// What has been compared so far.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Up to which index each peer's marks have been looked at.
    compared: BTreeMap<u64, Index>,
    /// Who differs where, by the number of the mark.
    differing: BTreeMap<u64, BTreeMap<u64, Difference>>,
}

impl Comparison {
    /// Up to which index a peer's marks have been looked at.
    pub fn compared(&self, peer: u64) -> Index {
        self.compared.get(&peer).copied().unwrap_or_default()
    }

    /// Looks at a peer's marks; gives where they differ that was not known yet.
    pub fn take(&mut self, peer: u64, own: &[Mark], theirs: &[Mark]) -> Vec<Difference> {
        let compared = self.compared(peer);
        let mut differences = Vec::new();
        for mark in theirs.iter().filter(|mark| mark.index > compared) {
            // Where this server has no mark it can say nothing: it was not running, or isn't there yet.
            let Ok(place) = own.binary_search_by_key(&mark.number(), Mark::number) else {
                continue;
            };
            self.compared.insert(peer, mark.index);
            if own[place] != *mark {
                let difference = Difference {
                    own: own[place],
                    theirs: *mark,
                };
                self.differing
                    .entry(mark.number())
                    .or_default()
                    .insert(peer, difference);
                differences.push(difference);
            }
        }
        while self.differing.len() > DIGEST_MARKS_MAX {
            self.differing.pop_first();
        }
        differences
    }

    /// Where most of the voters contradict this server, if they do anywhere, and what one of them has there. `peers` are
    /// the others among the `voters`.
    pub fn contradicted(&self, peers: &BTreeSet<u64>, voters: usize) -> Option<Difference> {
        self.differing.values().find_map(|differing| {
            let of_voters = || differing.iter().filter(|(peer, _)| peers.contains(peer));
            let most = 2 * of_voters().count() > voters;
            of_voters()
                .next()
                .filter(|_| most)
                .map(|(_, difference)| *difference)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(marks: &[(u64, u128)]) -> Vec<Mark> {
        let mark = |(index, digest): &(u64, u128)| Mark {
            index: Index(*index),
            digest: *digest,
        };
        marks.iter().map(mark).collect()
    }

    fn peers() -> BTreeSet<u64> {
        [2, 3].into()
    }

    #[test]
    fn those_that_agree_are_looked_at_once() {
        let own = marks(&[(1_000, 1), (2_003, 2)]);
        let mut comparison = Comparison::default();
        assert_eq!(comparison.take(2, &own, &marks(&[(1_000, 1)])), []);
        assert_eq!(comparison.compared(2), Index(1_000));
        // Ahead of this server: nothing to say yet.
        let ahead = marks(&[(2_003, 2), (3_000, 9)]);
        assert_eq!(comparison.take(2, &own, &ahead), []);
        assert_eq!(comparison.compared(2), Index(2_003));
        assert_eq!(comparison.contradicted(&peers(), 3), None);
    }

    #[test]
    fn one_that_differs_is_named_once_and_ends_nobody_else() {
        let own = marks(&[(1_000, 1), (2_000, 2)]);
        let mut comparison = Comparison::default();
        let theirs = marks(&[(1_000, 1), (2_000, 7)]);
        let difference = Difference {
            own: own[1],
            theirs: theirs[1],
        };
        assert_eq!(comparison.take(2, &own, &theirs), [difference]);
        assert_eq!(comparison.take(2, &own, &theirs), []);
        assert_eq!(comparison.take(3, &own, &own), []);
        assert_eq!(comparison.contradicted(&peers(), 3), None);
    }

    #[test]
    fn one_that_a_majority_contradicts_is_astray_whenever_they_say_so() {
        let own = marks(&[(1_000, 1), (2_000, 2)]);
        let mut comparison = Comparison::default();
        comparison.take(2, &own, &marks(&[(1_000, 7), (2_000, 8)]));
        assert_eq!(comparison.contradicted(&peers(), 3), None);
        comparison.take(3, &own, &marks(&[(1_000, 1)]));
        assert_eq!(comparison.contradicted(&peers(), 3), None);
        comparison.take(3, &own, &marks(&[(2_000, 8)]));
        let contradicted = comparison.contradicted(&peers(), 3);
        let difference = Difference {
            own: own[1],
            theirs: marks(&[(2_000, 8)])[0],
        };
        assert_eq!(contradicted, Some(difference));
        // Two of five are no majority, and who is no voter has no say.
        assert_eq!(comparison.contradicted(&peers(), 5), None);
        assert_eq!(comparison.contradicted(&[2].into(), 2), None);
    }

    #[test]
    fn one_that_counts_otherwise_differs_too() {
        let own = marks(&[(1_000, 1), (2_003, 2)]);
        let mut comparison = Comparison::default();
        let theirs = marks(&[(1_000, 1), (2_004, 2)]);
        assert_eq!(comparison.take(2, &own, &theirs).len(), 1);
    }
}
