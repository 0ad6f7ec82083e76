//! What clients may have seen, given what happened: written apart from the core, on purpose.
//!
//! Every answer names the index of the state that it stands for, and the audit names the index of every change. So the
//! history is judged by that order, in one pass: each answer must be what the changes up to its index make it, and the order
//! of indexes must agree with that of time. An order that agrees with time and explains every answer is what linearizable
//! means; a read that was allowed to be stale must still be of one state.

mod expiry;
mod keys;
mod watches;

use crate::audit::Truth;
use crate::history::{Op, Stream};
use crate::leaderless::Leaderless;

/// Judges all that clients told.
///
/// # Errors
/// The first thing that can't be.
pub(crate) fn judge(
    ops: &[Op],
    streams: &[Stream],
    truth: &Truth,
    leaderless: &Leaderless,
) -> Result<(), String> {
    keys::effects(ops, truth)?;
    keys::answers(ops, truth)?;
    keys::order(ops)?;
    watches::judge(streams, truth)?;
    expiry::judge(ops, leaderless)
}
