//! The bounds on what a stranger can make a server hold or wait for, beside those of the replicated state
//! (`spine_core::limits`) and of the dialects (`spine_api::limits`). What lies outside is refused, cut
//! off, or waits; each is reached in a test.

use std::time::Duration;

/// A client gets so long for its TLS handshake, which takes two round trips and a signature.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// A client of a gRPC port, or of the port for peers, gets so long to send HTTP/2's preface, with which every such client begins.
pub const PREFACE_TIME_MAX: Duration = Duration::from_secs(10);
/// A gRPC connection from which nothing has come for so long is asked for a sign of life,
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// and closed without one within this time.
pub const PING_ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// A client gets so long to send the head of a request, the first and each further one of a connection. Consul's Go
/// client keeps idle connections for 90 s and should be the one that closes them.
pub const HEAD_TIME_MAX: Duration = Duration::from_mins(2);
/// Between two pieces of a request's body no more than this passes.
pub const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's head. They are counted after each read, so one that comes fast may have up to twice as many.
pub const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 100;
/// Calls at once on one gRPC connection.
pub const STREAMS_MAX: u32 = 1_000;
/// What may be on its way into the log at once, in shares of 1 KiB: requests and bytes have one bound.
pub const SUBMIT_SHARES: usize = 65_536;
/// Bytes of one such share.
pub const SUBMIT_SHARE_BYTES: u64 = 1 << 10;
/// Entries proposed and not applied; at most a batch of renewals and a duty of the leader come on top. Enough to keep
/// disk, network and apply busy at once, few enough that entries grow under load: what comes meanwhile waits.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 8;
/// Calls with writes on their way to the leader: enough to keep it busy, few enough that calls carry many requests.
pub const FORWARD_CALLS_MAX: usize = 4;
/// Calls of one peer's clients at once: those with writes, one of renewals, one for a read index, and as many that were
/// given up and not noticed yet. Each carries at most as much as an entry.
pub const PEER_FORWARD_CALLS_MAX: usize = 2 * (FORWARD_CALLS_MAX + 2);
/// No forwarded request waits longer, whatever its sender says: it would hold a call.
pub const FORWARDED_WAIT_MAX: Duration = Duration::from_mins(1);
/// Bytes of the answers to one call: outcomes are short, and there are no more of them than requests.
pub const FORWARD_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Entries that Raft keeps decoded beside its log: those that were written last. Older ones are read from the log.
pub const RECENT_ENTRIES_MAX: usize = 16_384;
/// Bytes of their payloads; the bytes are the log's own, which keeps them as well.
pub const RECENT_BYTES_MAX: usize = 32 << 20;
/// Requests for a checkpoint that wait for the one being written; each further one is refused.
pub const CHECKPOINT_ASKS_MAX: usize = 16;
/// Marks of its state that a server keeps for the others to compare with theirs: 64,000 requests back.
pub const DIGEST_MARKS_MAX: usize = 64;
/// Bytes of a message about them: all of them take 2 KiB.
pub const DIGESTS_BYTES_MAX: usize = 8 << 10;
/// Writes of the log whose times are kept to know how fast it is: those of ten seconds, but for a very busy server.
pub const FLUSHES_KEPT_MAX: usize = 4_096;
/// Bytes of a message about how a server does: a few dozen.
pub const CONDITION_BYTES_MAX: usize = 4 << 10;
/// Lines of its log that a server keeps for a report.
pub const LOG_LINES_KEPT_MAX: usize = 1_000;
/// Bytes of them.
pub const LOG_BYTES_KEPT_MAX: usize = 256 << 10;
/// Bytes of one such line; what is longer is cut.
pub const LOG_LINE_BYTES_MAX: usize = 2 << 10;
/// Readers that wait for a round at most; each is a request that has a connection.
pub const READERS_WAITING_MAX: usize = 65_536;
/// Probes that run at once. Each holds a connection; at the default time limit of 10 s and with every target dead,
/// 100 checks a second still get their turn.
pub const PROBE_RUNS_MAX: usize = 1_024;
/// Reports on their way at once: enough to fill the entries that the leader batches them into.
pub const PROBE_REPORTS_MAX: usize = 256;
/// No run takes longer, whatever its check says: it would hold a worker.
pub const PROBE_TIME_MAX: Duration = Duration::from_mins(1);
/// Bytes of the head of an answer, counted as those of a request's head are; what is longer is no answer.
pub const PROBE_HEAD_BYTES_MAX: usize = 32 << 10;
/// Bytes of an answer: a status of a few bytes.
pub const PROBE_ANSWER_BYTES_MAX: usize = 4 << 10;
/// Voters of a cluster: more make it slower and not safer.
pub const VOTERS_MAX: usize = 9;
/// Servers that are taken in at once: the leader sends each of them its state and its log.
pub const LEARNERS_MAX: usize = 4;
/// Bytes of a message about members: all of them take a few KiB.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 << 10;
/// Clusters that a cluster is known to go on from: the last ones. Each was given up for lost.
pub const LINEAGE_MAX: usize = 16;
/// Connections of peers at once: each peer has a few lanes, and leaves one behind when it dials anew.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// Bytes that a peer may send on one call before they are taken; a message of entries is about a megabyte.
pub const PEER_STREAM_WINDOW: u32 = 8 << 20;
/// The same for one connection.
pub const PEER_CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of one message of a peer: an entry of the greatest size, or about a megabyte of smaller ones.
pub const PEER_MESSAGE_BYTES_MAX: usize = 5 << 20;
/// Bytes of a server's introduction: a list of founders, twice.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
