//! Renewals: a client says that it is still there. One row write each, no index on any row, no event.

use super::{State, report::Reported};
use crate::{
    codec,
    command::{
        CheckUpdate, Command, ExistingChecks, Register, Renewal, RenewalRequest, Status, UpdateSource,
    },
    deadline::DeadlineKey,
    id::{CheckKey, InstanceKey},
    outcome::{Outcome, Renewed},
    time::{Time, WallTime},
    writer::Writer,
};

impl State {
    /// The renewal that does the same as a command, if there is one: a registration or a report that repeats what
    /// is there. It may no longer hold when it is applied; then its outcome is [`Renewed::NotARenewal`].
    pub fn as_renewal(&self, command: &Command) -> Option<Renewal> {
        match command {
            Command::Register(register) => self.repeated_registration(register),
            Command::CheckUpdate(update) => self.repeated_report(update),
            Command::Put(_)
            | Command::Delete(_)
            | Command::Compact(_)
            | Command::Deregister(_)
            | Command::LeaseGrant(_)
            | Command::LeaseRevoke(_)
            | Command::LeaseOpen(_)
            | Command::Txn(_)
            | Command::Renew(_)
            | Command::Pulse
            | Command::OpenSession
            | Command::MemberUp(_)
            | Command::CaRootSet(_)
            | Command::CaRootInitial(_)
            | Command::MemberStatus(_)
            | Command::RulesRaise(_)
            | Command::MemberRemove(_)
            | Command::CatalogTxn(_)
            | Command::QuotaSet(_) => None,
        }
    }

    fn repeated_registration(&self, register: &Register) -> Option<Renewal> {
        let service = register.service.as_ref()?;
        // A catalog registration states statuses and the node's row, which others may have changed since.
        if register.existing == ExistingChecks::Overwrite || register.node_update.is_some() {
            return None;
        }
        // What a lost server's node has of it has to move.
        if !self.lost_twins(register).is_empty() {
            return None;
        }
        let instance = InstanceKey {
            node: register.node.clone(),
            id: service.id.clone(),
        };
        let content = codec::content_hash(register);
        let row = self.catalog.instance(&instance)?;
        (row.content == content).then_some(Renewal::Instance { instance, content })
    }

    fn repeated_report(&self, update: &CheckUpdate) -> Option<Renewal> {
        if matches!(update.source, UpdateSource::Probe(_)) {
            return None;
        }
        let Ok(Reported::Check(check)) = self.resolve_report(update) else {
            return None;
        };
        let content = report_hash(update.status, &crate::health::cut(&update.output));
        self.holds_report(&check, content)
            .then_some(Renewal::Check { check, content })
    }

    fn holds_report(&self, check: &CheckKey, content: u64) -> bool {
        self.health.check(check).is_some_and(|row| {
            let ttl = matches!(row.definition.kind, crate::command::CheckKind::Ttl(_));
            ttl && report_hash(row.status, &row.output) == content
        })
    }

    pub(super) fn renew_all(&mut self, renewals: &[RenewalRequest]) -> Outcome {
        Outcome::Renewed(
            renewals
                .iter()
                .map(|request| self.renew(&request.renewal))
                .collect(),
        )
    }

    fn renew(&mut self, renewal: &Renewal) -> Renewed {
        let w = Writer::new(self.index, self.time, WallTime::default());
        match renewal {
            Renewal::Lease(id) => {
                let Some(lease) = self.leases.get(*id).filter(|_| !self.leases.is_doomed(*id)) else {
                    return Renewed::NotARenewal;
                };
                let ttl = lease.lives();
                if let Some(ttl) = ttl {
                    self.deadlines.set(DeadlineKey::Lease(*id), w.time.after(ttl));
                }
                Renewed::Until(ttl)
            }
            Renewal::Instance { instance, content } => self.renew_instance(&w, instance, *content),
            Renewal::Check { check, content } => self.renew_check(&w, check, *content),
        }
    }

    fn renew_instance(&mut self, w: &Writer, instance: &InstanceKey, content: u64) -> Renewed {
        if self
            .catalog
            .instance(instance)
            .is_none_or(|row| row.content != content)
        {
            return Renewed::NotARenewal;
        }
        // One that never heartbeats has no row here: it stays for ever, repeated or not.
        if let Some(heartbeat) = self.heartbeats.get(instance).copied() {
            self.note_heartbeat(w, instance.clone(), Some(heartbeat.ttl), true);
        }
        self.remaining(w.time, &DeadlineKey::Heartbeat(instance.clone()))
    }

    fn renew_check(&mut self, w: &Writer, check: &CheckKey, content: u64) -> Renewed {
        if !self.holds_report(check, content) {
            return Renewed::NotARenewal;
        }
        let row = self.health.check(check).expect("it holds the report").clone();
        self.set_check_deadlines(w, check, &row);
        self.remaining(w.time, &DeadlineKey::CheckTtl(check.clone()))
    }

    fn remaining(&self, now: Time, key: &DeadlineKey) -> Renewed {
        Renewed::Until(self.deadlines.get(key).map(|at| at.since(now)))
    }
}

/// The hash of what a TTL check reports.
fn report_hash(status: Status, output: &str) -> u64 {
    codec::content_hash(&(status, output))
}
