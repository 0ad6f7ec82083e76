//! Leases begin, are doomed when what they hang on is gone, and end with their keys and locks.

use super::State;
use crate::{
    command::{LeaseEnd, LeaseGrant, LeaseOpen, MemberStatus, Status},
    deadline::DeadlineKey,
    event::Change,
    id::{CheckKey, LeaseId, NodeName},
    kv::Stroke,
    lease::{Lease, Terms},
    limits,
    outcome::{Outcome, Rejection},
    rules::DOOMED_WAIT_FOR_NOTHING,
    time::Ttl,
    writer::Writer,
};

impl State {
    pub(super) fn grant_lease(&mut self, w: &mut Writer, grant: LeaseGrant) -> Result<Outcome, Rejection> {
        let LeaseGrant { id, ttl } = grant;
        self.check_new_lease(id)?;
        let ttl = ttl.max(limits::LEASE_TTL_MIN);
        self.begin_lease(w, id, Some(ttl));
        Ok(Outcome::LeaseGranted { id, ttl })
    }

    /// A lease with terms.
    pub(super) fn open_lease(&mut self, w: &mut Writer, open: &LeaseOpen) -> Result<Outcome, Rejection> {
        let LeaseOpen { id, ttl, terms } = open;
        self.check_new_lease(*id)?;
        if let Some(node) = &terms.node {
            if self.catalog.node(node).is_none() {
                return Err(Rejection::UnknownNode(node.clone()));
            }
            if self.leases.count_on_node(node) >= limits::NODE_LEASES_MAX {
                return Err(Rejection::too_many("leases on one node", limits::NODE_LEASES_MAX));
            }
        }
        for key in terms.checks() {
            match self.health.check(&key).map(|check| check.status) {
                None => return Err(Rejection::UnknownCheck(key.id)),
                Some(Status::Critical) => return Err(Rejection::CheckCritical(key.id)),
                Some(Status::Passing | Status::Warning) => {}
            }
        }
        let ttl = ttl.map(|ttl| ttl.max(limits::LEASE_TTL_MIN));
        self.begin_lease(w, *id, ttl);
        let row = Terms {
            terms: terms.clone(),
            doomed: false,
        };
        self.leases.load_terms(*id, row.into());
        if let Some(node) = &terms.node
            && ttl.is_none()
            && self.liveness_of(node).status == MemberStatus::Failed
        {
            self.await_orphans(w, node);
        }
        Ok(Outcome::LeaseGranted {
            id: *id,
            ttl: ttl.unwrap_or_default(),
        })
    }

    fn check_new_lease(&self, id: LeaseId) -> Result<(), Rejection> {
        if self.leases.get(id).is_some() {
            return Err(Rejection::LeaseExists(id));
        }
        if self.leases.rows.len() >= limits::LEASES_MAX {
            return Err(Rejection::too_many("leases", limits::LEASES_MAX));
        }
        Ok(())
    }

    fn begin_lease(&mut self, w: &mut Writer, id: LeaseId, ttl: Option<Ttl>) {
        let row = Lease {
            ttl: ttl.unwrap_or_default(),
            create_index: w.index,
        };
        self.leases.rows.put(id, row);
        if let Some(ttl) = ttl {
            self.deadlines.set(DeadlineKey::Lease(id), w.time.after(ttl));
        }
        w.emit(Change::Lease(id, true));
    }

    /// Ends a lease: its keys go, its locks are given back or deleted, and their delay begins.
    pub(super) fn revoke_lease(
        &mut self,
        w: &mut Writer,
        stroke: &mut Stroke,
        id: LeaseId,
    ) -> Result<Outcome, Rejection> {
        let Some(terms) = self.leases.remove(id) else {
            return Err(Rejection::UnknownLease(id));
        };
        self.deadlines.clear(&DeadlineKey::Lease(id));
        let (keys, locked) = self.kv.end_lease(w, stroke, id, terms.end == LeaseEnd::Delete);
        if terms.lock_delay > Ttl(0) {
            let until = w.time.after(terms.lock_delay);
            for key in locked {
                self.deadlines.set(DeadlineKey::LockDelay(key), until);
            }
        }
        w.emit(Change::Lease(id, false));
        Ok(Outcome::LeaseRevoked { keys })
    }

    /// A check is critical or gone: the leases that hang on it end at the next pulse, which is due at once. A pulse ends a
    /// bounded number of rows, and how much hangs on a check is for its clients to say.
    pub(super) fn doom_leases_of_check(&mut self, w: &Writer, check: &CheckKey) {
        let doomed: Vec<_> = self.leases.on_check(check).collect();
        self.doom(w, doomed);
    }

    /// A node is gone: as with a check.
    pub(super) fn doom_leases_of_node(&mut self, w: &Writer, node: &NodeName) {
        let doomed: Vec<_> = self.leases.on_node(node).collect();
        self.doom(w, doomed);
        self.deadlines.clear(&DeadlineKey::Orphans(node.clone()));
    }

    fn doom(&mut self, w: &Writer, leases: Vec<LeaseId>) {
        for id in leases {
            if self.leases.doom(id) {
                self.deadlines.set(DeadlineKey::Lease(id), w.time);
            }
        }
    }

    /// The server whose node this is was lost, or is heard again: its leases without a time to live wait for it for a while.
    pub(super) fn note_orphans(&mut self, w: &Writer, node: &NodeName, status: MemberStatus) {
        match status {
            MemberStatus::Alive => self.deadlines.clear(&DeadlineKey::Orphans(node.clone())),
            MemberStatus::Failed if self.orphans(node).next().is_some() => self.await_orphans(w, node),
            MemberStatus::Failed => {}
        }
    }

    fn await_orphans(&mut self, w: &Writer, node: &NodeName) {
        let key = DeadlineKey::Orphans(node.clone());
        if self.deadlines.get(&key).is_none() {
            self.deadlines.set(key, w.time.after(limits::LEASE_ORPHAN_AFTER));
        }
    }

    /// The server did not come back in time.
    pub(super) fn end_orphans(&mut self, w: &Writer, node: &NodeName) {
        let orphans: Vec<_> = self.orphans(node).collect();
        self.doom(w, orphans);
    }

    /// The leases on a node that nobody renews. Those that end at the next pulse wait for nothing; by rules 1 they did, and
    /// those of a later node of that name ended in their place.
    fn orphans(&self, node: &NodeName) -> impl Iterator<Item = LeaseId> {
        let ends = |id| self.rules >= DOOMED_WAIT_FOR_NOTHING && self.leases.is_doomed(id);
        let waits = move |id| !ends(id) && self.leases.get(id).is_some_and(|row| row.lives().is_none());
        self.leases.on_node(node).filter(move |id| waits(*id))
    }
}
