//! How large the state may become, and what happens on the way there.
//!
//! That a write is refused at the quota is a rule of the replicated core, and so is the quota: it stands in the state, and a
//! leader that is told another one proposes it. What happens before is each server's own doing, and nobody's answer depends on
//! it. From three quarters on the leader has old history go. From nine tenths on the alarm is on, and what makes the state
//! grow waits a little before it is proposed, the longer the less room is left: clients feel that something is wrong while all
//! they send still succeeds, and an operator, whom the alarm calls, has time. Deletes, renewals and everything else that
//! doesn't grow never wait, as they are never refused. Where the alarm goes off again nobody has to switch anything.

use std::time::Duration;

use spine_core::limits::STATE_BYTES_MAX;

/// The wait at the wall: short of what a client's deadline allows.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The bytes that the state may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub u64);

impl Default for Quota {
    fn default() -> Self {
        Self(STATE_BYTES_MAX)
    }
}

impl Quota {
    /// Whether history goes early in a state of `used` bytes.
    pub fn is_tight(self, used: u64) -> bool {
        used >= self.0 / 4 * 3
    }

    /// Whether the alarm is on: growth is slowed down, and no history is spared.
    pub fn is_alarming(self, used: u64) -> bool {
        used > self.slow_from()
    }

    fn slow_from(self) -> u64 {
        self.0 / 10 * 9
    }

    /// How long growth waits while the state has `used` bytes.
    pub fn pause(self, used: u64) -> Duration {
        let room = self.0 - self.slow_from();
        let beyond = used.saturating_sub(self.slow_from()).min(room);
        let share = beyond * 1_000 / room.max(1);
        PAUSE_MAX * u32::try_from(share).expect("at most 1000") / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_waits_the_longer_the_less_room_is_left() {
        for quota in [Quota::default(), Quota(16 << 20)] {
            let slow_from = quota.slow_from();
            assert_eq!(quota.pause(0), Duration::ZERO);
            assert_eq!(quota.pause(slow_from), Duration::ZERO);
            let half = quota.pause(slow_from + (quota.0 - slow_from) / 2);
            assert!(
                (Duration::from_millis(249)..=Duration::from_millis(250)).contains(&half),
                "{half:?}"
            );
            assert_eq!(quota.pause(quota.0), PAUSE_MAX);
            assert_eq!(quota.pause(u64::MAX), PAUSE_MAX);
        }
    }

    #[test]
    fn history_goes_first_then_the_alarm_is_on() {
        let quota = Quota(16 << 20);
        let at = |mib: u64| (quota.is_tight(mib << 20), quota.is_alarming(mib << 20));
        assert_eq!(
            [at(11), at(12), at(14), at(15)],
            [(false, false), (true, false), (true, false), (true, true)]
        );
    }
}
