//! Reading a history back.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use super::line::{Call, Dialect, Line, Out, Process, Sight, Stamped, Workload};
use crate::clock::Micros;

/// Why a history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be read.
    #[error("the history can't be read: {0}")]
    Io(#[from] io::Error),
    /// A line is not one.
    #[error("line {number} of the history is not one: {error}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// Why.
        error: serde_json::Error,
    },
    /// A process begins something before it has ended something, or ends what it has not begun.
    #[error("line {number} of the history does not go with the line of process {} before it", process.0)]
    Unpaired {
        /// Counted from 1.
        number: usize,
        /// The process.
        process: Process,
    },
}

/// An operation, from beginning to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Who.
    pub process: Process,
    /// The node asked.
    pub node: String,
    /// How.
    pub dialect: Dialect,
    /// For what.
    pub call: Call,
    /// When it was sent.
    pub start: Micros,
    /// When the answer came. An unknown outcome never ends: it may take effect at any time.
    pub end: Micros,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer.
    Ok(Out),
    /// It had no effect.
    Fail(String),
    /// It may have had one, or may yet.
    Unknown(String),
}

/// Something seen, when and at which node.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// When.
    pub at: Micros,
    /// The node; empty: the harness.
    pub node: String,
    /// What.
    pub sight: Sight,
}

/// All of one workload.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The operations, in the order in which they began.
    pub operations: Vec<Operation>,
    /// What was seen, in order.
    pub sightings: Vec<Sighting>,
}

impl History {
    /// Reads a history, parted by workload. Lines are read one by one; what is kept is what checkers need.
    pub fn read(path: &Path) -> Result<BTreeMap<Workload, Self>, ReadError> {
        let lines = BufReader::new(File::open(path)?).lines();
        Self::of(lines.enumerate().map(|(at, line)| {
            let number = at + 1;
            let line = serde_json::from_str(&line?).map_err(|error| ReadError::Line { number, error })?;
            Ok(line)
        }))
    }

    /// The history that these lines make.
    pub fn of(
        lines: impl IntoIterator<Item = Result<Stamped, ReadError>>,
    ) -> Result<BTreeMap<Workload, Self>, ReadError> {
        let mut histories: BTreeMap<Workload, Self> = BTreeMap::new();
        // Where each process's last operation is, while it has no end.
        let mut open: BTreeMap<Process, (Workload, usize)> = BTreeMap::new();
        for (at, line) in lines.into_iter().enumerate() {
            let Stamped { t, line } = line?;
            let unpaired = |process| ReadError::Unpaired {
                number: at + 1,
                process,
            };
            let (process, outcome) = match line {
                Line::Invoke {
                    p,
                    w,
                    node,
                    dialect,
                    call,
                } => {
                    let operations = &mut histories.entry(w).or_default().operations;
                    if open.insert(p, (w, operations.len())).is_some() {
                        return Err(unpaired(p));
                    }
                    operations.push(Operation {
                        process: p,
                        node,
                        dialect,
                        call,
                        start: t,
                        end: Micros::NEVER,
                        outcome: Outcome::Unknown("no end was recorded".to_owned()),
                    });
                    continue;
                }
                Line::Saw { w, node, sight } => {
                    let sightings = &mut histories.entry(w).or_default().sightings;
                    sightings.push(Sighting { at: t, node, sight });
                    continue;
                }
                Line::Ok { p, out } => (p, Outcome::Ok(out)),
                Line::Fail { p, error } => (p, Outcome::Fail(error)),
                Line::Unknown { p, error } => (p, Outcome::Unknown(error)),
            };
            let (workload, at) = open.remove(&process).ok_or_else(|| unpaired(process))?;
            let history = histories.get_mut(&workload).expect("it was opened in this one");
            let operation = &mut history.operations[at];
            if !matches!(outcome, Outcome::Unknown(_)) {
                operation.end = t;
            }
            operation.outcome = outcome;
        }
        for history in histories.values_mut() {
            // Two clients may reach the file in another order than the clock.
            history.operations.sort_by_key(|operation| operation.start);
        }
        Ok(histories)
    }
}

impl Operation {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Out> {
        match &self.outcome {
            Outcome::Ok(out) => Some(out),
            Outcome::Fail(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Whether it had no effect and never will.
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Fail(_))
    }

    /// Whether it may have had an effect, or may yet.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// For people: who asked for what, when, and what came of it.
    pub fn describe(&self) -> String {
        let Self {
            process,
            node,
            call,
            start,
            ..
        } = self;
        let outcome = match &self.outcome {
            Outcome::Ok(out) => format!("ok at {}: {}", self.end, json(out)),
            Outcome::Fail(error) => format!("failed at {}: {error}", self.end),
            Outcome::Unknown(error) => format!("unknown: {error}"),
        };
        format!("p{} at {start} on {node}: {}; {outcome}", process.0, json(call))
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
