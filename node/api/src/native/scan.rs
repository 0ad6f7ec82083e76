//! A range as a stream of pages of one revision. Between messages a stream holds the place where it goes on, and no state.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use spine_core::{Index, Key, KeyRange, Revision, Topic};
use spine_proto::v1;
use tonic::Status;

use super::{Door, decode, encode, page, status};
use crate::{
    limits,
    registry::{Context, Error, Registry},
};

/// What a scan gives.
pub(super) type Pages = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

/// A stream between two pages.
struct Scan {
    registry: Arc<dyn Registry>,
    rest: KeyRange,
    revision: Revision,
    keys_only: bool,
    /// Of the first page, which is still to come.
    header: Option<v1::ReadHeader>,
}

/// Begins a scan.
pub(super) async fn scan(door: &Door, cx: &Context, request: v1::ScanRequest) -> Result<Pages, Error> {
    let range = decode::key_range(request.range)?;
    let state = door.registry.view(cx).await?;
    let revision = request.revision.map_or(state.revision(), Revision);
    // Whether it can be read at all is told before the stream begins.
    state.kv().first_at(&range, revision, 0)?;
    let index = state.newest(&Topic::Keys(range.clone())).max(Index(1));
    let scan = Scan {
        registry: door.registry.clone(),
        rest: range,
        revision,
        keys_only: request.keys_only,
        header: Some(v1::ReadHeader {
            index: index.0,
            applied_index: state.index().0,
            server: door.name().to_string(),
        }),
    };
    Ok(Box::pin(stream::unfold(Some(scan), |scan| async {
        let mut scan = scan?;
        match scan.page() {
            Ok((page, more)) => Some((Ok(page), more.then_some(scan))),
            Err(error) => Some((Err(status::of(&error)), None)),
        }
    })))
}

impl Scan {
    /// The next page, and whether more follow. What was at a revision that this server has seen, each later state tells the same.
    fn page(&mut self) -> Result<(v1::ScanResponse, bool), Error> {
        let state = self.registry.hub().newest();
        let limit = limits::PAGE_ROWS_MAX;
        let rows = state.kv().first_at(&self.rest, self.revision, limit + 1)?;
        let names: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
        let encoded = rows.into_iter().map(|(key, row)| {
            let mut kv = encode::key_value(key, &row);
            if self.keys_only {
                kv.value.clear();
            }
            kv
        });
        let (kvs, more) = page::cut(encoded, limit);
        if more {
            self.rest.start = Key::clone(&names[kvs.len()]);
        }
        let response = v1::ScanResponse {
            header: self.header.take(),
            kvs,
            revision: self.revision.0,
        };
        Ok((response, more))
    }
}
