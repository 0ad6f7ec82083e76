//! The registry, naively: plain maps, whole copies of the keys for each revision, every deadline a field of the row
//! that it ends. Written from the contract, not from the core, of which it knows commands and outcomes alone.

mod catalog;
mod catalog_txn;
mod health;
mod keys;
mod leases;
mod members;
mod txn;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use spine_core::{
    Command, Index, Key, LeaseId, NodeName, Outcome, Renewal, Renewed, Request, RequestId, SessionId, Time,
    Ttl,
};

pub(crate) use self::{
    catalog::{Instance, Node, Place, check, service},
    catalog_txn::refused,
    health::Check,
    keys::{Keys, Row},
    leases::Lease,
    members::Server,
};

/// What became of a request: of a refusal its code.
pub(crate) type Told = Result<Outcome, &'static str>;

const QUOTAS: RangeInclusive<u64> = 16 << 20..=4 << 30;
const YEAR: u64 = 365 * 24 * 3_600_000;
const SESSION_IDLE: u64 = 3_600_000;

/// All that there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) index: u64,
    pub(crate) now: u64,
    pub(crate) keys: Keys,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Until when nobody may take a lock.
    pub(crate) delays: BTreeMap<Key, u64>,
    /// When the leases on a lost server's node end that nobody renews.
    pub(crate) orphans: BTreeMap<NodeName, u64>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) instances: BTreeMap<Place, Instance>,
    pub(crate) checks: BTreeMap<Place, Check>,
    pub(crate) members: BTreeMap<NodeName, Server>,
    /// Those that were removed, while something is on their nodes.
    pub(crate) gone: BTreeMap<NodeName, Server>,
    /// For each check that is probed: who does, of which definition, and the number of this term of office.
    pub(crate) terms: BTreeMap<Place, (NodeName, Index, u64)>,
    terms_begun: u64,
    rooted: bool,
    /// The rules, once they were raised.
    raised: Option<u32>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Every session that was ever opened.
    pub(crate) opened: Vec<SessionId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    answered: u64,
    told: BTreeMap<u64, (u64, Told)>,
    idle: u64,
}

/// Something that is due, in the order in which what is due at the same time ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(LeaseId),
    Silent(String, String),
    Critical(String, String),
    Heartbeat(String, String),
    Implicit(String, String),
    Session(SessionId),
    LockDelay(Key),
    Orphans(NodeName),
}

impl Model {
    /// Applies a request; its index, and what became of it.
    pub(crate) fn apply(&mut self, time: Time, request: &Request) -> (u64, Told) {
        self.now = self.now.max(time.0);
        let Some(id) = request.id else {
            self.index += 1;
            let told = (self.index, self.run(&request.command));
            self.begin_terms();
            return told;
        };
        if let Some(told) = self.told(&id) {
            return told;
        }
        self.index += 1;
        let told = (self.index, self.run(&request.command));
        self.begin_terms();
        if let Some(session) = self.sessions.get_mut(&id.session) {
            let answered = id.answered_up_to.min(id.sequence - 1);
            session.answered = session.answered.max(answered);
            session.told.retain(|sequence, _| *sequence > session.answered);
            session.told.insert(id.sequence, told.clone());
            session.idle = self.now + SESSION_IDLE;
        }
        told
    }

    /// What a request session says without looking at the command.
    fn told(&mut self, id: &RequestId) -> Option<(u64, Told)> {
        let refusal = match self.sessions.get(&id.session) {
            None => "unknown_session",
            Some(_) if id.sequence == 0 => "invalid",
            Some(session) if id.sequence <= session.answered => "answered_before",
            Some(session) => return session.told.get(&id.sequence).cloned(),
        };
        self.index += 1;
        Some((self.index, Err(refusal)))
    }

    fn run(&mut self, command: &Command) -> Told {
        match command {
            Command::Put(put) => match put.lease {
                _ if put.key.is_empty() => Err("invalid"),
                Some(lease) if !self.holds(lease) => Err("unknown_lease"),
                _ => Ok(self.keys.put(Index(self.index), put)),
            },
            Command::Txn(txn) => self.txn(txn),
            Command::LeaseOpen(open) => self.open(open),
            Command::Delete(delete) => self.keys.delete(Index(self.index), delete),
            Command::Compact(at) => self.keys.compact(at.0),
            Command::Register(register) => self
                .register(register)
                .map(|changed| Outcome::Registered { changed }),
            Command::Deregister(deregister) => self.deregister(deregister),
            Command::CheckUpdate(update) => self.report(update),
            Command::LeaseGrant(grant) => self.grant(*grant),
            Command::LeaseRevoke(id) => self.revoke(*id),
            Command::Renew(renewals) => Ok(Outcome::Renewed(
                renewals.iter().map(|one| self.renew(&one.renewal)).collect(),
            )),
            Command::Pulse => Ok(self.pulse()),
            Command::OpenSession => {
                let id = SessionId(self.index);
                let session = Session {
                    answered: 0,
                    told: BTreeMap::new(),
                    idle: self.now + SESSION_IDLE,
                };
                self.sessions.insert(id, session);
                self.opened.push(id);
                Ok(Outcome::SessionOpened(id))
            }
            Command::MemberUp(member) => self.member_up(member),
            Command::MemberStatus(report) => self.member_status(report),
            Command::MemberRemove(member) => Ok(self.member_remove(member)),
            Command::CaRootInitial(_) if self.rooted => Ok(Outcome::CaRootExists),
            Command::CaRootSet(_) | Command::CaRootInitial(_) => {
                self.rooted = true;
                Ok(Outcome::CaRootSet)
            }
            Command::RulesRaise(rules) if *rules > self.rules() && *rules <= 2 => {
                self.raised = Some(*rules);
                Ok(Outcome::RulesRaised(*rules))
            }
            Command::RulesRaise(_) => Err("rules_unsupported"),
            Command::CatalogTxn(txn) => self.catalog_txn(txn),
            // Far more than a model ever holds, or refused.
            Command::QuotaSet(bytes) if !QUOTAS.contains(bytes) => Err("invalid"),
            Command::QuotaSet(_) if self.rules() < 2 => Err("rules_too_low"),
            Command::QuotaSet(bytes) => Ok(Outcome::QuotaSet(*bytes)),
        }
    }

    pub(crate) fn rules(&self) -> u32 {
        self.raised.unwrap_or(1)
    }

    fn renew(&mut self, renewal: &Renewal) -> Renewed {
        let until = match renewal {
            Renewal::Lease(id) => self.keep_alive(*id),
            Renewal::Instance { instance, content } => self.renew_instance(instance, *content),
            Renewal::Check { check, content } => self.renew_check(check, *content),
        };
        until.map_or_else(std::convert::identity, |until| {
            Renewed::Until(until.map(|until| Ttl(until.saturating_sub(self.now))))
        })
    }

    /// Ends what is due, the earliest first.
    fn pulse(&mut self) -> Outcome {
        let mut ended = 0;
        while let Some((_, due)) = self.deadlines().first().filter(|(at, _)| *at <= self.now) {
            let due = due.clone();
            ended += 1;
            self.end(due);
        }
        Outcome::Pulsed { ended, more: false }
    }

    fn end(&mut self, due: Due) {
        match due {
            Due::Lease(id) => {
                self.revoke(id).expect("a lease that is due is there");
            }
            Due::Silent(node, id) => self.silence(&(node, id)),
            Due::Critical(node, id) => self.end_critical(&(node, id)),
            Due::Heartbeat(node, id) => {
                let key = (node, id);
                self.remove_instance(&key);
                self.clear_deserted(&key.0);
            }
            Due::Implicit(node, id) => {
                let key = (node, id);
                self.remove_check(&key);
                self.clear_deserted(&key.0);
            }
            Due::Session(id) => {
                self.sessions.remove(&id);
            }
            Due::LockDelay(key) => {
                self.delays.remove(&key);
            }
            Due::Orphans(node) => self.end_orphans(&node),
        }
    }

    /// When the next thing ends.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines().first().map(|(at, _)| *at)
    }

    fn deadlines(&self) -> BTreeSet<(u64, Due)> {
        let mut all: BTreeSet<_> = BTreeSet::new();
        let ends = |(id, row): (&LeaseId, &Lease)| Some((row.ends?, Due::Lease(*id)));
        all.extend(self.leases.iter().filter_map(ends));
        all.extend(
            self.delays
                .iter()
                .map(|(key, at)| (*at, Due::LockDelay(key.clone()))),
        );
        all.extend(
            self.orphans
                .iter()
                .map(|(node, at)| (*at, Due::Orphans(node.clone()))),
        );
        all.extend(
            self.sessions
                .iter()
                .map(|(id, row)| (row.idle, Due::Session(*id))),
        );
        for ((node, id), row) in &self.checks {
            let due = |at: Option<u64>, due: fn(String, String) -> Due| {
                at.map(|at| (at, due(node.clone(), id.clone())))
            };
            all.extend(due(row.silent, Due::Silent));
            all.extend(due(row.doomed, Due::Critical));
            all.extend(due(row.forgotten, Due::Implicit));
        }
        for ((node, id), row) in &self.instances {
            let ends = row.heartbeat.as_ref().and_then(|heartbeat| heartbeat.ends);
            all.extend(ends.map(|at| (at, Due::Heartbeat(node.clone(), id.clone()))));
        }
        all
    }
}

fn is_ttl(ttl: Ttl) -> bool {
    (1..=YEAR).contains(&ttl.0)
}
