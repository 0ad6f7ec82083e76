//! A state goes on in another cluster, which may lack the newest part of what the old one's clients have seen.

use super::State;
use crate::{
    change_log::ChangeLog,
    command::CheckKind,
    deadline::DeadlineKey,
    id::{CheckKey, Index, Revision},
    limits,
    table::Graves,
    time::Ttl,
    touched::Touched,
};

impl State {
    /// This state, for a cluster that goes on from it without the servers that knew more.
    ///
    /// What was acknowledged last may be missing, and a client may hold numbers of it. So index and revision go on
    /// `skipped` further on, where no client has been: a number that was given is never given again, be it a client's place in
    /// a watch, its guard of a write, its session or its fencing number. The way there is not told: it is compacted, so who
    /// watches from before is told to begin anew, and every blocking query is answered. What was renewed may have been
    /// renewed again: each lease, TTL and heartbeat gets its whole time once more.
    #[must_use]
    pub fn resumed(&self, skipped: u64) -> Self {
        let mut next = self.clone();
        next.index = Index(self.index.0.saturating_add(skipped));
        next.changes = ChangeLog::default();
        next.changes.dropped = next.index;
        next.touch_all();
        next.kv.revision = Revision(self.kv.revision.0.saturating_add(skipped));
        next.kv.compacted = next.kv.revision;
        next.kv.swept = (Revision(0), 0);
        next.kv.sweep(usize::MAX);
        next.kv.graves = Graves::default();
        next.kv.graves.floor = next.index;
        next.prolong_all();
        next
    }

    /// Whatever is asked has changed at the present index.
    fn touch_all(&mut self) {
        let topics: Vec<_> = self.touched.live.iter().map(|(topic, _)| topic.clone()).collect();
        self.touched = Touched::default();
        self.touched.gone.floor = self.index;
        for topic in topics {
            self.touched.live.put(topic, self.index);
        }
    }

    fn prolong_all(&mut self) {
        let deadlines: Vec<_> = self
            .deadlines
            .rows
            .iter()
            .map(|(key, row)| (key.clone(), row.at))
            .collect();
        for (key, at) in deadlines {
            if let Some(whole) = self.whole_time(&key) {
                self.deadlines.set(key, at.max(self.time.after(whole)));
            }
        }
    }

    /// How long something lives that is renewed now; `None`: it isn't renewed.
    fn whole_time(&self, key: &DeadlineKey) -> Option<Ttl> {
        match key {
            DeadlineKey::Lease(id) if self.leases.is_doomed(*id) => None,
            DeadlineKey::Lease(id) => self.leases.get(*id)?.lives(),
            DeadlineKey::CheckTtl(check) => self.silence_allowed(check),
            DeadlineKey::Implicit(check) => {
                let ttl = self.silence_allowed(check)?;
                Some(Ttl(ttl.0.saturating_mul(10)))
            }
            DeadlineKey::Critical(check) => self.health.check(check)?.definition.deregister_after,
            DeadlineKey::Heartbeat(instance) => Some(self.heartbeats.get(instance)?.ttl),
            DeadlineKey::Orphans(_) => Some(limits::LEASE_ORPHAN_AFTER),
            // A session that ends early is refused, and nothing is done twice. A lock's delay runs from a moment that is known.
            DeadlineKey::Session(_) | DeadlineKey::LockDelay(_) => None,
        }
    }

    fn silence_allowed(&self, check: &CheckKey) -> Option<Ttl> {
        match self.health.check(check)?.definition.kind {
            CheckKind::Ttl(ttl) => Some(ttl),
            CheckKind::External | CheckKind::Http(_) | CheckKind::Tcp(_) | CheckKind::Grpc(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{
            Author, Command, Entry, Guard, LeaseGrant, Put, Renewal, RenewalRequest, Repeat, Request, Rights,
        },
        event::Topic,
        id::LeaseId,
        kv::KeyRange,
        snapshot::{Header, Restore, chunks},
        time::{Time, WallTime},
    };

    const SKIPPED: u64 = 1_000;

    fn apply(state: &mut State, time: u64, command: Command) {
        let batch = state.apply(&Entry {
            time: Time(time),
            wall: WallTime(0),
            requests: vec![Request::internal(command)],
        });
        assert!(batch.applied[0].result.is_ok(), "{:?}", batch.applied);
    }

    fn put(key: &str, value: &str) -> Command {
        Command::Put(Put {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            flags: 0,
            lease: None,
            guard: Guard::Always,
            repeat: Repeat::Skip,
        })
    }

    fn state() -> State {
        let mut state = State::new();
        apply(&mut state, 0, put("a", "first"));
        apply(&mut state, 10, put("a", "second"));
        apply(&mut state, 20, put("b", "only"));
        let grant = LeaseGrant {
            id: LeaseId(7),
            ttl: Ttl::seconds(10),
        };
        apply(&mut state, 1_000, Command::LeaseGrant(grant));
        apply(&mut state, 9_000, put("c", "later"));
        state
    }

    #[test]
    fn numbers_go_on_further_on_and_what_is_there_stays() {
        let (before, after) = (state(), state().resumed(SKIPPED));
        assert_eq!(after.index().0, before.index().0 + SKIPPED);
        assert_eq!(after.revision().0, before.revision().0 + SKIPPED);
        assert_eq!(after.time(), before.time());
        let rows = |state: &State| state.kv().list(&KeyRange::all(), None).rows;
        assert_eq!(rows(&after), rows(&before));
        let mut next = after.clone();
        apply(&mut next, 9_000, put("d", "new"));
        assert!(next.index() > after.index() && next.revision() > after.revision());
    }

    #[test]
    fn the_way_there_is_compacted_and_everybody_is_woken() {
        let after = state().resumed(SKIPPED);
        assert_eq!(after.changes().oldest(), after.index().next());
        assert_eq!(after.kv().compacted(), after.revision());
        assert!(after.kv().is_swept(), "no old version is left");
        for topic in [
            Topic::Keys(KeyRange::one("a".into())),
            Topic::Keys(KeyRange::one("never".into())),
            Topic::Services,
            Topic::All,
        ] {
            assert_eq!(after.newest(&topic), after.index(), "{topic:?}");
        }
    }

    #[test]
    fn what_was_renewed_gets_its_whole_time_again() {
        let before = state();
        assert_eq!(before.lease_deadline(LeaseId(7)), Some(Time(11_000)));
        let after = before.resumed(SKIPPED);
        assert_eq!(after.lease_deadline(LeaseId(7)), Some(Time(19_000)));
        // It is a lease as before: renewed it lives on, unrenewed it ends.
        let mut renewed = after.clone();
        let renewal = RenewalRequest {
            author: Author::default(),
            rights: Rights::Open,
            renewal: Renewal::Lease(LeaseId(7)),
        };
        apply(&mut renewed, 15_000, Command::Renew(vec![renewal]));
        apply(&mut renewed, 19_000, Command::Pulse);
        assert!(renewed.leases().get(LeaseId(7)).is_some());
        let mut silent = after;
        apply(&mut silent, 19_000, Command::Pulse);
        assert!(silent.leases().get(LeaseId(7)).is_none());
    }

    #[test]
    fn it_is_a_state_like_any_other() {
        let after = state().resumed(SKIPPED);
        let mut restore = Restore::new(Header::of(&after)).unwrap();
        for chunk in chunks(&after) {
            restore.push(&chunk).unwrap();
        }
        assert_eq!(restore.finish().unwrap().digest(), after.digest());
    }
}
