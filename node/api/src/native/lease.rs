//! Leases.

use bytes::Bytes;
use spine_core::{
    AllLeases, CheckId, Command, Key, LeaseEnd, LeaseGrant, LeaseId, LeaseOpen, LeaseTerms, LeaseView,
    NodeName, OneLease, Outcome, Query, Rejection, Renewal, Renewed, Ttl,
};
use spine_proto::v1::{self, lease_server::Lease};
use tonic::{Request, Response, Status};

use super::{Door, consistency, decode, encode, misfit, page, reply};
use crate::{
    draw::DRAWS,
    limits,
    registry::{Context, Error},
};

#[tonic::async_trait]
impl Lease for Door {
    async fn grant(
        &self,
        request: Request<v1::LeaseGrantRequest>,
    ) -> Result<Response<v1::LeaseGrantResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(grant(self, &cx, request).await)
    }

    async fn renew(
        &self,
        request: Request<v1::LeaseRenewRequest>,
    ) -> Result<Response<v1::LeaseRenewResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(renew(self, &cx, request).await)
    }

    async fn revoke(
        &self,
        request: Request<v1::LeaseRevokeRequest>,
    ) -> Result<Response<v1::LeaseRevokeResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(revoke(self, &cx, request).await)
    }

    async fn get(
        &self,
        request: Request<v1::LeaseGetRequest>,
    ) -> Result<Response<v1::LeaseGetResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(get(self, &cx, request).await)
    }

    async fn list(
        &self,
        request: Request<v1::LeaseListRequest>,
    ) -> Result<Response<v1::LeaseListResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list(self, &cx, request).await)
    }
}

async fn grant(
    door: &Door,
    cx: &Context,
    request: v1::LeaseGrantRequest,
) -> Result<v1::LeaseGrantResponse, Error> {
    let own = decode::lease_or_none(&request.id)?;
    let ttl = (request.ttl_ms > 0).then_some(Ttl(request.ttl_ms));
    let terms = terms(request)?;
    let mut draws = 0;
    loop {
        let id = own.unwrap_or_else(|| door.draw.lease_id(&door.registry.status()));
        draws += 1;
        match door.propose(cx, command(id, ttl, &terms)).await {
            Ok((index, Outcome::LeaseGranted { id, ttl })) => {
                return Ok(v1::LeaseGrantResponse {
                    index: index.0,
                    id: encode::lease_id(id),
                    ttl_ms: ttl.0,
                });
            }
            Ok((_, other)) => return Err(misfit(&other)),
            Err(Error::Refused(Rejection::LeaseExists(_))) if own.is_none() && draws < DRAWS => {}
            Err(error) => return Err(error),
        }
    }
}

/// A lease that has nothing but its time to live is a plain one.
fn command(id: LeaseId, ttl: Option<Ttl>, terms: &LeaseTerms) -> Command {
    match ttl {
        Some(ttl) if *terms == LeaseTerms::default() => Command::LeaseGrant(LeaseGrant { id, ttl }),
        ttl => Command::LeaseOpen(Box::new(LeaseOpen {
            id,
            ttl,
            terms: terms.clone(),
        })),
    }
}

fn terms(request: v1::LeaseGrantRequest) -> Result<LeaseTerms, Rejection> {
    let ids = |ids: Vec<String>| ids.iter().map(|id| CheckId::parse(id)).collect::<Result<_, _>>();
    let end = match v1::LeaseEnd::try_from(request.end) {
        Ok(v1::LeaseEnd::Unspecified | v1::LeaseEnd::Release) => LeaseEnd::Release,
        Ok(v1::LeaseEnd::Delete) => LeaseEnd::Delete,
        Err(_) => return Err(Rejection::Invalid(format!("end {} is none", request.end).into())),
    };
    let node = (!request.node.is_empty())
        .then(|| NodeName::parse(&request.node))
        .transpose()?;
    Ok(LeaseTerms {
        name: request.name.into(),
        node,
        node_checks: ids(request.node_checks)?,
        service_checks: ids(request.service_checks)?,
        end,
        lock_delay: Ttl(request.lock_delay_ms),
    })
}

async fn renew(
    door: &Door,
    cx: &Context,
    request: v1::LeaseRenewRequest,
) -> Result<v1::LeaseRenewResponse, Error> {
    let id = decode::lease(&request.id)?;
    match door.registry.renew(cx, Renewal::Lease(id)).await? {
        Renewed::Until(ttl) => Ok(v1::LeaseRenewResponse {
            ttl_ms: ttl.unwrap_or_default().0,
        }),
        Renewed::NotARenewal => Err(Rejection::UnknownLease(id).into()),
    }
}

async fn revoke(
    door: &Door,
    cx: &Context,
    request: v1::LeaseRevokeRequest,
) -> Result<v1::LeaseRevokeResponse, Error> {
    let id = decode::lease(&request.id)?;
    match door.propose(cx, Command::LeaseRevoke(id)).await? {
        (index, Outcome::LeaseRevoked { keys }) => Ok(v1::LeaseRevokeResponse {
            index: index.0,
            deleted: keys,
        }),
        (_, other) => Err(misfit(&other)),
    }
}

async fn get(door: &Door, cx: &Context, request: v1::LeaseGetRequest) -> Result<v1::LeaseGetResponse, Error> {
    let id = decode::lease(&request.id)?;
    let state = door.registry.view(cx).await?;
    let answer = OneLease(id).ask(&state);
    let kv = state.kv();
    let remaining = state.lease_deadline(id).map(|at| at.since(state.time()).0);
    Ok(v1::LeaseGetResponse {
        header: Some(v1::ReadHeader {
            index: answer.index.0,
            applied_index: state.index().0,
            server: door.name().to_string(),
        }),
        lease: answer.value.map(info),
        remaining_ms: remaining,
        keys: first(kv.of_lease(id)),
        keys_count: kv.count_of_lease(id) as u64,
        locks: first(kv.locked_by(id)),
        locks_count: kv.count_locked_by(id) as u64,
    })
}

/// As many keys as a page holds.
fn first<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<Bytes> {
    let mut room = limits::PAGE_BYTES_MAX;
    let fits = |key: &&Key| {
        let fits = key.len() <= room;
        room = room.saturating_sub(key.len());
        fits
    };
    keys.take(limits::PAGE_ROWS_MAX)
        .take_while(fits)
        .cloned()
        .collect()
}

async fn list(
    door: &Door,
    cx: &Context,
    request: v1::LeaseListRequest,
) -> Result<v1::LeaseListResponse, Error> {
    let limit = page::limit(request.limit);
    let node = (!request.node.is_empty())
        .then(|| decode::node_name(&request.node))
        .transpose()?;
    let query = AllLeases {
        node,
        after: decode::lease_or_none(&request.after)?,
        limit: Some(limit + 1),
    };
    let (found, header) = door.ask(cx, &query).await?;
    let (leases, more) = page::cut(found.into_iter().map(info), limit);
    Ok(v1::LeaseListResponse {
        header: Some(header),
        leases,
        more,
    })
}

fn info(view: LeaseView) -> v1::LeaseInfo {
    let terms = view.terms.unwrap_or_default();
    let ids = |ids: &[CheckId]| ids.iter().map(ToString::to_string).collect();
    let end = match terms.end {
        LeaseEnd::Release => v1::LeaseEnd::Release,
        LeaseEnd::Delete => v1::LeaseEnd::Delete,
    };
    v1::LeaseInfo {
        id: encode::lease_id(view.id),
        ttl_ms: view.ttl.unwrap_or_default().0,
        name: terms.name.to_string(),
        node: terms.node.map(|node| node.to_string()).unwrap_or_default(),
        node_checks: ids(&terms.node_checks),
        service_checks: ids(&terms.service_checks),
        end: end.into(),
        lock_delay_ms: terms.lock_delay.0,
        create_index: view.create_index.0,
    }
}
