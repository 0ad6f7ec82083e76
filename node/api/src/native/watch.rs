//! Watching: a place in the change log, and topics. Between messages a stream holds the events of at most one batch.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use prost::Message;
use spine_core::{Event, Index, Interest, Rejection, State};
use spine_proto::v1::{self, watch_server::Watch};
use tonic::{Request, Response, Status};

use super::{Door, decode, encode, status, unless_cut_off};
use crate::{
    limits,
    read::Read,
    registry::{Context, Error, Registry},
};

/// The time between two signs that nothing has happened, unless the client names one.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl Watch for Door {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (cx, request) = self.open(request);
        let teller = Teller::begin(self, &cx, request).await?;
        Ok(Response::new(Box::pin(stream::unfold(Some(teller), tell))))
    }
}

/// A stream between two messages.
struct Teller {
    registry: Arc<dyn Registry>,
    interest: Interest,
    with_before: bool,
    idle: Duration,
    /// Everything up to here has been told.
    place: Index,
    /// Fetched and not told yet, newest first; all behind `place`.
    pending: Vec<Event>,
    /// Where `place` moves when `pending` is told.
    through: Index,
    /// Whether the message that says where the stream begins is still to come.
    opening: bool,
}

async fn tell(teller: Option<Teller>) -> Option<(Result<v1::WatchResponse, Status>, Option<Teller>)> {
    let mut teller = teller?;
    let registry = teller.registry.clone();
    match unless_cut_off(&*registry, teller.next()).await {
        Ok(message) => Some((Ok(message), Some(teller))),
        Err(status) => Some((Err(status), None)),
    }
}

impl Teller {
    async fn begin(door: &Door, cx: &Context, request: v1::WatchRequest) -> Result<Self, Status> {
        let interest = interest(request.topics).map_err(|error| status::of(&error))?;
        let idle = match request.progress_interval_ms {
            0 => PROGRESS_DEFAULT,
            asked => {
                Duration::from_millis(asked).clamp(limits::WATCH_PROGRESS_MIN, limits::WATCH_PROGRESS_MAX)
            }
        };
        let place = match request.from_index {
            Some(index) => resume(door, cx, Index(index), &request.cluster_id).await?,
            // All that was acknowledged before the request lies behind "now".
            None => now(door, cx).await?.index(),
        };
        Ok(Self {
            registry: door.registry.clone(),
            interest,
            with_before: request.with_before,
            idle,
            place,
            pending: Vec::new(),
            through: place,
            opening: true,
        })
    }

    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Result<v1::WatchResponse, Status> {
        if std::mem::take(&mut self.opening) {
            return Ok(v1::WatchResponse {
                events: Vec::new(),
                index: self.place.0,
                cluster_id: self.registry.status().cluster_id.to_string(),
            });
        }
        if self.pending.is_empty() {
            let mut cursor = self.registry.watch(self.interest.clone(), self.place);
            let batch = cursor
                .next(Some(self.idle))
                .await
                .map_err(|error| status::of_cursor(&error))?;
            self.through = batch.through;
            self.pending = batch.events;
            self.pending.reverse();
        }
        Ok(self.message())
    }

    /// As much of what is pending as a message holds, at least one event.
    fn message(&mut self) -> v1::WatchResponse {
        let mut events = Vec::new();
        let mut bytes = 0;
        while let Some(event) = self.pending.last() {
            let encoded = encode::event(event, self.with_before);
            bytes += encoded.encoded_len();
            if bytes > limits::PAGE_BYTES_MAX && !events.is_empty() {
                break;
            }
            events.push(encoded);
            self.pending.pop();
        }
        self.place = match self.pending.last() {
            None => self.through,
            // The next event's request is not told whole yet, so a stream that breaks here tells it again.
            Some(next) => Index(next.index.0 - 1).max(self.place),
        };
        v1::WatchResponse {
            events,
            index: self.place.0,
            cluster_id: String::new(),
        }
    }
}

fn interest(topics: Vec<v1::Topic>) -> Result<Interest, Error> {
    if topics.len() > limits::WATCH_TOPICS_MAX {
        return Err(Rejection::TooMany {
            what: "topics".into(),
            limit: limits::WATCH_TOPICS_MAX as u64,
        }
        .into());
    }
    let interest: Interest = topics.into_iter().map(decode::topic).collect::<Result<_, _>>()?;
    if interest.is_empty() {
        return Err(Rejection::Invalid("a watch needs a topic".into()).into());
    }
    Ok(interest)
}

/// The place of a client that was told everything up to `place`, of this cluster or of that one.
///
/// An index is a place in one life of a cluster. In another life, as after a restore, what it has seen there says nothing of
/// what is here: a stream that went on from it would pass over all in between without a word.
async fn resume(door: &Door, cx: &Context, place: Index, cluster: &str) -> Result<Index, Status> {
    let mut state = door.registry.hub().newest();
    if place > state.index() {
        // This server may only lag behind the one that told it.
        state = now(door, cx).await?;
    }
    let same_cluster = cluster.is_empty() || cluster == &*door.registry.status().cluster_id;
    if same_cluster && place <= state.index() {
        Ok(place)
    } else {
        Err(status::of_another_life(place, &state))
    }
}

/// A state in which all is that was acknowledged anywhere before.
async fn now(door: &Door, cx: &Context) -> Result<Arc<State>, Status> {
    door.registry.view(cx).await.map_err(|error| status::of(&error))
}
