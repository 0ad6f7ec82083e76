//! What the clients did and saw: one JSON object a line, and all that a checker knows.
//!
//! An operation is an `invoke` line and, if it came to an end, one of `ok`, `fail` or `unknown`. **`fail` is certain**: it
//! had no effect and never will. Whatever is not certain is `unknown`: the operation may have taken effect, may yet, at
//! any later time, once; or never. An `invoke` without an end is unknown too. What is seen without having been asked for,
//! such as an event of a watch, is a `saw` line.
//!
//! A process does one thing after another, so its lines pair up. After an unknown outcome a client goes on under the
//! number of a new process, as its last operation may still be under way.

mod line;
mod read;
mod transaction;
mod write;

pub(crate) use self::transaction::{list_of, list_text};
pub use self::{
    line::{
        Call, Dialect, Expect, InstanceState, KeyEvent, Line, Out, Process, Row, Sight, Stamped, Workload,
    },
    read::{History, Operation, Outcome, ReadError, Sighting},
    transaction::{Expecting, Step, Transaction},
    write::{Invocation, Recorder},
};
