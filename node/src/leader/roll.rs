//! Which servers the leader has lost, and which are back.

use std::{collections::BTreeMap, time::Duration};

use spine_core::{MemberReport, MemberStatus, State};

use crate::raft::ELECTION_TIMEOUT;

/// A server that was not heard for so long is lost: ten heartbeats. Its checks must run elsewhere within 3 s of its
/// death; if it led, an election comes first (up to two election timeouts), and its checks are spread over half a second.
pub const LOST_AFTER: Duration = Duration::from_secs(1);
/// One that was lost is back once it has been heard for so long without a gap: it catches up with the log meanwhile, and
/// a link that flaps moves its checks no more often. A server that starts says itself when it has caught up.
pub const BACK_AFTER: Duration = Duration::from_secs(1);
/// A silence of so long is a gap: three heartbeats.
const GAP: Duration = Duration::from_millis(300);

/// When the leader last heard each server, by its own monotonic clock. Who was not heard since it leads is missing.
pub type Heard = BTreeMap<u64, Duration>;

/// The leader calls the roll.
#[derive(Clone, Debug)]
pub(super) struct Roll {
    /// This server, which always hears itself.
    node: u64,
    /// Everybody counts as heard then: at the beginning of the leadership, and after a pause, in which nobody's word
    /// was taken.
    amnesty: Duration,
    /// When the clock was looked at last.
    looked: Duration,
    /// Since when those that were lost are heard without a gap.
    back: BTreeMap<u64, Duration>,
}

impl Roll {
    /// The roll of a leader that begins at `now` of the monotonic clock.
    pub(super) fn new(node: u64, now: Duration) -> Self {
        Self {
            node,
            amnesty: now,
            looked: now,
            back: BTreeMap::new(),
        }
    }

    /// What has to be said of a server, if anything has. To be called much more often than once in an election timeout.
    pub(super) fn call(&mut self, state: &State, heard: &Heard, now: Duration) -> Option<MemberReport> {
        if now.saturating_sub(self.looked) > ELECTION_TIMEOUT {
            self.amnesty = now;
            self.back.clear();
        }
        self.looked = now;
        let mut said = None;
        for member in state.members() {
            let present = state.liveness_of(&member.name).status;
            let status = match present {
                _ if member.id == self.node => MemberStatus::Alive,
                MemberStatus::Alive => self.of_alive(member.id, heard, now),
                MemberStatus::Failed => self.of_lost(member.id, heard, now),
            };
            // All are looked at: those that come back are timed.
            if status != present && said.is_none() {
                said = Some(MemberReport {
                    name: member.name.clone(),
                    id: member.id,
                    status,
                });
            }
        }
        said
    }

    fn of_alive(&mut self, id: u64, heard: &Heard, now: Duration) -> MemberStatus {
        self.back.remove(&id);
        let heard = heard.get(&id).copied().unwrap_or_default().max(self.amnesty);
        if now.saturating_sub(heard) > LOST_AFTER {
            MemberStatus::Failed
        } else {
            MemberStatus::Alive
        }
    }

    fn of_lost(&mut self, id: u64, heard: &Heard, now: Duration) -> MemberStatus {
        let gap = heard
            .get(&id)
            .is_none_or(|heard| now.saturating_sub(*heard) > GAP);
        if gap {
            self.back.remove(&id);
            return MemberStatus::Failed;
        }
        let since = *self.back.entry(id).or_insert(now);
        if now.saturating_sub(since) >= BACK_AFTER {
            MemberStatus::Alive
        } else {
            MemberStatus::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use spine_core::{Command, Member, NodeName};

    use super::*;
    use crate::leader::applied::apply;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn three() -> State {
        let mut state = State::new();
        for id in 1..=3_u64 {
            let member = Member {
                name: NodeName::parse(&format!("n{id}")).unwrap(),
                id,
                node_uuid: format!("uuid-{id}").into(),
                host: "127.0.0.1".into(),
                peer_address: "".into(),
                http_address: "".into(),
                grpc_address: "".into(),
                version: "0.1.0".into(),
                rules: 1,
            };
            apply(&mut state, Command::MemberUp(member));
        }
        state
    }

    fn report(id: u64, status: MemberStatus) -> MemberReport {
        MemberReport {
            name: NodeName::parse(&format!("n{id}")).unwrap(),
            id,
            status,
        }
    }

    /// Calls the roll every 50 ms; the first thing said, and when. `heard` tells when each of 2 and 3 was heard last.
    fn until_said(
        roll: &mut Roll,
        state: &State,
        from: u64,
        heard: impl Fn(u64) -> [Option<u64>; 2],
    ) -> Option<(u64, MemberReport)> {
        (from..from + 5_000).step_by(50).find_map(|now| {
            let ids = [2, 3].into_iter().zip(heard(now));
            let heard = ids.filter_map(|(id, at)| Some((id, ms(at?)))).collect();
            roll.call(state, &heard, ms(now)).map(|report| (now, report))
        })
    }

    #[test]
    fn one_that_falls_silent_is_lost_after_a_second() {
        let mut roll = Roll::new(1, ms(0));
        let said = until_said(&mut roll, &three(), 0, |now| [Some(now), Some(now.min(2_000))]);
        assert_eq!(said, Some((3_050, report(3, MemberStatus::Failed))));
    }

    #[test]
    fn a_new_leader_gives_everybody_time_to_be_heard() {
        let mut roll = Roll::new(1, ms(60_000));
        let said = until_said(&mut roll, &three(), 60_000, |now| [Some(now), None]);
        assert_eq!(said, Some((61_050, report(3, MemberStatus::Failed))));
    }

    #[test]
    fn after_a_pause_of_the_leader_nobody_is_lost_at_once() {
        let (mut roll, state) = (Roll::new(1, ms(0)), three());
        assert_eq!(roll.call(&state, &Heard::new(), ms(500)), None);
        let said = until_said(&mut roll, &state, 10_000, |now| {
            [Some(now.max(10_200)).filter(|_| now >= 10_200), None]
        });
        assert_eq!(said, Some((11_050, report(3, MemberStatus::Failed))));
    }

    #[test]
    fn one_that_is_heard_again_is_back_when_it_stays() {
        let (mut roll, mut state) = (Roll::new(1, ms(0)), three());
        apply(&mut state, Command::MemberStatus(report(3, MemberStatus::Failed)));
        // Heard at once, then not for half a second, then for good.
        let heard = |now: u64| match now {
            0..=1_000 | 1_500.. => now,
            _ => 1_000,
        };
        let said = until_said(&mut roll, &state, 600, |now| [Some(now), Some(heard(now))]);
        assert_eq!(said, Some((2_500, report(3, MemberStatus::Alive))));
    }

    #[test]
    fn one_that_was_lost_before_and_leads_now_is_there() {
        let mut state = three();
        apply(&mut state, Command::MemberStatus(report(1, MemberStatus::Failed)));
        let said = Roll::new(1, ms(0)).call(&state, &Heard::new(), ms(0));
        assert_eq!(said, Some(report(1, MemberStatus::Alive)));
    }
}
