//! How fast this server's log is, as it finds in its own writes: each from its beginning until the disk has it.
//!
//! The write itself counts, and not the flush alone: where a file system is frozen or its cache is full, it is the write
//! that waits.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use crate::limits;

/// What is older no longer counts: a disk that is well again is soon known to be.
pub const WINDOW: Duration = Duration::from_secs(10);

/// The writes of the last [`WINDOW`]. The log's thread tells, others ask. Times are of one monotonic clock.
#[derive(Debug, Default)]
pub struct Flushes(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// When each ended, and how long it had taken.
    writes: VecDeque<(Duration, Duration)>,
    /// Since when the one takes that is under way.
    began: Option<Duration>,
}

/// How fast a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Writes looked at.
    pub writes: u32,
    /// The time that half of them took at most.
    pub median: Duration,
    /// The time that 99 of 100 took at most.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// So long the write has taken that is under way.
    pub waiting: Duration,
}

impl Flushes {
    /// A write begins; one at a time.
    pub fn begins(&self, now: Duration) {
        self.0.lock().began.get_or_insert(now);
    }

    /// The disk has it.
    pub fn ends(&self, now: Duration) {
        let mut recent = self.0.lock();
        let Some(began) = recent.began.take() else {
            return;
        };
        if recent.writes.len() == limits::FLUSHES_KEPT_MAX {
            recent.writes.pop_front();
        }
        recent.writes.push_back((now, now.saturating_sub(began)));
    }

    /// How long the write has taken that is under way.
    pub fn waiting(&self, now: Duration) -> Duration {
        let began = self.0.lock().began;
        began.map_or(Duration::ZERO, |began| now.saturating_sub(began))
    }

    /// How fast they are.
    pub fn pace(&self, now: Duration) -> Pace {
        let waiting = self.waiting(now);
        let mut recent = self.0.lock();
        let is_old = |(ended, _): &(Duration, Duration)| now.saturating_sub(*ended) > WINDOW;
        while recent.writes.front().is_some_and(is_old) {
            recent.writes.pop_front();
        }
        let took = recent.writes.iter().map(|(_, took)| *took).collect();
        drop(recent);
        Pace::of(took, waiting)
    }
}

impl Pace {
    /// What writes that took so long come to.
    fn of(mut took: Vec<Duration>, waiting: Duration) -> Self {
        took.sort_unstable();
        // The smallest that so many in a hundred don't exceed.
        let quantile = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100).max(1);
            took.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            writes: u32::try_from(took.len()).unwrap_or(u32::MAX),
            median: quantile(50),
            p99: quantile(99),
            longest: quantile(100),
            waiting,
        }
    }

    /// What a write must expect to wait: half of them wait as long, and none less than the one under way.
    pub fn slowness(&self) -> Duration {
        self.median.max(self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(flushes: &Flushes, began: u64, took: u64) {
        flushes.begins(ms(began));
        flushes.ends(ms(began + took));
    }

    #[test]
    fn half_and_nearly_all_of_the_writes() {
        let flushes = Flushes::default();
        assert_eq!(flushes.pace(ms(0)), Pace::default());
        for number in 0..200 {
            write(&flushes, number * 10, if number % 100 == 99 { 9 } else { 2 });
        }
        let pace = flushes.pace(ms(2_000));
        assert_eq!((pace.writes, pace.median, pace.p99), (200, ms(2), ms(2)));
        assert_eq!((pace.longest, pace.waiting), (ms(9), ms(0)));
    }

    #[test]
    fn what_is_old_no_longer_counts() {
        let flushes = Flushes::default();
        write(&flushes, 0, 500);
        write(&flushes, 5_000, 1);
        let window = u64::try_from(WINDOW.as_millis()).unwrap();
        assert_eq!(flushes.pace(ms(500 + window)).longest, ms(500));
        let pace = flushes.pace(ms(501 + window));
        assert_eq!((pace.writes, pace.longest), (1, ms(1)));
    }

    #[test]
    fn a_write_that_does_not_come_back_counts_as_long_as_it_takes() {
        let flushes = Flushes::default();
        write(&flushes, 0, 1);
        flushes.begins(ms(100));
        // The same write goes on: a group that is written again after a segment was begun.
        flushes.begins(ms(150));
        let pace = flushes.pace(ms(4_100));
        assert_eq!((pace.waiting, pace.slowness()), (ms(4_000), ms(4_000)));
        flushes.ends(ms(5_000));
        assert_eq!(flushes.pace(ms(5_000)).longest, ms(4_900));
    }

    #[test]
    fn no_more_are_kept_than_so_many() {
        let flushes = Flushes::default();
        for number in 0..=limits::FLUSHES_KEPT_MAX as u64 {
            write(&flushes, number, u64::from(number == 0));
        }
        let pace = flushes.pace(ms(5_000));
        assert_eq!(pace.writes as usize, limits::FLUSHES_KEPT_MAX);
        assert_eq!(pace.longest, ms(0), "the oldest has gone");
    }
}
