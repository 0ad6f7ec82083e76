//! Ids of leases that clients leave to the server.

use std::sync::atomic::{AtomicU64, Ordering};

use spine_core::LeaseId;
use xxhash_rust::xxh3::xxh3_128;

use crate::registry::NodeStatus;

/// Draws ids. They need only be new, not secret, and the same run draws the same ones: so they are made of what no two draws
/// have in common, the node, how far it is, and a number. One that is taken nevertheless is refused, and another drawn.
#[derive(Debug, Default)]
pub(crate) struct Draw {
    drawn: AtomicU64,
}

/// Ids that are tried before it is told that they are taken.
pub(crate) const DRAWS: usize = 3;

impl Draw {
    /// An id in the form of a random UUID, which is how Consul's clients write it.
    pub(crate) fn lease_id(&self, status: &NodeStatus) -> LeaseId {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let made_of = (
            &*status.cluster_id,
            status.node_id,
            status.term,
            status.index.0,
            number,
        );
        let hash = xxh3_128(&spine_core::codec::encode_row(&made_of));
        let uuid = uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid();
        LeaseId(uuid.as_u128())
    }
}
