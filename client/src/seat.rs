//! A place in the queue of a lock or an election, from asking for it to giving it back.
//!
//! A lease has one place in a queue, and a request to give it back may be on its way for long: what it names is the fencing
//! number, so that it frees no place that was taken later. For that to hold, the later place must be another. So the lease
//! knows which of its places are on their way back, and none is asked for before they are gone.
//!
//! ```text
//!  Outside ── asked ──► Asked ── answered ──► At(fence)
//!     ▲                   │ dropped: asks for       │ left, or dropped
//!     │                   ▼ the fence               ▼
//!     └───────────── on its way back ◄──────────────┘   the lease is told before and after
//! ```

use std::time::Duration;

use bytes::Bytes;
use spine_proto::v1::{self, election_client::ElectionClient, lock_client::LockClient};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::{
    error::{Error, Kind, Result},
    lease::{Lease, Leases, Returning},
    limits::DURATION_MAX,
    pool::{Caller, MESSAGE_BYTES_MAX, Pool, jittered, longer},
};

/// So long a server is asked to wait; then it is asked again.
const WAIT_AT_ONCE: Duration = Duration::from_secs(30);

pub(crate) fn locks(channel: Channel) -> LockClient<Channel> {
    LockClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn elections(channel: Channel) -> ElectionClient<Channel> {
    ElectionClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// What the queue is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    Lock,
    Election,
}

/// A place in a queue, taken or about to be; dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Seat {
    place: Place,
    of: Of,
    /// The lease is for this place alone, and ends with it.
    own: bool,
    stands: Stands,
    /// It is on its way back.
    returning: Option<Returning>,
}

/// What this client knows of a place.
#[derive(Clone, Copy, Debug)]
enum Stands {
    /// There is none.
    Outside,
    /// A request for it was not answered, so there may be one.
    Asked,
    /// There is one, with this fencing number.
    At(u64),
}

/// Which place: a lease has one in a queue.
#[derive(Clone, Debug)]
struct Place {
    caller: Caller,
    name: Bytes,
    lease: Lease,
}

impl Seat {
    pub(crate) async fn new(
        caller: Caller,
        of: Of,
        name: Bytes,
        lease: Option<Lease>,
        ttl: Duration,
    ) -> Result<Self> {
        let own = lease.is_none();
        let lease = match lease {
            Some(lease) => lease,
            None => Leases::new(caller.clone()).grant(ttl).await?,
        };
        Ok(Self {
            place: Place { caller, name, lease },
            of,
            own,
            stands: Stands::Outside,
            returning: None,
        })
    }

    /// The queue's name.
    pub(crate) fn name(&self) -> &Bytes {
        &self.place.name
    }

    /// What it hangs on.
    pub(crate) fn lease(&self) -> &Lease {
        &self.place.lease
    }

    /// Whom to ask.
    pub(crate) fn pool(&self) -> &Pool {
        &self.place.caller.pool
    }

    /// Waits until it is the first; its fencing number, or `None` when the time is over.
    pub(crate) async fn wait(&mut self, value: &Bytes, wait: Option<Duration>) -> Result<Option<u64>> {
        let wait = wait.map(|wait| wait.min(DURATION_MAX));
        let until = wait.map(|wait| Instant::now() + wait);
        self.enter_anew(wait).await?;
        let mut pause = None;
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let at_once = left.map_or(WAIT_AT_ONCE, |left| left.min(WAIT_AT_ONCE));
            self.stands = Stands::Asked;
            let asked = tokio::select! {
                biased;
                _ = self.place.lease.lost() => Err(Error::LeaseLost),
                asked = self.place.ask(self.of, value, at_once) => asked,
            };
            let is_over = left.is_some_and(|left| left <= at_once);
            if let Ok((_, fence)) = asked {
                self.stands = fence.map_or(Stands::Outside, Stands::At);
            }
            match asked {
                Ok((true, Some(fence))) => return Ok(Some(fence)),
                Ok(_) if is_over => return Ok(None),
                Ok(_) => pause = None,
                Err(Error::LeaseLost) => {
                    self.stands = Stands::Outside;
                    return Err(Error::LeaseLost);
                }
                // While the lease lives the place does, and it is asked for again.
                Err(error) if passes(&error) && !is_over => {
                    let next = longer(pause);
                    pause = Some(next);
                    sleep(jittered(next)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until no earlier place of this lease is on its way back, at least for as long as a call may take.
    async fn enter_anew(&self, wait: Option<Duration>) -> Result<()> {
        let Place { name, lease, .. } = &self.place;
        let at_most = wait.map_or(Duration::MAX, |wait| wait.max(self.pool().deadline()));
        let returned = tokio::select! {
            biased;
            _ = lease.lost() => return Err(Error::LeaseLost),
            returned = timeout(at_most, lease.returned(name)) => returned,
        };
        let name = String::from_utf8_lossy(name);
        returned.map_err(|_| {
            Error::Deadline(format!("the last place in {name:?} is still on its way back").into())
        })
    }

    /// Gives it back. What is cut off here goes on in the background.
    pub(crate) async fn leave(mut self) -> Result<()> {
        if self.own {
            return self.place.lease.clone().revoke().await;
        }
        if let Stands::At(fence) = self.stands {
            self.returning = Some(self.place.returning());
            self.place.release(fence).await?;
            self.stands = Stands::Outside;
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A lease of its own is revoked when it is dropped, and the place goes with it.
        if self.own || matches!(self.stands, Stands::Outside) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (place, stands) = (self.place.clone(), self.stands);
            let returning = self.returning.take();
            let returning = returning.unwrap_or_else(|| place.returning());
            runtime.spawn(async move {
                place.give_back(stands).await;
                drop(returning);
            });
        }
    }
}

impl Place {
    /// Asks for it, which may be done any number of times: whether it is the first, and its fencing number; none if it was
    /// given back meanwhile.
    async fn ask(&self, of: Of, value: &Bytes, wait: Duration) -> Result<(bool, Option<u64>)> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // An attempt is given half of the time, so that there is some for another server.
        let pool = self.caller.pool.within((wait + self.caller.pool.deadline()) * 2);
        let (name, lease) = (self.name.clone(), self.lease.id().into());
        let asked = match of {
            Of::Lock => {
                let request = v1::LockAcquireRequest {
                    name,
                    lease,
                    wait_ms,
                    keep_place: true,
                };
                let send = |channel, request| async move { locks(channel).acquire(request).await };
                let asked = pool.call(Kind::Read, request, send).await;
                asked.map(|answer: v1::LockAcquireResponse| (answer.acquired, answer.place))
            }
            Of::Election => {
                let request = v1::CampaignRequest {
                    name,
                    lease,
                    value: value.clone(),
                    wait_ms,
                    keep_place: true,
                };
                let send = |channel, request| async move { elections(channel).campaign(request).await };
                let asked = pool.call(Kind::Read, request, send).await;
                asked.map(|answer: v1::CampaignResponse| (answer.elected, answer.place))
            }
        };
        match asked {
            Ok((is_first, place)) => Ok((is_first, place.map(|place| place.fence))),
            Err(Error::Refused(refusal)) if refusal.code == "unknown_lease" => Err(Error::LeaseLost),
            Err(error) => Err(error),
        }
    }

    /// Gives back the place with this fencing number; that of an election is no other.
    async fn release(&self, fence: u64) -> Result<()> {
        let request = v1::LockReleaseRequest {
            name: self.name.clone(),
            lease: self.lease.id().into(),
            fence,
        };
        let send = |channel, request| async move { locks(channel).release(request).await };
        let answer: Result<v1::LockReleaseResponse> = self.caller.pool.call(Kind::Read, request, send).await;
        answer.map(drop)
    }

    fn returning(&self) -> Returning {
        self.lease.returning(self.name.clone())
    }

    /// Gives it back, trying for as long as its lease lives.
    async fn give_back(&self, mut stands: Stands) {
        let mut pause = None;
        loop {
            let tried = tokio::select! {
                biased;
                _ = self.lease.lost() => return,
                tried = self.try_give_back(&mut stands) => tried,
            };
            match tried {
                Err(error) if passes(&error) => {
                    let next = longer(pause);
                    pause = Some(next);
                    sleep(jittered(next)).await;
                }
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// Where nobody knows whether there is a place, asking for it tells its number: a request that names none could free one
    /// that is taken later.
    async fn try_give_back(&self, stands: &mut Stands) -> Result<()> {
        if matches!(stands, Stands::Asked) {
            let (_, fence) = self.ask(Of::Lock, &Bytes::new(), Duration::ZERO).await?;
            *stands = fence.map_or(Stands::Outside, Stands::At);
        }
        match *stands {
            Stands::At(fence) => self.release(fence).await,
            Stands::Outside | Stands::Asked => Ok(()),
        }
    }
}

/// Whether asking again may help.
fn passes(error: &Error) -> bool {
    matches!(
        error,
        Error::NoLeader
            | Error::Unknown(_)
            | Error::Deadline(_)
            | Error::Overloaded(_)
            | Error::Unreachable(_)
    )
}
