//! Registration: a node, an instance and checks in one step.

use super::{Heartbeat, State};
use crate::{
    codec,
    command::{CheckDefinition, CheckKind, ExistingChecks, Register, Status},
    deadline::DeadlineKey,
    health::Check,
    id::{CheckId, CheckKey, InstanceId, InstanceKey, NodeName, ServiceName},
    limits,
    outcome::{Outcome, Rejection},
    time::Ttl,
    writer::Writer,
};

/// Repeats that come sooner are retries, not heartbeats: they neither count nor break the row.
const HEARTBEAT_GAP_MIN: Ttl = Ttl::seconds(2);
/// Repeats after which a registration is taken for one that heartbeats.
const HEARTBEATS_MIN: u32 = 2;

impl State {
    pub(super) fn register(&mut self, w: &mut Writer, register: &Register) -> Result<Outcome, Rejection> {
        self.check_registration(register)?;
        let Register {
            node,
            node_update,
            service,
            checks,
            existing,
            heartbeat,
        } = register;
        let mut changed = false;
        if let Some(definition) = node_update {
            changed |= self.catalog.put_node(w, node, definition);
        }
        if let Some(service) = service {
            let key = InstanceKey {
                node: node.clone(),
                id: service.id.clone(),
            };
            let content = codec::content_hash(register);
            // A repeat that only a lost renewal brought here still counts as one.
            let repeated = self
                .catalog
                .instance(&key)
                .is_some_and(|instance| instance.content == content);
            let twins = self.lost_twins(register);
            if *existing == ExistingChecks::Replace {
                changed |= self.drop_checks_not_in(w, &key, checks);
            }
            changed |= self.catalog.put_instance(w, node, service, content);
            for twin in &twins {
                self.inherit(w, twin, &key, register);
                changed = true;
            }
            changed |= self.put_checks(w, node, checks, *existing, Some(&service.id));
            self.note_heartbeat(w, key, *heartbeat, repeated);
            for twin in &twins {
                self.remove_instance(w, twin);
                self.clear_deserted(w, &twin.node);
            }
        } else {
            changed |= self.put_checks(w, node, checks, *existing, None);
        }
        Ok(Outcome::Registered { changed })
    }

    /// Everything that can be refused, before anything is written.
    fn check_registration(&self, register: &Register) -> Result<(), Rejection> {
        let Register {
            node,
            node_update,
            service,
            checks,
            ..
        } = register;
        match node_update {
            Some(definition) => self.catalog.check_node_id(node, definition)?,
            None if self.catalog.node(node).is_none() => return Err(Rejection::UnknownNode(node.clone())),
            None => {}
        }
        let new_node = self.catalog.node(node).is_none();
        if new_node && self.catalog.nodes.len() >= limits::NODES_MAX {
            return Err(Rejection::too_many("nodes", limits::NODES_MAX));
        }
        let new_instance = service.as_ref().is_some_and(|service| {
            let key = InstanceKey {
                node: node.clone(),
                id: service.id.clone(),
            };
            self.catalog.instance(&key).is_none()
        });
        if new_instance && self.catalog.instances.len() >= limits::INSTANCES_MAX {
            return Err(Rejection::too_many("service instances", limits::INSTANCES_MAX));
        }
        self.check_room_for_checks(node, checks.iter().map(|check| &check.id))?;
        for check in checks {
            let Some(id) = &check.service else { continue };
            let registered_now = service.as_ref().is_some_and(|service| service.id == *id);
            let key = InstanceKey {
                node: node.clone(),
                id: id.clone(),
            };
            if !registered_now && self.catalog.instance(&key).is_none() {
                return Err(Rejection::UnknownInstance(id.clone()));
            }
        }
        Ok(())
    }

    /// Refuses checks that are new where the catalog holds as many as it may.
    pub(super) fn check_room_for_checks<'a>(
        &self,
        node: &NodeName,
        ids: impl Iterator<Item = &'a CheckId>,
    ) -> Result<(), Rejection> {
        let is_new = |id: &&CheckId| {
            let (node, id) = (node.clone(), (*id).clone());
            self.health.check(&CheckKey { node, id }).is_none()
        };
        if self.health.checks.len() + ids.filter(is_new).count() > limits::CHECKS_MAX {
            return Err(Rejection::too_many("checks", limits::CHECKS_MAX));
        }
        Ok(())
    }

    fn drop_checks_not_in(
        &mut self,
        w: &mut Writer,
        instance: &InstanceKey,
        kept: &[CheckDefinition],
    ) -> bool {
        let dropped: Vec<_> = self
            .health
            .of(&instance.node, Some(&instance.id))
            .filter(|check| kept.iter().all(|kept| kept.id != check.definition.id))
            .map(|check| check.key())
            .collect();
        for key in &dropped {
            self.remove_check(w, key);
        }
        !dropped.is_empty()
    }

    /// Registers checks. `owner` is the instance whose registration brings them: only for others does a change mean
    /// that what their client last sent no longer holds.
    fn put_checks(
        &mut self,
        w: &mut Writer,
        node: &NodeName,
        checks: &[CheckDefinition],
        existing: ExistingChecks,
        owner: Option<&InstanceId>,
    ) -> bool {
        let mut changed = false;
        for definition in checks {
            let Some(check) = self.health.registered(w, node, definition, existing) else {
                continue;
            };
            changed = true;
            let key = check.key();
            let moved = self
                .health
                .check(&key)
                .map(|before| before.definition.service.clone());
            for id in [moved.flatten(), definition.service.clone()]
                .into_iter()
                .flatten()
            {
                if owner != Some(&id) {
                    let instance = InstanceKey {
                        node: node.clone(),
                        id,
                    };
                    self.catalog.forget_content(&instance);
                    // From now on it lives by its check.
                    self.forget_heartbeat(&instance);
                }
            }
            self.put_check(w, check);
        }
        changed
    }

    /// Writes a check's row and sets its deadlines.
    pub(super) fn put_check(&mut self, w: &mut Writer, check: Check) {
        let key = check.key();
        self.set_check_deadlines(w, &key, &check);
        let service = self.service_of(&check);
        let before = self.health.check(&key).cloned();
        if let Some(before) = before.filter(|row| row.definition.service != check.definition.service) {
            // It judges something else now: whoever watches what it judged before must see it go.
            let left = self.service_of(&before);
            self.health.write(w, &key, left, None);
        }
        if check.status == Status::Critical {
            self.doom_leases_of_check(w, &key);
        }
        self.health.write(w, &key, service, Some(check));
    }

    /// A TTL check that isn't critical must be heard again; one that is critical may take its instance with it.
    pub(super) fn set_check_deadlines(&mut self, w: &Writer, key: &CheckKey, check: &Check) {
        let set = |this: &mut Self, deadline: DeadlineKey, at| match at {
            Some(at) => this.deadlines.set(deadline, at),
            None => this.deadlines.clear(&deadline),
        };
        let alive = check.status != Status::Critical;
        let ttl = if let CheckKind::Ttl(ttl) = check.definition.kind {
            Some(ttl)
        } else {
            None
        };
        let silence = ttl.filter(|_| alive).map(|ttl| w.time.after(ttl));
        set(self, DeadlineKey::CheckTtl(key.clone()), silence);
        let doomed = check.critical_since.zip(check.definition.deregister_after);
        set(
            self,
            DeadlineKey::Critical(key.clone()),
            doomed.map(|(since, after)| since.after(after)),
        );
        // An implicit check is forgotten after ten times its own length.
        let forgotten = ttl
            .filter(|_| check.implicit)
            .map(|ttl| w.time.after(Ttl(ttl.0.saturating_mul(10))));
        set(self, DeadlineKey::Implicit(key.clone()), forgotten);
    }

    /// The service whose instance a check judges.
    pub(super) fn service_of(&self, check: &Check) -> Option<ServiceName> {
        let instance = self.catalog.instance(&check.judged()?)?;
        Some(instance.service.name.clone())
    }

    /// A registration without checks that is repeated is a lease that each repeat renews.
    pub(super) fn note_heartbeat(&mut self, w: &Writer, key: InstanceKey, ttl: Option<Ttl>, repeated: bool) {
        let has_checks = self
            .health
            .of(&key.node, Some(&key.id))
            .any(|check| !check.implicit);
        let Some(ttl) = ttl.filter(|_| !has_checks) else {
            self.forget_heartbeat(&key);
            return;
        };
        let before = self
            .heartbeats
            .get(&key)
            .copied()
            .filter(|heartbeat| heartbeat.ttl == ttl);
        let row = match before {
            // What already lives by its heartbeat goes on doing so when it is registered with other content.
            Some(before) if repeated || before.repeats >= HEARTBEATS_MIN => before.heard(w),
            _ => Heartbeat {
                last: w.time,
                repeats: 0,
                ttl,
            },
        };
        if row.repeats >= HEARTBEATS_MIN {
            self.deadlines
                .set(DeadlineKey::Heartbeat(key.clone()), w.time.after(ttl));
        } else {
            self.deadlines.clear(&DeadlineKey::Heartbeat(key.clone()));
        }
        self.heartbeats.put(key, row);
    }

    pub(super) fn forget_heartbeat(&mut self, key: &InstanceKey) {
        self.heartbeats.remove(key);
        self.deadlines.clear(&DeadlineKey::Heartbeat(key.clone()));
    }
}

impl Heartbeat {
    /// The row after a repeat at this time.
    fn heard(self, w: &Writer) -> Self {
        let gap = w.time.since(self.last);
        if gap < HEARTBEAT_GAP_MIN {
            self
        } else if gap <= self.ttl || self.repeats >= HEARTBEATS_MIN {
            // A late one that still finds its lease alive is in time.
            Self {
                last: w.time,
                repeats: self.repeats.saturating_add(1),
                ..self
            }
        } else {
            Self {
                last: w.time,
                repeats: 0,
                ..self
            }
        }
    }
}
