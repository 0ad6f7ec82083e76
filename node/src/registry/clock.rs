//! Cluster time: the only time that rules know, made from the leader's monotonic clock.
//!
//! It goes on from the greatest stamp in the log and never falls. Time in which the leader could not have answered a
//! renewal is not counted: neither a pause of the process (the loop that stamps was not run for over an election
//! timeout), nor a time in which what is committed is not applied. Whoever was about to renew then has not lost
//! anything.

use std::time::Duration;

use spine_core::Time;

use crate::raft::ELECTION_TIMEOUT;

/// What is committed may lag so long in being applied before deadlines stand still.
pub const LAG_MAX: Duration = Duration::from_millis(200);

/// The leader's cluster time.
#[derive(Clone, Debug)]
pub struct ClusterClock {
    /// As of `looked`; finer than the stamps, so that nothing is lost to rounding.
    time: Duration,
    /// When the monotonic clock was looked at last.
    looked: Duration,
}

impl ClusterClock {
    /// Goes on from `time`, at `now` of the monotonic clock.
    pub fn start(time: Time, now: Duration) -> Self {
        Self {
            time: Duration::from_millis(time.0),
            looked: now,
        }
    }

    /// Lets it go on to `now`, unless deadlines are `held`. To be called much more often than once in an election
    /// timeout.
    pub fn turn(&mut self, now: Duration, held: bool) {
        let passed = now.saturating_sub(self.looked);
        self.looked = now;
        if passed > ELECTION_TIMEOUT {
            tracing::warn!(
                paused_ms = passed.as_millis(),
                "this node was paused; deadlines stood still"
            );
        } else if !held {
            self.time += passed;
        }
    }

    /// The stamp of an entry made now.
    pub fn stamp(&self) -> Time {
        Time(u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Watches how far what is applied lags behind what is committed.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    /// A position that was committed and not applied, and since when it is known.
    waiting: Option<(u64, Duration)>,
    over: bool,
}

impl Lag {
    /// Whether something has been committed for longer than [`LAG_MAX`] and isn't applied.
    pub fn look(&mut self, committed: u64, applied: u64, now: Duration) -> bool {
        self.waiting = self.waiting.filter(|(position, _)| *position > applied);
        if self.waiting.is_none() && committed > applied {
            self.waiting = Some((committed, now));
        }
        self.over = self
            .waiting
            .is_some_and(|(_, since)| now.saturating_sub(since) > LAG_MAX);
        self.over
    }

    /// What the last look said.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn goes_on_with_the_monotonic_clock_and_loses_nothing_to_rounding() {
        let mut clock = ClusterClock::start(Time(1_000), ms(77));
        for step in 1..=2_000 {
            clock.turn(ms(77) + Duration::from_micros(step * 500), false);
        }
        assert_eq!(clock.stamp(), Time(2_000));
    }

    #[test]
    fn never_falls() {
        let mut clock = ClusterClock::start(Time(5), ms(100));
        clock.turn(ms(50), false);
        assert_eq!(clock.stamp(), Time(5));
    }

    #[test]
    fn a_pause_is_not_counted() {
        let mut clock = ClusterClock::start(Time(0), ms(0));
        clock.turn(ms(100), false);
        clock.turn(ms(60_000), false);
        assert_eq!(clock.stamp(), Time(100));
        clock.turn(ms(60_100), false);
        assert_eq!(clock.stamp(), Time(200));
    }

    #[test]
    fn stands_still_while_held() {
        let mut clock = ClusterClock::start(Time(0), ms(0));
        clock.turn(ms(100), true);
        clock.turn(ms(150), false);
        assert_eq!(clock.stamp(), Time(50));
    }

    #[test]
    fn lag_is_of_one_position_not_of_a_stream_that_never_rests() {
        let mut lag = Lag::default();
        // Always one behind, but each is applied within 10 ms.
        for step in 0..100 {
            assert!(!lag.look(step + 1, step, ms(step * 10)));
        }
        assert!(!lag.look(200, 100, ms(2_000)));
        assert!(!lag.look(300, 150, ms(2_200)));
        assert!(lag.look(300, 150, ms(2_201)));
        assert!(
            !lag.look(300, 200, ms(2_202)),
            "the position waited for is applied"
        );
    }
}
