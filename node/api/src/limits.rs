//! The bounds on what a stranger can make the ways in hold, wait for or answer. Bounds on the replicated state are in
//! `spine_core::limits`, those of the server around the ways in in the node's. Each is reached in a test.

use std::time::Duration;

use spine_core::limits::VALUE_BYTES_MAX;

/// Bytes of an HTTP request's body: a value of the greatest size.
pub const BODY_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// Bytes of a body on Consul's mount `/hex`: a value of the greatest size in hex, and the JSON around it.
pub const HEX_BODY_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX + 64;
/// Up to so many times its bound a body that is too large is read to its end, so that a client that is still sending
/// gets to read the refusal.
pub const BODY_DRAINED_TIMES: usize = 8;
/// The longest that a request's body may take to arrive, and the message of a gRPC call, to its end.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a gRPC message received: a value of the greatest size four times over.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Bytes of a reply above which it is packed for clients that take it so.
pub const GZIP_BYTES_MIN: usize = 1 << 10;

/// A request that does not block is answered within this time, unless it names another.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// The longest `grpc-timeout` that is obeyed; a longer one is cut.
pub const REQUEST_DEADLINE_MAX: Duration = Duration::from_mins(1);
/// A blocking query without a `wait`.
pub const WAIT_DEFAULT: Duration = Duration::from_mins(5);
/// The longest a blocking query waits; a longer one is cut.
pub const WAIT_MAX: Duration = Duration::from_mins(10);
/// Requests parked in blocking queries and watches at once, all dialects together.
pub const WAITERS_MAX: usize = 100_000;

/// The longest that a request waits for a lock or an election; a longer wait is cut.
pub const LOCK_WAIT_MAX: Duration = Duration::from_mins(10);
/// Bytes of the name of a lock or an election: with a lease's id behind it it is a key.
pub const LOCK_NAME_BYTES_MAX: usize = 4_000;
/// Places in the queue of one lock: with so many nobody takes another.
pub const LOCK_PLACES_MAX: usize = 10_000;
/// Places of one queue that are read, for those who came together and keys that were put there otherwise; who holds a lock
/// with more is not told.
pub const LOCK_PLACES_READ_MAX: usize = LOCK_PLACES_MAX + 2_000;
/// The time between two messages of an observer without news.
pub const OBSERVE_PROGRESS: Duration = Duration::from_secs(10);

/// Events that one batch of a watch holds at most, but for those of one request, which stay together.
pub const WATCH_BATCH_EVENTS: usize = 1_000;
/// Topics of one native watch.
pub const WATCH_TOPICS_MAX: usize = 64;
/// The least time between two signs of a native watch that nothing has happened.
pub const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// The most time between them.
pub const WATCH_PROGRESS_MAX: Duration = Duration::from_mins(10);
/// Rows of a page of a native list.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// Bytes of such a page, but for a single row that is larger; also of a native watch's message. A row that others add to, the
/// tags of a service or the checks of an instance, is cut at so many as well.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Targets of a service resolved: far more than a client can balance over.
pub const TARGETS_MAX: usize = 10_000;
/// Bytes of them: below the 4 MiB that most clients take as a message.
pub const TARGETS_BYTES_MAX: usize = 3 << 20;

/// Snapshots that a server sends at once: each keeps a state, and what has been overwritten since.
pub const SNAPSHOTS_SENT_MAX: usize = 4;
/// A client that takes nothing of a snapshot for so long is cut off.
pub const SNAPSHOT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Different reads that the Consul dialect remembers as asked `?cached`.
pub const CACHED_READS_MAX: usize = 4_096;
/// Bytes of a filter expression.
pub const FILTER_BYTES_MAX: usize = 8 << 10;
/// Parentheses and `not`s that a filter expression may nest.
pub const FILTER_DEPTH_MAX: usize = 64;
/// Regular expressions in one filter.
pub const FILTER_REGEXES_MAX: usize = 16;
/// Bytes of one compiled regular expression of a filter.
pub const FILTER_REGEX_BYTES_MAX: usize = 256 << 10;

/// Services on one page of the UI. A registry with more is searched.
pub const UI_SERVICES_MAX: usize = 500;
/// Instances shown of one service, the least healthy first.
pub const UI_SERVICE_INSTANCES_MAX: usize = 50;
/// Instances on one page of the UI, all services together.
pub const UI_INSTANCES_MAX: usize = 5_000;
/// Bytes of a check's output in the UI; all of it is in the API.
pub const UI_OUTPUT_BYTES_MAX: usize = 300;
