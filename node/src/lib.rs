//! The Spine node as a library: Raft, storage, the real Registry and what runs around them.
//!
//! The outside (clock, network, files, randomness, engine) comes in through [`world`], so that a simulator can hand
//! over another one and run the same code. [`Node::start`] puts it all together.

pub mod ca;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
pub mod digests;
pub mod forward;
pub mod leader;
pub mod limits;
pub mod metrics_sink;
pub mod node;
pub mod peer;
pub mod probe;
pub mod raft;
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
mod start;
pub mod storage;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod world;

pub use self::{
    node::{Node, NodeSettings},
    world::World,
};
