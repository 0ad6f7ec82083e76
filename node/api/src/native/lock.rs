//! Locks and elections: queues of places, see [`super::queue`].

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use spine_core::{
    Command, Compare, Guard, Index, KeyRange, LeaseId, Operand, Outcome, Put, Relation, Repeat, Revision,
    Txn, TxnOp,
};
use spine_proto::v1::{self, election_server::Election, lock_server::Lock};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    Door, consistency, decode, misfit,
    queue::{Attempt, Place, Queue, Standing, Which},
    reply, status, unless_cut_off,
};
use crate::{
    limits,
    registry::{Context, Error, Registry},
};

#[tonic::async_trait]
impl Lock for Door {
    async fn acquire(
        &self,
        request: Request<v1::LockAcquireRequest>,
    ) -> Result<Response<v1::LockAcquireResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(acquire(self, &cx, request).await)
    }

    async fn release(
        &self,
        request: Request<v1::LockReleaseRequest>,
    ) -> Result<Response<v1::LockReleaseResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(release(self, &cx, request).await)
    }

    async fn holder(
        &self,
        request: Request<v1::LockHolderRequest>,
    ) -> Result<Response<v1::LockHolderResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(holder(self, &cx, request).await)
    }
}

#[tonic::async_trait]
impl Election for Door {
    async fn campaign(
        &self,
        request: Request<v1::CampaignRequest>,
    ) -> Result<Response<v1::CampaignResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(campaign(self, &cx, request).await)
    }

    async fn proclaim(
        &self,
        request: Request<v1::ProclaimRequest>,
    ) -> Result<Response<v1::ProclaimResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(proclaim(self, &cx, request).await)
    }

    async fn leader(
        &self,
        request: Request<v1::LeaderRequest>,
    ) -> Result<Response<v1::LeaderResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(leader(self, &cx, request).await)
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<v1::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (cx, request) = self.open(request);
        let observer = Observer::begin(self, &cx, &request.name).await;
        let observer = observer.map_err(|error| status::of(&error))?;
        Ok(Response::new(Box::pin(stream::unfold(Some(observer), tell))))
    }

    async fn resign(
        &self,
        request: Request<v1::ResignRequest>,
    ) -> Result<Response<v1::ResignResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(resign(self, &cx, request).await)
    }
}

/// A place that is wanted, and how.
struct Wish {
    queue: Queue,
    lease: LeaseId,
    value: Option<Bytes>,
    wait: Duration,
    keep: bool,
}

impl Wish {
    /// `None`: the place was given back by another call.
    async fn fulfil(self, door: &Door, cx: &Context) -> Result<Option<Standing>, Error> {
        let until = Instant::now() + self.wait.min(limits::LOCK_WAIT_MAX);
        let seat = (&self.queue, self.lease);
        let mut attempt = Attempt::begin(door, cx, seat, self.value, self.keep).await?;
        let waited = attempt.wait(until).await?;
        match &waited {
            Some(standing) if standing.is_first() || self.keep => attempt.stay(),
            Some(_) => attempt.leave().await,
            None => attempt.stay(),
        }
        Ok(waited)
    }
}

async fn acquire(
    door: &Door,
    cx: &Context,
    request: v1::LockAcquireRequest,
) -> Result<v1::LockAcquireResponse, Error> {
    let wish = Wish {
        queue: Queue::new(&request.name)?,
        lease: decode::lease(&request.lease)?,
        value: None,
        wait: Duration::from_millis(request.wait_ms),
        keep: request.keep_place,
    };
    let standing = wish.fulfil(door, cx).await?;
    Ok(v1::LockAcquireResponse {
        acquired: standing.as_ref().is_some_and(Standing::is_first),
        place: standing.as_ref().map(|standing| standing.place.encode()),
        ahead: count(standing.map_or(0, |standing| standing.ahead)),
    })
}

async fn campaign(
    door: &Door,
    cx: &Context,
    request: v1::CampaignRequest,
) -> Result<v1::CampaignResponse, Error> {
    let wish = Wish {
        queue: Queue::new(&request.name)?,
        lease: decode::lease(&request.lease)?,
        value: Some(request.value),
        wait: Duration::from_millis(request.wait_ms),
        keep: request.keep_place,
    };
    let standing = wish.fulfil(door, cx).await?;
    Ok(v1::CampaignResponse {
        elected: standing.as_ref().is_some_and(Standing::is_first),
        place: standing.as_ref().map(|standing| standing.place.encode()),
        ahead: count(standing.map_or(0, |standing| standing.ahead)),
    })
}

async fn release(
    door: &Door,
    cx: &Context,
    request: v1::LockReleaseRequest,
) -> Result<v1::LockReleaseResponse, Error> {
    let lease = decode::lease(&request.lease)?;
    let (index, found) = Queue::new(&request.name)?
        .leave(door, cx, lease, Which::fenced(request.fence))
        .await?;
    Ok(v1::LockReleaseResponse { index, found })
}

async fn resign(door: &Door, cx: &Context, request: v1::ResignRequest) -> Result<v1::ResignResponse, Error> {
    let lease = decode::lease(&request.lease)?;
    let (index, found) = Queue::new(&request.name)?
        .leave(door, cx, lease, Which::fenced(request.fence))
        .await?;
    Ok(v1::ResignResponse { index, found })
}

async fn holder(
    door: &Door,
    cx: &Context,
    request: v1::LockHolderRequest,
) -> Result<v1::LockHolderResponse, Error> {
    let queue = Queue::new(&request.name)?;
    let (header, holder, waiting) = first(door, cx, &queue).await?;
    Ok(v1::LockHolderResponse {
        header: Some(header),
        holder: holder.as_ref().map(Place::encode),
        waiting: count(waiting),
    })
}

async fn leader(door: &Door, cx: &Context, request: v1::LeaderRequest) -> Result<v1::LeaderResponse, Error> {
    let queue = Queue::new(&request.name)?;
    let (header, leader, _) = first(door, cx, &queue).await?;
    Ok(v1::LeaderResponse {
        header: Some(header),
        leader: leader.as_ref().map(Place::encode),
    })
}

async fn first(
    door: &Door,
    cx: &Context,
    queue: &Queue,
) -> Result<(v1::ReadHeader, Option<Place>, usize), Error> {
    let state = door.registry.view(cx).await?;
    let header = v1::ReadHeader {
        index: state.newest(&queue.topic()).max(Index(1)).0,
        applied_index: state.index().0,
        server: door.name().to_string(),
    };
    let (first, waiting) = queue.first(&state)?;
    Ok((header, first, waiting))
}

async fn proclaim(
    door: &Door,
    cx: &Context,
    request: v1::ProclaimRequest,
) -> Result<v1::ProclaimResponse, Error> {
    let queue = Queue::new(&request.name)?;
    let lease = decode::lease(&request.lease)?;
    let key = queue.key(lease);
    let state = door.registry.view(cx).await?;
    let (first, _) = queue.first(&state)?;
    let leads = |place: Place| place.key == key && place.row.create_revision.0 == request.fence;
    if !first.is_some_and(leads) {
        return Ok(v1::ProclaimResponse {
            index: state.index().0,
            leads: false,
        });
    }
    // The first place stays the first as long as it is there: that it still is, is all there is to ask.
    let txn = Txn {
        when: vec![Compare {
            range: KeyRange::one(key.clone()),
            relation: Relation::Equal,
            operand: Operand::CreateRevision(Revision(request.fence)),
        }],
        then: vec![TxnOp::Put(Put {
            key,
            value: request.value,
            flags: 0,
            lease: Some(lease),
            guard: Guard::Always,
            repeat: Repeat::Skip,
        })],
        otherwise: Vec::new(),
    };
    match door.propose(cx, Command::Txn(txn)).await? {
        (index, Outcome::Txn { held, .. }) => Ok(v1::ProclaimResponse {
            index: index.0,
            leads: held,
        }),
        (_, other) => Err(misfit(&other)),
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A stream between two messages.
struct Observer {
    registry: Arc<dyn Registry>,
    server: String,
    queue: Queue,
    /// `None`: nothing was told.
    told: Option<Told>,
}

/// What an observer was told: which place leads, and with what value; `None`: that nobody leads. A leader that campaigns again
/// makes a new version of the same.
#[derive(PartialEq, Eq)]
struct Told(Option<(Revision, Bytes)>);

async fn tell(observer: Option<Observer>) -> Option<(Result<v1::LeaderResponse, Status>, Option<Observer>)> {
    let mut observer = observer?;
    let registry = observer.registry.clone();
    let next = async { observer.next().await.map_err(|error| status::of(&error)) };
    match unless_cut_off(&*registry, next).await {
        Ok(message) => Some((Ok(message), Some(observer))),
        Err(status) => Some((Err(status), None)),
    }
}

impl Observer {
    async fn begin(door: &Door, cx: &Context, name: &[u8]) -> Result<Self, Error> {
        let queue = Queue::new(name)?;
        // What was decided before the request is told.
        door.registry.view(&cx.renewed()).await?;
        Ok(Self {
            registry: door.registry.clone(),
            server: door.name().to_string(),
            queue,
            told: None,
        })
    }

    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Result<v1::LeaderResponse, Error> {
        let quiet = Instant::now() + limits::OBSERVE_PROGRESS;
        loop {
            let mut ticket = self.registry.hub().enroll(&[self.queue.topic()])?;
            let state = self.registry.hub().newest();
            let (leader, _) = self.queue.first(&state)?;
            let seen = leader
                .as_ref()
                .map(|place| (place.row.create_revision, place.row.value.clone()));
            let seen = Some(Told(seen));
            if self.told != seen || Instant::now() >= quiet {
                self.told = seen;
                return Ok(v1::LeaderResponse {
                    header: Some(v1::ReadHeader {
                        index: state.newest(&self.queue.topic()).max(Index(1)).0,
                        applied_index: state.index().0,
                        server: self.server.clone(),
                    }),
                    leader: leader.as_ref().map(Place::encode),
                });
            }
            drop(state);
            tokio::select! {
                biased;
                woken = ticket.touched() => { woken?; }
                () = tokio::time::sleep_until(quiet) => {}
            }
        }
    }
}
