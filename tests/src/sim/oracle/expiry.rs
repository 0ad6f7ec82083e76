//! TTL checks: never expired early, always gone in time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::TTL;
use crate::history::{Action, Op, Outcome};
use crate::leaderless::Leaderless;

/// What the promise adds to the TTL and to the time without a leader: two election timeouts and half a second.
const LATE_MAX: Duration = Duration::from_millis(2 * 600 + 500);
/// A slow disk may take so long for the entry that ends it.
const SLOW_DISK: Duration = Duration::from_millis(800);
/// A leader that knows no newer stamp than its log's loses at most so much.
const STAMP_EVERY: Duration = Duration::from_secs(5);

/// Judges every client's instance.
pub(super) fn judge(ops: &[Op], leaderless: &Leaderless) -> Result<(), String> {
    let mut by_client: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        if matches!(op.action, Action::Register | Action::Report | Action::Judge) {
            by_client.entry(op.client).or_default().push(op);
        }
    }
    by_client
        .values()
        .try_for_each(|ops| judge_instance(ops, leaderless))
}

/// One whose outcome nobody knows takes effect within this time or not at all: longer than any cut lasts, in which a leader
/// of before might hold it back.
const UNKNOWN_MAX: Duration = Duration::from_secs(15);

/// The operations of one client follow each other, so each read is held against the last renewal before it.
fn judge_instance(ops: &[&Op], leaderless: &Leaderless) -> Result<(), String> {
    let mut renewed: Option<&Op> = None;
    let mut renewed_last = Duration::ZERO;
    for op in ops {
        match (&op.action, &op.outcome) {
            // A registration that repeats one is a renewal if the check is critical, and none while it passes.
            (Action::Register, Outcome::Written { .. }) if renewed_last.is_zero() => {
                renewed = Some(op);
                renewed_last = op.returned;
            }
            (Action::Report, Outcome::Written { .. }) => {
                renewed = Some(op);
                renewed_last = renewed_last.max(op.returned);
            }
            (Action::Register | Action::Report, outcome) if *outcome != Outcome::Failed => {
                renewed_last = renewed_last.max(op.returned.saturating_add(UNKNOWN_MAX));
            }
            (Action::Judge, Outcome::Judged { passes, .. }) => {
                let Some(renewed) = renewed else { continue };
                judge_read(op, *passes == Some(true), renewed, renewed_last, leaderless)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn judge_read(
    op: &Op,
    alive: bool,
    renewed: &Op,
    renewed_last: Duration,
    leaderless: &Leaderless,
) -> Result<(), String> {
    if !alive && op.returned < renewed.invoked + TTL {
        return Err(format!("expired early: {op}, after {renewed}"));
    }
    let (without, spans) = leaderless.between(renewed_last, op.invoked);
    let grace = without + LATE_MAX + SLOW_DISK + STAMP_EVERY * spans;
    if alive && op.invoked > renewed_last.saturating_add(TTL + grace) {
        return Err(format!(
            "expired late: {op}, after {renewed}; {without:?} of it without a leader, {spans} times"
        ));
    }
    Ok(())
}
