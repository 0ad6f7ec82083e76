//! Kinds of partitions, and which directions each of them cuts.
//!
//! Clients keep reaching every node, but for [`Partition::Unreachable`]: what a node answers that is cut off from its
//! peers is what the checkers want to see.

use std::collections::BTreeSet;
use std::fmt;

use super::matrix::Direction;
use super::{Host, Node};

/// A partition between nodes that are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partition {
    /// The node and its peers don't hear each other.
    Isolated(Node),
    /// The node hears its peers, but nothing it sends arrives.
    Mute(Node),
    /// The node's peers hear it, but it doesn't hear them.
    Deaf(Node),
    /// These nodes and the others don't hear each other.
    Halves(BTreeSet<Node>),
    /// All others are in two halves that both reach this node, and not each other.
    Bridge(Node),
    /// Each node reaches a majority, no two the same: only its nearest in the order of their numbers, in a ring. With
    /// three nodes this cuts nothing.
    Ring,
    /// Clients don't reach the node, its peers do.
    Unreachable(Node),
}

impl Partition {
    /// What it cuts, among these nodes.
    pub fn directions(&self, nodes: &[Node]) -> BTreeSet<Direction> {
        let is_cut = |from: Node, to: Node| match self {
            Self::Isolated(node) => from == *node || to == *node,
            Self::Mute(node) => from == *node,
            Self::Deaf(node) => to == *node,
            Self::Halves(some) => some.contains(&from) != some.contains(&to),
            Self::Bridge(node) => {
                let half = |of: Node| {
                    let others = nodes.iter().filter(|other| *other != node);
                    others.clone().position(|other| *other == of) < Some(others.count() / 2)
                };
                from != *node && to != *node && half(from) != half(to)
            }
            Self::Ring => {
                let place = |of: Node| nodes.iter().position(|node| *node == of).unwrap_or_default();
                let apart = place(from).abs_diff(place(to));
                // The majority but for the node itself, half of them on each side.
                apart.min(nodes.len() - apart) > (nodes.len() / 2).div_ceil(2)
            }
            Self::Unreachable(_) => false,
        };
        let pairs = nodes
            .iter()
            .flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
        let between_nodes = pairs
            .filter(|(from, to)| from != to && is_cut(*from, *to))
            .map(|(from, to)| (Host::Node(from), Host::Node(to)));
        let mut directions: BTreeSet<Direction> = between_nodes.collect();
        if let Self::Unreachable(node) = self {
            let node = Host::Node(*node);
            directions.extend([(Host::Clients, node), (node, Host::Clients)]);
        }
        directions
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolated(node) => write!(f, "{node} isolated"),
            Self::Mute(node) => write!(f, "{node} mute"),
            Self::Deaf(node) => write!(f, "{node} deaf"),
            Self::Halves(some) => {
                let some: Vec<String> = some.iter().map(Node::to_string).collect();
                write!(f, "{} apart from the others", some.join(", "))
            }
            Self::Bridge(node) => write!(f, "{node} a bridge between halves"),
            Self::Ring => f.write_str("majorities in a ring"),
            Self::Unreachable(node) => write!(f, "{node} out of the clients' reach"),
        }
    }
}

/// The nodes that may be without a majority, or without the leader that a majority has, while these directions are cut.
///
/// Raft needs both directions. So every largest set of nodes that all hear each other, and are a majority, may be the
/// one that goes on: nodes that are in each such set are safe, and with no such set nobody is.
pub fn cut_off(cut: &BTreeSet<Direction>, nodes: &[Node]) -> Vec<Node> {
    let hear_each_other = |some: &[Node]| {
        some.iter().all(|from| {
            some.iter()
                .all(|to| !cut.contains(&(Host::Node(*from), Host::Node(*to))))
        })
    };
    let subsets = (0_u32..1 << nodes.len()).map(|bits| {
        let members = nodes.iter().enumerate();
        let members = members.filter(|(place, _)| bits & (1 << place) != 0);
        members.map(|(_, node)| *node).collect::<Vec<_>>()
    });
    let able: Vec<Vec<Node>> = subsets
        .filter(|some| 2 * some.len() > nodes.len() && hear_each_other(some))
        .collect();
    let largest = |some: &&Vec<Node>| {
        !able
            .iter()
            .any(|other| other.len() > some.len() && some.iter().all(|node| other.contains(node)))
    };
    let largest: Vec<&Vec<Node>> = able.iter().filter(largest).collect();
    let is_safe = |node: &Node| !largest.is_empty() && largest.iter().all(|some| some.contains(node));
    nodes.iter().copied().filter(|node| !is_safe(node)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Partition, cut_off};
    use crate::net::{Host, Node};

    const A: Node = Node(1);
    const B: Node = Node(2);
    const C: Node = Node(3);

    /// `1>2`, and who is cut off behind it.
    fn of(partition: &Partition, nodes: u8) -> (String, String) {
        let nodes: Vec<Node> = Node::first(nodes).collect();
        let directions = partition.directions(&nodes);
        let cut_off: Vec<String> = cut_off(&directions, &nodes).iter().map(Node::to_string).collect();
        let directions: Vec<String> = directions
            .iter()
            .map(|(from, to)| format!("{from}>{to}"))
            .collect();
        (directions.join(" "), cut_off.join(" "))
    }

    fn expect(partition: &Partition, nodes: u8, directions: &str, cut_off: &str) {
        assert_eq!(
            of(partition, nodes),
            (directions.to_owned(), cut_off.to_owned()),
            "{partition}"
        );
    }

    #[test]
    fn three_nodes() {
        expect(&Partition::Isolated(A), 3, "n1>n2 n1>n3 n2>n1 n3>n1", "n1");
        expect(&Partition::Mute(A), 3, "n1>n2 n1>n3", "n1");
        expect(&Partition::Deaf(A), 3, "n2>n1 n3>n1", "n1");
        expect(
            &Partition::Halves(BTreeSet::from([A, C])),
            3,
            "n1>n2 n2>n1 n2>n3 n3>n2",
            "n2",
        );
        // Whoever of the ends leads, the other one doesn't hear it.
        expect(&Partition::Bridge(B), 3, "n1>n3 n3>n1", "n1 n3");
        expect(&Partition::Ring, 3, "", "");
        expect(&Partition::Unreachable(A), 3, "n1>clients clients>n1", "");
    }

    #[test]
    fn five_nodes() {
        expect(
            &Partition::Bridge(C),
            5,
            "n1>n4 n1>n5 n2>n4 n2>n5 n4>n1 n4>n2 n5>n1 n5>n2",
            "n1 n2 n4 n5",
        );
        expect(
            &Partition::Ring,
            5,
            "n1>n3 n1>n4 n2>n4 n2>n5 n3>n1 n3>n5 n4>n1 n4>n2 n5>n2 n5>n3",
            "n1 n2 n3 n4 n5",
        );
        let (_, cut_off) = of(&Partition::Halves(BTreeSet::from([A, B])), 5);
        assert_eq!(cut_off, "n1 n2");
    }

    #[test]
    fn everybody_is_cut_off_without_a_majority() {
        let nodes = [A, B, C];
        let mut cut = Partition::Isolated(A).directions(&nodes);
        cut.extend(Partition::Isolated(B).directions(&nodes));
        assert_eq!(cut_off(&cut, &nodes), nodes);
        assert_eq!(cut_off(&BTreeSet::new(), &nodes), []);
        assert!(cut.contains(&(Host::Node(B), Host::Node(C))));
    }
}
