//! Every way to change the state. What is not a [`Command`] does not happen.
//!
//! A leader batches what arrives at the same time: an [`Entry`] holds many [`Request`]s, each of which gets an
//! [`Index`] of its own when the entry is applied. Variants are only ever appended: their numbers
//! are in the log of every cluster.

mod catalog_txn;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{
        CheckId, CheckKey, Index, InstanceId, InstanceKey, Key, LeaseId, NodeName, Revision, ServiceName,
        SessionId,
    },
    kv::KeyRange,
    time::{Time, Ttl, WallTime},
};

pub use self::catalog_txn::{CatalogKey, CatalogOp, CatalogRow, CatalogTxn};
pub use crate::{
    kv::{Compare, Locking, Operand, ReadKeys, Relation, Txn, TxnOp},
    lease::{LeaseEnd, LeaseOpen, LeaseTerms},
    member::{Member, MemberName, MemberReport, MemberStatus},
};

/// What one position of the replicated log holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Cluster time: the only time that rules know.
    pub time: Time,
    /// Wall time, for people and audit.
    pub wall: WallTime,
    /// What to apply, in this order.
    pub requests: Vec<Request>,
}

/// One command and who is answerable for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who asked.
    pub author: Author,
    /// The rights that its authorization relied on.
    pub rights: Rights,
    /// The governance revision at which it was authorized.
    pub governance_revision: u64,
    /// Set by clients that want the request applied exactly once.
    pub id: Option<RequestId>,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A request of the cluster's own.
    pub fn internal(command: Command) -> Self {
        Self {
            author: Author::default(),
            rights: Rights::Open,
            governance_revision: 0,
            id: None,
            command,
        }
    }
}

/// Who asked for a change, and by which way in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The principal; empty while the registry is open.
    pub principal: Arc<str>,
    /// The id of the credential shown, never its secret.
    pub credential: Arc<str>,
    /// The dialect spoken.
    pub dialect: Dialect,
    /// The client's address.
    pub peer: Option<Arc<str>>,
}

/// A way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// The node itself: pulses, its own registration.
    #[default]
    Internal,
    /// `spine.v1` over gRPC.
    Native,
    /// Consul's HTTP API.
    Consul,
    /// etcd's v3 API.
    Etcd,
    /// A health probe of this cluster.
    Probe,
}

impl Dialect {
    /// The label of metrics and audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Native => "native",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Probe => "probe",
        }
    }
}

/// The rights that an authorization relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rights {
    /// The registry is open: no right was needed.
    #[default]
    Open,
    /// These rights; apply refuses a command that needs more.
    Granted(Vec<Right>),
}

/// Access to the things of one kind whose names match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    /// The kind of thing, such as `key` or `service`.
    pub resource: Arc<str>,
    /// The name, or the beginning of it.
    pub pattern: Arc<str>,
    /// Whether `pattern` is a beginning.
    pub prefix: bool,
    /// `deny`, `read`, `list` or `write`.
    pub access: Arc<str>,
}

/// The identity of a request, for exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestId {
    /// The session that the client opened with [`Command::OpenSession`].
    pub session: SessionId,
    /// Raised by 1 by the client for each request.
    pub sequence: u64,
    /// The client has the answers up to and with this one: their outcomes may be dropped.
    pub answered_up_to: u64,
}

/// Every way to change the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Store a value under a key.
    Put(Put),
    /// Delete keys.
    Delete(Delete),
    /// Forget history up to a revision.
    Compact(Revision),
    /// Register or replace a node, an instance and checks in one step.
    Register(Box<Register>),
    /// Remove a node, an instance or a check, with what hangs on it.
    Deregister(Deregister),
    /// Report a check's status.
    CheckUpdate(CheckUpdate),
    /// Make a lease.
    LeaseGrant(LeaseGrant),
    /// End a lease and what hangs on it.
    LeaseRevoke(LeaseId),
    /// Renew many deadlines at once.
    Renew(Vec<RenewalRequest>),
    /// End what is due at the entry's time.
    Pulse,
    /// Open a request session.
    OpenSession,
    /// A server says that it is there.
    MemberUp(Member),
    /// Store a CA root and make it the active one.
    CaRootSet(CaRoot),
    /// From here on the rules of this number hold; proposed once every server supports them.
    RulesRaise(u32),
    /// The leader has lost a server, or hears it again.
    MemberStatus(MemberReport),
    /// Store a CA root and make it the active one, if there is none yet.
    CaRootInitial(CaRoot),
    /// Carry out several conditions and operations on keys as one.
    Txn(Txn),
    /// Make a lease that holds locks, or that ends with what it hangs on.
    LeaseOpen(Box<LeaseOpen>),
    /// A server is a member no longer.
    MemberRemove(MemberName),
    /// Carry out several operations on the catalog, on keys and on leases as one.
    CatalogTxn(CatalogTxn),
    /// From here on the state may hold so many bytes; proposed by a leader that is told another quota than there is.
    QuotaSet(u64),
}

impl Command {
    /// The label of metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::Compact(_) => "compact",
            Self::Register(_) => "register",
            Self::Deregister(_) => "deregister",
            Self::CheckUpdate(_) => "check_update",
            Self::LeaseGrant(_) => "lease_grant",
            Self::LeaseRevoke(_) => "lease_revoke",
            Self::Renew(_) => "renew",
            Self::Pulse => "pulse",
            Self::OpenSession => "open_session",
            Self::MemberUp(_) => "member_up",
            Self::CaRootSet(_) => "ca_root_set",
            Self::RulesRaise(_) => "rules_raise",
            Self::MemberStatus(_) => "member_status",
            Self::CaRootInitial(_) => "ca_root_initial",
            Self::Txn(_) => "txn",
            Self::LeaseOpen(_) => "lease_open",
            Self::MemberRemove(_) => "member_remove",
            Self::CatalogTxn(_) => "catalog_txn",
            Self::QuotaSet(_) => "quota_set",
        }
    }
}

/// Store a value under a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The value, kept byte for byte.
    pub value: Bytes,
    /// A number of the client's own, kept with it.
    pub flags: u64,
    /// The lease that the key is to go with.
    pub lease: Option<LeaseId>,
    /// When to do it.
    pub guard: Guard,
    /// What to do if it would change nothing.
    pub repeat: Repeat,
}

/// A condition on a key's row that a write needs (check-and-set).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// No condition.
    #[default]
    Always,
    /// There is no such key.
    Absent,
    /// Its row was last changed at this index.
    ModifyIndex(Index),
    /// Its row was last changed at this revision.
    ModRevision(Revision),
}

/// What a put of what is already there does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repeat {
    /// Nothing: no index moves and nobody wakes (Consul since 1.6).
    #[default]
    Skip,
    /// A new revision, as every put of etcd.
    Write,
}

/// Delete keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delete {
    /// Which keys.
    pub range: KeyRange,
    /// When to do it; with a guard the range is one key.
    pub guard: Guard,
}

/// Register or replace a node, an instance and checks in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The node that all of it belongs to.
    pub node: NodeName,
    /// The node's own row; `None` leaves it as it is, and then it must be there.
    pub node_update: Option<NodeDefinition>,
    /// An instance on it.
    pub service: Option<Service>,
    /// Checks of that instance or of the node.
    pub checks: Vec<CheckDefinition>,
    /// What happens to checks that are already there.
    pub existing: ExistingChecks,
    /// The time to live of a registration without checks that heartbeats (`--default-service-ttl`).
    pub heartbeat: Option<Ttl>,
}

/// What a registration does to checks that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExistingChecks {
    /// Checks named again keep their status; the instance's others stay (an agent's registration).
    Keep,
    /// Checks named again keep their status; the instance's others go (`replace-existing-checks`).
    Replace,
    /// Checks named again take the status given; others stay (a catalog registration).
    Overwrite,
}

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDefinition {
    /// A UUID of the client's; may be empty.
    pub id: Arc<str>,
    /// Where it is reached.
    pub address: Arc<str>,
    /// More addresses, by name (`lan`, `wan`).
    pub tagged_addresses: BTreeMap<Arc<str>, Arc<str>>,
    /// The client's own pairs.
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
}

/// An instance of a service, as registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its id on the node.
    pub id: InstanceId,
    /// The service that it is an instance of.
    pub name: ServiceName,
    /// Consul's kind: empty for a typical service.
    pub kind: Arc<str>,
    /// Labels.
    pub tags: Vec<Arc<str>>,
    /// Where it is reached; empty means at the node's address.
    pub address: Arc<str>,
    /// More addresses, by name.
    pub tagged_addresses: BTreeMap<Arc<str>, ServiceAddress>,
    /// Its port; 0 if it has none.
    pub port: u16,
    /// Its Unix socket, if it has one.
    pub socket_path: Arc<str>,
    /// The client's own pairs.
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    /// Its share of the traffic.
    pub weights: Weights,
    /// Consul's flag, kept and shown.
    pub enable_tag_override: bool,
}

/// An address with a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// A name or an IP address.
    pub address: Arc<str>,
    /// The port.
    pub port: u16,
}

/// An instance's share of the traffic, by its health. 0: registered, but no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// While all checks pass.
    pub passing: u16,
    /// While a check warns.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

/// A check, as registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// Its id on the node.
    pub id: CheckId,
    /// Its name, for people.
    pub name: Arc<str>,
    /// A note, for people.
    pub notes: Arc<str>,
    /// The instance that it judges; `None`: the node.
    pub service: Option<InstanceId>,
    /// The status to begin with; `None`: critical.
    pub status: Option<Status>,
    /// The output to begin with.
    pub output: Arc<str>,
    /// How its status comes about.
    pub kind: CheckKind,
    /// When critical for this long, its instance is deregistered.
    pub deregister_after: Option<Ttl>,
    /// How many results in a row change the status.
    pub thresholds: Thresholds,
}

/// How many results in a row it takes to change a check's status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Successes before it passes; 0 and 1 mean the first one.
    pub success_before_passing: u32,
    /// Failures before it warns; 0: it doesn't warn before it is critical.
    pub failures_before_warning: u32,
    /// Failures before it is critical; 0 and 1 mean the first one.
    pub failures_before_critical: u32,
}

/// How a check's status comes about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// Somebody registers the status: catalog checks, maintenance.
    External,
    /// The service reports in; silence for this long makes it critical.
    Ttl(Ttl),
    /// An HTTP request: 2xx passes, 429 warns, all else is critical.
    Http(HttpProbe),
    /// A TCP connection.
    Tcp(TcpProbe),
    /// gRPC's standard health service.
    Grpc(GrpcProbe),
}

impl CheckKind {
    /// The word that Consul shows as the check's type.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::External => "",
            Self::Ttl(_) => "ttl",
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Grpc(_) => "grpc",
        }
    }

    /// How often a node must run it; `None` for checks that no node runs.
    pub const fn interval(&self) -> Option<Ttl> {
        match self {
            Self::External | Self::Ttl(_) => None,
            Self::Http(HttpProbe { pace, .. })
            | Self::Tcp(TcpProbe { pace, .. })
            | Self::Grpc(GrpcProbe { pace, .. }) => Some(pace.interval),
        }
    }
}

/// How often a probe runs and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// From one run to the next, at least a second.
    pub interval: Ttl,
    /// A run that takes longer has failed.
    pub timeout: Ttl,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The URL asked.
    pub url: Arc<str>,
    /// The method; empty means GET.
    pub method: Arc<str>,
    /// Header lines to send.
    pub header: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// The body to send.
    pub body: Arc<str>,
    /// Accept any certificate.
    pub tls_skip_verify: bool,
    /// The name to ask and verify, if not the URL's.
    pub tls_server_name: Arc<str>,
    /// Kept for clients that set it; redirects are never followed.
    pub disable_redirects: bool,
    /// How often, how long.
    pub pace: Pace,
}

/// A TCP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpProbe {
    /// `HOST:PORT`.
    pub address: Arc<str>,
    /// Shake hands too.
    pub tls: bool,
    /// How often, how long.
    pub pace: Pace,
}

/// A gRPC health probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcProbe {
    /// `HOST:PORT`.
    pub address: Arc<str>,
    /// The service asked for; empty: the server as a whole.
    pub service: Arc<str>,
    /// Over TLS.
    pub tls: bool,
    /// How often, how long.
    pub pace: Pace,
}

/// A check's, an instance's or a node's health, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// All is well.
    Passing,
    /// Serves, but not well.
    Warning,
    /// Must get no traffic.
    Critical,
}

impl Status {
    /// The word that every dialect uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

/// Remove a node, an instance or a check, with what hangs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deregister {
    /// The node that it is on.
    pub node: NodeName,
    /// What goes.
    pub target: Target,
    /// Where else to look.
    pub scope: Scope,
}

/// What a deregistration removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The node with all that it has.
    Node,
    /// An instance with its checks.
    Instance(InstanceId),
    /// A check.
    Check(CheckId),
}

/// Where a call by id looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// On the node named, and nowhere else.
    #[default]
    Node,
    /// There first, then on the other servers' nodes: a client behind a load balancer need not know which server
    /// took its registration. More than one match is refused.
    Servers,
}

/// Report a check's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckUpdate {
    /// The node that the check is on.
    pub node: NodeName,
    /// The check.
    pub check: CheckId,
    /// Its status from now on.
    pub status: Status,
    /// What was seen, for people; cut at [`OUTPUT_BYTES_MAX`](crate::limits::OUTPUT_BYTES_MAX).
    pub output: Arc<str>,
    /// Who says so.
    pub source: UpdateSource,
    /// Where else to look for the check.
    pub scope: Scope,
}

/// Who reports a check's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateSource {
    /// The service itself: the check must be a TTL check.
    Service,
    /// The same, and the id may be an instance's: its check `service:ID` is then meant, and made as a TTL check of
    /// this length when it is missing.
    ServiceOrImplicit(Ttl),
    /// A node that probes it.
    Probe(Assignment),
}

/// Which node probes a check, and since when. An update under an outdated assignment is refused, so that a node that
/// was cut off can't overwrite its successor's result, not even after the check has come back to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Assignment {
    /// The member that runs the probe.
    pub member: NodeName,
    /// The index at which the check's definition last changed, or at which the check came to this member, whichever
    /// is newer.
    pub since: Index,
}

/// Make a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// Its id, chosen by the client or drawn by the node that took the request.
    pub id: LeaseId,
    /// Ends this long after its last renewal.
    pub ttl: Ttl,
}

/// One renewal with its own rights: many travel in one [`Command::Renew`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenewalRequest {
    /// Who asked.
    pub author: Author,
    /// The rights that its authorization relied on.
    pub rights: Rights,
    /// What is renewed.
    pub renewal: Renewal,
}

/// Something whose deadline a client moves by saying that it is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewal {
    /// A lease is kept alive.
    Lease(LeaseId),
    /// A registration is repeated; `content` is [`crate::codec::content_hash`] of it.
    Instance {
        /// Which instance.
        instance: InstanceKey,
        /// The hash of the registration that the client sent.
        content: u64,
    },
    /// A TTL check reports the same again; `content` is the hash of status and output.
    Check {
        /// Which check.
        check: CheckKey,
        /// The hash of the status and output that the client sent.
        content: u64,
    },
}

/// A root certificate of the mesh's CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRoot {
    /// Its id: the hash of the certificate.
    pub id: Arc<str>,
    /// The SPIFFE trust domain.
    pub trust_domain: Arc<str>,
    /// The certificate, PEM.
    pub certificate_pem: Arc<str>,
    /// Its serial number, decimal.
    pub serial: Arc<str>,
    /// The id of its key.
    pub key_id: Arc<str>,
    /// The kind of its key, such as `ec`.
    pub key_type: Arc<str>,
    /// The size of its key.
    pub key_bits: u32,
    /// Valid from.
    pub not_before: WallTime,
    /// Valid until.
    pub not_after: WallTime,
    /// Its private key, sealed; `None`: discarded, it can sign nothing.
    pub sealed_key: Option<Bytes>,
}
