//! Transactions over the catalog: nodes, instances, checks, keys and leases together.

use serde::{Deserialize, Serialize};

use super::{CheckDefinition, ExistingChecks, Guard, NodeDefinition, Register, Service, TxnOp};
use crate::id::{CheckKey, InstanceKey, LeaseId, NodeName};

/// Operations that are carried out in order, each seeing what those before it did: all of them or none. A condition that
/// is unmet, or an operation that is refused, undoes all; the others are tried nevertheless, and all that is wrong is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogTxn {
    /// The operations.
    pub ops: Vec<CatalogOp>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogOp {
    /// On keys.
    Keys(TxnOp),
    /// Read a row. It is a condition that it is there.
    Read(CatalogKey),
    /// Register a row. The guard is a condition.
    Set(CatalogRow, Guard),
    /// Remove a row with what hangs on it. The guard is a condition; without one, what is not there is as good as removed.
    Remove(CatalogKey, Guard),
    /// End a lease; one that is not there is as good as ended.
    EndLease(LeaseId),
}

/// Which row of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogKey {
    /// A node.
    Node(NodeName),
    /// An instance.
    Instance(InstanceKey),
    /// A check.
    Check(CheckKey),
}

/// A row of the catalog, as registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogRow {
    /// A node.
    Node(NodeName, NodeDefinition),
    /// An instance on a node, which must be there.
    Instance(NodeName, Box<Service>),
    /// A check of a node or of an instance on it, which must be there.
    Check(NodeName, Box<CheckDefinition>),
}

impl CatalogTxn {
    /// Whether it changes nothing, whatever holds.
    pub fn is_read_only(&self) -> bool {
        self.ops.iter().all(|op| match op {
            CatalogOp::Keys(op) => matches!(op, TxnOp::Read(_) | TxnOp::Check(_)),
            CatalogOp::Read(_) => true,
            CatalogOp::Set(..) | CatalogOp::Remove(..) | CatalogOp::EndLease(_) => false,
        })
    }
}

impl CatalogRow {
    /// Which row it is.
    pub fn key(&self) -> CatalogKey {
        match self {
            Self::Node(node, _) => CatalogKey::Node(node.clone()),
            Self::Instance(node, service) => CatalogKey::Instance(InstanceKey {
                node: node.clone(),
                id: service.id.clone(),
            }),
            Self::Check(node, check) => CatalogKey::Check(CheckKey {
                node: node.clone(),
                id: check.id.clone(),
            }),
        }
    }

    /// The registration that it is: that of whoever registers from outside, as no agent stands behind it.
    pub fn registration(&self) -> Register {
        let of = |node: &NodeName| Register {
            node: node.clone(),
            node_update: None,
            service: None,
            checks: Vec::new(),
            existing: ExistingChecks::Overwrite,
            heartbeat: None,
        };
        match self {
            Self::Node(node, definition) => Register {
                node_update: Some(definition.clone()),
                ..of(node)
            },
            Self::Instance(node, service) => Register {
                service: Some(Service::clone(service)),
                ..of(node)
            },
            Self::Check(node, check) => Register {
                checks: vec![CheckDefinition::clone(check)],
                ..of(node)
            },
        }
    }
}
