//! Servers come into a cluster that runs, are given a vote, move, and leave.
//!
//! ```text
//!  an empty server ── Join ──► any member ── Join ──► the leader: decide::admission ──► a learner, by the log
//!                                                     the leader: decide::Steward ────► a voter, once it has caught up
//!  spine members remove ─────► any member ── Remove ─► the leader: decide::removal ───► a member no longer
//! ```
//!
//! [`decide`] says what is to be done and touches nothing. [`steward`] is the leader's task, [`replace`] that of a server that takes another's place, [`changes`] does what servers and
//! people ask for, [`service`] answers the others, [`link`] asks them. All changes go through [`Consensus::change_members`](crate::raft::Consensus::change_members), which
//! makes one at a time.

pub mod changes;
pub mod decide;
pub mod link;
pub mod replace;
pub mod service;
pub mod steward;
