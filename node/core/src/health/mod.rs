//! Checks: what they are, what they say, and what that makes of an instance.

mod aggregate;
mod assign;
mod threshold;
mod update;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::update::cut;
pub use self::{aggregate::worst, assign::ranking, threshold::Counter};
use crate::{
    command::{CheckDefinition, Status},
    id::{CheckId, CheckKey, Index, InstanceId, InstanceKey, NodeName},
    table::Table,
    time::Time,
    tree::{Stamped, Tree},
};

/// A check's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The node that it is on.
    pub node: NodeName,
    /// What was registered.
    pub definition: CheckDefinition,
    /// The index at which the definition last changed: results of an older one are stale.
    pub definition_index: Index,
    /// What it says.
    pub status: Status,
    /// What was seen, for people.
    pub output: Arc<str>,
    /// Since when it has been critical.
    pub critical_since: Option<Time>,
    /// It was made by a report to a service without checks, and goes when reports stop.
    pub implicit: bool,
    /// The index that brought it into being.
    pub create_index: Index,
    /// The index of its last change.
    pub modify_index: Index,
}

impl Check {
    /// Its identity.
    pub fn key(&self) -> CheckKey {
        CheckKey {
            node: self.node.clone(),
            id: self.definition.id.clone(),
        }
    }

    /// The instance that it judges; `None`: the node.
    pub fn judged(&self) -> Option<InstanceKey> {
        let id = self.definition.service.clone()?;
        let node = self.node.clone();
        Some(InstanceKey { node, id })
    }
}

impl Stamped for Check {
    fn index(&self) -> Index {
        self.modify_index
    }
}

/// The table of checks. `by_instance` is derived.
#[derive(Clone, Debug, Default)]
pub struct Health {
    pub(crate) checks: Table<CheckKey, Arc<Check>>,
    by_instance: Tree<(NodeName, Option<InstanceId>, CheckId), ()>,
}

impl Health {
    /// A check.
    pub fn check(&self, key: &CheckKey) -> Option<&Arc<Check>> {
        self.checks.get(key)
    }

    /// Every check, by node and id.
    pub fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.iter().map(|(_, check)| check)
    }

    /// All checks on a node, of itself and of its instances.
    pub fn on_node(&self, node: &NodeName) -> impl Iterator<Item = &Arc<Check>> {
        let node = node.clone();
        let start = CheckKey {
            node: node.clone(),
            id: CheckId::least(),
        };
        self.checks
            .range(start..)
            .take_while(move |(key, _)| key.node == node)
            .map(|(_, check)| check)
    }

    /// The checks of an instance, or with `None` of the node itself.
    pub fn of(&self, node: &NodeName, instance: Option<&InstanceId>) -> impl Iterator<Item = &Arc<Check>> {
        let (node, instance) = (node.clone(), instance.cloned());
        let start = (node.clone(), instance.clone(), CheckId::least());
        self.by_instance
            .range(start..)
            .take_while(move |((n, i, _), ())| *n == node && *i == instance)
            .map(|((node, _, id), ())| {
                let key = CheckKey {
                    node: node.clone(),
                    id: id.clone(),
                };
                self.checks.get(&key).expect("by_instance names rows of checks")
            })
    }
}
