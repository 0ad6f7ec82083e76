//! What a node keeps on disk: the log, and the checkpoint behind it.
//!
//! Both deal in opaque bytes; what they mean is known to their callers alone.
//!
//! - [`log`] says what a log is; [`segment`] is the log: pre-zeroed segment files on [`crate::world::files`], written
//!   by one thread, flushed in groups. Raft's entries, its vote and its committed position live there. [`sled_log`] keeps
//!   the same in sled, for those who want everything there.
//!   [`place`] says which of the two a data directory has.
//! - [`checkpoint`] says what a checkpoint is: a verified copy of the whole state at one log position, written as a new
//!   generation. [`sled`] keeps one in sled, [`memory`] in memory, for the simulator.
//!
//! How they go together: a state change is durable once the log has it. Now and then the caller writes a checkpoint
//! and purges the log up to the *older* of the two generations that are kept, so that a rotten generation costs time,
//! not data. A start loads the newest generation that verifies and replays the log behind it.

pub mod checkpoint;
pub mod log;
pub mod memory;
pub mod place;
pub mod segment;
pub mod sled;
pub mod sled_log;
