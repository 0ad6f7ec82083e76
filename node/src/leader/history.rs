//! How much of the keys' history is kept, and when some of it is to go.
//!
//! Two bounds are the operator's: so many revisions, and none older than so long. A third is the quota's: once the state
//! is near it, history goes before writes are refused, the older half of what there is at each look. What is forgotten is
//! forgotten by an entry, on all servers alike; the rows go with the entries after it.
//!
//! A leader knows since when a revision is there only if it was leading then. So after an election history may be kept
//! for up to twice as long as it should be, and never shorter.

use std::{collections::VecDeque, time::Duration};

use spine_core::{Revision, State};

use super::Quota;

/// So many of the newest revisions stay where history goes early: watchers need them. Once growth is slowed down they go, too:
/// all that was deleted may lie in the last of them.
pub const REVISIONS_MIN: u64 = 1_000;
/// How often it is looked whether history is to go, at the least.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// And while space is tight.
const LOOK_EVERY_WHEN_TIGHT: Duration = Duration::from_secs(1);
/// Within the greatest age so many moments are remembered.
const MOMENTS: u32 = 256;

/// What of the keys' history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryKept {
    /// So many revisions.
    pub revisions: u64,
    /// And of these none that was overwritten longer ago; `None`: age doesn't matter.
    pub age: Option<Duration>,
}

impl Default for HistoryKept {
    /// 100,000 revisions of any age: enough for a watcher that was away for minutes of full load.
    fn default() -> Self {
        Self {
            revisions: 100_000,
            age: None,
        }
    }
}

/// Decides what is to be forgotten.
#[derive(Clone, Debug)]
pub(super) struct Compaction {
    kept: HistoryKept,
    look_at: Duration,
    /// History goes early, and operators have been told.
    tight: bool,
    /// When which revision was the newest, oldest first.
    moments: VecDeque<(Duration, Revision)>,
}

impl Compaction {
    /// Begins at `now` of the monotonic clock.
    pub(super) fn new(kept: HistoryKept, now: Duration) -> Self {
        Self {
            kept,
            look_at: now + look_every(kept),
            tight: false,
            moments: VecDeque::new(),
        }
    }

    /// The revision to compact to, if it is time to look and worth an entry.
    pub(super) fn due(&mut self, state: &State, now: Duration) -> Option<Revision> {
        let (quota, used) = (Quota(state.quota()), state.bytes());
        // It may have become tight within seconds, and then nobody waits for the next look.
        let becomes_tight = !self.tight && quota.is_tight(used);
        if now < self.look_at && !becomes_tight {
            return None;
        }
        let tight = self.is_tight(quota, used);
        self.look_at = now
            + if tight {
                LOOK_EVERY_WHEN_TIGHT
            } else {
                look_every(self.kept)
            };
        self.remember(state.revision(), now);
        let (newest, oldest) = (state.revision().0, state.kv().compacted().0);
        let by_count = newest.saturating_sub(self.kept.revisions);
        // Small steps cost entries: a hundredth of what is kept, or of the age's moments.
        let worth = (self.kept.revisions / 100).max(1);
        let by_count = (by_count >= oldest + worth).then_some(by_count);
        let by_age = self.older_than_kept(now).filter(|floor| *floor > oldest);
        let spared = if quota.is_alarming(used) { 0 } else { REVISIONS_MIN };
        let by_space = tight.then(|| half(oldest, newest, spared)).flatten();
        let floor = [by_count, by_age, by_space].into_iter().flatten().max();
        floor.map(Revision)
    }

    /// Whether space is tight; says so where that has changed.
    fn is_tight(&mut self, quota: Quota, used: u64) -> bool {
        let tight = quota.is_tight(used);
        if tight && !self.tight {
            tracing::warn!(
                used,
                quota = quota.0,
                "the state is near its quota: old versions of keys go early, and later writes that make it grow are slowed \
                 down, then refused; delete what isn't needed"
            );
        } else if self.tight && !tight {
            tracing::info!(used, quota = quota.0, "the state is far from its quota again");
        }
        self.tight = tight;
        tight
    }

    fn remember(&mut self, newest: Revision, now: Duration) {
        let Some(age) = self.kept.age else { return };
        let apart = age / MOMENTS;
        if self.moments.back().is_none_or(|(at, _)| now >= *at + apart) {
            self.moments.push_back((now, newest));
        }
    }

    /// The newest revision that was there before the greatest age.
    fn older_than_kept(&mut self, now: Duration) -> Option<u64> {
        let before = now.checked_sub(self.kept.age?)?;
        let mut floor = None;
        while let Some((_, revision)) = self.moments.pop_front_if(|(at, _)| *at <= before) {
            floor = Some(revision.0);
        }
        floor
    }
}

/// The middle of the history, as long as there is more than is spared.
fn half(oldest: u64, newest: u64, spared: u64) -> Option<u64> {
    let floor = oldest + (newest - oldest).div_ceil(2);
    let floor = floor.min(newest.saturating_sub(spared));
    (floor > oldest).then_some(floor)
}

/// Often enough that nothing stays a quarter longer than it should.
fn look_every(kept: HistoryKept) -> Duration {
    let age = kept.age.map_or(LOOK_EVERY, |age| age / 4);
    age.clamp(LOOK_EVERY_WHEN_TIGHT, LOOK_EVERY)
}

#[cfg(test)]
mod tests {
    use spine_core::{Command, Delete, Guard, KeyRange, Put, Repeat};

    use super::*;
    use crate::leader::applied::apply;

    fn write(state: &mut State, puts: u64) {
        for number in 0..puts {
            let put = Command::Put(Put {
                key: "k".into(),
                value: number.to_string().into(),
                flags: 0,
                lease: None,
                guard: Guard::Always,
                repeat: Repeat::Write,
            });
            apply(state, put);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_older_than_the_age_goes_and_nothing_younger() {
        let kept = HistoryKept {
            revisions: 1_000,
            age: Some(Duration::from_mins(10)),
        };
        let mut state = State::new();
        let mut compaction = Compaction::new(kept, Duration::ZERO);
        let mut forgotten = Vec::new();
        // A revision a second, for half an hour.
        for second in 1..=1800 {
            write(&mut state, 1);
            if let Some(floor) = compaction.due(&state, SECOND * second) {
                forgotten.push((second, floor.0));
                apply(&mut state, Command::Compact(floor));
            }
        }
        assert!(forgotten.len() > 10, "{forgotten:?}");
        for (second, floor) in &forgotten {
            // The revision that was written at `at` is `at + 1`.
            let at = floor - 1;
            let age = u64::from(*second) - at;
            assert!(
                (600..=720).contains(&age),
                "at {second} s the floor is {age} s old"
            );
        }
        // While nothing is written the rest of it becomes older as well, but the newest state of all stays.
        let mut last = None;
        for second in 1801..=3600 {
            if let Some(floor) = compaction.due(&state, SECOND * second) {
                apply(&mut state, Command::Compact(floor));
                last = Some(floor);
            }
        }
        assert_eq!(last, Some(state.revision()));
    }

    #[test]
    fn without_an_age_only_the_count_matters() {
        let kept = HistoryKept {
            revisions: 100,
            age: None,
        };
        let mut state = State::new();
        let mut compaction = Compaction::new(kept, Duration::ZERO);
        write(&mut state, 99);
        assert_eq!(compaction.due(&state, SECOND * 600), None);
        write(&mut state, 50);
        assert_eq!(
            compaction.due(&state, SECOND * 601),
            None,
            "it was looked a second ago"
        );
        assert_eq!(
            compaction.due(&state, SECOND * 660),
            Some(Revision(state.revision().0 - 100))
        );
    }

    #[test]
    fn where_space_is_tight_the_older_half_goes_until_little_is_left() {
        let (mut oldest, newest) = (0, 100_000);
        let mut looks = 0;
        while let Some(floor) = half(oldest, newest, REVISIONS_MIN) {
            assert!(floor > oldest && newest - floor >= REVISIONS_MIN);
            oldest = floor;
            looks += 1;
        }
        assert_eq!((newest - oldest, looks), (REVISIONS_MIN, 7));
        assert_eq!(half(0, REVISIONS_MIN, REVISIONS_MIN), None);
        assert_eq!(half(0, 5, REVISIONS_MIN), None);
        assert_eq!(half(4, 5, 0), Some(5));
        assert_eq!(half(5, 5, 0), None);
    }

    /// All keys are deleted at one stroke: what they were is history of the last revision.
    #[test]
    fn where_growth_is_slowed_down_no_revision_is_spared() {
        let quota = 16 << 20;
        let mut state = State::new();
        apply(&mut state, Command::RulesRaise(2));
        apply(&mut state, Command::QuotaSet(quota));
        for number in 0..30 {
            let put = Command::Put(Put {
                key: format!("k/{number}").into(),
                value: vec![0; 500 << 10].into(),
                flags: 0,
                lease: None,
                guard: Guard::Always,
                repeat: Repeat::Write,
            });
            apply(&mut state, put);
        }
        let delete = Command::Delete(Delete {
            range: KeyRange::prefix("k".into()),
            guard: Guard::Always,
        });
        apply(&mut state, delete);
        assert!(Quota(quota).is_alarming(state.bytes()), "{}", state.bytes());
        let mut compaction = Compaction::new(HistoryKept::default(), Duration::ZERO);
        for second in 1..10 {
            if let Some(floor) = compaction.due(&state, SECOND * second) {
                apply(&mut state, Command::Compact(floor));
            }
        }
        // The next entries drop it.
        for _ in 0..4 {
            apply(&mut state, Command::Pulse);
        }
        assert!(!Quota(quota).is_tight(state.bytes()), "{}", state.bytes());
    }
}
