//! Leases: what ends them, and what their end does.

use spine_core::{
    Index, LeaseEnd, LeaseGrant, LeaseId, LeaseOpen, LeaseTerms, NodeName, Outcome, Renewed, Status, Ttl,
};

use super::{Model, Told, catalog::Place, is_ttl, keys::Draft};

const LEASE_MIN: u64 = 2_000;
const LOCK_DELAY_MAX: Ttl = Ttl::seconds(60);
const ORPHAN_AFTER: u64 = 60_000;

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl: Option<u64>,
    pub(crate) ends: Option<u64>,
    /// Those of a plain lease are none.
    pub(crate) terms: Option<LeaseTerms>,
    pub(crate) doomed: bool,
}

impl Lease {
    fn hangs_on(&self, node: &NodeName) -> bool {
        self.terms
            .as_ref()
            .is_some_and(|terms| terms.node.as_ref() == Some(node))
    }
}

impl Model {
    pub(super) fn grant(&mut self, LeaseGrant { id, ttl }: LeaseGrant) -> Told {
        if !is_ttl(ttl) {
            return Err("invalid");
        }
        self.begin(id, Some(ttl), None)
    }

    pub(super) fn open(&mut self, LeaseOpen { id, ttl, terms }: &LeaseOpen) -> Told {
        let has_checks = terms.node_checks.len() + terms.service_checks.len() > 0;
        if ttl.is_some_and(|ttl| !is_ttl(ttl))
            || terms.lock_delay > LOCK_DELAY_MAX
            || terms.node.is_none() && (ttl.is_none() || has_checks)
        {
            return Err("invalid");
        }
        if self.leases.contains_key(id) {
            return Err("lease_exists");
        }
        if let Some(node) = &terms.node {
            if !self.nodes.contains_key(node) {
                return Err("unknown_node");
            }
            for check in terms.node_checks.iter().chain(&terms.service_checks) {
                match self.checks.get(&(node.to_string(), check.to_string())) {
                    None => return Err("unknown_check"),
                    Some(row) if row.status == Status::Critical => return Err("check_critical"),
                    Some(_) => {}
                }
            }
            let server = self.members.get(node).or_else(|| self.gone.get(node));
            let lost = server.is_some_and(|server| server.failed);
            if ttl.is_none() && lost {
                self.orphans
                    .entry(node.clone())
                    .or_insert(self.now + ORPHAN_AFTER);
            }
        }
        self.begin(*id, *ttl, Some(terms.clone()))
    }

    fn begin(&mut self, id: LeaseId, ttl: Option<Ttl>, terms: Option<LeaseTerms>) -> Told {
        if self.leases.contains_key(&id) {
            return Err("lease_exists");
        }
        let ttl = ttl.map(|ttl| ttl.0.max(LEASE_MIN));
        let lease = Lease {
            ttl,
            ends: ttl.map(|ttl| self.now + ttl),
            terms,
            doomed: false,
        };
        self.leases.insert(id, lease);
        let ttl = Ttl(ttl.unwrap_or_default());
        Ok(Outcome::LeaseGranted { id, ttl })
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Told {
        let mut draft = self.keys.draft(Index(self.index));
        let keys = self.revoke_in(&mut draft, id)?;
        self.keys.take(draft);
        Ok(Outcome::LeaseRevoked { keys })
    }

    /// How many keys go.
    pub(super) fn revoke_in(&mut self, draft: &mut Draft, id: LeaseId) -> Result<u64, &'static str> {
        let lease = self.leases.remove(&id).ok_or("unknown_lease")?;
        let terms = lease.terms.unwrap_or_default();
        let locked = draft.locked_by(id);
        if terms.lock_delay > Ttl(0) {
            let until = self.now + terms.lock_delay.0;
            self.delays.extend(locked.into_iter().map(|key| (key, until)));
        }
        Ok(draft.end_lease(id, terms.end == LeaseEnd::Delete))
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<Option<u64>, Renewed> {
        let lease = self.leases.get_mut(&id).filter(|lease| !lease.doomed);
        let lease = lease.ok_or(Renewed::NotARenewal)?;
        if let Some(ttl) = lease.ttl {
            lease.ends = Some(self.now + ttl);
        }
        Ok(lease.ends)
    }

    /// Whether something may be done with a lease.
    pub(super) fn holds(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_some_and(|lease| !lease.doomed)
    }

    fn doom(&mut self, which: impl Fn(&Lease) -> bool) {
        let doomed = self
            .leases
            .values_mut()
            .filter(|lease| !lease.doomed && which(lease));
        for lease in doomed {
            lease.doomed = true;
            lease.ends = Some(self.now);
        }
    }

    /// A check is critical or gone.
    pub(super) fn doom_of_check(&mut self, (node, check): &Place) {
        self.doom(|lease| {
            lease.terms.as_ref().is_some_and(|terms| {
                let mut checks = terms.node_checks.iter().chain(&terms.service_checks);
                terms.node.as_ref().is_some_and(|of| of.as_str() == node)
                    && checks.any(|id| id.as_str() == check)
            })
        });
    }

    /// A node is gone.
    pub(super) fn doom_of_node(&mut self, node: &NodeName) {
        self.doom(|lease| lease.hangs_on(node));
        self.orphans.remove(node);
    }

    /// A server was lost, or is heard again.
    pub(super) fn note_orphans(&mut self, node: &NodeName, failed: bool) {
        self.orphans.remove(node);
        let waits = |lease: &Lease| lease.ttl.is_none() && !(lease.doomed && self.rules() >= 2);
        let has_any = self
            .leases
            .values()
            .any(|lease| waits(lease) && lease.hangs_on(node));
        if failed && has_any {
            self.orphans.insert(node.clone(), self.now + ORPHAN_AFTER);
        }
    }

    pub(super) fn end_orphans(&mut self, node: &NodeName) {
        self.orphans.remove(node);
        self.doom(|lease| lease.ttl.is_none() && lease.hangs_on(node));
    }
}
