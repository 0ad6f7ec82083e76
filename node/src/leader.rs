//! What only a leader does, decided: says which servers are lost, ends what is due, keeps the log's clock going, compacts
//! history, raises the rules.
//!
//! [`Duties::due`] is asked by the task that submits entries, many times a second, and looks at what it is given alone.

#[cfg(test)]
mod applied;
mod history;
mod quota;
mod roll;
mod rules;

use std::{collections::BTreeMap, time::Duration};

use spine_core::{Command, MemberName, MemberStatus, State, Time};

use self::{history::Compaction, roll::Roll, rules::Raising};
pub use self::{
    history::{HistoryKept, REVISIONS_MIN},
    quota::Quota,
    roll::{BACK_AFTER, Heard, LOST_AFTER},
    rules::RulesHold,
};

/// While any deadline exists an entry is made at least so often: after a restart of all voters cluster time goes on
/// from the last one.
pub const ENTRY_EVERY: Duration = Duration::from_secs(5);
/// Old versions of keys go with each entry; where none is made otherwise, one is made so often until they are gone.
const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// Deadlines that come within this time of each other are ended by one pulse: a fraction of what they may be late.
const PULSE_EVERY: Duration = Duration::from_millis(50);

/// What a node is told of what it does while it leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What of the keys' history is kept.
    pub history: HistoryKept,
    /// When newer rules are raised.
    pub rules_hold: RulesHold,
    /// How large the state may become.
    pub quota: Quota,
}

/// What a leader sees when it asks what is due.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest state applied.
    pub state: &'a State,
    /// The cluster time.
    pub time: Time,
    /// The monotonic clock.
    pub now: Duration,
    /// Batches of renewals that wait to be proposed or applied.
    pub renewal_batches: usize,
    /// What is committed lags in being applied.
    pub lags: bool,
    /// When each server was heard.
    pub heard: &'a Heard,
    /// The names of the members by the log, those included that are about to come or go; empty: not known.
    pub members: &'a BTreeMap<u64, String>,
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
    /// When the last entry was made.
    entry_made: Duration,
    /// What history is to go.
    compaction: Compaction,
    /// When the last pulse was proposed.
    pulsed: Option<Duration>,
    /// Batches of renewals that were there when something came due, and are not applied yet.
    awaited: Option<usize>,
    /// A command of these duties is not answered yet.
    busy: bool,
    /// Who is there.
    roll: Roll,
    /// What they all know.
    raising: Raising,
    /// The quota that is to hold.
    quota: Quota,
}

impl Duties {
    /// The duties of `node`, a leader that begins at `now` of the monotonic clock.
    pub fn new(node: u64, policy: Policy, now: Duration) -> Self {
        Self {
            entry_made: now,
            compaction: Compaction::new(policy.history, now),
            pulsed: None,
            awaited: None,
            busy: false,
            roll: Roll::new(node, now),
            raising: Raising::new(policy.rules_hold),
            quota: policy.quota,
        }
    }

    /// Notes that an entry was made.
    pub fn entry_made(&mut self, now: Duration) {
        self.entry_made = now;
    }

    /// Notes that a batch of renewals was applied.
    pub fn renewals_applied(&mut self) {
        if let Some(awaited) = &mut self.awaited {
            *awaited = awaited.saturating_sub(1);
        }
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
        let since = view.now.saturating_sub(self.entry_made);
        let stamp = view.state.next_deadline().is_some() && since >= ENTRY_EVERY;
        let sweep = !view.state.kv().is_swept() && since >= SWEEP_EVERY && !view.lags;
        (stamp || sweep).then_some(Duty::Stamp)
    }

    fn command(&mut self, view: View<'_>) -> Option<Command> {
        // Called even while nothing can be said: it tells time by being called.
        let report = self.roll.call(view.state, view.heard, view.now);
        if self.busy {
            return None;
        }
        if let Some(gone) = removed(view) {
            return Some(Command::MemberRemove(gone));
        }
        if let Some(report) = report {
            match report.status {
                MemberStatus::Failed => tracing::warn!(server = %report.name, "a server is lost"),
                MemberStatus::Alive => tracing::info!(server = %report.name, "a server is back"),
            }
            return Some(Command::MemberStatus(report));
        }
        if let Some(rules) = self.raising.due(view) {
            tracing::info!(
                rules,
                "all servers know newer rules: they are raised, and no older release can go on from there"
            );
            return Some(Command::RulesRaise(rules));
        }
        if let Some(quota) = self.other_quota(view) {
            tracing::info!(quota, before = view.state.quota(), "the state's quota is set");
            return Some(Command::QuotaSet(quota));
        }
        if self.may_pulse(view) {
            self.pulsed = Some(view.now);
            self.awaited = None;
            return Some(Command::Pulse);
        }
        self.compaction.due(view.state, view.now).map(Command::Compact)
    }

    /// The quota that is to hold, if another does, and all servers know how to set it.
    fn other_quota(&self, view: View<'_>) -> Option<u64> {
        let Quota(quota) = self.quota;
        let is_admitted = || view.state.admits(&Command::QuotaSet(quota)).is_ok();
        (quota != view.state.quota() && is_admitted()).then_some(quota)
    }

    /// Whether something is due, and every renewal that was there when it came due is applied: what came in time
    /// counts, and what comes later holds nothing up.
    fn may_pulse(&mut self, view: View<'_>) -> bool {
        let due = view
            .state
            .next_deadline()
            .is_some_and(|deadline| deadline <= view.time);
        let soon = self.pulsed.is_some_and(|pulsed| view.now < pulsed + PULSE_EVERY);
        if !due || soon || view.lags {
            return false;
        }
        *self.awaited.get_or_insert(view.renewal_batches) == 0
    }
}

/// A server in the state that the log names a member no longer: it was one when it came into the state.
///
/// Not one whose place another of its name has taken: that one's row replaces it, with all that hangs on it.
fn removed(view: View<'_>) -> Option<MemberName> {
    if view.members.is_empty() {
        return None;
    }
    let mut gone = view
        .state
        .members()
        .filter(|member| !view.members.contains_key(&member.id))
        .filter(|member| view.members.values().all(|name| *name != member.name.as_str()));
    gone.next().map(|member| MemberName {
        name: member.name.clone(),
        id: member.id,
    })
}

#[cfg(test)]
mod tests {
    use spine_core::{Entry, Guard, LeaseGrant, LeaseId, Put, Repeat, Request, Revision, Ttl, WallTime};

    use super::{applied::apply, *};

    static NOBODY: Heard = Heard::new();
    static NOT_KNOWN: BTreeMap<u64, String> = BTreeMap::new();

    fn applied(commands: impl IntoIterator<Item = Command>) -> State {
        let mut state = State::new();
        for command in commands {
            apply(&mut state, command);
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
            renewal_batches: 0,
            lags: false,
            heard: &NOBODY,
            members: &NOT_KNOWN,
        }
    }

    fn duties() -> Duties {
        let history = HistoryKept {
            revisions: 100,
            age: None,
        };
        let policy = Policy {
            history,
            ..Policy::default()
        };
        Duties::new(1, policy, Duration::ZERO)
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
        assert_eq!(duties.due(view(&state, 10_051)), None);
        duties.done();
        assert_eq!(
            duties.due(view(&state, 10_052)),
            Some(Duty::Propose(Command::Pulse))
        );
    }

    #[test]
    fn no_pulse_before_the_renewals_that_came_in_time_or_while_applying_lags() {
        let state = with_lease();
        let mut duties = duties();
        duties.entry_made(Duration::from_secs(10));
        let waiting = View {
            renewal_batches: 2,
            ..view(&state, 11_000)
        };
        assert_eq!(duties.due(waiting), None);
        duties.renewals_applied();
        assert_eq!(duties.due(waiting), None);
        duties.renewals_applied();
        let lagging = View {
            lags: true,
            ..waiting
        };
        assert_eq!(duties.due(lagging), None);
        // Those that came since then hold nothing up: a stream of renewals that never rests is no excuse.
        assert_eq!(duties.due(waiting), Some(Duty::Propose(Command::Pulse)));
    }

    #[test]
    fn what_comes_due_together_is_ended_together() {
        let state = with_lease();
        let mut duties = duties();
        duties.entry_made(Duration::from_secs(10));
        assert!(duties.due(view(&state, 10_000)).is_some());
        duties.done();
        assert_eq!(duties.due(view(&state, 10_049)), None);
        assert_eq!(
            duties.due(view(&state, 10_050)),
            Some(Duty::Propose(Command::Pulse))
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

    #[test]
    fn what_was_compacted_is_swept_though_nobody_writes() {
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
        let mut state = applied((0..2_000).map(put));
        let old_versions = |state: &State| state.counts()[1];
        assert!(old_versions(&state).1 >= 1_999);
        let floor = state.revision();
        let mut duties = duties();
        assert_eq!(duties.due(view(&state, 1_000)), None);
        let entry = |requests| Entry {
            time: Time(0),
            wall: WallTime(0),
            requests,
        };
        state.apply(&entry(vec![Request::internal(Command::Compact(floor))]));
        duties.entry_made(Duration::from_secs(1));
        assert_eq!(duties.due(view(&state, 1_049)), None);
        let mut stamps = 0;
        let mut now = 1_050;
        while duties.due(view(&state, now)) == Some(Duty::Stamp) {
            state.apply(&entry(Vec::new()));
            duties.entry_made(Duration::from_millis(now));
            now += 50;
            stamps += 1;
        }
        assert!((2..=40).contains(&stamps), "{stamps}");
        assert_eq!(old_versions(&state), ("old versions of keys", 0));
    }

    #[test]
    fn a_server_that_the_log_names_no_longer_goes() {
        let state = applied([Command::MemberUp(member())]);
        let mut duties = duties();
        let named = |members: &[(u64, &str)]| -> BTreeMap<_, _> {
            members
                .iter()
                .map(|(id, name)| (*id, (*name).to_owned()))
                .collect()
        };
        // Nothing is known, or it is one, or another of its name has come in its place and has not said so yet.
        for members in [
            named(&[]),
            named(&[(1, "n1"), (2, "n2")]),
            named(&[(1, "n1"), (3, "n2")]),
        ] {
            let members = &members;
            let view = view(&state, 50);
            assert_eq!(duties.due(View { members, ..view }), None);
        }
        let members = &named(&[(1, "n1")]);
        let due = duties.due(View {
            members,
            ..view(&state, 100)
        });
        let gone = MemberName {
            name: member().name,
            id: 2,
        };
        assert_eq!(due, Some(Duty::Propose(Command::MemberRemove(gone))));
    }

    fn member() -> spine_core::Member {
        spine_core::Member {
            name: spine_core::NodeName::parse("n2").unwrap(),
            id: 2,
            node_uuid: "uuid".into(),
            host: "127.0.0.1".into(),
            peer_address: "".into(),
            http_address: "".into(),
            grpc_address: "".into(),
            version: "0.1.0".into(),
            rules: 1,
        }
    }

    #[test]
    fn a_server_that_is_lost_comes_before_what_is_due() {
        let grant = LeaseGrant {
            id: LeaseId(7),
            ttl: Ttl::seconds(2),
        };
        let state = applied([Command::MemberUp(member()), Command::LeaseGrant(grant)]);
        let mut duties = duties();
        for time in (0..=1_000).step_by(100) {
            assert_eq!(duties.due(view(&state, time)), None);
        }
        let due = duties.due(View {
            time: Time(2_000),
            ..view(&state, 1_100)
        });
        assert!(matches!(due, Some(Duty::Propose(Command::MemberStatus(report))) if report.id == 2));
        duties.done();
    }
}
