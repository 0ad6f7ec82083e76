//! A service whose server was lost, or was removed, registers through another one: the same process under another node's
//! name. What its old node has of it moves, so that no twin is listed and nothing that passes stops passing on the way.

use std::sync::Arc;

use super::State;
use crate::{
    command::{ExistingChecks, Register, Service},
    health::Check,
    id::{InstanceKey, NodeName},
    writer::Writer,
};

impl State {
    /// Instances on the nodes of servers that are not there which are the process that is registered: the same name, id,
    /// address and port. Registrations through the catalog name the node that they mean, and replace nothing elsewhere.
    pub(super) fn lost_twins(&self, register: &Register) -> Vec<InstanceKey> {
        let Some(service) = &register.service else {
            return Vec::new();
        };
        if register.existing == ExistingChecks::Overwrite || !self.members.contains(&register.node) {
            return Vec::new();
        }
        let is_twin = |key: &InstanceKey| {
            self.catalog.instance(key).is_some_and(|row| {
                row.service.name == service.name
                    && row.service.port == service.port
                    && self.reached(&key.node, &row.service) == self.reached(&register.node, service)
            })
        };
        let elsewhere = self.nodes_of_lost().filter(|node| **node != register.node);
        elsewhere
            .map(|node| InstanceKey {
                node: node.clone(),
                id: service.id.clone(),
            })
            .filter(is_twin)
            .collect()
    }

    fn reached(&self, node: &NodeName, service: &Service) -> Option<Arc<str>> {
        let address = self.catalog.node(node).map(|node| &node.definition.address);
        let own = Some(&service.address).filter(|own| !own.is_empty());
        own.or(address).cloned()
    }

    /// Moves a twin's checks to its new place, where there are none of these ids: the registration that follows finds
    /// them and keeps their status. A registration that replaces checks takes only those that it names.
    pub(super) fn inherit(
        &mut self,
        w: &mut Writer,
        twin: &InstanceKey,
        to: &InstanceKey,
        register: &Register,
    ) {
        let wanted = |check: &Check| {
            register.existing == ExistingChecks::Keep
                || register
                    .checks
                    .iter()
                    .any(|named| named.id == check.definition.id)
        };
        let checks: Vec<_> = self
            .health
            .of(&twin.node, Some(&twin.id))
            .filter(|check| wanted(check))
            .map(|check| Check {
                node: to.node.clone(),
                definition_index: w.index,
                create_index: w.index,
                modify_index: w.index,
                ..Check::clone(check)
            })
            .filter(|check| self.health.check(&check.key()).is_none())
            .collect();
        for check in checks {
            self.put_check(w, check);
        }
        if let Some(heartbeat) = self.heartbeats.get(twin).copied()
            && !self.heartbeats.contains(to)
        {
            self.heartbeats.put(to.clone(), heartbeat);
        }
    }
}
