//! Locks and elections: who waits is in order, who holds has a fencing number.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use spine_proto::v1;
use tokio::time::{timeout, timeout_at};
use tonic::{Request, Status, Streaming};

use crate::{
    error::{Error, Failure, Kind, Next, Result},
    lease::{Lease, LeaseLost},
    pool::{Caller, Turns},
    seat::{Of, Seat, elections, locks},
};

/// The lease of a lock that is given none.
const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// An observer hears something at least every ten seconds; this much later it asks another server.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A lock to be taken; see [`crate::Client::lock`].
#[derive(Clone, Debug)]
#[must_use = "a lock is taken by acquire"]
pub struct Lock {
    caller: Caller,
    name: Bytes,
    ttl: Duration,
    lease: Option<Lease>,
    wait: Option<Duration>,
}

impl Lock {
    pub(crate) fn new(caller: Caller, name: Bytes) -> Self {
        Self {
            caller,
            name,
            ttl: TTL_DEFAULT,
            lease: None,
            wait: None,
        }
    }

    /// If this process is gone, the lock is free after so long; 10 s unless told.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The lock hangs on this lease, and ends with it; on one of its own unless told. A lease has one place in a queue: two
    /// guards of one lock on one lease are one. What was given back, even in the background, is gone before it is taken again.
    pub fn lease(mut self, lease: &Lease) -> Self {
        self.lease = Some(lease.clone());
        self
    }

    /// Waits at most so long; without end unless told.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Takes the lock, after all who came before. Dropping the future gives the place in the queue back.
    ///
    /// # Errors
    /// [`Error::Deadline`] after [`wait`](Self::wait), [`Error::LeaseLost`], and as every write.
    pub async fn acquire(self) -> Result<LockGuard> {
        let name = String::from_utf8_lossy(&self.name).into_owned();
        let guard = self.take().await?;
        guard.ok_or_else(|| Error::Deadline(format!("the lock {name:?} is held by others").into()))
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// As every write.
    pub async fn try_acquire(self) -> Result<Option<LockGuard>> {
        self.wait(Duration::ZERO).take().await
    }

    /// Reads who holds it.
    pub async fn holder(&self) -> Result<v1::LockHolderResponse> {
        let request = v1::LockHolderRequest {
            name: self.name.clone(),
            consistency: self.caller.consistency(),
        };
        let send = |channel, request| async move { locks(channel).holder(request).await };
        self.caller.pool.call(Kind::Read, request, send).await
    }

    async fn take(self) -> Result<Option<LockGuard>> {
        let mut seat = Seat::new(self.caller, Of::Lock, self.name, self.lease, self.ttl).await?;
        let fence = seat.wait(&Bytes::new(), self.wait).await?;
        Ok(fence.map(|fence| LockGuard { seat, fence }))
    }
}

/// A lock that is held. Dropped, it is given back in the background, as far as that is possible.
#[derive(Debug)]
#[must_use = "dropped, the lock is given back"]
pub struct LockGuard {
    seat: Seat,
    fence: u64,
}

impl LockGuard {
    /// The fencing number: greater than that of everybody who held the lock before. The resource that the lock guards
    /// should refuse what comes with a lower one than it has seen, for a holder that was lost may not know it yet.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The lease that it hangs on.
    pub fn lease(&self) -> &Lease {
        self.seat.lease()
    }

    /// Waits until it is no longer held, as [`Lease::lost`].
    pub async fn lost(&self) -> LeaseLost {
        self.lease().lost().await
    }

    /// Gives it back. If the future is dropped, or fails, that goes on in the background.
    ///
    /// # Errors
    /// As every write; it is free when its lease ends then.
    pub async fn release(self) -> Result<()> {
        self.seat.leave().await
    }
}

/// An election; see [`crate::Client::election`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Election {
    lock: Lock,
}

impl Election {
    pub(crate) fn new(caller: Caller, name: Bytes) -> Self {
        Self {
            lock: Lock::new(caller, name),
        }
    }

    /// If this process is gone, another leads after so long; 10 s unless told.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// The leadership hangs on this lease; on one of its own unless told.
    pub fn lease(mut self, lease: &Lease) -> Self {
        self.lock = self.lock.lease(lease);
        self
    }

    /// Waits at most so long to be elected; without end unless told.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.lock = self.lock.wait(wait);
        self
    }

    /// Waits to be the leader, after all who came before; `value` is what the leader says of itself, such as its
    /// address. Dropping the future gives the place in the queue back.
    ///
    /// # Errors
    /// [`Error::Deadline`] after [`wait`](Self::wait), [`Error::LeaseLost`], and as every write.
    pub async fn campaign(self, value: impl Into<Bytes>) -> Result<Leadership> {
        let Lock {
            caller,
            name,
            ttl,
            lease,
            wait,
        } = self.lock;
        let shown = String::from_utf8_lossy(&name).into_owned();
        let mut seat = Seat::new(caller, Of::Election, name, lease, ttl).await?;
        match seat.wait(&value.into(), wait).await? {
            Some(fence) => Ok(Leadership { seat, fence }),
            None => Err(Error::Deadline(format!("others lead {shown:?}").into())),
        }
    }

    /// Reads who leads; the answer's `leader` is absent if nobody does.
    pub async fn leader(&self) -> Result<v1::LeaderResponse> {
        let request = v1::LeaderRequest {
            name: self.lock.name.clone(),
            consistency: self.lock.caller.consistency(),
        };
        let send = |channel, request| async move { elections(channel).leader(request).await };
        self.lock.caller.pool.call(Kind::Read, request, send).await
    }

    /// Tells who leads, and then each change. If its server goes away it goes on at another one.
    pub fn observe(&self) -> Observer {
        Observer {
            turns: Turns::new(self.lock.caller.pool.clone()),
            caller: self.lock.caller.clone(),
            name: self.lock.name.clone(),
            told: None,
            open: None,
        }
    }
}

/// The leadership of an election. Dropped, it is given up in the background, as far as that is possible.
#[derive(Debug)]
#[must_use = "dropped, the leadership is given up"]
pub struct Leadership {
    seat: Seat,
    fence: u64,
}

impl Leadership {
    /// The fencing number, as [`LockGuard::fence`].
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The lease that it hangs on.
    pub fn lease(&self) -> &Lease {
        self.seat.lease()
    }

    /// Waits until it is lost, as [`Lease::lost`].
    pub async fn lost(&self) -> LeaseLost {
        self.lease().lost().await
    }

    /// Changes what the leader says of itself.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if it no longer leads, and as every write.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<()> {
        let request = v1::ProclaimRequest {
            name: self.seat.name().clone(),
            lease: self.lease().id().into(),
            fence: self.fence,
            value: value.into(),
        };
        let send = |channel, request| async move { elections(channel).proclaim(request).await };
        let pool = self.seat.pool();
        let answer: v1::ProclaimResponse = pool.call(Kind::Write, request, send).await?;
        if answer.leads {
            Ok(())
        } else {
            Err(Error::LeaseLost)
        }
    }

    /// Gives it up. If the future is dropped, or fails, that goes on in the background.
    ///
    /// # Errors
    /// As every write; another leads when its lease ends then.
    pub async fn resign(self) -> Result<()> {
        self.seat.leave().await
    }
}

/// An observer of an election.
#[derive(Debug)]
pub struct Observer {
    caller: Caller,
    name: Bytes,
    /// What was told last.
    told: Option<v1::LeaderResponse>,
    /// Whose turn it is to tell.
    turns: Turns,
    /// The stream, and the address of its server.
    open: Option<(Streaming<v1::LeaderResponse>, Arc<str>)>,
}

impl Observer {
    /// Waits for the next leader, or the next value of the same; at first, for the present one. `None`: nobody leads.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those that trying again does not mend.
    pub async fn next(&mut self) -> Result<Option<v1::Place>> {
        loop {
            match self.step().await {
                Ok(Some(told)) => return Ok(told.leader),
                Ok(None) => {}
                Err(failure) if failure.next == Next::Again => self.turns.pause().await,
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// The same as a [`Stream`], which ends with its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Option<v1::Place>>> {
        stream::unfold(Some(self), |this| async move {
            let mut this = this?;
            match this.next().await {
                Ok(leader) => Some((Ok(leader), Some(this))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Hears one message; `None` if it says what was told before.
    async fn step(&mut self) -> Result<Option<v1::LeaderResponse>, Failure> {
        match self.hear().await {
            Ok(message) => {
                let told = self.told.replace(message.clone());
                let is_news = told.is_none_or(|told| told.leader != message.leader);
                Ok(is_news.then_some(message))
            }
            Err(failure) => {
                self.open = None;
                if failure.next == Next::Again {
                    self.turns.failed();
                }
                Err(failure)
            }
        }
    }

    /// The next message, of a stream that is opened if there is none.
    async fn hear(&mut self) -> Result<v1::LeaderResponse, Failure> {
        let Some((open, server)) = &mut self.open else {
            return self.begin().await;
        };
        let heard = timeout(SILENCE_MAX, open.message()).await;
        let heard = heard.map_err(|_| Failure::silence(Kind::Read, server))?;
        message(heard, server)
    }

    /// Opens a stream. A server says at once who leads, so one that says nothing does not serve.
    async fn begin(&mut self) -> Result<v1::LeaderResponse, Failure> {
        let (channel, server, end) = self.turns.take();
        let mut request = Request::new(v1::ObserveRequest {
            name: self.name.clone(),
        });
        self.caller.pool.authorize(&mut request);
        let mut client = elections(channel);
        let opening = async {
            let mut open = client.observe(request).await?.into_inner();
            let first = open.message().await;
            Ok((open, first))
        };
        let opened = timeout_at(end, opening).await;
        let opened = opened.map_err(|_| Failure::silence(Kind::Read, &server))?;
        let (open, first) = opened.map_err(|status: Status| Failure::of(&status, Kind::Read, &server))?;
        let first = message(first, &server)?;
        self.open = Some((open, server));
        self.turns.served();
        Ok(first)
    }
}

fn message(
    heard: Result<Option<v1::LeaderResponse>, Status>,
    server: &str,
) -> Result<v1::LeaderResponse, Failure> {
    match heard {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Failure::silence(Kind::Read, server)),
        Err(status) => Err(Failure::of(&status, Kind::Read, server)),
    }
}
