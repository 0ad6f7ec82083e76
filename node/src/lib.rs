//! The Spine node as a library: Raft, storage, the real Registry and what runs around them.
//!
//! The outside (clock, network, files, randomness, engine) comes in through [`world`], so that a simulator can hand
//! over another one and run the same code.

pub mod storage;
pub mod world;
