//! The bounds on what a stranger can make the ways in hold. Bounds on the replicated state are in
//! `spine_core::limits`.

use std::time::Duration;

/// Bytes of an HTTP request's body: a value of the greatest size, and room for what surrounds it.
pub const BODY_BYTES_MAX: usize = spine_core::limits::VALUE_BYTES_MAX;
/// Bytes of a gRPC message received: a value of the greatest size twice over.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Requests parked in blocking queries and watches at once, all dialects together.
pub const WAITERS_MAX: usize = 100_000;
/// A blocking query without a `wait`.
pub const WAIT_DEFAULT: Duration = Duration::from_mins(5);
/// The longest a blocking query waits; a longer one is cut.
pub const WAIT_MAX: Duration = Duration::from_mins(10);
/// A request that does not block is answered within this time.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a filter expression.
pub const FILTER_BYTES_MAX: usize = 8 << 10;
/// Parentheses and `not`s that a filter expression may nest.
pub const FILTER_DEPTH_MAX: usize = 64;
/// Events that one batch of a watch holds at most, but for those of one request, which stay together.
pub const WATCH_BATCH_EVENTS: usize = 1_000;
/// Regular expressions in one filter.
pub const FILTER_REGEXES_MAX: usize = 16;
/// Bytes of one compiled regular expression of a filter.
pub const FILTER_REGEX_BYTES_MAX: usize = 256 << 10;
/// Bytes of a body on Consul's mount `/hex`: a value of the greatest size in hex, and the JSON around it.
pub const HEX_BODY_BYTES_MAX: usize = 2 * spine_core::limits::VALUE_BYTES_MAX + 64;
/// Bytes of a reply above which it is packed for clients that take it so.
pub const GZIP_BYTES_MIN: usize = 1 << 10;
/// Different reads that the Consul dialect remembers as asked `?cached`.
pub const CACHED_READS_MAX: usize = 4_096;
/// The longest that a request's body may take to arrive.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);
