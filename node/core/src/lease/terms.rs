//! What a lease can have beside its time to live: what else ends it, and what its end does to the locks that it holds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    id::{CheckId, Index, LeaseId, NodeName},
    time::Ttl,
    tree::Stamped,
};

/// Make a lease with terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOpen {
    /// Its id, chosen by the client or drawn by the node that took the request.
    pub id: LeaseId,
    /// Ends this long after its last renewal; `None`: it ends with what it hangs on.
    pub ttl: Option<Ttl>,
    /// What else it is.
    pub terms: LeaseTerms,
}

/// What a lease is beside its time to live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// A name, for people.
    pub name: Arc<str>,
    /// The node that it ends with.
    pub node: Option<NodeName>,
    /// Checks of that node; it ends when one is critical or removed.
    pub node_checks: Vec<CheckId>,
    /// Checks of instances on that node; it ends when one is critical or removed.
    pub service_checks: Vec<CheckId>,
    /// What its end does to the keys that it has locked.
    pub end: LeaseEnd,
    /// When it ends, nobody takes its locks for this long: who held them may not know yet. Giving a lock back is
    /// followed by no delay.
    pub lock_delay: Ttl,
}

/// What the end of a lease does to the keys that it has locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseEnd {
    /// They stay, unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A lease's terms as kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    pub(crate) terms: LeaseTerms,
    /// What it hangs on is gone: nothing can be done with it any more, and the next pulse ends it.
    pub(crate) doomed: bool,
}

impl Stamped for Terms {
    fn index(&self) -> Index {
        Index(0)
    }
}
