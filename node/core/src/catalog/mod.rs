//! The service catalog: nodes and the instances on them.
//!
//! An instance is identified by its node and its id there. `by_service` and `by_node_id` are derived: they hold
//! nothing that the two tables don't say.

mod write;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    command::{NodeDefinition, Service},
    id::{Index, InstanceId, InstanceKey, NodeName, ServiceName},
    table::Table,
    tree::{Stamped, Tree},
};

/// A node's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub definition: NodeDefinition,
    /// The index that brought it into being.
    pub create_index: Index,
    /// The index of its last change.
    pub modify_index: Index,
}

/// An instance's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The node that it is on.
    pub node: NodeName,
    /// What was registered.
    pub service: Service,
    /// The hash of the whole registration, by which a repeated one is known.
    pub content: u64,
    /// The index that brought it into being.
    pub create_index: Index,
    /// The index of its last change.
    pub modify_index: Index,
}

impl Instance {
    /// Its identity.
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            node: self.node.clone(),
            id: self.service.id.clone(),
        }
    }
}

impl Stamped for Node {
    fn index(&self) -> Index {
        self.modify_index
    }
}

impl Stamped for Instance {
    fn index(&self) -> Index {
        self.modify_index
    }
}

/// The catalog's tables.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub(crate) nodes: Table<NodeName, Arc<Node>>,
    pub(crate) instances: Table<InstanceKey, Arc<Instance>>,
    by_service: Tree<(ServiceName, InstanceKey), ()>,
    by_node_id: Tree<Arc<str>, Arc<Node>>,
}

impl Catalog {
    /// A node by its name.
    pub fn node(&self, name: &NodeName) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// A node by its name or its id.
    pub fn find_node(&self, name_or_id: &str) -> Option<&Arc<Node>> {
        let by_name = NodeName::parse(name_or_id)
            .ok()
            .and_then(|name| self.nodes.get(&name));
        by_name.or_else(|| self.by_node_id.get(name_or_id))
    }

    /// Every node, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// An instance.
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// The instances on a node, by id.
    pub fn on_node(&self, node: &NodeName) -> impl Iterator<Item = &Arc<Instance>> {
        let node = node.clone();
        let start = InstanceKey {
            node: node.clone(),
            id: InstanceId::least(),
        };
        self.instances
            .range(start..)
            .take_while(move |(key, _)| key.node == node)
            .map(|(_, row)| row)
    }

    /// The instances of a service, by node and id.
    pub fn of_service(&self, name: &ServiceName) -> impl Iterator<Item = &Arc<Instance>> {
        let name = name.clone();
        let least = InstanceKey {
            node: NodeName::least(),
            id: InstanceId::least(),
        };
        self.by_service
            .range((name.clone(), least)..)
            .take_while(move |((service, _), ())| *service == name)
            .map(|((_, key), ())| {
                self.instances
                    .get(key)
                    .expect("by_service names rows of instances")
            })
    }

    /// Every instance, by service, node and id.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.by_service.iter().map(|((_, key), ())| {
            self.instances
                .get(key)
                .expect("by_service names rows of instances")
        })
    }
}
