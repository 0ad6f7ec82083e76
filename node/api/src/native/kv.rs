//! Keys and values.

use spine_core::{
    Command, CountKeys, Delete, GetKey, KeyRange, ListKeys, ListKeysAt, Outcome, Page, Revision,
};
use spine_proto::v1::{self, kv_server::Kv};
use tonic::{Request, Response, Status};

use super::{
    Door, consistency, decode, encode, misfit, page, reply,
    scan::{Pages, scan},
    txn,
};
use crate::registry::{Context, Error};

#[tonic::async_trait]
impl Kv for Door {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(get(self, &cx, request).await)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list(self, &cx, request).await)
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(count(self, &cx, request).await)
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let (cx, request) = self.open_numbered(request);
        reply(put(self, &cx, request).await)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let (cx, request) = self.open_numbered(request);
        reply(delete(self, &cx, request).await)
    }

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<v1::CompactResponse>, Status> {
        let (cx, request) = self.open(request);
        reply(compact(self, &cx, request).await)
    }

    type ScanStream = Pages;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Pages>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(scan(self, &cx, request).await)
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        let (mut cx, request) = self.open_numbered(request);
        cx.consistency = consistency(request.consistency);
        reply(txn::txn(self, &cx, request).await)
    }
}

async fn get(door: &Door, cx: &Context, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
    let key = request.key;
    let Some(revision) = request.revision else {
        let (row, header) = door.ask(cx, &GetKey(key.clone())).await?;
        let kv = row.map(|row| encode::key_value(key, &row));
        return Ok(v1::GetResponse {
            header: Some(header),
            kv,
        });
    };
    let query = ListKeysAt {
        range: KeyRange::one(key),
        revision: Revision(revision),
        limit: None,
    };
    let (found, header) = door.ask(cx, &query).await?;
    let kv = found?.rows.pop().map(|(key, row)| encode::key_value(key, &row));
    Ok(v1::GetResponse {
        header: Some(header),
        kv,
    })
}

async fn list(door: &Door, cx: &Context, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
    let range = decode::key_range(request.range)?;
    let limit = page::limit(request.limit);
    // One row more than is wanted tells where the next page begins.
    let limit_next = Some(limit + 1);
    let (found, header) = match request.revision.map(Revision) {
        None => {
            door.ask(
                cx,
                &ListKeys {
                    range,
                    limit: limit_next,
                },
            )
            .await?
        }
        Some(revision) => {
            let query = ListKeysAt {
                range,
                revision,
                limit: limit_next,
            };
            let (found, header) = door.ask(cx, &query).await?;
            (found?, header)
        }
    };
    let Page { rows, revision, .. } = found;
    let names: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
    let encoded = rows.into_iter().map(|(key, row)| {
        let mut kv = encode::key_value(key, &row);
        if request.keys_only {
            kv.value.clear();
        }
        kv
    });
    let (kvs, more) = page::cut(encoded, limit);
    Ok(v1::ListResponse {
        header: Some(header),
        next: more.then(|| names[kvs.len()].clone()),
        kvs,
        revision: request.revision.unwrap_or(revision.0),
    })
}

async fn count(door: &Door, cx: &Context, request: v1::CountRequest) -> Result<v1::CountResponse, Error> {
    let (count, header) = door
        .ask(cx, &CountKeys(decode::key_range(request.range)?))
        .await?;
    Ok(v1::CountResponse {
        header: Some(header),
        count,
    })
}

async fn put(door: &Door, cx: &Context, request: v1::PutRequest) -> Result<v1::PutResponse, Error> {
    let command = Command::Put(txn::put(request)?);
    let (index, outcome) = door.propose(cx, command).await?;
    let (outcome, revision) = match outcome {
        Outcome::Put {
            revision,
            written: true,
        } => (v1::PutOutcome::Written, revision),
        Outcome::Put {
            revision,
            written: false,
        } => (v1::PutOutcome::Unchanged, revision),
        Outcome::GuardFailed { revision } => (v1::PutOutcome::GuardFailed, revision),
        other => return Err(misfit(&other)),
    };
    Ok(v1::PutResponse {
        index: index.0,
        outcome: outcome.into(),
        revision: revision.0,
    })
}

async fn compact(
    door: &Door,
    cx: &Context,
    request: v1::CompactRequest,
) -> Result<v1::CompactResponse, Error> {
    let command = Command::Compact(Revision(request.revision));
    match door.propose(cx, command).await? {
        (index, Outcome::Compacted) => Ok(v1::CompactResponse { index: index.0 }),
        (_, other) => Err(misfit(&other)),
    }
}

async fn delete(door: &Door, cx: &Context, request: v1::DeleteRequest) -> Result<v1::DeleteResponse, Error> {
    let command = Command::Delete(Delete {
        range: decode::key_range(request.range)?,
        guard: decode::guard(request.guard)?,
    });
    let (index, outcome) = door.propose(cx, command).await?;
    let (deleted, guard_failed, revision) = match outcome {
        Outcome::Deleted { count, revision } => (count, false, revision),
        Outcome::GuardFailed { revision } => (0, true, revision),
        other => return Err(misfit(&other)),
    };
    Ok(v1::DeleteResponse {
        index: index.0,
        deleted,
        guard_failed,
        revision: revision.0,
    })
}
