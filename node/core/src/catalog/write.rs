//! Changing rows of nodes and instances.

use std::sync::Arc;

use super::{Catalog, Instance, Node};
use crate::{
    command::{NodeDefinition, Service},
    event::{Change, Delta},
    id::{InstanceKey, NodeName, ServiceName},
    outcome::Rejection,
    writer::Writer,
};

impl Catalog {
    /// Refuses an id that another node has.
    pub(crate) fn check_node_id(
        &self,
        name: &NodeName,
        definition: &NodeDefinition,
    ) -> Result<(), Rejection> {
        match self.by_node_id.get(&definition.id) {
            Some(owner) if owner.name != *name && !definition.id.is_empty() => Err(Rejection::NodeIdTaken {
                id: definition.id.clone(),
                owner: owner.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Sets a node's row; whether anything changed.
    pub(crate) fn put_node(&mut self, w: &mut Writer, name: &NodeName, definition: &NodeDefinition) -> bool {
        let before = self.nodes.get(name).cloned();
        if before.as_ref().is_some_and(|node| node.definition == *definition) {
            return false;
        }
        if let Some(before) = &before {
            self.by_node_id.remove(&before.definition.id);
        }
        let node = Arc::new(Node {
            name: name.clone(),
            definition: definition.clone(),
            create_index: before.as_ref().map_or(w.index, |node| node.create_index),
            modify_index: w.index,
        });
        self.load_node(node.clone());
        w.emit(Change::Node(
            name.clone(),
            Delta {
                before,
                after: Some(node),
            },
        ));
        true
    }

    /// Removes a node's row; its instances and checks must be gone.
    pub(crate) fn remove_node(&mut self, w: &mut Writer, name: &NodeName) -> bool {
        let Some(before) = self.nodes.remove(name) else {
            return false;
        };
        self.by_node_id.remove(&before.definition.id);
        w.emit(Change::Node(
            name.clone(),
            Delta {
                before: Some(before),
                after: None,
            },
        ));
        true
    }

    /// Sets an instance's row; whether anything changed that others can see.
    pub(crate) fn put_instance(
        &mut self,
        w: &mut Writer,
        node: &NodeName,
        service: &Service,
        content: u64,
    ) -> bool {
        let key = InstanceKey {
            node: node.clone(),
            id: service.id.clone(),
        };
        let before = self.instances.get(&key).cloned();
        let same = before
            .as_ref()
            .is_some_and(|instance| instance.service == *service);
        if let Some(before) = &before {
            self.by_service
                .remove(&(before.service.name.clone(), key.clone()));
        }
        let instance = Arc::new(Instance {
            node: node.clone(),
            service: service.clone(),
            content,
            create_index: before.as_ref().map_or(w.index, |instance| instance.create_index),
            modify_index: before
                .as_ref()
                .filter(|_| same)
                .map_or(w.index, |instance| instance.modify_index),
        });
        self.load_instance(instance.clone());
        if !same {
            w.emit(Change::Instance(
                key,
                Delta {
                    before,
                    after: Some(instance),
                },
            ));
        }
        !same
    }

    /// What the client last sent no longer holds in full: its next repeat is a registration, not a renewal.
    pub(crate) fn forget_content(&mut self, key: &InstanceKey) {
        if let Some(instance) = self.instances.get(key).filter(|instance| instance.content != 0) {
            let instance = Instance {
                content: 0,
                ..Instance::clone(instance)
            };
            self.instances.put(key.clone(), Arc::new(instance));
        }
    }

    /// Removes an instance's row; its checks must be gone.
    pub(crate) fn remove_instance(&mut self, w: &mut Writer, key: &InstanceKey) -> bool {
        let Some(before) = self.instances.remove(key) else {
            return false;
        };
        self.by_service
            .remove(&(before.service.name.clone(), key.clone()));
        w.emit(Change::Instance(
            key.clone(),
            Delta {
                before: Some(before),
                after: None,
            },
        ));
        true
    }

    /// Whether the service has an instance.
    pub(crate) fn has_service(&self, name: &ServiceName) -> bool {
        self.of_service(name).next().is_some()
    }

    pub(crate) fn load_node(&mut self, node: Arc<Node>) {
        if !node.definition.id.is_empty() {
            self.by_node_id.insert(node.definition.id.clone(), node.clone());
        }
        self.nodes.put(node.name.clone(), node);
    }

    pub(crate) fn load_instance(&mut self, instance: Arc<Instance>) {
        self.by_service
            .insert((instance.service.name.clone(), instance.key()), ());
        self.instances.put(instance.key(), instance);
    }
}
