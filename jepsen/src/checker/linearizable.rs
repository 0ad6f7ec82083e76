//! Linearizability, without trust in anything that the cluster says about its own order.
//!
//! The search of Wing and Gong with Lowe's memo. The history is a doubly linked list of beginnings and ends in order of
//! time. An operation whose beginning stands before the first end may have taken effect first: it is tried, and lifted out
//! of the list with its end. Where the next thing in the list is an end, its operation should have been placed and could
//! not be: the last choice is taken back. What has been tried is remembered as (operations placed, state reached), so
//! that the same place is never searched twice.
//!
//! An operation of unknown outcome has a beginning and no end: it may be placed anywhere behind its beginning, or never.
//! So the history is linearizable as soon as every operation that has an end is placed.
//!
//! Operations of unknown outcome are what makes the search long: each may be placed or not. But of several that do the
//! same, only the earliest need be tried: wherever a later one could stand, the earlier one could as well, and the later one
//! is then still to be had. So of a hundred lost deletions it matters how many are placed, not which.
//!
//! The search is exponential at worst. It is short where few operations overlap, so workloads move on to a new key after
//! some hundreds of operations; what takes longer than its time limit is `undecided`, a fault of the run's design.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::{Duration, Instant},
};

use crate::clock::Micros;

/// What one key, or whatever is checked as a whole, is meant to do.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// What is done to it.
    type Input: Eq + Hash;
    /// What it answers.
    type Output;

    /// What it remembers before anything was done.
    fn initial(&self) -> Self::State;

    /// What it remembers after `input`, if it can have answered `output`. `None` as output: nobody knows the answer.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;
}

/// An operation on a model.
#[derive(Clone, Debug)]
pub struct Interval<I, O> {
    /// When it was sent.
    pub start: Micros,
    /// When it was answered. Without meaning if it was not.
    pub end: Micros,
    /// What was asked.
    pub input: I,
    /// What was answered; `None`: it may have taken effect at any time behind `start`, or never.
    pub output: Option<O>,
}

/// Whether there is an order of effects that explains all answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linearizability {
    /// There is one.
    Holds,
    /// There is none.
    Violated {
        /// Most operations that could be placed, in an order that explains them.
        placed: Vec<usize>,
        /// The operation that had to come next and could not.
        stuck: usize,
    },
    /// It took too long to find out.
    Undecided,
}

/// Searches for an order of effects.
pub fn check<M: Model>(
    model: &M,
    operations: &[Interval<M::Input, M::Output>],
    limit: Duration,
) -> Linearizability {
    Search::new(model, operations).run(Instant::now() + limit)
}

/// Steps between two looks at the clock.
const STEPS_BETWEEN_LOOKS: u32 = 1024;

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [Interval<M::Input, M::Output>],
    list: List,
    state: M::State,
    placed: Vec<(usize, M::State)>,
    done: Bits,
    /// Operations with an end that are not placed.
    left: usize,
    /// Of an operation of unknown outcome: the one before it that does the same.
    twin: Vec<Option<usize>>,
    seen: HashSet<(Bits, M::State)>,
    deepest: Option<(Vec<usize>, usize)>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [Interval<M::Input, M::Output>]) -> Self {
        Self {
            model,
            operations,
            list: List::new(operations),
            state: model.initial(),
            placed: Vec::new(),
            done: Bits::none(operations.len()),
            left: operations.iter().filter(|one| one.output.is_some()).count(),
            twin: twins(operations),
            seen: HashSet::new(),
            deepest: None,
        }
    }

    fn run(mut self, until: Instant) -> Linearizability {
        let mut at = self.list.first();
        let mut steps = 0_u32;
        while self.left > 0 {
            steps += 1;
            if steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && Instant::now() > until {
                return Linearizability::Undecided;
            }
            at = match at.map(|entry| (entry, self.list.entries[entry].what)) {
                Some((entry, What::Begin(operation))) => {
                    if self.place(operation) {
                        self.list.first()
                    } else {
                        self.list.entries[entry].next
                    }
                }
                found => {
                    // An operation with an end stands in the list until it is placed, so the list has not come to its
                    // end before one was met.
                    if let Some((_, What::End(operation))) = found {
                        self.note_stuck(operation);
                    }
                    let Some(operation) = self.take_back() else {
                        let (placed, stuck) = self.deepest.unwrap_or_default();
                        return Linearizability::Violated { placed, stuck };
                    };
                    self.list.entries[self.list.begin[operation]].next
                }
            };
        }
        Linearizability::Holds
    }

    /// Lets an operation take effect now, if its answer allows that and it leads anywhere new.
    fn place(&mut self, operation: usize) -> bool {
        if self.twin[operation].is_some_and(|twin| !self.done.has(twin)) {
            return false;
        }
        let Interval { input, output, .. } = &self.operations[operation];
        let Some(next) = self.model.step(&self.state, input, output.as_ref()) else {
            return false;
        };
        self.done.flip(operation);
        if !self.seen.insert((self.done.clone(), next.clone())) {
            self.done.flip(operation);
            return false;
        }
        self.list.lift(operation);
        self.left -= usize::from(output.is_some());
        self.placed
            .push((operation, std::mem::replace(&mut self.state, next)));
        true
    }

    /// Takes the last effect back.
    fn take_back(&mut self) -> Option<usize> {
        let (operation, before) = self.placed.pop()?;
        self.state = before;
        self.done.flip(operation);
        self.left += usize::from(self.operations[operation].output.is_some());
        self.list.put_back(operation);
        Some(operation)
    }

    fn note_stuck(&mut self, operation: usize) {
        let deepest = self.deepest.as_ref().map(|(placed, _)| placed.len());
        if deepest.is_none_or(|deepest| self.placed.len() > deepest) {
            let placed = self.placed.iter().map(|(operation, _)| *operation).collect();
            self.deepest = Some((placed, operation));
        }
    }
}

fn twins<I: Eq + Hash, O>(operations: &[Interval<I, O>]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.retain(|at| operations[*at].output.is_none());
    order.sort_by_key(|at| operations[*at].start);
    let mut twins = vec![None; operations.len()];
    let mut last: HashMap<&I, usize> = HashMap::new();
    for at in order {
        twins[at] = last.insert(&operations[at].input, at);
    }
    twins
}

/// Beginnings and ends in order of time, from which operations are lifted out and put back.
struct List {
    /// Entry 0 is the head, which stands before all.
    entries: Vec<Entry>,
    /// Where each operation begins.
    begin: Vec<usize>,
    /// Where it ends, if it does.
    end: Vec<Option<usize>>,
}

struct Entry {
    what: What,
    previous: usize,
    next: Option<usize>,
}

#[derive(Clone, Copy)]
enum What {
    Head,
    Begin(usize),
    End(usize),
}

impl List {
    fn new<I, O>(operations: &[Interval<I, O>]) -> Self {
        let begins = operations.iter().enumerate();
        let begins = begins.map(|(at, one)| (one.start, false, What::Begin(at)));
        let ends = operations.iter().enumerate();
        let ends = ends
            .filter(|(_, one)| one.output.is_some())
            .map(|(at, one)| (one.end, true, What::End(at)));
        let mut order: Vec<_> = begins.chain(ends).collect();
        // What ends in the microsecond in which another begins is taken to overlap it.
        order.sort_by_key(|(time, is_end, _)| (*time, *is_end));
        let mut list = Self {
            entries: vec![Entry {
                what: What::Head,
                previous: 0,
                next: None,
            }],
            begin: vec![0; operations.len()],
            end: vec![None; operations.len()],
        };
        for (_, _, what) in order {
            let at = list.entries.len();
            match what {
                What::Begin(operation) => list.begin[operation] = at,
                What::End(operation) => list.end[operation] = Some(at),
                What::Head => {}
            }
            list.entries[at - 1].next = Some(at);
            list.entries.push(Entry {
                what,
                previous: at - 1,
                next: None,
            });
        }
        list
    }

    fn first(&self) -> Option<usize> {
        self.entries[0].next
    }

    fn lift(&mut self, operation: usize) {
        self.unlink(self.begin[operation]);
        if let Some(end) = self.end[operation] {
            self.unlink(end);
        }
    }

    /// The reverse of [`List::lift`], in reverse order: each entry still knows its neighbours of then.
    fn put_back(&mut self, operation: usize) {
        if let Some(end) = self.end[operation] {
            self.relink(end);
        }
        self.relink(self.begin[operation]);
    }

    fn unlink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = next;
        if let Some(next) = next {
            self.entries[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = Some(at);
        if let Some(next) = next {
            self.entries[next].previous = at;
        }
    }
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn none(operations: usize) -> Self {
        Self(vec![0; operations.div_ceil(64)].into())
    }

    fn has(&self, operation: usize) -> bool {
        self.0[operation / 64] >> (operation % 64) & 1 == 1
    }

    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}
