//! When an instance is left alone, and when it is tried again. Pure: the time comes in.
//!
//! ```text
//!             failures in a row                 the pause is over: one request, the probe
//!   closed ──────────────────────► open ──────────────────────────────────────────────► probing
//!      ▲                            ▲                                                      │  │
//!      │                            └──────────────────── it fails ────────────────────────┘  │
//!      └────────────────────────────────────── it succeeds ───────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use crate::limits::DURATION_MAX;

/// When an instance is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row after which it gets no more requests; 0 is taken as 1. 3 unless told.
    pub failures: u32,
    /// The pause after which one request is let through to see whether it serves again; more than a year is taken as
    /// one. 30 s unless told.
    pub pause: Duration,
}

impl BreakerPolicy {
    /// When a pause ends that begins now.
    fn after_pause(&self, now: Instant) -> Instant {
        now + self.pause.min(DURATION_MAX)
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 3,
            pause: Duration::from_secs(30),
        }
    }
}

/// The breaker of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    turn: Turn,
}

/// The stretch between two changes of a breaker in which a request was let through: what it reports later counts only
/// within the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn(u64);

#[derive(Clone, Copy, Debug)]
enum State {
    /// Requests pass; so many have failed in a row.
    Closed(u32),
    /// None passes before then.
    Open(Instant),
    /// One is under way. If it says nothing until then, it is lost, and another one goes.
    Probing(Instant),
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(0)
    }
}

impl Breaker {
    /// Whether requests pass.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// When the next probe may go; `None` while requests pass.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Closed(_) => None,
            State::Open(until) | State::Probing(until) => Some(until),
        }
    }

    /// Lets a request through, if it may go.
    pub(crate) fn enter(&mut self, now: Instant, policy: BreakerPolicy) -> Option<Turn> {
        match self.state {
            State::Closed(_) => Some(self.turn),
            State::Open(until) | State::Probing(until) if until <= now => {
                self.change(State::Probing(policy.after_pause(now)));
                Some(self.turn)
            }
            State::Open(_) | State::Probing(_) => None,
        }
    }

    /// A request of this turn succeeded.
    pub(crate) fn succeeded(&mut self, turn: Turn) {
        if turn != self.turn {
            return;
        }
        match self.state {
            State::Closed(_) => self.state = State::Closed(0),
            State::Open(_) | State::Probing(_) => self.change(State::Closed(0)),
        }
    }

    /// A request of this turn failed.
    pub(crate) fn failed(&mut self, turn: Turn, now: Instant, policy: BreakerPolicy) {
        if turn != self.turn {
            return;
        }
        match self.state {
            State::Closed(failures) if failures + 1 < policy.failures => {
                self.state = State::Closed(failures + 1);
            }
            State::Closed(_) | State::Open(_) | State::Probing(_) => {
                self.change(State::Open(policy.after_pause(now)));
            }
        }
    }

    /// A request of this turn ended and says nothing: a probe's place is free again.
    pub(crate) fn abandoned(&mut self, turn: Turn, now: Instant) {
        if turn == self.turn && matches!(self.state, State::Probing(_)) {
            self.change(State::Open(now));
        }
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.turn = Turn(self.turn.0 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        failures: 3,
        pause: Duration::from_secs(30),
    };

    fn fail(breaker: &mut Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            let turn = breaker.enter(now, POLICY).unwrap();
            breaker.failed(turn, now, POLICY);
        }
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_a_success_begins_the_count_anew() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        fail(&mut breaker, now, 2);
        let turn = breaker.enter(now, POLICY).unwrap();
        breaker.succeeded(turn);
        fail(&mut breaker, now, 2);
        assert!(breaker.is_closed());
        fail(&mut breaker, now, 1);
        assert!(!breaker.is_closed() && breaker.enter(now, POLICY).is_none());
    }

    #[test]
    fn one_probe_goes_after_the_pause_and_its_success_closes() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        fail(&mut breaker, now, 3);
        let due = now + POLICY.pause;
        assert_eq!(breaker.probe_at(), Some(due));
        assert!(
            breaker
                .enter(due.checked_sub(Duration::from_millis(1)).unwrap(), POLICY)
                .is_none()
        );
        let probe = breaker.enter(due, POLICY).unwrap();
        assert!(breaker.enter(due, POLICY).is_none(), "one at a time");
        breaker.succeeded(probe);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_is_given_up_makes_room() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        fail(&mut breaker, now, 3);
        let due = now + POLICY.pause;
        let probe = breaker.enter(due, POLICY).unwrap();
        breaker.failed(probe, due, POLICY);
        assert_eq!(breaker.probe_at(), Some(due + POLICY.pause));
        let again = due + POLICY.pause;
        let probe = breaker.enter(again, POLICY).unwrap();
        breaker.abandoned(probe, again);
        let probe = breaker.enter(again, POLICY).unwrap();
        // It says nothing for so long that it must be lost.
        let lost = again + POLICY.pause;
        assert!(breaker.enter(lost, POLICY).is_some());
        breaker.succeeded(probe);
        assert!(!breaker.is_closed(), "it had its time");
    }

    #[test]
    fn a_pause_without_an_end_is_a_year() {
        let policy = BreakerPolicy {
            failures: 1,
            pause: Duration::MAX,
        };
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for since in [now, now + DURATION_MAX] {
            let turn = breaker.enter(since, policy).unwrap();
            breaker.failed(turn, since, policy);
            assert_eq!(breaker.probe_at(), Some(since + DURATION_MAX));
        }
    }

    #[test]
    fn what_was_let_through_before_a_change_says_nothing_after_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let early = breaker.enter(now, POLICY).unwrap();
        fail(&mut breaker, now, 3);
        breaker.succeeded(early);
        assert!(!breaker.is_closed());
        let probe = breaker.enter(now + POLICY.pause, POLICY).unwrap();
        breaker.succeeded(probe);
        for _ in 0..3 {
            breaker.failed(early, now, POLICY);
        }
        assert!(breaker.is_closed());
    }
}
