//! Directed graphs whose edges have kinds: their strongly connected components (Tarjan), and short ways through them.

use std::collections::VecDeque;

/// Nodes are numbered from 0.
#[derive(Clone, Debug)]
pub struct Graph<E> {
    edges: Vec<Vec<(usize, E)>>,
}

/// A way: each node with the edge that leads on from it.
pub type Way<E> = Vec<(usize, E)>;

impl<E: Clone> Graph<E> {
    /// So many nodes and no edge.
    pub fn new(nodes: usize) -> Self {
        Self {
            edges: vec![Vec::new(); nodes],
        }
    }

    /// Adds an edge. One from a node to itself is none.
    pub fn add(&mut self, from: usize, to: usize, edge: E) {
        if from != to {
            self.edges[from].push((to, edge));
        }
    }

    /// The edges that leave a node.
    pub fn leaving(&self, node: usize) -> &[(usize, E)] {
        &self.edges[node]
    }

    /// The strongly connected components of more than one node, by these edges alone.
    pub fn components(&self, takes: impl Fn(&E) -> bool) -> Vec<Vec<usize>> {
        let mut search = Tarjan {
            graph: self,
            takes,
            marks: vec![None; self.edges.len()],
            next: 0,
            stack: Vec::new(),
            found: Vec::new(),
        };
        for node in 0..self.edges.len() {
            if search.marks[node].is_none() {
                search.visit(node);
            }
        }
        search.found
    }

    /// A way of the fewest edges from one node to another, by these edges and within these nodes alone. From a node to
    /// itself it is a cycle.
    pub fn way(
        &self,
        from: usize,
        to: usize,
        takes: impl Fn(&E) -> bool,
        within: impl Fn(usize) -> bool,
    ) -> Option<Way<E>> {
        // By which node and edge each was reached.
        let mut reached: Vec<Option<(usize, &E)>> = vec![None; self.edges.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for (next, edge) in &self.edges[node] {
                if !takes(edge) || !within(*next) || reached[*next].is_some() {
                    continue;
                }
                reached[*next] = Some((node, edge));
                if *next == to {
                    return Some(walk_back(&reached, from, to));
                }
                queue.push_back(*next);
            }
        }
        None
    }

    /// A cycle of few edges within a component.
    pub fn cycle(&self, component: &[usize], takes: impl Fn(&E) -> bool) -> Option<Way<E>> {
        let is_inside = self.inside(component);
        let ways = component
            .iter()
            .take(STARTS)
            .filter_map(|node| self.way(*node, *node, &takes, |node| is_inside[node]));
        ways.min_by_key(Vec::len)
    }

    /// For each node whether it is one of these.
    pub fn inside(&self, nodes: &[usize]) -> Vec<bool> {
        let mut inside = vec![false; self.edges.len()];
        for node in nodes {
            inside[*node] = true;
        }
        inside
    }
}

/// Nodes of a component from which a short cycle is looked for: a large component is one error seen many times.
const STARTS: usize = 50;

fn walk_back<E: Clone>(reached: &[Option<(usize, &E)>], from: usize, to: usize) -> Way<E> {
    let mut way = Vec::new();
    let mut at = to;
    while let Some((before, edge)) = reached[at] {
        way.push((before, edge.clone()));
        if before == from {
            break;
        }
        at = before;
    }
    way.reverse();
    way
}

/// Tarjan's search, with a stack of its own: a history is deeper than a thread's.
struct Tarjan<'a, E, F> {
    graph: &'a Graph<E>,
    takes: F,
    marks: Vec<Option<Mark>>,
    next: usize,
    stack: Vec<usize>,
    found: Vec<Vec<usize>>,
}

#[derive(Clone, Copy)]
struct Mark {
    /// In the order of visits.
    number: usize,
    /// The lowest number that is reached from here.
    low: usize,
    is_on_stack: bool,
}

impl<E, F: Fn(&E) -> bool> Tarjan<'_, E, F> {
    fn visit(&mut self, root: usize) {
        // Each node under way, and the edge to be looked at next.
        let mut path = vec![(root, 0)];
        self.enter(root);
        while let Some((node, edge)) = path.last_mut() {
            let node = *node;
            let next = self.graph.edges[node].get(*edge);
            *edge += 1;
            match next {
                Some((_, kind)) if !(self.takes)(kind) => {}
                Some((next, _)) => match self.marks[*next] {
                    None => {
                        self.enter(*next);
                        path.push((*next, 0));
                    }
                    Some(mark) if mark.is_on_stack => self.lower(node, mark.number),
                    Some(_) => {}
                },
                None => {
                    path.pop();
                    let mark = self.mark(node);
                    if let Some((parent, _)) = path.last() {
                        self.lower(*parent, mark.low);
                    }
                    if mark.low == mark.number {
                        self.leave(node);
                    }
                }
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.marks[node] = Some(Mark {
            number: self.next,
            low: self.next,
            is_on_stack: true,
        });
        self.next += 1;
        self.stack.push(node);
    }

    fn mark(&self, node: usize) -> Mark {
        self.marks[node].expect("a node on the path was entered")
    }

    fn lower(&mut self, node: usize, low: usize) {
        if let Some(mark) = &mut self.marks[node] {
            mark.low = mark.low.min(low);
        }
    }

    /// The component whose first node this is lies on the stack, down to it.
    fn leave(&mut self, first: usize) {
        let mut component = Vec::new();
        while let Some(node) = self.stack.pop() {
            if let Some(mark) = &mut self.marks[node] {
                mark.is_on_stack = false;
            }
            component.push(node);
            if node == first {
                break;
            }
        }
        if component.len() > 1 {
            component.sort_unstable();
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Graph;

    fn graph(edges: &[(usize, usize, char)]) -> Graph<char> {
        let mut graph = Graph::new(8);
        for (from, to, edge) in edges {
            graph.add(*from, *to, *edge);
        }
        graph
    }

    #[test]
    fn finds_what_is_connected_both_ways() {
        let graph = graph(&[
            (0, 1, 'a'),
            (1, 2, 'a'),
            (2, 0, 'a'),
            (2, 3, 'a'),
            (3, 4, 'a'),
            (4, 3, 'b'),
            (5, 5, 'a'),
            (6, 7, 'a'),
        ]);
        assert_eq!(graph.components(|_| true), [vec![3, 4], vec![0, 1, 2]]);
        assert_eq!(graph.components(|edge| *edge == 'a'), [vec![0, 1, 2]]);
    }

    #[test]
    fn finds_the_shortest_way_and_no_other() {
        let graph = graph(&[
            (0, 1, 'a'),
            (1, 2, 'a'),
            (2, 0, 'a'),
            (0, 3, 'b'),
            (3, 0, 'b'),
            (1, 4, 'a'),
        ]);
        let cycle = graph.cycle(&[0, 1, 2, 3], |_| true).unwrap();
        assert_eq!(cycle, [(0, 'b'), (3, 'b')]);
        let cycle = graph.cycle(&[0, 1, 2], |edge| *edge == 'a').unwrap();
        assert_eq!(cycle.len(), 3);
        assert!(graph.way(4, 0, |_| true, |_| true).is_none());
        assert!(graph.way(0, 2, |_| true, |node| node != 1).is_none());
    }

    /// Against reachability by brute force.
    #[test]
    fn components_are_those_who_reach_each_other() {
        for seed in 0..200_usize {
            let mut graph = Graph::new(7);
            let mut reach = [[false; 7]; 7];
            let mut noise = seed * 7_919 + 1;
            for _ in 0..9 {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695);
                let (from, to) = (noise / 65_536 % 7, noise / 16_777_216 % 7);
                graph.add(from, to, ());
                reach[from][to] |= from != to;
            }
            for (by, from, to) in (0..343).map(|at| (at / 49, at / 7 % 7, at % 7)) {
                reach[from][to] |= reach[from][by] && reach[by][to];
            }
            let mut components = graph.components(|()| true);
            components.sort();
            let mut expected: Vec<Vec<usize>> = Vec::new();
            for (node, reached) in reach.iter().enumerate() {
                let mates: Vec<usize> = (0..7)
                    .filter(|other| *other == node || (reached[*other] && reach[*other][node]))
                    .collect();
                if mates.len() > 1 && mates[0] == node {
                    expected.push(mates);
                }
            }
            assert_eq!(components, expected, "seed {seed}");
        }
    }
}
