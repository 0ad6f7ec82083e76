//! Who may send to whom, how slowly and how reliably, and what became of the packets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Host;

/// One direction between two hosts.
pub type Direction = (Host, Host);

/// How a direction treats packets while it isn't cut.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Each packet takes at least this long.
    pub delay: Duration,
    /// And at most this much longer; packets overtake each other.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplication: f64,
}

/// What became of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets passed on.
    pub passed: u64,
    /// Packets dropped because the direction was cut.
    pub cut: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets passed on twice by chance.
    pub duplicated: u64,
}

/// The rules and counts of all directions; a handle, of which clones share the content.
///
/// The switch takes the lock once for each packet, the harness a few times a second: it is never contended.
#[derive(Clone, Debug, Default)]
pub struct Matrix(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    cut: BTreeSet<Direction>,
    links: BTreeMap<Direction, Link>,
    counts: BTreeMap<Direction, Counts>,
}

impl Matrix {
    /// From now on exactly these directions are cut, packets on their way included; all others are open.
    pub fn cut(&self, directions: BTreeSet<Direction>) {
        self.0.lock().cut = directions;
    }

    /// No direction is cut, delayed or lossy any more.
    pub fn heal(&self) {
        let mut content = self.0.lock();
        content.cut.clear();
        content.links.clear();
    }

    /// How these directions treat packets from now on.
    pub fn set_links(&self, directions: impl IntoIterator<Item = Direction>, link: Link) {
        let mut content = self.0.lock();
        content
            .links
            .extend(directions.into_iter().map(|direction| (direction, link)));
    }

    /// What was counted since the start.
    pub fn counts(&self, from: Host, to: Host) -> Counts {
        self.0.lock().counts.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Packets dropped since the start because one of these directions was cut.
    pub fn dropped(&self, directions: &BTreeSet<Direction>) -> u64 {
        let content = self.0.lock();
        let counts = directions
            .iter()
            .filter_map(|direction| content.counts.get(direction));
        counts.map(|counts| counts.cut).sum()
    }

    /// How a packet that sets out now is treated; `None`: its way is cut.
    pub(super) fn admit(&self, direction: Direction) -> Option<Link> {
        let mut content = self.0.lock();
        if content.cut.contains(&direction) {
            content.counts.entry(direction).or_default().cut += 1;
            return None;
        }
        Some(content.links.get(&direction).copied().unwrap_or_default())
    }

    /// Whether a packet on its way arrives, which it doesn't if its way was cut meanwhile.
    pub(super) fn arrives(&self, direction: Direction) -> bool {
        let mut content = self.0.lock();
        let is_open = !content.cut.contains(&direction);
        let counts = content.counts.entry(direction).or_default();
        if is_open {
            counts.passed += 1;
        } else {
            counts.cut += 1;
        }
        is_open
    }

    pub(super) fn count(&self, direction: Direction, count: impl FnOnce(&mut Counts)) {
        count(self.0.lock().counts.entry(direction).or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Counts, Link, Matrix};
    use crate::net::{Host, Node};

    const A: Host = Host::Node(Node(1));
    const B: Host = Host::Node(Node(2));

    #[test]
    fn a_cut_direction_drops_what_sets_out_and_what_is_on_its_way() {
        let matrix = Matrix::default();
        assert!(matrix.admit((A, B)).is_some());
        matrix.cut(BTreeSet::from([(A, B)]));
        assert!(!matrix.arrives((A, B)), "it was cut on the way");
        assert!(matrix.admit((A, B)).is_none());
        assert!(matrix.admit((B, A)).is_some(), "the way back is open");
        assert!(matrix.arrives((B, A)));
        let expected = Counts {
            cut: 2,
            ..Counts::default()
        };
        assert_eq!(matrix.counts(A, B), expected);
        assert_eq!(matrix.dropped(&BTreeSet::from([(A, B), (B, A)])), 2);
        matrix.heal();
        assert!(matrix.admit((A, B)).is_some());
    }

    #[test]
    fn a_link_is_slow_until_it_is_healed() {
        let matrix = Matrix::default();
        let slow = Link {
            delay: Duration::from_millis(20),
            ..Link::default()
        };
        matrix.set_links([(A, B)], slow);
        assert_eq!(matrix.admit((A, B)), Some(slow));
        assert_eq!(matrix.admit((B, A)), Some(Link::default()));
        matrix.heal();
        assert_eq!(matrix.admit((A, B)), Some(Link::default()));
    }
}
