//! The native API over a loopback connection, on a registry in memory with one server, `n1`.
#![expect(clippy::disallowed_methods, reason = "a test lives in the real world")]
#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod admin;
mod bounds;
mod calls;
mod catalog;
mod keys;
mod lease;
mod lock;
mod lock_repeats;
mod numbered;
mod served;
mod statuses;
mod txn;
mod unread;
mod waits;
mod watch;
mod watch_topics;
