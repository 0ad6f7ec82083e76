//! Whether the leader gives leadership away because of its disk, and to whom: decided by what it sees. Nothing here waits.
//!
//! | its disk | for how long | how often |
//! |---|---|---|
//! | is slow: half of its writes take 50 ms, and ten times what they take elsewhere | 10 s | not within 5 minutes of the last time, whichever server it was |
//! | is stuck: a write has not come back for 5 s | at once | each time |
//!
//! Never to a server that is not far better, so there is no going to and fro: of two disks only one can be ten times
//! slower than the other. `node/decisions/0016-slow-disks.md` says where the numbers come from.

use std::time::Duration;

use super::Pace;

/// Half of the writes of a slow disk take so long: a rotating disk that is busy needs less.
pub const SLOW: Duration = Duration::from_millis(50);
/// And so many times what they take elsewhere: where all disks are slow nobody is better.
pub const SLOWER_TIMES: u32 = 10;
/// For so long: a disk that is busy with something else for a moment is let be.
pub const SLOW_FOR: Duration = Duration::from_secs(10);
/// A write that has not come back for so long may never.
pub const STUCK: Duration = Duration::from_secs(5);
/// After leadership was given away, whoever has it keeps it for so long, unless its disk is stuck.
pub const NOT_AGAIN_WITHIN: Duration = Duration::from_mins(5);
/// Fewer writes than these say nothing about a disk.
pub const WRITES_MIN: u32 = 3;
/// Between two looks no more than this passes, or the time begins anew.
const GAP: Duration = Duration::from_secs(3);

/// What the leader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its monotonic clock.
    pub now: Duration,
    /// How fast its own log is.
    pub own: Pace,
    /// How long ago any of the servers gave leadership away for this reason; `None`: none did.
    pub last: Option<Duration>,
    /// The last log position that is committed.
    pub committed: u64,
    /// The other voters that have answered lately.
    pub others: Vec<Voter>,
}

/// Another voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its node id.
    pub id: u64,
    /// How fast its log is.
    pub pace: Pace,
    /// The last log position that it is known to have; `None`: nothing is known.
    pub matched: Option<u64>,
}

/// To whom, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The voter that is to lead.
    pub to: u64,
    /// What a write has to expect here, in time,
    pub own: Duration,
    /// and there.
    pub other: Duration,
}

/// The leader's memory between two looks.
#[derive(Clone, Debug, Default)]
pub struct Stepping {
    /// Since when its disk is slow.
    slow_since: Option<Duration>,
    /// When it looked last, and what was committed then.
    looked: Option<(Duration, u64)>,
}

impl Stepping {
    /// Whether it is time to step aside. To be asked about once a second while this server leads.
    pub fn next(&mut self, view: &View) -> Option<Step> {
        let before = self.looked.replace((view.now, view.committed));
        let (looked, committed) = before.unwrap_or((view.now, view.committed));
        if view.now.saturating_sub(looked) > GAP {
            self.slow_since = None;
        }
        // Who has by now what was committed at the last look has caught up, however fast the log grows.
        let ready = |voter: &&Voter| voter.matched.is_some_and(|matched| matched >= committed);
        if view.own.waiting >= STUCK {
            return best(view, view.others.iter().filter(ready));
        }
        let better = if is_slow(view) {
            best(view, measured(view).filter(ready))
        } else {
            None
        };
        let Some(step) = better else {
            self.slow_since = None;
            return None;
        };
        let since = *self.slow_since.get_or_insert(view.now);
        let is_due = view.now.saturating_sub(since) >= SLOW_FOR;
        let is_too_soon = view.last.is_some_and(|ago| ago < NOT_AGAIN_WITHIN);
        (is_due && !is_too_soon).then_some(step)
    }
}

/// Voters of whose disks something is known.
fn measured(view: &View) -> impl Iterator<Item = &Voter> {
    view.others.iter().filter(|voter| voter.pace.writes >= WRITES_MIN)
}

fn is_slow(view: &View) -> bool {
    let own = view.own;
    let mut others: Vec<_> = measured(view).map(|voter| voter.pace.slowness()).collect();
    others.sort_unstable();
    let Some(typical) = others.get(others.len() / 2) else {
        return false;
    };
    let is_measured = own.writes >= WRITES_MIN || own.waiting >= SLOW;
    is_measured && own.slowness() > SLOW && own.slowness() > *typical * SLOWER_TIMES
}

/// The one with the fastest disk, if it is far faster than the leader's.
fn best<'a>(view: &View, voters: impl Iterator<Item = &'a Voter>) -> Option<Step> {
    let best = voters.min_by_key(|voter| (voter.pace.slowness(), voter.id))?;
    let (own, other) = (view.own.slowness(), best.pace.slowness());
    (own > other * SLOWER_TIMES).then_some(Step {
        to: best.id,
        own,
        other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const fn pace(median: u64) -> Pace {
        Pace {
            writes: 100,
            median: ms(median),
            p99: ms(median),
            longest: ms(median),
            waiting: Duration::ZERO,
        }
    }

    const fn stuck(waiting: u64) -> Pace {
        Pace {
            waiting: ms(waiting),
            ..pace(2)
        }
    }

    fn voter(id: u64, pace: Pace) -> Voter {
        Voter {
            id,
            pace,
            matched: Some(100),
        }
    }

    /// A leader of three.
    fn view(own: Pace, others: [Pace; 2]) -> View {
        View {
            now: Duration::ZERO,
            own,
            last: None,
            committed: 100,
            others: vec![voter(2, others[0]), voter(3, others[1])],
        }
    }

    /// Looks once a second at the same, and says after how many seconds it steps aside, and to whom.
    fn after(view: &View, seconds: u64) -> Option<(u64, u64)> {
        let mut stepping = Stepping::default();
        (0..=seconds).find_map(|second| {
            let now = Duration::from_secs(second);
            let step = stepping.next(&View { now, ..view.clone() })?;
            Some((second, step.to))
        })
    }

    #[test]
    fn what_is_slow_is_judged_by_the_others() {
        let cases = [
            (
                "far slower, for ten seconds",
                pace(200),
                [pace(5), pace(4)],
                Some((10, 3)),
            ),
            ("as fast as the others", pace(5), [pace(5), pace(4)], None),
            (
                "ten times slower, but not slow",
                pace(50),
                [pace(1), pace(1)],
                None,
            ),
            (
                "slow, and so is one of two others",
                pace(200),
                [pace(30), pace(2)],
                None,
            ),
            ("slow, and so are all", pace(200), [pace(150), pace(190)], None),
            (
                "far slower than two of which one is stuck",
                pace(200),
                [stuck(400), pace(2)],
                None,
            ),
            (
                "slow, and nothing is known of the others",
                pace(200),
                [Pace::default(); 2],
                None,
            ),
            (
                "a single long write",
                Pace {
                    writes: 1,
                    ..pace(200)
                },
                [pace(2); 2],
                None,
            ),
            ("stuck: at once", stuck(5_000), [pace(2), pace(4)], Some((0, 2))),
            (
                "stuck, and nothing was written elsewhere",
                stuck(5_000),
                [Pace::default(); 2],
                Some((0, 2)),
            ),
            (
                "stuck, and so is another",
                stuck(5_000),
                [stuck(9_000), pace(4)],
                Some((0, 3)),
            ),
            (
                "stuck, and so are all",
                stuck(5_000),
                [stuck(5_000), stuck(700)],
                None,
            ),
            (
                "stuck for a moment",
                stuck(4_900),
                [pace(2), pace(2)],
                Some((10, 2)),
            ),
        ];
        for (case, own, others, expected) in cases {
            assert_eq!(after(&view(own, others), 30), expected, "{case}");
        }
    }

    #[test]
    fn nobody_is_handed_leadership_who_is_behind_or_silent() {
        let mut view = view(pace(200), [pace(2), pace(3)]);
        view.others[0].matched = Some(99);
        assert_eq!(after(&view, 30), Some((10, 3)));
        view.others[1].matched = None;
        assert_eq!(after(&view, 30), None);
        view.others.clear();
        assert_eq!(after(&view, 30), None);
        assert_eq!(
            after(
                &View {
                    own: stuck(60_000),
                    ..view
                },
                30
            ),
            None
        );
    }

    #[test]
    fn not_again_within_five_minutes_of_anybodys_last_time() {
        let slow = view(pace(200), [pace(2), pace(3)]);
        let ago = |ago: u64| View {
            last: Some(Duration::from_secs(ago)),
            ..slow.clone()
        };
        assert_eq!(after(&ago(299), 60), None);
        assert_eq!(after(&ago(300), 60), Some((10, 2)));
        let stuck = View {
            own: stuck(5_000),
            ..ago(1)
        };
        assert_eq!(after(&stuck, 60), Some((0, 2)), "nothing is written at all then");
    }

    #[test]
    fn the_time_begins_anew_when_it_was_well_or_nobody_looked() {
        let slow = view(pace(200), [pace(2), pace(3)]);
        let well = view(pace(2), [pace(2), pace(3)]);
        let at = |second: u64, view: &View| View {
            now: Duration::from_secs(second),
            ..view.clone()
        };
        let mut stepping = Stepping::default();
        for second in 0..9 {
            assert_eq!(stepping.next(&at(second, &slow)), None);
        }
        assert_eq!(stepping.next(&at(9, &well)), None);
        for second in 10..20 {
            assert_eq!(stepping.next(&at(second, &slow)), None);
        }
        // The process was stopped for a minute.
        assert_eq!(stepping.next(&at(80, &slow)), None);
        for second in 81..90 {
            assert_eq!(stepping.next(&at(second, &slow)), None);
        }
        assert_eq!(stepping.next(&at(90, &slow)).map(|step| step.to), Some(2));
    }

    #[test]
    fn of_two_disks_only_one_gives_way_to_the_other() {
        for (one, other) in [(200, 2), (60, 5), (5_000, 60), (51, 5)] {
            let there = after(&view(pace(one), [pace(other), pace(other)]), 30);
            let back = after(&view(pace(other), [pace(one), pace(other)]), 30);
            assert!(there.is_some() && back.is_none(), "{one} and {other}");
        }
    }
}
