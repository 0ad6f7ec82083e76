//! Leases, kept alive in the background.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use spine_proto::v1::{self, lease_client::LeaseClient};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tonic::transport::Channel;

use crate::{
    error::{Error, Kind, Result},
    pool::{Caller, MESSAGE_BYTES_MAX, jittered},
};

/// After a renewal that failed, before the next is tried.
const RENEW_PAUSE: Duration = Duration::from_millis(200);

/// A lease's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// The id of these bytes, as answers have it; `None` unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn draw() -> Self {
        Self(rand::random())
    }
}

impl From<LeaseId> for Bytes {
    fn from(LeaseId(id): LeaseId) -> Self {
        Self::copy_from_slice(&id)
    }
}

/// As etcd's clients write it: hexadecimal, without leading zeros.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

/// Leases: what must not outlive its owner hangs on one.
#[derive(Clone, Debug)]
pub struct Leases(Caller);

impl Leases {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Makes a lease, and keeps it alive until the last clone of it is dropped. Servers raise what is below 2 s to that.
    ///
    /// # Errors
    /// As every write. It may be tried again at will: a lease that nobody renews ends.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let id = LeaseId::draw();
        let request = v1::LeaseGrantRequest {
            id: id.into(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1),
            ..v1::LeaseGrantRequest::default()
        };
        let sent = Instant::now();
        let send = |channel, request| async move { client(channel).grant(request).await };
        // The id is new, so whoever asks again finds what the first attempt made.
        let granted = self.0.pool.call(Kind::Read, request, send).await;
        let ttl_ms = match granted {
            Ok(v1::LeaseGrantResponse { ttl_ms, .. }) => ttl_ms,
            Err(Error::Refused(refusal)) if refusal.code == "lease_exists" => self.renew(id).await?.ttl_ms,
            Err(error) => return Err(error),
        };
        Ok(Lease::keep(self.clone(), id, Duration::from_millis(ttl_ms), sent))
    }

    /// Makes a lease with all that can be said about it, such as the checks that it hangs on. Nobody keeps it alive.
    pub async fn grant_with(&self, request: v1::LeaseGrantRequest) -> Result<v1::LeaseGrantResponse> {
        let send = |channel, request| async move { client(channel).grant(request).await };
        self.0.pool.call(Kind::Write, request, send).await
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// A refusal with the code `unknown_lease`: it is over.
    pub async fn renew(&self, id: LeaseId) -> Result<v1::LeaseRenewResponse> {
        let request = v1::LeaseRenewRequest { id: id.into() };
        let send = |channel, request| async move { client(channel).renew(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Ends a lease with all that hangs on it.
    ///
    /// # Errors
    /// A refusal with the code `unknown_lease`: it is over.
    pub async fn revoke(&self, id: LeaseId) -> Result<v1::LeaseRevokeResponse> {
        self.send_revocation(Kind::Write, id).await
    }

    /// The same, as often as it takes: that it is over already is as good.
    async fn end(&self, id: LeaseId) -> Result<()> {
        match self.send_revocation(Kind::Read, id).await {
            Ok(_) => Ok(()),
            Err(Error::Refused(refusal)) if refusal.code == "unknown_lease" => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send_revocation(&self, kind: Kind, id: LeaseId) -> Result<v1::LeaseRevokeResponse> {
        let request = v1::LeaseRevokeRequest { id: id.into() };
        let send = |channel, request| async move { client(channel).revoke(request).await };
        self.0.pool.call(kind, request, send).await
    }

    /// Reads a lease; the answer's `lease` is absent if there is none.
    pub async fn get(&self, id: LeaseId) -> Result<v1::LeaseGetResponse> {
        let request = v1::LeaseGetRequest {
            id: id.into(),
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { client(channel).get(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Every lease, by id: reads one page after another.
    pub async fn list(&self) -> Result<Vec<v1::LeaseInfo>> {
        let mut leases: Vec<v1::LeaseInfo> = Vec::new();
        loop {
            let request = v1::LeaseListRequest {
                after: leases.last().map(|last| last.id.clone()).unwrap_or_default(),
                consistency: self.0.consistency(),
                ..v1::LeaseListRequest::default()
            };
            let send = |channel, request| async move { client(channel).list(request).await };
            let page: v1::LeaseListResponse = self.0.pool.call(Kind::Read, request, send).await?;
            leases.extend(page.leases);
            if !page.more {
                return Ok(leases);
            }
        }
    }
}

fn client(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Why a lease is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseLost {
    /// The cluster says that it is over, or it was revoked here.
    Ended,
    /// It could not be renewed for its whole time to live: it may be over.
    Unsure,
}

/// How long a lease is held that was renewed for so long: a hundredth less than the cluster leaves it, for clocks that don't go
/// equally fast and timers that come late.
fn held_for(ttl: Duration) -> Duration {
    ttl.saturating_sub(ttl / 100)
}

/// What is known of a lease. It only ever becomes greater: what was lost is not held again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It lives until then at least.
    Held(Instant),
    /// It was not renewed in time.
    Unsure,
    /// Its revocation has begun here.
    Ending,
    /// It is over: nothing is left to be done.
    Ended,
}

impl Standing {
    fn lost(self) -> Option<LeaseLost> {
        match self {
            Self::Held(_) => None,
            Self::Unsure => Some(LeaseLost::Unsure),
            Self::Ending | Self::Ended => Some(LeaseLost::Ended),
        }
    }
}

/// What is known of a lease, shared by who keeps it and who holds it.
#[derive(Clone, Debug)]
struct Known(watch::Sender<Standing>);

impl Known {
    fn new(until: Instant) -> Self {
        Self(watch::Sender::new(Standing::Held(until)))
    }

    /// More is known; what is known already stays.
    fn becomes(&self, next: Standing) {
        self.0.send_if_modified(|standing| {
            let news = next > *standing;
            *standing = next.max(*standing);
            news
        });
    }

    /// By the clock as well: who keeps the lease may have been held up together with the process.
    fn now(&self) -> Standing {
        self.0.send_if_modified(|standing| {
            let is_over = matches!(standing, Standing::Held(until) if *until <= Instant::now());
            if is_over {
                *standing = Standing::Unsure;
            }
            is_over
        });
        *self.0.borrow()
    }

    async fn lost(&self) -> LeaseLost {
        let mut known = self.0.subscribe();
        let lost = known.wait_for(|standing| standing.lost().is_some()).await;
        // The sender is in this value, and outlives the wait.
        lost.ok()
            .and_then(|standing| standing.lost())
            .unwrap_or(LeaseLost::Ended)
    }
}

/// A lease that is kept alive. Clones are the same lease; when the last one is dropped it is no longer renewed, and it is
/// revoked in the background, as far as that is possible.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    leases: Leases,
    id: LeaseId,
    known: Known,
    keeping: JoinHandle<()>,
    /// Places in queues that it had and that are on their way back.
    returns: watch::Sender<BTreeMap<Bytes, usize>>,
}

impl Lease {
    fn keep(leases: Leases, id: LeaseId, ttl: Duration, sent: Instant) -> Self {
        let known = Known::new(sent + held_for(ttl));
        let keeper = Keeper {
            leases: leases.clone(),
            id,
            ttl,
            confirmed: sent,
            known: known.clone(),
        };
        Self(Arc::new(Kept {
            leases,
            id,
            known,
            keeping: tokio::spawn(keeper.run()),
            returns: watch::Sender::default(),
        }))
    }

    /// Its id.
    pub fn id(&self) -> LeaseId {
        self.0.id
    }

    /// Why it is no longer held; `None`: it is. Looks at the clock, so it is right at once after the process stood still.
    pub fn is_lost(&self) -> Option<LeaseLost> {
        self.0.known.now().lost()
    }

    /// Waits until it is no longer held. What was done in its name must stop then: it may be another's turn.
    ///
    /// This is known before the cluster gives what hung on it to others, as long as the clocks of both go equally fast, but for
    /// a hundredth.
    pub async fn lost(&self) -> LeaseLost {
        self.0.known.lost().await
    }

    /// Ends it with all that hangs on it. Clones find it lost. It may be repeated; if the future is dropped, or fails, that is
    /// done in the background when the last clone is dropped.
    ///
    /// # Errors
    /// As every write; it ends by itself then.
    pub async fn revoke(self) -> Result<()> {
        self.0.known.becomes(Standing::Ending);
        self.0.keeping.abort();
        self.0.leases.end(self.0.id).await?;
        self.0.known.becomes(Standing::Ended);
        Ok(())
    }

    /// From now on its place in this queue is on its way back, until what this gives is dropped.
    pub(crate) fn returning(&self, queue: Bytes) -> Returning {
        let begin = |returns: &mut BTreeMap<Bytes, usize>| *returns.entry(queue.clone()).or_default() += 1;
        self.0.returns.send_modify(begin);
        Returning {
            lease: self.clone(),
            queue,
        }
    }

    /// Waits until no place in this queue is on its way back.
    pub(crate) async fn returned(&self, queue: &Bytes) {
        let mut returns = self.0.returns.subscribe();
        // The sender is in this lease, and outlives the wait.
        let _ = returns.wait_for(|returns| !returns.contains_key(queue)).await;
    }
}

/// A place that is on its way back.
#[derive(Debug)]
pub(crate) struct Returning {
    lease: Lease,
    queue: Bytes,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.lease.0.returns.send_modify(|returns| {
            if let Entry::Occupied(mut count) = returns.entry(self.queue.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        });
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeping.abort();
        let is_over = self.known.now() == Standing::Ended;
        if let (false, Ok(runtime)) = (is_over, tokio::runtime::Handle::try_current()) {
            let (leases, id) = (self.leases.clone(), self.id);
            runtime.spawn(async move { leases.end(id).await });
        }
    }
}

/// Renews a lease.
struct Keeper {
    leases: Leases,
    id: LeaseId,
    ttl: Duration,
    /// When the renewal was sent that was answered last: the lease lives from then on for at least its time to live.
    confirmed: Instant,
    known: Known,
}

impl Keeper {
    /// Until it is lost.
    async fn run(mut self) {
        loop {
            sleep_until(self.confirmed + self.ttl / 3).await;
            // It may have come late: the machine slept.
            if self.known.now().lost().is_some() {
                return;
            }
            let renewed = timeout_at(self.ends(), self.renew()).await;
            self.known.becomes(renewed.unwrap_or(Standing::Unsure));
        }
    }

    /// How long it is held without another renewal.
    fn ends(&self) -> Instant {
        self.confirmed + held_for(self.ttl)
    }

    /// Renews it once, trying for as long as it takes.
    async fn renew(&mut self) -> Standing {
        loop {
            let sent = Instant::now();
            // An attempt at one server must leave time for the others.
            let left = self.ends().saturating_duration_since(sent);
            let caller = &self.leases.0;
            let leases = Leases(Caller {
                pool: caller.pool.within(left.min(caller.pool.deadline())),
                ..caller.clone()
            });
            match leases.renew(self.id).await {
                Ok(renewed) => {
                    self.confirmed = sent;
                    self.ttl = Duration::from_millis(renewed.ttl_ms);
                    return Standing::Held(self.ends());
                }
                Err(Error::Refused(refusal)) if refusal.code == "unknown_lease" => {
                    return Standing::Ended;
                }
                Err(_) => sleep(jittered(RENEW_PAUSE)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_by_the_clock_is_not_held_again() {
        let known = Known::new(Instant::now() + Duration::from_secs(10));
        advance(Duration::from_secs(9)).await;
        assert_eq!(known.now().lost(), None);
        known.becomes(Standing::Held(Instant::now() + Duration::from_secs(10)));
        advance(Duration::from_secs(9)).await;
        assert_eq!(known.now().lost(), None, "it was renewed");

        // Nobody has waited, and nobody has told it.
        advance(Duration::from_secs(1)).await;
        assert_eq!(known.now().lost(), Some(LeaseLost::Unsure));
        known.becomes(Standing::Held(Instant::now() + Duration::from_secs(10)));
        assert_eq!(known.now().lost(), Some(LeaseLost::Unsure));
        assert_eq!(known.lost().await, LeaseLost::Unsure);
        known.becomes(Standing::Ended);
        assert_eq!(known.now().lost(), Some(LeaseLost::Ended));
    }
}
