//! Back-pressure before the quota's wall.
//!
//! From [`SLOW_FROM`] on, what makes the state grow waits a little before it is proposed, the longer the less room is
//! left. So clients feel that something is wrong while all they send still succeeds, and an operator, whom the alarm
//! calls, has time. Deletes, renewals and everything else that doesn't grow never wait, as they are never refused.

use std::time::Duration;

use spine_core::limits::STATE_BYTES_MAX;

/// From this many bytes of state on, growth is slowed down, and the alarm is on: nine tenths of the quota. Old history has
/// been going since [three quarters](crate::leader::TIGHT_BYTES).
pub const SLOW_FROM: u64 = STATE_BYTES_MAX / 10 * 9;

/// The wait at the wall: short of what a client's deadline allows.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long growth waits while the state has `used` bytes.
pub(super) fn pause(used: u64) -> Duration {
    let beyond = used.saturating_sub(SLOW_FROM).min(STATE_BYTES_MAX - SLOW_FROM);
    let share = beyond * 1_000 / (STATE_BYTES_MAX - SLOW_FROM);
    PAUSE_MAX * u32::try_from(share).expect("at most 1000") / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_waits_the_longer_the_less_room_is_left() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(SLOW_FROM), Duration::ZERO);
        let half = pause(SLOW_FROM + (STATE_BYTES_MAX - SLOW_FROM) / 2);
        assert!(
            (Duration::from_millis(249)..=Duration::from_millis(250)).contains(&half),
            "{half:?}"
        );
        assert_eq!(pause(STATE_BYTES_MAX), PAUSE_MAX);
        assert_eq!(pause(u64::MAX), PAUSE_MAX);
    }
}
