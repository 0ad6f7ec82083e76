//! When nobody led: time that no deadline counts.

use std::time::Duration;

/// Times without a leader that could have had something committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaderless {
    /// From when to when; the last one may still be going on.
    spans: Vec<(Duration, Duration)>,
    now: Duration,
}

impl Leaderless {
    /// A step has ended at `now`, and somebody led at its end or nobody did.
    pub(crate) fn step(&mut self, now: Duration, led: bool) {
        let before = std::mem::replace(&mut self.now, now);
        if led {
            return;
        }
        match self.spans.last_mut() {
            Some((_, to)) if *to == before => *to = now,
            _ => self.spans.push((before, now)),
        }
    }

    /// How much of the time between two moments it was, and how many spans touch it.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> (Duration, u32) {
        let mut total = Duration::ZERO;
        let mut count = 0;
        for (begins, ends) in &self.spans {
            let common = (*ends).min(to).saturating_sub((*begins).max(from));
            if !common.is_zero() {
                total += common;
                count += 1;
            }
        }
        (total, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_joined_and_cut_to_the_question() {
        let ms = Duration::from_millis;
        let mut leaderless = Leaderless::default();
        for (now, led) in [(10, true), (20, false), (30, false), (40, true), (50, false)] {
            leaderless.step(ms(now), led);
        }
        assert_eq!(leaderless.between(ms(0), ms(100)), (ms(30), 2));
        assert_eq!(leaderless.between(ms(25), ms(45)), (ms(10), 2));
        assert_eq!(leaderless.between(ms(30), ms(40)), (ms(0), 0));
    }
}
