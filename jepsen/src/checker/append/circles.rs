//! Who came before whom, and where that goes in a circle.
//!
//! Circles have the names that the literature gives them (Adya): `G0` of appends alone; `G1c` of appends and of reads of
//! them; `G-single` with one transaction that did not see what it should have; `G2` with several such. Where real time
//! is part of one, it says so: `G-single-realtime` is a stale read, for one.

use std::fmt::{self, Write as _};

use super::{Done, versions::Versions};
use crate::checker::{
    Findings,
    graph::{Graph, Way},
};

/// Why one transaction came before another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge<'a> {
    kind: Kind,
    /// The key that tells it; empty: the clock does.
    key: &'a str,
    /// What the second one appended, or the first one.
    element: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The second one's append stands behind the first one's.
    WriteWrite,
    /// The second one read the first one's append.
    WriteRead,
    /// The first one did not see the second one's append.
    ReadWrite,
    /// The first one was over before the second one began.
    RealTime,
}

impl fmt::Display for Edge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, element } = self;
        match kind {
            Kind::WriteWrite => write!(f, "ww: {element} was appended to {key} behind its own, by"),
            Kind::WriteRead => write!(f, "wr: its {element} in {key} was read by"),
            Kind::ReadWrite => write!(f, "rw: it read {key} without {element}, which was appended by"),
            Kind::RealTime => f.write_str("rt: it was over before"),
        }
    }
}

/// Which edges a circle of each name may have, the worst first; `G-single` and `G2` share theirs.
const RULES: [(&[Kind], [&str; 3]); 4] = [
    (&[Kind::WriteWrite], ["G0"; 3]),
    (&[Kind::WriteWrite, Kind::WriteRead], ["G1c"; 3]),
    (
        &[Kind::WriteWrite, Kind::WriteRead, Kind::ReadWrite],
        ["G1c", "G-single", "G2"],
    ),
    (
        &[Kind::WriteWrite, Kind::WriteRead, Kind::ReadWrite, Kind::RealTime],
        ["G1c-realtime", "G-single-realtime", "G2-realtime"],
    ),
];

/// Finds circles. One part of the history is told once, under its worst name.
pub(super) fn check(done: &[Done<'_>], versions: &Versions<'_>, findings: &mut Findings) {
    let graph = graph(done, versions);
    let mut told = vec![false; done.len()];
    for (kinds, names) in RULES {
        let takes = |edge: &Edge<'_>| kinds.contains(&edge.kind);
        for component in graph.components(takes) {
            if component.iter().any(|one| told[*one]) {
                continue;
            }
            let single = with_one_blind_read(&graph, &component, takes);
            let Some(circle) = single.or_else(|| graph.cycle(&component, takes)) else {
                continue;
            };
            let blind = circle
                .iter()
                .filter(|(_, edge)| edge.kind == Kind::ReadWrite)
                .count();
            findings.violation(names[blind.min(2)], told_as(&circle, done));
            for one in component {
                told[one] = true;
            }
        }
    }
}

/// A circle with one `rw` edge at the most.
fn with_one_blind_read<'a>(
    graph: &Graph<Edge<'a>>,
    component: &[usize],
    takes: impl Fn(&Edge<'a>) -> bool,
) -> Option<Way<Edge<'a>>> {
    let sees = |edge: &Edge<'a>| takes(edge) && edge.kind != Kind::ReadWrite;
    if let Some(circle) = graph.cycle(component, sees) {
        return Some(circle);
    }
    let is_inside = graph.inside(component);
    let mut found: Option<Way<Edge<'a>>> = None;
    for reader in component {
        for (writer, edge) in graph.leaving(*reader) {
            if edge.kind != Kind::ReadWrite || !takes(edge) || !is_inside[*writer] {
                continue;
            }
            let back = graph.way(*writer, *reader, sees, |node| is_inside[node]);
            if let Some(back) =
                back.filter(|back| found.as_ref().is_none_or(|found| back.len() + 1 < found.len()))
            {
                found = Some([vec![(*reader, edge.clone())], back].concat());
            }
        }
    }
    found
}

/// Each operation with the reason why the next one came after it.
fn told_as(circle: &Way<Edge<'_>>, done: &[Done<'_>]) -> String {
    let mut text = String::new();
    for (one, edge) in circle {
        let _ = write!(text, "[{}] {edge} ", done[*one].operation.describe());
    }
    let first = circle
        .first()
        .map_or(0, |(first, _)| done[*first].operation.process.0);
    text + &format!("the first one, of p{first}")
}

fn graph<'a>(done: &[Done<'a>], versions: &Versions<'a>) -> Graph<Edge<'a>> {
    let mut graph = Graph::new(done.len());
    for (key, known) in versions.keys() {
        for pair in known.longest.windows(2) {
            let writers = (versions.writer(key, pair[0]), versions.writer(key, pair[1]));
            if let (Some(one), Some(next)) = writers {
                let kind = Kind::WriteWrite;
                graph.add(
                    one,
                    next,
                    Edge {
                        kind,
                        key,
                        element: pair[1],
                    },
                );
            }
        }
    }
    for (at, one) in done.iter().enumerate() {
        for (key, list) in one.reads() {
            add_read(&mut graph, versions, at, key, list);
        }
    }
    add_unseen(&mut graph, done, versions);
    add_real_time(&mut graph, done, versions);
    graph
}

/// A read comes behind who appended the last of it, and before who appended the next.
fn add_read<'a>(graph: &mut Graph<Edge<'a>>, versions: &Versions<'a>, at: usize, key: &'a str, list: &[u64]) {
    if let Some(last) = list.last()
        && let Some(writer) = versions.writer(key, *last)
    {
        let kind = Kind::WriteRead;
        graph.add(
            writer,
            at,
            Edge {
                kind,
                key,
                element: *last,
            },
        );
    }
    let next = versions.key(key).and_then(|known| known.longest.get(list.len()));
    if let Some(next) = next
        && let Some(writer) = versions.writer(key, *next)
    {
        let kind = Kind::ReadWrite;
        graph.add(
            at,
            writer,
            Edge {
                kind,
                key,
                element: *next,
            },
        );
    }
}

/// What was acknowledged and never read was appended behind all that was.
fn add_unseen<'a>(graph: &mut Graph<Edge<'a>>, done: &[Done<'a>], versions: &Versions<'a>) {
    for (at, one) in done.iter().enumerate().filter(|(_, one)| one.lists.is_some()) {
        for (key, elements) in one.transaction.appends() {
            let (Some(known), Some(element)) = (versions.key(key), elements.first().copied()) else {
                continue;
            };
            if known.has(element) {
                continue;
            }
            let last = known.longest.last().and_then(|last| versions.writer(key, *last));
            if let Some(last) = last {
                let kind = Kind::WriteWrite;
                graph.add(last, at, Edge { kind, key, element });
            }
            for (reader, other) in done.iter().enumerate() {
                let mut whole = other
                    .reads()
                    .filter(|(read, list)| *read == key && list.len() == known.longest.len());
                if whole.next().is_some() {
                    let kind = Kind::ReadWrite;
                    graph.add(reader, at, Edge { kind, key, element });
                }
            }
        }
    }
}

/// What was over before another began. Edges that follow from others are left out: behind each transaction stand those
/// that were over when it began, and behind none of these began before another of them was over.
fn add_real_time<'a>(graph: &mut Graph<Edge<'a>>, done: &[Done<'a>], versions: &Versions<'a>) {
    let happened = |one: &Done<'_>| {
        let seen = |(key, elements): (&str, &[u64])| {
            let known = versions.key(key);
            elements
                .iter()
                .any(|element| known.is_some_and(|known| known.has(*element)))
        };
        one.lists.is_some() || (one.operation.is_unknown() && one.transaction.appends().any(seen))
    };
    let mut by_end: Vec<usize> = (0..done.len()).filter(|at| done[*at].lists.is_some()).collect();
    by_end.sort_by_key(|at| done[*at].operation.end);
    let mut ended = by_end.into_iter().peekable();
    let mut last: Vec<usize> = Vec::new();
    // Operations are in the order in which they began.
    for (at, one) in done.iter().enumerate() {
        while let Some(other) = ended.next_if(|other| done[*other].operation.end < one.operation.start) {
            last.retain(|before| done[*before].operation.end >= done[other].operation.start);
            last.push(other);
        }
        if happened(one) {
            for before in &last {
                let edge = Edge {
                    kind: Kind::RealTime,
                    key: "",
                    element: 0,
                };
                graph.add(*before, at, edge);
            }
        }
    }
}
