//! The first start of a directory that was restored.
//!
//! What was restored stands before the first entry of a log. Who is given that log from its first entry on, as a server that
//! joins is while none of it is gone, would build another state from it: one without what was restored. So the state is
//! put behind the entry that founds the cluster, as if that had been applied and let go. The log then begins
//! after it, and whoever joins is sent the state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spine_core::Index;

use super::{
    bootstrap::{Opened, StartError},
    checkpoint::Loaded,
    state_machine::Applied,
    types::{Membership, Peer, StoredMembership},
    wire,
};
use crate::storage::log::{LogState, Position};

/// The entry that founds a cluster: its first, before there is a leader.
const FOUNDING: Position = Position {
    term: 0,
    leader: 0,
    index: 0,
};

impl Opened {
    /// Puts what was restored behind the founding of the cluster of `this` server alone, unless that is done, or nothing was
    /// restored. Waits for the disk; after a crash on the way it is done at the next start.
    pub(crate) fn behind_its_founding(mut self, this: Peer) -> Result<Self, StartError> {
        let LogState { last, purged, .. } = self.log.state();
        let before_the_log = self.loaded.applied.position.is_none() && last.is_none() && purged.is_none();
        if !before_the_log || self.loaded.applied.state.index() == Index(0) {
            return Ok(self);
        }
        let (node, at) = (self.identity.node, wire::log_id(FOUNDING));
        let membership = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, this)]))
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let applied = Applied {
            position: Some(at),
            membership: Arc::new(StoredMembership::new(Some(at), membership)),
            state: self.loaded.applied.state.clone(),
        };
        // openraft lets go of a log that ends before what is applied: it finds this one empty, and has it begin behind.
        let generation = self.checkpoints.write(&self.identity, &applied, 0)?;
        self.loaded = Loaded {
            generation,
            applied,
            ..self.loaded
        };
        Ok(self)
    }
}
