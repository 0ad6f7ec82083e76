//! The bounds on what a cluster, or whoever uses the client, can make it hold.

/// Bytes of a message received. Pages are about 1 MiB; a single row may be larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Numbered writes on their way at once: of so many a cluster keeps the outcomes. One that comes on top travels without a
/// number.
pub(crate) const NUMBERS_OUT_MAX: u64 = 1_024;
