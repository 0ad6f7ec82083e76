//! Health probes: the checks that a node runs itself, over HTTP, TCP and gRPC.
//!
//! Which node runs which check is decided by `spine_core`'s rendezvous over the members, so each check is run once in
//! the cluster and taken over when its node goes. A node follows the catalog, keeps the checks that are its own in a
//! queue by when they are due ([`queue`]), and runs them on a bounded number of workers ([`scheduler`]), however many
//! there are. What a run found is judged by the core's counter of results in a row; only a change of status is
//! proposed at once, a change of nothing but the output every few minutes.
//!
//! [`net`] does what a check asks for, and nothing a stranger could use against the network around the server:
//! [`guard`] keeps it from link-local addresses, cloud metadata and Spine's own ports.

mod grpc;
mod guard;
mod http;
mod net;
mod queue;
mod scheduler;
mod tcp;
mod tls;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_core::{CheckKind, Status, limits::OUTPUT_BYTES_MAX};

pub use self::{
    guard::{Denied, Guard},
    net::NetProber,
    scheduler::Probes,
};

/// Runs one probe. The scheduler's tests hand over their own.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Asks the target how it is. Takes no longer than the check allows, and never fails: what went wrong is the
    /// finding.
    async fn run(&self, kind: &CheckKind) -> Finding;
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How the target is.
    pub status: Status,
    /// What was seen, for people.
    pub output: Arc<str>,
}

impl Finding {
    fn new(status: Status, output: impl AsRef<str>) -> Self {
        let output = output.as_ref();
        let end = output.floor_char_boundary(OUTPUT_BYTES_MAX);
        Self {
            status,
            output: output[..end].into(),
        }
    }

    fn critical(output: impl AsRef<str>) -> Self {
        Self::new(Status::Critical, output)
    }
}

/// Receives what the probes of a node have to tell. Methods must not wait.
pub trait ProbeMetrics: Send + Sync + 'static {
    /// So many checks of this status are run here.
    fn probes(&self, _status: Status, _count: usize) {}

    /// A probe ended; it had begun `delay` after it was due.
    fn probe_run(&self, _kind: &'static str, _result: Status, _delay: Duration) {}
}

impl ProbeMetrics for crate::metrics_sink::Uncounted {}
