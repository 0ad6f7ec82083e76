//! Every question that can be asked of the state.
//!
//! A question is a value that implements [`Query`]; asked of a [`State`], it gives an [`Answer`]: what was read,
//! the newest [`Index`] in it, and the [`Interest`] that it depends on. Nothing outside these topics can change
//! the answer, and whenever one of them is touched the index is greater than before. So a blocking query is: ask;
//! if the index is not past the client's, wait for the interest, ask again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    catalog::{Instance, Node},
    command::{CaRoot, CatalogKey, CatalogOp, CatalogTxn, LeaseTerms, Member, Scope, Status, Txn},
    event::{Interest, Topic},
    health::Check,
    id::{CheckKey, Index, InstanceKey, Key, LeaseId, NodeName, Revision, ServiceName},
    kv::{KeyRange, KvRow, Page},
    limits,
    member::Liveness,
    outcome::{Outcome, Rejection},
    state::State,
    time::Ttl,
};

/// A question.
pub trait Query: Send + Sync {
    /// What it asks for.
    type Value: Send;

    /// Reads it.
    fn ask(&self, state: &State) -> Answer<Self::Value>;
}

/// What a question found.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// What was read.
    pub value: T,
    /// The newest index in it, deletions included; for one question it never falls. It is never 0, which clients
    /// take for "none": before the cluster's first request, which is its leader's own, it is 1 as after it.
    pub index: Index,
    /// What it depends on.
    pub interest: Interest,
}

impl<T> Answer<T> {
    fn new(state: &State, interest: Interest, value: T) -> Self {
        let index = interest
            .iter()
            .map(|topic| state.newest(topic))
            .max()
            .unwrap_or_default();
        Self {
            value,
            index: index.max(Index(1)),
            interest,
        }
    }

    /// The same answer, to be woken for by `interest`, which is wider than what its index covers.
    fn woken_by(self, interest: Interest) -> Self {
        Self { interest, ..self }
    }
}

/// One key.
#[derive(Clone, Debug)]
pub struct GetKey(pub Key);

impl Query for GetKey {
    type Value = Option<Arc<KvRow>>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let interest = vec![Topic::Keys(KeyRange::one(self.0.clone()))];
        Answer::new(state, interest, state.kv().get(&self.0).cloned())
    }
}

/// The keys of an interval with their rows, in byte order.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// The interval.
    pub range: KeyRange,
    /// At most so many; `None`: all.
    pub limit: Option<usize>,
}

impl Query for ListKeys {
    type Value = Page;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        Answer::new(
            state,
            vec![Topic::Keys(self.range.clone())],
            state.kv().list(&self.range, self.limit),
        )
    }
}

/// The keys of an interval as they were at a revision.
#[derive(Clone, Debug)]
pub struct ListKeysAt {
    /// The interval.
    pub range: KeyRange,
    /// The revision.
    pub revision: Revision,
    /// At most so many; `None`: all.
    pub limit: Option<usize>,
}

impl Query for ListKeysAt {
    type Value = Result<Page, Rejection>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let page = state.kv().list_at(&self.range, self.revision, self.limit);
        Answer::new(state, vec![Topic::Keys(self.range.clone())], page)
    }
}

/// How many keys an interval holds.
#[derive(Clone, Debug)]
pub struct CountKeys(pub KeyRange);

impl Query for CountKeys {
    type Value = u64;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        Answer::new(
            state,
            vec![Topic::Keys(self.0.clone())],
            state.kv().count(&self.0),
        )
    }
}

/// The names of the keys with a prefix; with a separator each is cut after its first one past the prefix, and
/// listed once.
#[derive(Clone, Debug)]
pub struct KeyNames {
    /// The prefix.
    pub prefix: Key,
    /// The separator.
    pub separator: Option<Bytes>,
}

impl Query for KeyNames {
    type Value = Vec<Key>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let names = state.kv().names(&self.prefix, self.separator.as_deref());
        Answer::new(
            state,
            vec![Topic::Keys(KeyRange::prefix(self.prefix.clone()))],
            names,
        )
    }
}

/// Every node, by name.
#[derive(Clone, Copy, Debug)]
pub struct Nodes;

impl Query for Nodes {
    type Value = Vec<Arc<Node>>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        Answer::new(
            state,
            vec![Topic::Nodes],
            state.catalog().nodes().cloned().collect(),
        )
    }
}

/// One node with the instances on it.
#[derive(Clone, Debug)]
pub struct NodeServices {
    /// The node's name, or its id.
    pub node: Arc<str>,
}

/// A node and the instances on it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeWithInstances {
    /// The node.
    pub node: Arc<Node>,
    /// Its instances, by id.
    pub instances: Vec<Arc<Instance>>,
}

impl Query for NodeServices {
    type Value = Option<NodeWithInstances>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let Some(node) = state.catalog().find_node(&self.node) else {
            // Any new node may be the one.
            return Answer::new(state, vec![Topic::Nodes], None);
        };
        let instances = state.catalog().on_node(&node.name).cloned().collect();
        let mut interest = vec![
            Topic::Node(node.name.clone()),
            Topic::NodeServices(node.name.clone()),
        ];
        if *self.node != *node.name.as_str() {
            // Found by its id: a node that takes this as its name comes first.
            interest.extend(NodeName::parse(&self.node).ok().map(Topic::Node));
        }
        Answer::new(
            state,
            interest,
            Some(NodeWithInstances {
                node: node.clone(),
                instances,
            }),
        )
    }
}

/// The services that there are, each with the tags of its instances.
#[derive(Clone, Copy, Debug)]
pub struct Services;

impl Query for Services {
    type Value = BTreeMap<ServiceName, BTreeSet<Arc<str>>>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let mut services = Self::Value::new();
        for instance in state.catalog().instances() {
            let tags = services.entry(instance.service.name.clone()).or_default();
            tags.extend(instance.service.tags.iter().cloned());
        }
        Answer::new(state, vec![Topic::Services], services)
    }
}

/// An instance with its node and all that judges it.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The node that it is on.
    pub node: Arc<Node>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its own checks, then the node's.
    pub checks: Vec<Arc<Check>>,
}

impl Endpoint {
    /// The worst of its checks.
    pub fn status(&self) -> Status {
        crate::health::worst(self.checks.iter().map(|check| check.status))
    }

    /// Its share of the traffic in its present health; critical instances have none.
    pub fn weight(&self) -> u16 {
        match self.status() {
            Status::Passing => self.instance.service.weights.passing,
            Status::Warning => self.instance.service.weights.warning,
            Status::Critical => 0,
        }
    }

    /// Where it is reached: its own address, or the node's.
    pub fn address(&self) -> &str {
        let own = &self.instance.service.address;
        if own.is_empty() {
            &self.node.definition.address
        } else {
            own
        }
    }

    fn of(state: &State, instance: &Arc<Instance>) -> Self {
        let node = state
            .catalog()
            .node(&instance.node)
            .expect("an instance's node has a row");
        let own = state.health().of(&instance.node, Some(&instance.service.id));
        let checks = own
            .chain(state.health().of(&instance.node, None))
            .cloned()
            .collect();
        Self {
            node: node.clone(),
            instance: instance.clone(),
            checks,
        }
    }
}

/// The instances of a service with their nodes and checks.
#[derive(Clone, Debug)]
pub struct ServiceHealth(pub ServiceName);

impl Query for ServiceHealth {
    type Value = Vec<Endpoint>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let endpoints: Vec<_> = state
            .catalog()
            .of_service(&self.0)
            .map(|instance| Endpoint::of(state, instance))
            .collect();
        let nodes = endpoints.iter().map(|endpoint| endpoint.node.name.clone());
        let nodes = nodes.collect();
        of_service(state, &self.0, nodes, endpoints)
    }
}

/// An answer that depends on a service's instances and on the nodes that they are on.
fn of_service<T>(state: &State, service: &ServiceName, nodes: BTreeSet<NodeName>, value: T) -> Answer<T> {
    let many = nodes.len() > limits::NODE_TOPICS_MAX;
    let mut interest = vec![Topic::Service(service.clone())];
    interest.extend(nodes.into_iter().map(Topic::Node));
    let answer = Answer::new(state, interest, value);
    if many {
        answer.woken_by(vec![Topic::Service(service.clone()), Topic::Nodes, Topic::Checks])
    } else {
        answer
    }
}

/// Every instance with its node and checks, by service.
#[derive(Clone, Copy, Debug)]
pub struct AllEndpoints;

impl Query for AllEndpoints {
    type Value = Vec<Endpoint>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let endpoints = state
            .catalog()
            .instances()
            .map(|instance| Endpoint::of(state, instance))
            .collect();
        let interest = vec![Topic::Services, Topic::Nodes, Topic::Checks, Topic::Instances];
        Answer::new(state, interest, endpoints)
    }
}

/// One instance with its node and checks.
#[derive(Clone, Debug)]
pub struct InstanceHealth(pub InstanceKey);

impl Query for InstanceHealth {
    type Value = Option<Endpoint>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let endpoint = state
            .catalog()
            .instance(&self.0)
            .map(|instance| Endpoint::of(state, instance));
        let interest = vec![
            Topic::NodeServices(self.0.node.clone()),
            Topic::Node(self.0.node.clone()),
        ];
        Answer::new(state, interest, endpoint)
    }
}

/// The instance that a call by id means: on the node named, or on the one other server's node that has the id.
#[derive(Clone, Debug)]
pub struct FindInstance(pub InstanceKey);

impl Query for FindInstance {
    type Value = Result<Option<InstanceKey>, Rejection>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let found = state.locate_instance(&self.0.node, &self.0.id, Scope::Servers);
        // Which other nodes are looked at is a matter of who is a member.
        Answer::new(state, vec![Topic::Instances, Topic::Members], found)
    }
}

/// A check with the instance that it judges.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckView {
    /// The check.
    pub check: Arc<Check>,
    /// Its instance; `None` if it judges the node. Of [`AllChecks`]' answer only its name and tags are what the
    /// index covers: what else an instance has is not part of what a check says.
    pub instance: Option<Arc<Instance>>,
    /// Its node.
    pub node: Arc<Node>,
}

impl CheckView {
    fn of(state: &State, check: &Arc<Check>) -> Self {
        let judged = check.judged();
        let instance = judged.and_then(|key| state.catalog().instance(&key).cloned());
        let node = state
            .catalog()
            .node(&check.node)
            .expect("a check's node has a row")
            .clone();
        Self {
            check: check.clone(),
            instance,
            node,
        }
    }
}

/// The checks on a node, its own and those of its instances.
#[derive(Clone, Debug)]
pub struct NodeChecks(pub NodeName);

impl Query for NodeChecks {
    type Value = Vec<CheckView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let checks = state
            .health()
            .on_node(&self.0)
            .map(|check| CheckView::of(state, check))
            .collect();
        Answer::new(
            state,
            vec![Topic::Node(self.0.clone()), Topic::NodeServices(self.0.clone())],
            checks,
        )
    }
}

/// The checks of all instances of a service.
#[derive(Clone, Debug)]
pub struct ServiceChecks(pub ServiceName);

impl Query for ServiceChecks {
    type Value = Vec<CheckView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let checks: Vec<_> = state
            .catalog()
            .of_service(&self.0)
            .flat_map(|instance| state.health().of(&instance.node, Some(&instance.service.id)))
            .map(|check| CheckView::of(state, check))
            .collect();
        let nodes = checks.iter().map(|view| view.node.name.clone()).collect();
        of_service(state, &self.0, nodes, checks)
    }
}

/// Every check, or those with one status.
#[derive(Clone, Copy, Debug)]
pub struct AllChecks {
    /// The status; `None`: any.
    pub status: Option<Status>,
}

impl Query for AllChecks {
    type Value = Vec<CheckView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let wanted = |check: &&Arc<Check>| self.status.is_none_or(|status| check.status == status);
        let checks = state
            .health()
            .checks()
            .filter(wanted)
            .map(|check| CheckView::of(state, check))
            .collect();
        Answer::new(state, vec![Topic::Checks], checks)
    }
}

/// One check.
#[derive(Clone, Debug)]
pub struct OneCheck(pub CheckKey);

impl Query for OneCheck {
    type Value = Option<CheckView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let check = state
            .health()
            .check(&self.0)
            .map(|check| CheckView::of(state, check));
        let interest = vec![
            Topic::Node(self.0.node.clone()),
            Topic::NodeServices(self.0.node.clone()),
        ];
        Answer::new(state, interest, check)
    }
}

/// The servers of the cluster, by name.
#[derive(Clone, Copy, Debug)]
pub struct Members;

/// A server, and whether it is heard.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberView {
    /// The server.
    pub member: Arc<Member>,
    /// Whether it is heard, and since when.
    pub liveness: Liveness,
}

impl Query for Members {
    type Value = Vec<MemberView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let view = |member: &Arc<Member>| MemberView {
            member: member.clone(),
            liveness: state.liveness_of(&member.name),
        };
        Answer::new(state, vec![Topic::Members], state.members().map(view).collect())
    }
}

/// A lease as questions find it; when it ends is not among them, for that moves unseen with each renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub id: LeaseId,
    /// Ends this long after its last renewal; `None`: it ends with what it hangs on.
    pub ttl: Option<Ttl>,
    /// What it was made with beside that; `None`: nothing.
    pub terms: Option<LeaseTerms>,
    /// The index that made it.
    pub create_index: Index,
}

impl LeaseView {
    fn of(state: &State, id: LeaseId) -> Option<Self> {
        let row = state.leases().get(id)?;
        Some(Self {
            id,
            ttl: row.lives(),
            terms: state.leases().terms(id).cloned(),
            create_index: row.create_index,
        })
    }
}

/// One lease.
#[derive(Clone, Copy, Debug)]
pub struct OneLease(pub LeaseId);

impl Query for OneLease {
    type Value = Option<LeaseView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        Answer::new(state, vec![Topic::Leases], LeaseView::of(state, self.0))
    }
}

/// Leases, by id.
#[derive(Clone, Debug, Default)]
pub struct AllLeases {
    /// Only those that hang on this node.
    pub node: Option<NodeName>,
    /// Only those behind this one.
    pub after: Option<LeaseId>,
    /// At most so many; `None`: all.
    pub limit: Option<usize>,
}

impl Query for AllLeases {
    type Value = Vec<LeaseView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let ids: Box<dyn Iterator<Item = LeaseId>> = match &self.node {
            Some(node) => {
                let of_node = state.leases().on_node(node);
                Box::new(of_node.filter(|id| self.after.is_none_or(|after| *id > after)))
            }
            None => Box::new(state.leases().behind(self.after)),
        };
        let found = ids
            .take(self.limit.unwrap_or(usize::MAX))
            .filter_map(|id| LeaseView::of(state, id))
            .collect();
        Answer::new(state, vec![Topic::Leases], found)
    }
}

/// A transaction that changes nothing.
#[derive(Clone, Debug)]
pub struct ReadTxn(pub Txn);

impl Query for ReadTxn {
    type Value = Result<Outcome, Rejection>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let interest = self.0.ranges().map(Topic::Keys).collect();
        Answer::new(state, interest, state.read_txn(&self.0))
    }
}

/// A transaction over the catalog that changes nothing.
#[derive(Clone, Debug)]
pub struct ReadCatalogTxn(pub CatalogTxn);

impl Query for ReadCatalogTxn {
    type Value = Result<Outcome, Rejection>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        let interest = self.0.ops.iter().flat_map(|op| match op {
            CatalogOp::Keys(op) => vec![Topic::Keys(op.range())],
            CatalogOp::Read(CatalogKey::Node(node)) => vec![Topic::Node(node.clone())],
            CatalogOp::Read(CatalogKey::Instance(key)) => vec![Topic::NodeServices(key.node.clone())],
            CatalogOp::Read(CatalogKey::Check(key)) => {
                vec![
                    Topic::Node(key.node.clone()),
                    Topic::NodeServices(key.node.clone()),
                ]
            }
            CatalogOp::Set(..) | CatalogOp::Remove(..) | CatalogOp::EndLease(_) => Vec::new(),
        });
        Answer::new(state, interest.collect(), state.read_catalog_txn(&self.0))
    }
}

/// The CA's roots.
#[derive(Clone, Copy, Debug)]
pub struct CaRoots;

/// A CA root as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CaRootView {
    /// The root.
    pub root: Arc<CaRoot>,
    /// Whether it is the one that signs.
    pub active: bool,
    /// The index at which it was stored.
    pub index: Index,
}

impl Query for CaRoots {
    type Value = Vec<CaRootView>;

    fn ask(&self, state: &State) -> Answer<Self::Value> {
        Answer::new(state, vec![Topic::CaRoots], state.ca_roots())
    }
}
