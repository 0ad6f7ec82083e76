//! The bounds on what a cluster, or whoever uses the client, can make it hold.

use std::time::Duration;

/// A year: the longest that a call or a pause is told to take. Whoever says more means "without end", and a sum of an
/// instant and a duration has to be one, too.
pub(crate) const DURATION_MAX: Duration = Duration::from_hours(365 * 24);
/// Bytes of a message received. Pages are about 1 MiB; a single row may be larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Numbered writes on their way at once: of so many a cluster keeps the outcomes. One that comes on top travels without a
/// number.
pub(crate) const NUMBERS_OUT_MAX: u64 = 1_024;
/// Members of the cluster that a client learns of: as many as a cluster has. It keeps those that it was named beside them.
pub(crate) const SERVERS_MAX: usize = 64;
/// Instances of a service that a resolver keeps, by node and id: as many as the servers resolve.
pub(crate) const INSTANCES_MAX: usize = 10_000;
/// Topics of one watch.
pub(crate) const TOPICS_MAX: usize = 64;
/// Changes that wait for a balanced channel to take them.
pub(crate) const CHANGES_MAX: usize = 64;
/// The least time between two readings of all of a service: nodes that come one after another are read together.
pub(crate) const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
