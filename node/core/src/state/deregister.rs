//! Removal of nodes, instances and checks, with what hangs on them.

use std::sync::Arc;

use super::State;
use crate::{
    command::{Deregister, Scope, Target},
    deadline::DeadlineKey,
    id::{CheckId, CheckKey, InstanceId, InstanceKey, NodeName},
    outcome::{Outcome, Rejection},
    writer::Writer,
};

impl State {
    pub(super) fn deregister(
        &mut self,
        w: &mut Writer,
        deregister: &Deregister,
    ) -> Result<Outcome, Rejection> {
        let Deregister { node, target, scope } = deregister;
        let found = match target {
            Target::Node => self.remove_node(w, node),
            Target::Instance(id) => match self.locate_instance(node, id, *scope)? {
                Some(key) => {
                    let found = self.remove_instance(w, &key);
                    self.clear_deserted(w, &key.node);
                    found
                }
                None => false,
            },
            Target::Check(id) => match self.locate_check(node, id, *scope)? {
                Some(key) => {
                    let found = self.remove_check(w, &key);
                    self.clear_deserted(w, &key.node);
                    found
                }
                None => false,
            },
        };
        Ok(Outcome::Deregistered { found })
    }

    /// The instance that a call by id means.
    ///
    /// # Errors
    /// [`Rejection::Ambiguous`] if several servers' nodes have the id.
    pub fn locate_instance(
        &self,
        node: &NodeName,
        id: &InstanceId,
        scope: Scope,
    ) -> Result<Option<InstanceKey>, Rejection> {
        let key = |node: &NodeName| InstanceKey {
            node: node.clone(),
            id: id.clone(),
        };
        let found = self.locate(node, scope, id.as_str(), |node| {
            self.catalog.instance(&key(node)).is_some()
        })?;
        Ok(found.map(|node| key(&node)))
    }

    /// The check that a call by id means.
    ///
    /// # Errors
    /// [`Rejection::Ambiguous`] if several servers' nodes have the id.
    pub fn locate_check(
        &self,
        node: &NodeName,
        id: &CheckId,
        scope: Scope,
    ) -> Result<Option<CheckKey>, Rejection> {
        let key = |node: &NodeName| CheckKey {
            node: node.clone(),
            id: id.clone(),
        };
        let found = self.locate(node, scope, id.as_str(), |node| {
            self.health.check(&key(node)).is_some()
        })?;
        Ok(found.map(|node| key(&node)))
    }

    fn locate(
        &self,
        node: &NodeName,
        scope: Scope,
        id: &str,
        has: impl Fn(&NodeName) -> bool,
    ) -> Result<Option<NodeName>, Rejection> {
        if has(node) {
            return Ok(Some(node.clone()));
        }
        if scope == Scope::Node {
            return Ok(None);
        }
        let mut nodes: Vec<_> = self
            .members()
            .map(|member| &member.name)
            .chain(self.deserted())
            .filter(|name| has(name))
            .cloned()
            .collect();
        match nodes.len() {
            0 | 1 => Ok(nodes.pop()),
            _ => Err(Rejection::Ambiguous {
                id: Arc::from(id),
                nodes,
            }),
        }
    }

    pub(super) fn remove_node(&mut self, w: &mut Writer, node: &NodeName) -> bool {
        let checks: Vec<_> = self.health.on_node(node).map(|check| check.key()).collect();
        for key in &checks {
            self.remove_check(w, key);
        }
        let instances: Vec<_> = self
            .catalog
            .on_node(node)
            .map(|instance| instance.key())
            .collect();
        for key in &instances {
            self.remove_instance(w, key);
        }
        self.doom_leases_of_node(w, node);
        if !self.members.contains(node) {
            self.liveness.remove(node);
        }
        self.catalog.remove_node(w, node)
    }

    pub(super) fn remove_instance(&mut self, w: &mut Writer, key: &InstanceKey) -> bool {
        let checks: Vec<_> = self
            .health
            .of(&key.node, Some(&key.id))
            .map(|check| check.key())
            .collect();
        for check in &checks {
            self.remove_check(w, check);
        }
        self.forget_heartbeat(key);
        self.catalog.remove_instance(w, key)
    }

    pub(super) fn remove_check(&mut self, w: &mut Writer, key: &CheckKey) -> bool {
        let Some(check) = self.health.check(key).cloned() else {
            return false;
        };
        for deadline in [
            DeadlineKey::CheckTtl,
            DeadlineKey::Critical,
            DeadlineKey::Implicit,
        ] {
            self.deadlines.clear(&deadline(key.clone()));
        }
        if let Some(id) = check.definition.service.clone() {
            self.catalog.forget_content(&InstanceKey {
                node: key.node.clone(),
                id,
            });
        }
        let service = self.service_of(&check);
        self.health.write(w, key, service, None);
        self.doom_leases_of_check(w, key);
        true
    }
}
