//! What a request changed, and who wants to know.
//!
//! Applying a request yields [`Event`]s, one for each row that it changed. Whoever waits names its [`Topic`]s; an
//! event lists the topics that it touches. That is all there is to watching: the hub wakes by topic, and the one
//! woken reads on from the change log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Instance, Node},
    command::{CaRoot, Member},
    health::Check,
    id::{CheckKey, Index, InstanceKey, Key, LeaseId, NodeName, ServiceName},
    kv::{KeyRange, KvRow},
    member::Liveness,
};

/// One row's change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The request that did it.
    pub index: Index,
    /// What it did.
    pub change: Change,
}

/// A row before and after; absent before: it is new; absent after: it is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta<T> {
    /// The row before.
    pub before: Option<T>,
    /// The row after.
    pub after: Option<T>,
}

/// What changed, by table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A key.
    Key(Key, Delta<Arc<KvRow>>),
    /// A node.
    Node(NodeName, Delta<Arc<Node>>),
    /// An instance.
    Instance(InstanceKey, Delta<Arc<Instance>>),
    /// A check. The service is the one whose instance it judges.
    Check(CheckKey, Option<ServiceName>, Delta<Arc<Check>>),
    /// A lease began (`true`) or ended.
    Lease(LeaseId, bool),
    /// A member.
    Member(NodeName, Delta<Arc<Member>>),
    /// The set of CA roots.
    CaRoots(Arc<CaRoot>),
    /// A member was lost, or is heard again.
    MemberStatus(Arc<Member>, Delta<Liveness>),
}

/// The row that a change is of: what the change log is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowId {
    /// A key.
    Key(Key),
    /// A node.
    Node(NodeName),
    /// An instance.
    Instance(InstanceKey),
    /// A check.
    Check(CheckKey),
    /// A lease.
    Lease(LeaseId),
    /// A member.
    Member(NodeName),
    /// The CA roots.
    CaRoots,
}

/// Something that one can wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// Keys of an interval.
    Keys(KeyRange),
    /// Which nodes there are, and their rows.
    Nodes,
    /// One node's row and the checks of the node itself.
    Node(NodeName),
    /// The instances on one node, and their checks.
    NodeServices(NodeName),
    /// Which services there are, and their tags.
    Services,
    /// The instances of one service, and their checks.
    Service(ServiceName),
    /// Every check.
    Checks,
    /// Every instance.
    Instances,
    /// Every lease.
    Leases,
    /// Every member.
    Members,
    /// The CA roots.
    CaRoots,
    /// Everything.
    All,
}

/// What a waiter waits for: any of these.
pub type Interest = Vec<Topic>;

impl Change {
    /// The row that it is of.
    pub fn row(&self) -> RowId {
        match self {
            Self::Key(key, _) => RowId::Key(key.clone()),
            Self::Node(name, _) => RowId::Node(name.clone()),
            Self::Instance(key, _) => RowId::Instance(key.clone()),
            Self::Check(key, ..) => RowId::Check(key.clone()),
            Self::Lease(id, _) => RowId::Lease(*id),
            Self::Member(name, _) => RowId::Member(name.clone()),
            Self::MemberStatus(member, _) => RowId::Member(member.name.clone()),
            Self::CaRoots(_) => RowId::CaRoots,
        }
    }

    /// The topics that it touches, but for [`Topic::All`] and those of keys, which are intervals:
    /// [`Change::key`] tells the point.
    pub fn topics(&self) -> Vec<Topic> {
        match self {
            Self::Key(..) => Vec::new(),
            Self::Node(name, delta) => {
                let mut topics = vec![Topic::Nodes, Topic::Node(name.clone())];
                if delta.before.is_some() && delta.after.is_some() {
                    // A check is shown with its node; a new node has none, and those of one that went went before it.
                    topics.push(Topic::Checks);
                }
                topics
            }
            Self::Instance(key, delta) => instance_topics(key, delta),
            Self::Check(key, None, _) => vec![Topic::Checks, Topic::Node(key.node.clone())],
            Self::Check(key, Some(service), _) => {
                vec![
                    Topic::Checks,
                    Topic::Service(service.clone()),
                    Topic::NodeServices(key.node.clone()),
                ]
            }
            Self::Lease(..) => vec![Topic::Leases],
            Self::Member(..) | Self::MemberStatus(..) => vec![Topic::Members],
            Self::CaRoots(_) => vec![Topic::CaRoots],
        }
    }

    /// The key that it changed.
    pub fn key(&self) -> Option<&Key> {
        if let Self::Key(key, _) = self {
            Some(key)
        } else {
            None
        }
    }

    /// Whether somebody who waits for `topic` wants to know.
    pub fn touches(&self, topic: &Topic) -> bool {
        match topic {
            Topic::All => true,
            Topic::Keys(range) => self.key().is_some_and(|key| range.contains(key)),
            other => self.topics().contains(other),
        }
    }
}

fn instance_topics(key: &InstanceKey, delta: &Delta<Arc<Instance>>) -> Vec<Topic> {
    let name = |row: &Option<Arc<Instance>>| row.as_ref().map(|row| row.service.name.clone());
    let tags = |row: &Option<Arc<Instance>>| row.as_ref().map(|row| row.service.tags.clone());
    let (before, after) = (name(&delta.before), name(&delta.after));
    let mut topics = vec![Topic::Instances, Topic::NodeServices(key.node.clone())];
    if before != after || tags(&delta.before) != tags(&delta.after) {
        // A check is shown with its instance's name and tags.
        topics.extend([Topic::Services, Topic::Checks]);
    }
    let moved = before != after;
    topics.extend(before.into_iter().map(Topic::Service));
    if moved {
        topics.extend(after.into_iter().map(Topic::Service));
    }
    topics
}
