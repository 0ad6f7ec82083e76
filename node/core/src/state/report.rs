//! Reports of checks' status, by the service itself or by the node that probes it.

use std::sync::Arc;

use super::State;
use crate::{
    command::{
        Assignment, CheckDefinition, CheckKind, CheckUpdate, MemberStatus, Status, Thresholds, UpdateSource,
    },
    health::{Check, ranking},
    id::{CheckId, CheckKey, InstanceId, InstanceKey},
    outcome::{Outcome, Rejection},
    time::Ttl,
    writer::Writer,
};

/// What a report by id means.
pub(super) enum Reported {
    /// A check that is there.
    Check(CheckKey),
    /// The implicit check of an instance that has none yet.
    Implicit(InstanceKey, CheckId, Ttl),
}

impl State {
    pub(super) fn report(&mut self, w: &mut Writer, update: &CheckUpdate) -> Result<Outcome, Rejection> {
        let (check, created) = match self.resolve_report(update)? {
            Reported::Check(key) => (self.health.check(&key).expect("resolved to a row").clone(), false),
            Reported::Implicit(instance, id, ttl) => {
                self.check_quota()?;
                self.check_room_for_checks(&instance.node, std::iter::once(&id))?;
                (Arc::new(self.implicit_check(w, &instance, id, ttl)), true)
            }
        };
        self.check_source(&check, update)?;
        let after = Check::clone(&check).reporting(w, update.status, &update.output);
        if after == *check && !created {
            self.set_check_deadlines(w, &check.key(), &check);
        } else {
            self.put_check(
                w,
                Check {
                    modify_index: w.index,
                    ..after
                },
            );
        }
        Ok(Outcome::CheckUpdated { created })
    }

    /// The id of a check first; else, where the source allows, that of an instance, whose check `service:ID` is
    /// meant.
    pub(super) fn resolve_report(&self, update: &CheckUpdate) -> Result<Reported, Rejection> {
        if let Some(key) = self.locate_check(&update.node, &update.check, update.scope)? {
            return Ok(Reported::Check(key));
        }
        let unknown = || Rejection::UnknownCheck(update.check.clone());
        let UpdateSource::ServiceOrImplicit(ttl) = update.source else {
            return Err(unknown());
        };
        let id = InstanceId::parse(update.check.as_str())?;
        let instance = self
            .locate_instance(&update.node, &id, update.scope)?
            .ok_or_else(unknown)?;
        let id = CheckId::parse(&format!("service:{id}"))?;
        let key = CheckKey {
            node: instance.node.clone(),
            id: id.clone(),
        };
        Ok(match self.health.check(&key) {
            Some(_) => Reported::Check(key),
            None => Reported::Implicit(instance, id, ttl),
        })
    }

    fn check_source(&self, check: &Check, update: &CheckUpdate) -> Result<(), Rejection> {
        match &update.source {
            UpdateSource::Service | UpdateSource::ServiceOrImplicit(_) => match check.definition.kind {
                CheckKind::Ttl(_) => Ok(()),
                CheckKind::External | CheckKind::Http(_) | CheckKind::Tcp(_) | CheckKind::Grpc(_) => {
                    Err(Rejection::NotTtl(check.definition.id.clone()))
                }
            },
            UpdateSource::Probe(assignment) if self.assignment(check).as_ref() != Some(assignment) => {
                Err(Rejection::StaleAssignment(check.definition.id.clone()))
            }
            UpdateSource::Probe(_) => Ok(()),
        }
    }

    /// Who probes a check, and since when; `None` if nobody does.
    ///
    /// A check comes to a member when it, or one that goes before it, is lost or comes back. So the newest of these
    /// changes tells one term of office from another of the same member.
    pub fn assignment(&self, check: &Check) -> Option<Assignment> {
        check.definition.kind.interval()?;
        let ranked = ranking(&check.key(), self.members().map(|member| &member.name));
        let mut since = check.definition_index;
        for member in ranked {
            let liveness = self.liveness_of(member);
            since = since.max(liveness.index);
            if liveness.status == MemberStatus::Alive {
                let member = member.clone();
                return Some(Assignment { member, since });
            }
        }
        None
    }

    fn implicit_check(&self, w: &Writer, instance: &InstanceKey, id: CheckId, ttl: Ttl) -> Check {
        let name = self
            .catalog
            .instance(instance)
            .map(|row| row.service.name.to_string())
            .unwrap_or_default();
        Check {
            node: instance.node.clone(),
            definition: CheckDefinition {
                id,
                name: format!("Service '{name}' check").into(),
                notes: "made by a report to the service".into(),
                service: Some(instance.id.clone()),
                status: None,
                output: "".into(),
                kind: CheckKind::Ttl(ttl),
                deregister_after: None,
                thresholds: Thresholds::default(),
            },
            definition_index: w.index,
            status: Status::Critical,
            output: "".into(),
            critical_since: Some(w.time),
            implicit: true,
            create_index: w.index,
            modify_index: w.index,
        }
    }
}
