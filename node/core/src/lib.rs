//! The pure core of Spine: what a registry is, without a wire, a disk or a clock.
//!
//! A [`State`] holds the service catalog, the key/value store, health, leases and what else the cluster knows.
//! [`State::apply`] takes an [`Entry`] of the replicated log and says what became of each request in it; a
//! [`Query`] asks. Nothing in this crate does I/O, reads a clock, draws a random number or depends on the order of
//! a hash map, so the same entries make the same state on every node, for ever.
//!
//! Two counters, each with one meaning. [`Index`] is raised by 1 for each request applied and stamped on every row
//! that the request changed: it is what blocking queries and watches wait for. [`Revision`] is etcd's counter on
//! keys. Time is data: entries carry *cluster time*, and deadlines know no other.
//!
//! ```
//! use spine_core::{Command, Entry, GetKey, Guard, Put, Query, Repeat, Request, State, Time, Topic, WallTime};
//!
//! let mut state = State::new();
//! let put = Command::Put(Put {
//!     key: "greeting".into(),
//!     value: "hello".into(),
//!     flags: 0,
//!     lease: None,
//!     guard: Guard::Absent,
//!     repeat: Repeat::Skip,
//! });
//! let entry = Entry { time: Time(0), wall: WallTime(0), requests: vec![Request::internal(put)] };
//! let batch = state.apply(&entry);
//! assert!(batch.applied[0].result.is_ok());
//!
//! let answer = GetKey("greeting".into()).ask(&state);
//! assert_eq!(answer.value.unwrap().value, "hello");
//! // Whoever waits for this key is woken by the event.
//! assert!(answer.interest.iter().any(|topic| batch.events[0].change.touches(topic)));
//! # let _: &Topic = &answer.interest[0];
//! ```

// The scripts' runner names the crate as its users do.
#[cfg(test)]
extern crate self as spine_core;

#[cfg(test)]
mod bounds;
pub mod catalog;
pub mod change_log;
pub mod codec;
pub mod command;
pub mod deadline;
pub mod dedup;
pub mod event;
pub mod health;
pub mod id;
pub mod kv;
pub mod lease;
pub mod limits;
pub mod member;
pub mod outcome;
pub mod query;
pub mod rules;
pub mod snapshot;
pub mod state;
pub mod table;
pub mod time;
pub mod touched;
pub mod tree;
mod validate;
mod writer;

pub use self::{
    catalog::{Instance, Node},
    command::*,
    event::{Change, Delta, Event, Interest, RowId, Topic},
    health::Check,
    id::{
        CheckId, CheckKey, Index, InstanceId, InstanceKey, Key, LeaseId, NameError, NodeName, Revision,
        ServiceName, SessionId,
    },
    kv::{KeyRange, KvRow, Page},
    lease::Lease,
    member::Liveness,
    outcome::{
        Applied, CatalogDone, CatalogOpUnmet, CatalogUnmet, OpDone, OpUnmet, Outcome, Rejection,
        RejectionRow, Renewed, Unmet,
    },
    query::*,
    rules::RULES_KNOWN,
    state::{Batch, State},
    time::{Time, Ttl, WallTime},
};
