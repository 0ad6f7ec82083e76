//! Every bound of the replicated state in one place. What lies outside is refused with
//! [`Rejection::TooLarge`](crate::Rejection::TooLarge) or [`Rejection::TooMany`](crate::Rejection::TooMany),
//! which name the bound. They are rules: the same on every node, and as old as the entries that were judged by them.
//! The shell's own bounds (bodies, connections, queues) are in the `limits` of `spine-api` and of the node.

use crate::time::Ttl;

/// A bound that the scripts in `tests/bounds` reach: in this crate's own unit tests, which run them, it is `in_tests`.
const fn bound(value: usize, in_tests: usize) -> usize {
    if cfg!(test) { in_tests } else { value }
}

/// Bytes of a node, service, instance or check name.
pub const NAME_BYTES_MAX: usize = bound(512, 24);
/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = bound(4 << 10, 64);
/// Bytes of a key's value: Consul's default.
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// Bytes of one registration (node, instance and checks together), encoded.
pub const REGISTRATION_BYTES_MAX: usize = bound(128 << 10, 1 << 10);
/// Pairs of a node's or an instance's metadata: Consul's bound.
pub const META_PAIRS_MAX: usize = bound(64, 3);
/// Bytes of a metadata key: Consul's bound.
pub const META_KEY_BYTES_MAX: usize = bound(128, 16);
/// Bytes of a metadata value: Consul's bound.
pub const META_VALUE_BYTES_MAX: usize = bound(512, 16);
/// Tags of an instance.
pub const TAGS_MAX: usize = bound(256, 3);
/// Checks in one registration.
pub const CHECKS_PER_REGISTRATION_MAX: usize = bound(64, 4);
/// Bytes of a check's output; what is longer is cut: Consul's bound.
pub const OUTPUT_BYTES_MAX: usize = bound(4 << 10, 16);
/// Instances in the catalog.
pub const INSTANCES_MAX: usize = bound(1_000_000, 4);
/// Nodes in the catalog.
pub const NODES_MAX: usize = bound(100_000, 3);
/// Checks in the catalog.
pub const CHECKS_MAX: usize = bound(2_000_000, 5);
/// Leases alive at once.
pub const LEASES_MAX: usize = bound(1_000_000, 3);
/// Keys attached to one lease, and locks that it holds: they go in one entry.
pub const LEASE_KEYS_MAX: usize = bound(10_000, 5);
/// Longest time to live of a lease, a TTL check or a heartbeat: a year.
pub const TTL_MAX: Ttl = Ttl::seconds(365 * 24 * 3600);
/// Smallest time to live of a lease.
pub const LEASE_TTL_MIN: Ttl = Ttl::seconds(2);
/// Checks that one lease hangs on.
pub const LEASE_CHECKS_MAX: usize = bound(64, 2);
/// Leases that hang on one node, or on one check: they are doomed in one entry.
pub const NODE_LEASES_MAX: usize = bound(10_000, 2);
/// Longest time for which nobody may take a lock whose holder was lost: Consul's bound.
pub const LOCK_DELAY_MAX: Ttl = Ttl::seconds(60);
/// A lease without a time to live that hangs on a server's node ends when the server has been lost for so long.
pub const LEASE_ORPHAN_AFTER: Ttl = Ttl::seconds(60);
/// Keys that are locked or whose lock delay runs.
pub const LOCKS_MAX: usize = bound(1_000_000, 4);
/// Conditions of a transaction, and operations of each of its lists: Consul's and etcd's bound.
pub const TXN_OPS_MAX: usize = bound(128, 3);
/// Bytes of a transaction, encoded.
pub const TXN_BYTES_MAX: usize = bound(2 << 20, 1 << 10);
/// Rows that a transaction looks at, reads or deletes.
pub const TXN_ROWS_MAX: usize = bound(10_000, 5);
/// Bytes of keys and values that a transaction reads.
pub const TXN_ANSWER_BYTES_MAX: usize = bound(1 << 20, 128);
/// Request sessions alive at once.
pub const SESSIONS_MAX: usize = bound(10_000, 3);
/// Request sessions alive at once where a client opens one more. The rest is for servers, which forward through sessions of
/// their own: else clients could keep a server that has just started from forwarding anything.
pub const CLIENT_SESSIONS_MAX: usize = bound(9_000, 2);
/// Outcomes that one request session keeps while the client has not acknowledged them.
pub const SESSION_OUTCOMES_MAX: usize = bound(1_024, 3);
/// Bytes of an outcome that a session keeps whole; of a larger one it keeps that it was applied.
pub const SESSION_OUTCOME_BYTES_MAX: usize = bound(1 << 10, 64);
/// Where there are as many as there may be, a new one takes the place of the one that was used longest ago, but never
/// of one that was used within this time: longer than any request goes on being retried.
pub const SESSION_SPARED: Ttl = Ttl::seconds(60);
/// A request session without requests ends after this long.
pub const SESSION_IDLE: Ttl = Ttl::seconds(3600);
/// Nodes that the interest of an answer names one by one; who waits for a service on more is woken by any node.
pub const NODE_TOPICS_MAX: usize = bound(64, 2);
/// Events that the change log keeps.
pub const LOG_EVENTS_MAX: usize = bound(100_000, 12);
/// Bytes of the events that the change log keeps. Where the quota is smaller than usual it is so much smaller, too: else what
/// is deleted would go on filling the quota.
pub const LOG_BYTES_MAX: u64 = bound(256 << 20, 4 << 10) as u64;
/// Tombstones that a table keeps; dropping the oldest raises the table's floor.
pub const TOMBSTONES_MAX: usize = bound(100_000, 4);
/// Rows that one `Pulse` ends; what is left is ended by the next one.
pub const PULSE_ROWS_MAX: usize = bound(1_000, 6);
/// Old versions that an entry drops behind the compaction floor, beside twice as many as it makes.
pub const COMPACT_VERSIONS_PER_ENTRY: usize = bound(256, 4);
/// And not more than so many, whatever it makes.
pub const COMPACT_VERSIONS_MAX: usize = bound(16_384, 8);
/// Requests in one entry.
pub const ENTRY_REQUESTS_MAX: usize = 1_024;
/// Renewals in one entry.
pub const ENTRY_RENEWALS_MAX: usize = bound(16_384, 3);
/// Bytes of an encoded entry.
pub const ENTRY_BYTES_MAX: usize = 3 << 20;
/// Bytes of all state, history too. Beyond it writes that make it grow are refused; deletes never are. An operator may set
/// a smaller quota.
pub const STATE_BYTES_MAX: u64 = bound(4 << 30, 16 << 10) as u64;
/// The smallest quota: a few of the largest writes find room.
pub const STATE_QUOTA_MIN: u64 = bound(16 << 20, 4 << 10) as u64;
/// Servers of one cluster.
pub const MEMBERS_MAX: usize = bound(64, 2);
/// CA roots kept: the active one and those being rotated out.
pub const CA_ROOTS_MAX: usize = bound(8, 2);
/// A CA root certificate with its sealed key, in bytes.
pub const CA_ROOT_BYTES_MAX: usize = bound(64 << 10, 512);
