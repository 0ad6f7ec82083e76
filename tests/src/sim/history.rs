//! What clients did and saw, in the order in which it happened: all that the oracle judges by.
//!
//! An operation is *failed* only if it certainly had no effect. Whatever ended without a word is *unknown*: it may take
//! effect, now or later, once.

use std::cell::{Ref, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use spine_tests::trace::Trace;

use crate::world;

/// An operation's number. A write stores the number of its operation, so that no two writes store the same.
pub(crate) type OpId = u64;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Store the operation's number under a key, if the guard holds.
    Put { key: String, guard: Guard },
    /// Delete a key.
    Delete { key: String },
    /// Read one key.
    Get { key: String, stale: bool },
    /// Read all keys with a prefix.
    List { prefix: String, stale: bool },
    /// Register the client's instance with its TTL check, which passes from then on.
    Register,
    /// Say that the client's instance is well.
    Report,
    /// Read how the client's instance is.
    Judge,
}

/// When a put is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Always.
    Always,
    /// If there is no such key.
    Absent,
    /// If its row was last changed at this index.
    Index(u64),
}

/// A key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: String,
    /// The operation that wrote it.
    pub(crate) value: OpId,
    /// The index at which it did.
    pub(crate) index: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not yet.
    Open,
    /// It took effect at this index.
    Written { index: u64 },
    /// Its guard did not hold at this index.
    GuardFailed { index: u64 },
    /// The rows of the state at this index.
    Rows { at: u64, rows: Vec<Row> },
    /// Whether the instance passes in the state at this index; `None`: there is none.
    Judged { at: u64, passes: Option<bool> },
    /// Certainly no effect.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) id: OpId,
    pub(crate) client: usize,
    /// The node asked.
    pub(crate) node: usize,
    pub(crate) action: Action,
    pub(crate) invoked: Duration,
    pub(crate) returned: Duration,
    pub(crate) outcome: Outcome,
}

impl Op {
    /// Whether it may have changed something.
    pub(crate) fn may_write(&self) -> bool {
        let writes = matches!(
            self.action,
            Action::Put { .. } | Action::Delete { .. } | Action::Register | Action::Report
        );
        writes
            && matches!(
                self.outcome,
                Outcome::Open | Outcome::Unknown | Outcome::Written { .. }
            )
    }

    /// The index at which it is known to have stood.
    pub(crate) fn index(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Written { index } | Outcome::GuardFailed { index } => Some(index),
            Outcome::Rows { at, .. } | Outcome::Judged { at, .. } => Some(at),
            Outcome::Open | Outcome::Failed | Outcome::Unknown => None,
        }
    }

    /// Whether it must see all that was acknowledged before it began.
    pub(crate) fn is_linearizable(&self) -> bool {
        !matches!(
            self.action,
            Action::Get { stale: true, .. } | Action::List { stale: true, .. }
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            client,
            node,
            action,
            invoked,
            returned,
            outcome,
        } = self;
        write!(
            f,
            "op {id} of client {client} at n{node}, {}..{} ms: {action:?} -> {outcome:?}",
            invoked.as_millis(),
            returned.as_millis()
        )
    }
}

/// A change of a key as a watch told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) index: u64,
    pub(crate) key: String,
    /// What was there before: the operation that wrote it.
    pub(crate) before: Option<OpId>,
    /// What is there since.
    pub(crate) after: Option<OpId>,
}

/// What one watch told, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) node: usize,
    pub(crate) prefix: String,
    /// Told is what happened after this index.
    pub(crate) from: u64,
    /// Everything up to here was told.
    pub(crate) through: u64,
    pub(crate) told: Vec<Told>,
}

/// The history. Clones are the same one.
#[derive(Clone)]
pub(crate) struct History(Rc<RefCell<Inner>>);

struct Inner {
    ops: Vec<Op>,
    streams: Vec<Stream>,
    trace: Trace,
}

impl History {
    /// An empty history, which is told to `trace` as well.
    pub(crate) fn new(trace: Trace) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            ops: Vec::new(),
            streams: Vec::new(),
            trace,
        })))
    }

    /// A client begins an operation.
    pub(crate) fn invoke(&self, client: usize, node: usize, action: Action) -> OpId {
        let mut inner = self.0.borrow_mut();
        let id = inner.ops.len() as OpId;
        let now = world::now();
        inner.ops.push(Op {
            id,
            client,
            node,
            action,
            invoked: now,
            returned: Duration::MAX,
            outcome: Outcome::Open,
        });
        id
    }

    /// The operation has ended.
    pub(crate) fn finish(&self, id: OpId, outcome: Outcome) {
        let mut inner = self.0.borrow_mut();
        let at = usize::try_from(id).expect("numbers of operations are places in a list");
        inner.ops[at].returned = world::now();
        inner.ops[at].outcome = outcome;
        let line = inner.ops[at].to_string();
        inner.trace.record("client", format_args!("{line}"));
    }

    /// A watch begins; gives its number.
    pub(crate) fn open_stream(&self, node: usize, prefix: &str, from: u64) -> usize {
        let mut inner = self.0.borrow_mut();
        inner.streams.push(Stream {
            node,
            prefix: prefix.to_owned(),
            from,
            through: from,
            told: Vec::new(),
        });
        inner.streams.len() - 1
    }

    /// A watch told something.
    pub(crate) fn tell(&self, stream: usize, told: Vec<Told>, through: u64) {
        let mut inner = self.0.borrow_mut();
        let (events, node) = (told.len(), inner.streams[stream].node);
        inner.streams[stream].told.extend(told);
        inner.streams[stream].through = through;
        let line = format!("stream {stream} at n{node}: {events} events through {through}");
        inner.trace.record("client", format_args!("{line}"));
    }

    /// The operations so far.
    pub(crate) fn ops(&self) -> Ref<'_, [Op]> {
        Ref::map(self.0.borrow(), |inner| inner.ops.as_slice())
    }

    /// The watches so far.
    pub(crate) fn streams(&self) -> Ref<'_, [Stream]> {
        Ref::map(self.0.borrow(), |inner| inner.streams.as_slice())
    }
}
