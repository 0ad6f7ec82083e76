//! A lease that a client holds, and knows for how long it certainly does: what locks and leases have in common.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::{Context, Worker};
use crate::{
    client::uuid,
    history::{Call, Dialect, Out},
};

/// What Consul's sessions live at the least, in milliseconds.
const SESSION_TTL_MS: u64 = 10_000;
/// What leases of the native API live, in milliseconds: little, so that many end in a run.
const TTL_MS: std::ops::Range<u64> = 2_000..4_000;
/// After a failed attempt to begin.
const PAUSE: Duration = Duration::from_millis(200);

/// The lease.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) lease: String,
    pub(super) ttl: Duration,
    /// When the renewal was sent that was answered last.
    pub(super) confirmed: Instant,
}

/// Registers the node that leases hang on; false: the workload is told to stop.
pub(super) async fn prepare(context: &Context) -> bool {
    for node in context.clients().iter().cycle() {
        if node.consul.register_node().await.is_ok() {
            return true;
        }
        if !context.rest(PAUSE).await {
            return false;
        }
    }
    false
}

impl Worker {
    /// A new lease: one of the native API, or now and then a session of Consul's.
    pub(super) async fn borrow(&mut self, lock_delay_ms: u64, deletes: bool) -> Option<Loan> {
        let is_session = self.rng.random_bool(0.15);
        let (dialect, lease, ttl_ms) = if is_session {
            (Dialect::Consul, String::new(), SESSION_TTL_MS)
        } else {
            let id: [u8; 16] = self.rng.random();
            (Dialect::Native, uuid(&id), self.rng.random_range(TTL_MS))
        };
        let sent = Instant::now();
        let call = Call::Grant {
            lease,
            ttl_ms,
            lock_delay_ms,
            deletes,
        };
        match self.call(dialect, call).await? {
            Out::Granted { lease, ttl_ms } => Some(Loan {
                lease,
                ttl: Duration::from_millis(ttl_ms),
                confirmed: sent,
            }),
            _ => None,
        }
    }

    /// Renews a lease at some node, in some dialect. False: it is gone.
    pub(super) async fn renew(&mut self, loan: &mut Loan) -> bool {
        let dialect = self.any_dialect();
        let lease = loan.lease.clone();
        let sent = Instant::now();
        match self.call(dialect, Call::Renew { lease }).await {
            Some(Out::Lives { alive: false }) => return false,
            Some(_) => loan.confirmed = sent,
            // No answer: it may live, or not.
            None => sleep(PAUSE).await,
        }
        true
    }

    /// Ends a lease.
    pub(super) async fn give_back(&mut self, loan: Loan) {
        let dialect = self.any_dialect();
        let Loan { lease, .. } = loan;
        self.call(dialect, Call::Revoke { lease }).await;
    }
}
