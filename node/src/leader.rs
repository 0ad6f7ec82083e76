//! What only a leader does, decided: ends what is due, keeps the log's clock going, compacts history.
//!
//! [`Duties::due`] is asked by the task that submits entries, many times a second, and looks at what it is given alone.

use std::time::Duration;

use spine_core::{Command, Revision, State, Time};

/// While any deadline exists an entry is made at least so often: after a restart of all voters cluster time goes on
/// from the last one.
pub const ENTRY_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether history is to be compacted.
const COMPACT_EVERY: Duration = Duration::from_mins(1);

/// What a leader sees when it asks what is due.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest state applied.
    pub state: &'a State,
    /// The cluster time.
    pub time: Time,
    /// The monotonic clock.
    pub now: Duration,
    /// Renewals wait to be proposed or applied.
    pub renewals_wait: bool,
    /// What is committed lags in being applied.
    pub lags: bool,
}

/// Something that a leader must do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// Propose a command.
    Propose(Command),
    /// Make an entry without requests, for its stamp.
    Stamp,
}

/// A leader's duties.
#[derive(Clone, Debug)]
pub struct Duties {
    /// Revisions of history that are kept.
    history_revisions: u64,
    /// When the last entry was made.
    entry_made: Duration,
    /// When compaction is looked at next.
    compact_at: Duration,
    /// A command of these duties is not answered yet.
    busy: bool,
}

impl Duties {
    /// The duties of a leader that begins at `now` of the monotonic clock.
    pub fn new(history_revisions: u64, now: Duration) -> Self {
        Self {
            history_revisions,
            entry_made: now,
            compact_at: now + COMPACT_EVERY,
            busy: false,
        }
    }

    /// Notes that an entry was made.
    pub fn entry_made(&mut self, now: Duration) {
        self.entry_made = now;
    }

    /// Notes that the command given by [`due`](Self::due) was answered.
    pub fn done(&mut self) {
        self.busy = false;
    }

    /// What is due, if anything is. A command is given once, and the next only after it is [`done`](Self::done).
    pub fn due(&mut self, view: View<'_>) -> Option<Duty> {
        if let Some(command) = self.command(view) {
            self.busy = true;
            return Some(Duty::Propose(command));
        }
        let stamp = view.state.next_deadline().is_some() && view.now >= self.entry_made + ENTRY_EVERY;
        stamp.then_some(Duty::Stamp)
    }

    fn command(&mut self, view: View<'_>) -> Option<Command> {
        if self.busy {
            return None;
        }
        // A renewal that came in time must be applied before what it renews is ended.
        let may_end = !view.renewals_wait && !view.lags;
        if may_end
            && view
                .state
                .next_deadline()
                .is_some_and(|deadline| deadline <= view.time)
        {
            return Some(Command::Pulse);
        }
        if view.now >= self.compact_at {
            self.compact_at = view.now + COMPACT_EVERY;
            return self.compaction(view.state).map(Command::Compact);
        }
        None
    }

    /// The revision to compact to, once that forgets a hundredth of what is kept: small steps cost entries.
    fn compaction(&self, state: &State) -> Option<Revision> {
        let floor = state.revision().0.saturating_sub(self.history_revisions);
        let worth = (self.history_revisions / 100).max(1);
        (floor >= state.kv().compacted().0 + worth).then_some(Revision(floor))
    }
}

#[cfg(test)]
mod tests {
    use spine_core::{Entry, Guard, LeaseGrant, LeaseId, Put, Repeat, Request, Ttl, WallTime};

    use super::*;

    fn applied(commands: impl IntoIterator<Item = Command>) -> State {
        let mut state = State::new();
        for command in commands {
            state.apply(&Entry {
                time: Time(0),
                wall: WallTime(0),
                requests: vec![Request::internal(command)],
            });
        }
        state
    }

    fn with_lease() -> State {
        applied([Command::LeaseGrant(LeaseGrant {
            id: LeaseId(7),
            ttl: Ttl::seconds(10),
        })])
    }

    fn view(state: &State, time: u64) -> View<'_> {
        View {
            state,
            time: Time(time),
            now: Duration::from_millis(time),
            renewals_wait: false,
            lags: false,
        }
    }

    fn duties() -> Duties {
        Duties::new(100, Duration::ZERO)
    }

    #[test]
    fn a_pulse_when_a_deadline_has_come_and_only_one_at_a_time() {
        let state = with_lease();
        let mut duties = duties();
        duties.entry_made(Duration::from_secs(9));
        assert_eq!(duties.due(view(&state, 9_999)), None);
        assert_eq!(
            duties.due(view(&state, 10_000)),
            Some(Duty::Propose(Command::Pulse))
        );
        assert_eq!(duties.due(view(&state, 10_001)), None);
        duties.done();
        assert_eq!(
            duties.due(view(&state, 10_002)),
            Some(Duty::Propose(Command::Pulse))
        );
    }

    #[test]
    fn no_pulse_while_renewals_wait_or_applying_lags() {
        let state = with_lease();
        let mut duties = duties();
        duties.entry_made(Duration::from_secs(10));
        assert_eq!(
            duties.due(View {
                renewals_wait: true,
                ..view(&state, 11_000)
            }),
            None
        );
        assert_eq!(
            duties.due(View {
                lags: true,
                ..view(&state, 11_000)
            }),
            None
        );
    }

    #[test]
    fn an_entry_every_five_seconds_while_a_deadline_exists() {
        let mut duties = duties();
        assert_eq!(duties.due(view(&State::new(), 5_000)), None);
        let state = with_lease();
        assert_eq!(duties.due(view(&state, 4_999)), None);
        assert_eq!(duties.due(view(&state, 5_000)), Some(Duty::Stamp));
        duties.entry_made(Duration::from_secs(5));
        assert_eq!(duties.due(view(&state, 9_999)), None);
    }

    #[test]
    fn history_is_compacted_to_what_is_kept() {
        let put = |n: u64| {
            Command::Put(Put {
                key: "k".into(),
                value: n.to_string().into(),
                flags: 0,
                lease: None,
                guard: Guard::Always,
                repeat: Repeat::Write,
            })
        };
        let mut duties = duties();
        let few = applied((0..99).map(put));
        assert_eq!(duties.due(view(&few, 60_000)), None);
        let many = applied((0..150).map(put));
        assert_eq!(
            duties.due(view(&many, 60_001)),
            None,
            "not before a minute is over"
        );
        let due = duties.due(view(&many, 120_000));
        assert_eq!(
            due,
            Some(Duty::Propose(Command::Compact(Revision(many.revision().0 - 100))))
        );
    }
}
