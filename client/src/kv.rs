//! Keys and values.

use bytes::Bytes;
use spine_proto::v1::{self, key_range::Range, kv_client::KvClient};
use tonic::transport::Channel;

use crate::{
    error::{Failure, Kind, Result},
    pool::{Caller, MESSAGE_BYTES_MAX},
};

/// Keys and values.
#[derive(Clone, Debug)]
pub struct Kv(Caller);

/// The keys of a range, page by page.
#[derive(Debug)]
pub struct Scan(tonic::Streaming<v1::ScanResponse>);

impl Scan {
    /// The next page; `None`: there are no more. The first comes also if the range is empty.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::Error::Unreachable) if the server went away: begin again.
    pub async fn next(&mut self) -> Result<Option<v1::ScanResponse>> {
        let told = self.0.message().await;
        told.map_err(|status| Failure::of(&status, Kind::Read, "the server").error)
    }
}

/// Some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// All keys that begin with these bytes; empty: all keys.
    Prefix(Bytes),
    /// From the first key up to, but without, the second; without a second: to the last key.
    Interval(Bytes, Option<Bytes>),
}

/// A condition on a key's row that a write needs (check-and-set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no such key.
    Absent,
    /// Its row was last changed at this index (`modify_index`).
    ModifyIndex(u64),
    /// Its row was last changed at this revision (`mod_revision`).
    ModRevision(u64),
}

impl Kv {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.0
    }

    /// Reads a key; `None`: there is no such key.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<v1::KeyValue>> {
        Ok(self.get_at(key, None).await?.kv)
    }

    /// Reads a key as it was at a revision (`None`: as it is), with where the answer stands.
    pub async fn get_at(&self, key: impl Into<Bytes>, revision: Option<u64>) -> Result<v1::GetResponse> {
        let request = v1::GetRequest {
            key: key.into(),
            revision,
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { client(channel).get(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Reads all rows of a range, as they are at one moment. The caller has the memory for them: a range may be large,
    /// and [`Kv::page`] reads it in parts.
    pub async fn list(&self, range: KeyRange) -> Result<Vec<v1::KeyValue>> {
        self.all(range, false).await
    }

    /// The same without the values.
    pub async fn keys(&self, range: KeyRange) -> Result<Vec<v1::KeyValue>> {
        self.all(range, true).await
    }

    async fn all(&self, range: KeyRange, keys_only: bool) -> Result<Vec<v1::KeyValue>> {
        let end = range.end();
        let mut request = v1::ListRequest {
            range: Some(range.into()),
            keys_only,
            ..v1::ListRequest::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self.page(request.clone()).await?;
            all.extend(page.kvs);
            let Some(next) = page.next else { return Ok(all) };
            request.range = Some(KeyRange::Interval(next, end.clone()).into());
            request.revision = Some(page.revision);
        }
    }

    /// Reads a page of a range. `consistency` is the client's, unless it is set.
    pub async fn page(&self, mut request: v1::ListRequest) -> Result<v1::ListResponse> {
        if request.consistency == 0 {
            request.consistency = self.0.consistency();
        }
        let send = |channel, request| async move { client(channel).list(request).await };
        self.0.pool.call(Kind::Read, request, send).await
    }

    /// Reads the keys of a range page by page, all of them as they were at one moment.
    ///
    /// # Errors
    /// As every read.
    pub async fn scan(&self, range: KeyRange) -> Result<Scan> {
        let request = v1::ScanRequest {
            range: Some(range.into()),
            consistency: self.0.consistency(),
            ..v1::ScanRequest::default()
        };
        let send = |channel, request| async move { client(channel).scan(request).await };
        self.0.pool.call(Kind::Read, request, send).await.map(Scan)
    }

    /// Counts the keys of a range.
    pub async fn count(&self, range: KeyRange) -> Result<u64> {
        let request = v1::CountRequest {
            range: Some(range.into()),
            consistency: self.0.consistency(),
        };
        let send = |channel, request| async move { client(channel).count(request).await };
        let answer: v1::CountResponse = self.0.pool.call(Kind::Read, request, send).await?;
        Ok(answer.count)
    }

    /// Stores a value.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<v1::PutResponse> {
        let (key, value) = (key.into(), value.into());
        self.put_with(v1::PutRequest {
            key,
            value,
            ..v1::PutRequest::default()
        })
        .await
    }

    /// Stores a value if a condition holds; the answer's `outcome` tells whether it did.
    pub async fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        guard: Guard,
    ) -> Result<v1::PutResponse> {
        let (key, value, guard) = (key.into(), value.into(), Some(guard.into()));
        self.put_with(v1::PutRequest {
            key,
            value,
            guard,
            ..v1::PutRequest::default()
        })
        .await
    }

    /// Stores a value, with all that can be said about it.
    pub async fn put_with(&self, request: v1::PutRequest) -> Result<v1::PutResponse> {
        let send = |channel, request| async move { client(channel).put(request).await };
        self.0.pool.once(request, send).await
    }

    /// Deletes the keys of a range.
    pub async fn delete(&self, range: KeyRange) -> Result<v1::DeleteResponse> {
        self.delete_with(v1::DeleteRequest {
            range: Some(range.into()),
            guard: None,
        })
        .await
    }

    /// Deletes a key if a condition holds; the answer's `guard_failed` tells whether it did.
    pub async fn delete_if(&self, key: impl Into<Bytes>, guard: Guard) -> Result<v1::DeleteResponse> {
        let range = Some(KeyRange::Key(key.into()).into());
        self.delete_with(v1::DeleteRequest {
            range,
            guard: Some(guard.into()),
        })
        .await
    }

    /// Forgets what keys were before a revision, and gives the request's index. Old history goes by itself; this is for who wants
    /// it gone at once.
    ///
    /// # Errors
    /// [`Error::Compacted`](crate::Error::Compacted) if it is forgotten already.
    pub async fn compact(&self, revision: u64) -> Result<u64> {
        let send = |channel, request| async move { client(channel).compact(request).await };
        let request = v1::CompactRequest { revision };
        let answer: v1::CompactResponse = self.0.pool.call(Kind::Write, request, send).await?;
        Ok(answer.index)
    }

    async fn delete_with(&self, request: v1::DeleteRequest) -> Result<v1::DeleteResponse> {
        let send = |channel, request| async move { client(channel).delete(request).await };
        self.0.pool.once(request, send).await
    }
}

pub(crate) fn client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl KeyRange {
    /// The first key behind it; `None`: it goes on to the last key.
    fn end(&self) -> Option<Bytes> {
        match self {
            Self::Key(key) => Some([key, &b"\0"[..]].concat().into()),
            Self::Prefix(prefix) => prefix.iter().rposition(|&byte| byte != 0xff).map(|last| {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                end.into()
            }),
            Self::Interval(_, end) => end.clone(),
        }
    }
}

impl From<KeyRange> for v1::KeyRange {
    fn from(range: KeyRange) -> Self {
        let range = match range {
            KeyRange::Key(key) => Range::Key(key),
            KeyRange::Prefix(prefix) => Range::Prefix(prefix),
            KeyRange::Interval(start, end) => Range::Interval(v1::KeyInterval { start, end }),
        };
        Self { range: Some(range) }
    }
}

impl From<Guard> for v1::Guard {
    fn from(guard: Guard) -> Self {
        let condition = match guard {
            Guard::Absent => v1::guard::Condition::Absent(v1::Absent {}),
            Guard::ModifyIndex(index) => v1::guard::Condition::ModifyIndex(index),
            Guard::ModRevision(revision) => v1::guard::Condition::ModRevision(revision),
        };
        Self {
            condition: Some(condition),
        }
    }
}
