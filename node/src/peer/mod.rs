//! Servers of one cluster among themselves: the port on which they answer each other, and the ways to the others.
//!
//! ```text
//!   this node                                          a peer
//!   ─────────                                          ──────
//!   raft::network ──► Links: Raft, Heartbeat, ──────►  Port ──► Raft    (raft::server)
//!   forward       ──►        Snapshot, Forward,                 Forward
//!   hello         ──►        Hello                              Hello
//! ```
//!
//! Each [`Lane`] is a connection of its own, so that a heartbeat never waits behind a snapshot. The port is bound before
//! anything else and says hello from then on; whatever belongs to a node that runs is [`Late`] and answers UNAVAILABLE
//! until it is there.

pub mod hello;
pub mod late;
pub mod links;
pub mod meet;
pub mod places;
pub mod port;
pub mod recognized;
pub mod services;

pub use self::{
    late::Late,
    links::{Lane, Link, Links},
    meet::Waiting,
    places::Places,
    port::Port,
    services::Services,
};
