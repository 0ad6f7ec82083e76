//! The state of the registry: a value. Its tables are persistent maps, so a clone costs next to nothing, and
//! whoever holds one reads in peace while the next is made.
//!
//! [`State::apply`] is the one way forward. It reads no clock, draws no number and asks nobody: the same entries
//! make the same state on every node, and [`State::digest`] proves it. A command either is refused before anything
//! is written, or is carried out whole.

mod catalog_txn;
mod deregister;
mod expire;
mod lease;
mod member;
mod register;
mod renew;
mod report;
mod resumed;
mod rows;
mod twin;
mod txn;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::rows::Sums;
use crate::{
    catalog::Catalog,
    change_log::ChangeLog,
    command::{CaRoot, Command, Dialect, Entry, Member, Put, Request, RequestId},
    deadline::{DeadlineKey, Deadlines},
    dedup::Sessions,
    event::{Change, Delta, Event, Topic},
    health::Health,
    id::{Index, InstanceKey, LeaseId, NodeName, Revision, SessionId},
    kv::{Kv, Stroke},
    lease::Leases,
    limits,
    member::Liveness,
    outcome::{Applied, Outcome, Rejection},
    query::CaRootView,
    rules::{SESSIONS_FOR_SERVERS, SWEEP_KEEPS_UP},
    table::Table,
    time::{Time, Ttl, WallTime},
    touched::Touched,
    tree::Stamped,
    writer::Writer,
};

/// Everything that Spine knows.
#[derive(Clone, Debug)]
pub struct State {
    index: Index,
    time: Time,
    pub(crate) rules: u32,
    /// Bytes that the state may hold, if fewer than usual.
    quota: Option<u64>,
    kv: Kv,
    catalog: Catalog,
    health: Health,
    leases: Leases,
    heartbeats: Table<InstanceKey, Heartbeat>,
    deadlines: Deadlines,
    sessions: Sessions,
    members: Table<NodeName, Arc<Member>>,
    liveness: Table<NodeName, Liveness>,
    ca_roots: Table<Arc<str>, Arc<StoredRoot>>,
    changes: ChangeLog,
    touched: Touched,
}

/// How a registration without checks repeats itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heartbeat {
    /// When the last repeat that counts came.
    last: Time,
    /// How many in a row came neither too early nor too late.
    repeats: u32,
    /// Gone this long after the last one, once it is a lease.
    ttl: Ttl,
}

impl Stamped for Heartbeat {
    fn index(&self) -> Index {
        Index(0)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredRoot {
    root: Arc<CaRoot>,
    index: Index,
}

impl Stamped for StoredRoot {
    fn index(&self) -> Index {
        self.index
    }
}

/// What applying an entry did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// What became of each request, in order.
    pub applied: Vec<Applied>,
    /// What changed, in order.
    pub events: Vec<Event>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: Index(0),
            time: Time(0),
            rules: 1,
            quota: None,
            kv: Kv::default(),
            catalog: Catalog::default(),
            health: Health::default(),
            leases: Leases::default(),
            heartbeats: Table::default(),
            deadlines: Deadlines::default(),
            sessions: Sessions::default(),
            members: Table::default(),
            liveness: Table::default(),
            ca_roots: Table::default(),
            changes: ChangeLog::default(),
            touched: Touched::default(),
        }
    }
}

impl State {
    /// The state of a fresh cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies an entry.
    pub fn apply(&mut self, entry: &Entry) -> Batch {
        self.time = self.time.max(entry.time);
        let mut batch = Batch::default();
        for request in &entry.requests {
            let (applied, events) = self.apply_request(request, entry.wall);
            batch.applied.push(applied);
            batch.events.extend(events);
        }
        self.kv.sweep(self.sweep_budget(batch.events.len()));
        batch
    }

    /// How many old versions an entry with so many changes drops. More than it makes, so that what is to go goes under
    /// any load: of a key that is written anew, the version before and the place of it among the revisions.
    fn sweep_budget(&self, changes: usize) -> usize {
        let pace = if self.rules < SWEEP_KEEPS_UP {
            0
        } else {
            2 * changes
        };
        (limits::COMPACT_VERSIONS_PER_ENTRY + pace).min(limits::COMPACT_VERSIONS_MAX)
    }

    fn apply_request(&mut self, request: &Request, wall: WallTime) -> (Applied, Vec<Event>) {
        let first_time = match request.id.as_ref().map(|id| self.sessions.recall(id)) {
            None | Some(Ok(None)) => Ok(()),
            Some(Ok(Some(applied))) => return (applied, Vec::new()),
            Some(Err(rejection)) => Err(rejection),
        };
        self.index = self.index.next();
        let mut w = Writer::new(self.index, self.time, wall);
        // What a session refuses is no request of it: it neither is remembered nor keeps the session alive.
        let admitted = first_time.is_ok();
        let result = first_time.and_then(|()| self.dispatch(&mut w, request));
        let applied = Applied {
            index: self.index,
            result,
        };
        // A pulse may have ended the very session that it came through.
        let remembers = |id: &&RequestId| admitted && self.sessions.rows.contains(&id.session);
        if let Some(id) = request.id.as_ref().filter(remembers) {
            self.sessions.remember(id, &applied);
            self.use_session(id.session);
        }
        self.record(&w.events);
        (applied, w.events)
    }

    /// One command, one call.
    fn dispatch(&mut self, w: &mut Writer, request: &Request) -> Result<Outcome, Rejection> {
        let command = &request.command;
        command.check()?;
        self.admits(command)?;
        if command.grows(self.rules) {
            self.check_quota()?;
        }
        match command {
            Command::Put(put) => self.put(w, put),
            Command::Delete(delete) => Ok(self.kv.delete(w, delete)),
            Command::Compact(revision) => self.kv.compact(*revision),
            Command::Register(register) => self.register(w, register),
            Command::Deregister(deregister) => self.deregister(w, deregister),
            Command::CheckUpdate(update) => self.report(w, update),
            Command::LeaseGrant(grant) => self.grant_lease(w, *grant),
            Command::LeaseRevoke(id) => self.revoke_lease(w, &mut Stroke::default(), *id),
            Command::Renew(renewals) => Ok(self.renew_all(renewals)),
            Command::Pulse => Ok(self.pulse(w)),
            Command::OpenSession => self.open_session(w, request.author.dialect),
            Command::MemberUp(member) => self.member_up(w, member),
            Command::Txn(txn) => self.txn(w, txn),
            Command::LeaseOpen(open) => self.open_lease(w, open),
            Command::CaRootInitial(_) if !self.ca_roots.is_empty() => Ok(Outcome::CaRootExists),
            Command::CaRootSet(root) | Command::CaRootInitial(root) => self.set_ca_root(w, root),
            Command::RulesRaise(rules) => self.raise_rules(*rules),
            Command::MemberStatus(report) => self.member_status(w, report),
            Command::MemberRemove(member) => self.member_remove(w, member),
            Command::CatalogTxn(txn) => Ok(self.catalog_txn(w, txn)),
            Command::QuotaSet(bytes) => Ok(self.set_quota(*bytes)),
        }
    }

    fn check_quota(&self) -> Result<(), Rejection> {
        let (used, limit) = (self.bytes(), self.quota());
        if used > limit {
            return Err(Rejection::QuotaExceeded { used, limit });
        }
        Ok(())
    }

    /// The usual quota is not noted, so that a state that never had another is what it was before there were others.
    fn set_quota(&mut self, bytes: u64) -> Outcome {
        self.quota = (bytes < limits::STATE_BYTES_MAX).then_some(bytes);
        Outcome::QuotaSet(bytes)
    }

    fn put(&mut self, w: &mut Writer, put: &Put) -> Result<Outcome, Rejection> {
        self.check_attaching(put)?;
        Ok(self.kv.put(w, put))
    }

    fn open_session(&mut self, w: &Writer, dialect: Dialect) -> Result<Outcome, Rejection> {
        let id = SessionId(w.index.0);
        let most = if dialect == Dialect::Internal || self.rules < SESSIONS_FOR_SERVERS {
            limits::SESSIONS_MAX
        } else {
            limits::CLIENT_SESSIONS_MAX
        };
        if self.sessions.rows.len() >= most {
            self.evict_session(most)?;
        }
        self.sessions.open(id);
        self.use_session(id);
        Ok(Outcome::SessionOpened(id))
    }

    /// A session is used: from now on it is the last to go.
    fn use_session(&mut self, id: SessionId) {
        let key = DeadlineKey::Session(id);
        let ends = self.time.after(limits::SESSION_IDLE);
        self.sessions.moved(id, self.deadlines.get(&key), ends);
        self.deadlines.set(key, ends);
    }

    /// Makes room for a session: the one that was used longest ago goes, unless a retry may still come through it.
    fn evict_session(&mut self, most: usize) -> Result<(), Rejection> {
        let (ends, oldest) = self.sessions.oldest().expect("there are as many as there may be");
        let idle = Ttl(limits::SESSION_IDLE.0.saturating_sub(ends.since(self.time).0));
        if idle < limits::SESSION_SPARED {
            return Err(Rejection::too_many("request sessions", most));
        }
        self.deadlines.clear(&DeadlineKey::Session(oldest));
        self.sessions.close(oldest, ends);
        Ok(())
    }

    fn set_ca_root(&mut self, w: &mut Writer, root: &CaRoot) -> Result<Outcome, Rejection> {
        if !self.ca_roots.contains(&root.id) && self.ca_roots.len() >= limits::CA_ROOTS_MAX {
            return Err(Rejection::too_many("CA roots", limits::CA_ROOTS_MAX));
        }
        let root = Arc::new(root.clone());
        self.ca_roots.put(
            root.id.clone(),
            Arc::new(StoredRoot {
                root: root.clone(),
                index: w.index,
            }),
        );
        w.emit(Change::CaRoots(root));
        Ok(Outcome::CaRootSet)
    }

    /// Appends events to the change log and marks what they touch.
    fn record(&mut self, events: &[Event]) {
        self.changes.append(events, self.quota());
        for event in events {
            for topic in event.change.topics() {
                self.touched.touch(topic, event.index);
            }
        }
        for event in events {
            self.bury_topics(&event.change);
        }
    }

    /// Topics of what no longer exists needn't be kept for ever.
    fn bury_topics(&mut self, change: &Change) {
        match change {
            Change::Node(name, Delta { after: None, .. }) if self.catalog.node(name).is_none() => {
                self.touched.bury(&Topic::Node(name.clone()));
                self.touched.bury(&Topic::NodeServices(name.clone()));
            }
            Change::Instance(
                _,
                Delta {
                    before: Some(before), ..
                },
            ) if !self.catalog.has_service(&before.service.name) => {
                self.touched.bury(&Topic::Service(before.service.name.clone()));
            }
            _ => {}
        }
    }

    /// The newest index: of the last request applied.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The cluster time: the greatest stamp applied.
    pub fn time(&self) -> Time {
        self.time
    }

    /// The rules in force.
    pub fn rules(&self) -> u32 {
        self.rules
    }

    /// How many bytes the state may hold before what makes it grow is refused.
    pub fn quota(&self) -> u64 {
        self.quota.unwrap_or(limits::STATE_BYTES_MAX)
    }

    /// The revision of the key/value store.
    pub fn revision(&self) -> Revision {
        self.kv.revision()
    }

    /// The key/value store.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Nodes and instances.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Checks.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The change log.
    pub fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    /// The CA's roots; the one stored last is the active one.
    pub fn ca_roots(&self) -> Vec<CaRootView> {
        let newest = self.ca_roots.newest(..);
        let view = |stored: &Arc<StoredRoot>| CaRootView {
            root: stored.root.clone(),
            active: Some(stored.index) == newest,
            index: stored.index,
        };
        self.ca_roots.iter().map(|(_, stored)| view(stored)).collect()
    }

    /// Nothing expires before this time; `None`: nothing expires.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.next()
    }

    /// When a lease ends if it is not renewed.
    pub fn lease_deadline(&self, id: LeaseId) -> Option<Time> {
        self.deadlines.get(&DeadlineKey::Lease(id))
    }

    /// The index at which a topic was last touched.
    pub fn newest(&self, topic: &Topic) -> Index {
        match topic {
            Topic::Keys(range) => self.kv.newest(range),
            Topic::All => self.index,
            other => self.touched.newest(other),
        }
    }
}
