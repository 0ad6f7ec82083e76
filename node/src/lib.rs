//! The Spine node as a library: Raft, storage, the real Registry and what runs around them.
//!
//! The outside (clock, network, files, randomness, engine) comes in through [`world`], so that a simulator can hand
//! over another one and run the same code. [`Node::start`] puts it all together.
//!
//! # A registry in your program
//! A program may carry its own registry, without the binary and without a port for clients: it depends on this crate with
//! `default-features = false`, starts one node or several, and asks [`Node::registry`], the door that every API goes
//! through: [`Registry::propose`](spine_api::Registry::propose) changes something, [`Read::read`](spine_api::Read::read)
//! asks a [`Query`](spine_core::Query), [`Read::watch`](spine_api::Read::watch) tells what happens. Nodes find each
//! other over the network of their [`World`], and keep all that they have in a directory each; nothing is global, so
//! there may be any number of them, and [`Node::stop`] ends one in order. `examples/embedded` in the repository is such a
//! program.

#[cfg(feature = "server")]
pub mod backup;
#[cfg(feature = "server")]
pub mod ca;
#[cfg(feature = "server")]
pub mod cli;
pub mod condition;
#[cfg(feature = "server")]
pub mod config;
pub mod digests;
pub mod forward;
pub mod leader;
pub mod limits;
#[cfg(feature = "server")]
pub mod machine;
pub mod members;
pub mod metrics_sink;
pub mod node;
pub mod peer;
mod preface;
pub mod probe;
pub mod raft;
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
mod start;
pub mod storage;
mod tasks;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod world;

pub use {spine_api, spine_core};

pub use self::{
    node::{Node, NodeSettings},
    world::World,
};
