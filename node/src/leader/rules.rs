//! When the rules are raised: once every member has known newer ones for a while.
//!
//! Behind a raise there is no way back: a release that doesn't know the new rules can't go on with the log. So a leader waits
//! for a while in which all members are there and run the newer release; one that is stopped, or comes back with the older
//! one, begins it anew. `node/decisions/0015-upgrades.md` says why so.

use std::time::Duration;

use spine_core::{MemberStatus, RULES_KNOWN, State};

use super::View;

/// What keeps newer rules from being raised although all members know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesHold {
    /// They are raised when all members have known them for so long without a break.
    For(Duration),
    /// They are never raised while this node leads.
    Always,
}

impl Default for RulesHold {
    /// Long enough to see an upgrade go wrong, and short enough that nobody forgets that it isn't over.
    fn default() -> Self {
        Self::For(Duration::from_mins(1))
    }
}

/// A leader's memory of what all members know.
#[derive(Clone, Debug)]
pub(super) struct Raising {
    hold: RulesHold,
    known: u32,
    /// The rules that all know, and since when they have without a break.
    common: Option<(u32, Duration)>,
}

impl Raising {
    pub(super) fn new(hold: RulesHold) -> Self {
        Self {
            hold,
            known: RULES_KNOWN,
            common: None,
        }
    }

    /// The rules to raise now, if there are any.
    pub(super) fn due(&mut self, view: View<'_>) -> Option<u32> {
        let in_force = view.state.rules();
        let RulesHold::For(hold) = self.hold else {
            return None;
        };
        let common = if self.known > in_force {
            known_by_all(view).min(self.known)
        } else {
            in_force
        };
        if common <= in_force {
            self.common = None;
            return None;
        }
        let since = match self.common {
            Some((rules, since)) if rules == common => since,
            _ => {
                self.common = Some((common, view.now));
                view.now
            }
        };
        // What was founded within the time of a hold has nothing yet to go back to.
        let is_new = Duration::from_millis(view.time.0) < hold;
        (is_new || view.now.saturating_sub(since) >= hold).then_some(common)
    }
}

/// The greatest rules that every member knows; 0 while one is lost, or hasn't said yet what it knows.
fn known_by_all(view: View<'_>) -> u32 {
    let known = view.members.keys().map(|id| known_by(view.state, *id));
    known.min().unwrap_or(0)
}

fn known_by(state: &State, id: u64) -> u32 {
    let member = state.members().find(|member| member.id == id);
    let heard = member.filter(|member| state.liveness_of(&member.name).status == MemberStatus::Alive);
    heard.map_or(0, |member| member.rules)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use spine_core::{Command, Member, MemberReport, NodeName, Time};

    use super::*;
    use crate::leader::{Heard, applied::apply};

    static HEARD: Heard = Heard::new();
    const HOLD: Duration = Duration::from_mins(1);

    fn name(id: u64) -> NodeName {
        NodeName::parse(&format!("n{id}")).unwrap()
    }

    fn runs(state: &mut State, id: u64, rules: u32) {
        let member = Member {
            name: name(id),
            id,
            node_uuid: format!("uuid-{id}").into(),
            host: "127.0.0.1".into(),
            peer_address: "".into(),
            http_address: "".into(),
            grpc_address: "".into(),
            version: format!("0.{rules}.0").into(),
            rules,
        };
        apply(state, Command::MemberUp(member));
    }

    fn status(state: &mut State, id: u64, status: MemberStatus) {
        let name = name(id);
        apply(state, Command::MemberStatus(MemberReport { name, id, status }));
    }

    fn all_run(rules: u32) -> State {
        let mut state = State::new();
        (1..=3).for_each(|id| runs(&mut state, id, rules));
        state
    }

    /// A leader that looks every second from the hour on; when it raises the rules, and to what. `change` is told the second.
    fn raised(
        hold: RulesHold,
        mut state: State,
        members: &BTreeMap<u64, String>,
        mut change: impl FnMut(u64, &mut State),
    ) -> Option<(u64, u32)> {
        let mut raising = Raising::new(hold);
        (0..600).find_map(|second| {
            change(second, &mut state);
            let view = View {
                state: &state,
                time: Time(3_600_000 + second * 1_000),
                now: Duration::from_secs(second),
                renewal_batches: 0,
                lags: false,
                heard: &HEARD,
                members,
            };
            raising.due(view).map(|rules| (second, rules))
        })
    }

    fn named(ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, String> {
        ids.into_iter().map(|id| (id, format!("n{id}"))).collect()
    }

    fn three() -> BTreeMap<u64, String> {
        named([1, 2, 3])
    }

    #[test]
    fn they_are_raised_when_all_have_known_them_for_the_time_of_the_hold() {
        let upgrade = |second, state: &mut State| match second {
            5 => runs(state, 2, 2),
            90 => runs(state, 3, 2),
            120 => runs(state, 1, 2),
            _ => {}
        };
        let hold = RulesHold::For(HOLD);
        assert_eq!(raised(hold, all_run(1), &three(), upgrade), Some((180, 2)));
        assert_eq!(
            raised(RulesHold::For(Duration::ZERO), all_run(1), &three(), upgrade),
            Some((120, 2))
        );
        assert_eq!(raised(RulesHold::Always, all_run(1), &three(), upgrade), None);
    }

    #[test]
    fn one_that_goes_back_or_is_lost_begins_the_time_anew() {
        let back = |second, state: &mut State| match second {
            30 => runs(state, 3, 1),
            40 => runs(state, 3, 2),
            70 => status(state, 2, MemberStatus::Failed),
            75 => status(state, 2, MemberStatus::Alive),
            _ => {}
        };
        let hold = RulesHold::For(HOLD);
        assert_eq!(raised(hold, all_run(2), &three(), back), Some((135, 2)));
        let lost = |second, state: &mut State| {
            if second == 50 {
                status(state, 2, MemberStatus::Failed);
            }
        };
        assert_eq!(raised(hold, all_run(2), &three(), lost), None);
    }

    #[test]
    fn a_member_that_has_not_said_what_it_knows_holds_them() {
        let hold = RulesHold::For(HOLD);
        let comes = |second, state: &mut State| {
            if second == 100 {
                runs(state, 4, 3);
            }
        };
        let four = named([1, 2, 3, 4]);
        assert_eq!(raised(hold, all_run(2), &four, comes), Some((160, 2)));
        assert_eq!(raised(hold, all_run(2), &BTreeMap::new(), |_, _| {}), None);
    }

    #[test]
    fn no_further_than_this_release_knows_and_not_again() {
        let hold = RulesHold::For(HOLD);
        assert_eq!(
            raised(hold, all_run(9), &three(), |_, _| {}),
            Some((60, RULES_KNOWN))
        );
        let mut state = all_run(2);
        apply(&mut state, Command::RulesRaise(2));
        assert_eq!(raised(hold, state, &three(), |_, _| {}), None);
    }

    #[test]
    fn a_new_cluster_begins_with_the_newest() {
        let (state, members) = (all_run(2), three());
        let view = View {
            state: &state,
            time: Time(900),
            now: Duration::from_secs(77),
            renewal_batches: 0,
            lags: false,
            heard: &HEARD,
            members: &members,
        };
        assert_eq!(Raising::new(RulesHold::For(HOLD)).due(view), Some(2));
        assert_eq!(Raising::new(RulesHold::Always).due(view), None);
    }
}
