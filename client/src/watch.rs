//! Watching: a stream that outlives the server that it began at.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use spine_proto::v1::{self, topic::Topic as WireTopic, watch_client::WatchClient};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Streaming, transport::Channel};

use crate::{
    error::{Error, Failure, Kind, Next, Result},
    kv::KeyRange,
    pool::{Caller, MESSAGE_BYTES_MAX, Turns},
};

/// Beyond the server's promise to say something, this much for the way.
const GRACE: Duration = Duration::from_secs(5);

/// What happens, as it happens.
#[derive(Clone, Debug)]
pub struct Watch(Caller);

/// Something to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Keys.
    Keys(KeyRange),
    /// The instances of a service, and their checks.
    Service(String),
    /// A node's row and its own checks.
    Node(String),
    /// Which services there are, and their tags.
    Services,
    /// All nodes.
    Nodes,
    /// All instances.
    Instances,
    /// All checks.
    Checks,
    /// The servers of the cluster.
    Servers,
    /// Everything.
    Everything,
}

impl Topic {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::Keys(KeyRange::Key(key.into()))
    }

    /// All keys that begin with these bytes.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Keys(KeyRange::Prefix(prefix.into()))
    }

    /// The instances of a service, and their checks.
    pub fn service(name: impl Into<String>) -> Self {
        Self::Service(name.into())
    }
}

impl Watch {
    pub(crate) fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// A watch of these topics, to be told more and begun.
    pub fn topics(&self, topics: impl IntoIterator<Item = Topic>) -> WatchRequest {
        let topics = topics.into_iter().map(Into::into).collect();
        let progress_interval_ms = 10_000;
        WatchRequest {
            caller: self.0.clone(),
            request: v1::WatchRequest {
                topics,
                progress_interval_ms,
                ..v1::WatchRequest::default()
            },
        }
    }
}

/// A watch that has not begun.
#[derive(Clone, Debug)]
#[must_use]
pub struct WatchRequest {
    caller: Caller,
    request: v1::WatchRequest,
}

impl WatchRequest {
    /// Begins behind this index, such as the `applied_index` of an answer; from now on unless told.
    pub fn after(mut self, index: u64) -> Self {
        self.request.from_index = Some(index);
        self
    }

    /// Rows as they were before a change are sent, too.
    pub fn with_before(mut self) -> Self {
        self.request.with_before = true;
        self
    }

    /// An empty batch comes after this long without events, 100 ms to 10 min; 10 s unless told.
    pub fn progress_every(mut self, interval: Duration) -> Self {
        self.request.progress_interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// Begins. Returns when a server has said where the stream begins.
    ///
    /// # Errors
    /// As every read, and [`Error::Compacted`].
    pub async fn start(self) -> Result<WatchStream> {
        let Self { caller, request } = self;
        let mut stream = WatchStream {
            place: request.from_index,
            turns: Turns::new(caller.pool.clone()),
            caller,
            request,
            told_ahead: 0,
            skip: 0,
            open: None,
        };
        stream.begin().await?;
        Ok(stream)
    }
}

/// Events, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The events; none: nothing happened up to `index`.
    pub events: Vec<v1::Event>,
    /// Everything up to this index has been told: where a new watch goes on. The last events may belong to a greater one
    /// whose others are still to come.
    pub index: u64,
}

/// A watch under way. If its server goes away it goes on at another one, without a gap and without a repetition.
#[derive(Debug)]
pub struct WatchStream {
    caller: Caller,
    request: v1::WatchRequest,
    /// Everything up to here was told.
    place: Option<u64>,
    /// Events behind `place` that were told already: the beginning of a request whose events come in several messages.
    told_ahead: usize,
    /// Of these a new stream repeats so many.
    skip: usize,
    /// Whose turn it is to serve it.
    turns: Turns,
    /// The stream, and the address of its server.
    open: Option<(Streaming<v1::WatchResponse>, Arc<str>)>,
}

impl WatchStream {
    /// Everything up to this index was told.
    pub fn index(&self) -> u64 {
        self.place.unwrap_or_default()
    }

    /// Waits for what happens next. While no server can be reached it goes on trying. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those that trying again does not mend: [`Error::Compacted`], also where the cluster's data were restored or begun anew
    /// meanwhile, and [`Error::Refused`].
    pub async fn next(&mut self) -> Result<Batch> {
        loop {
            match self.step(None).await {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(failure) if failure.next == Next::Again => self.turns.pause().await,
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// The same as a [`Stream`], which ends with its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch>> {
        stream::unfold(Some(self), |this| async move {
            let mut this = this?;
            match this.next().await {
                Ok(batch) => Some((Ok(batch), Some(this))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Opens the stream for the first time, within the deadline of a call.
    async fn begin(&mut self) -> Result<()> {
        let pool = self.caller.pool.clone();
        let until = Instant::now() + pool.deadline();
        loop {
            let Err(failure) = self.step(Some(until)).await else {
                return Ok(());
            };
            let unreachable = matches!(failure.error, Error::Unreachable(_));
            let give_up = !pool.waits() && self.turns.all_failed() && unreachable;
            let is_over = Instant::now() + self.turns.next_pause() >= until;
            if failure.next != Next::Again || give_up || is_over {
                return Err(failure.error);
            }
            self.turns.pause().await;
        }
    }

    /// Reads one message, or opens a stream if there is none, which is to be done by then at the latest. A stream's opening
    /// message is not a batch.
    async fn step(&mut self, until: Option<Instant>) -> Result<Option<Batch>, Failure> {
        let stepped = if let Some((open, server)) = &mut self.open {
            let promised = Duration::from_millis(self.request.progress_interval_ms) * 2 + GRACE;
            match timeout(promised, open.message()).await {
                Ok(Ok(Some(message))) => Ok(self.take(message)),
                Ok(Ok(None)) | Err(_) => Err(Failure::silence(Kind::Read, server)),
                Ok(Err(status)) => Err(Failure::of(&status, Kind::Read, server)),
            }
        } else {
            let (channel, server, end) = self.turns.take();
            let end = until.map_or(end, |until| until.min(end));
            self.begin_at(channel, &server, end).await.map(|()| None)
        };
        if let Err(failure) = &stepped {
            self.open = None;
            if failure.next == Next::Again {
                self.turns.failed();
            }
        }
        stepped
    }

    /// Opens a stream at this server.
    async fn begin_at(&mut self, channel: Channel, server: &Arc<str>, until: Instant) -> Result<(), Failure> {
        let mut request = Request::new(v1::WatchRequest {
            from_index: self.place,
            ..self.request.clone()
        });
        self.caller.pool.authorize(&mut request);
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = async {
            let mut open = client.watch(request).await?.into_inner();
            let first = open.message().await?;
            Ok((open, first))
        };
        let (open, first) = match timeout_at(until, opening).await {
            Ok(Ok((open, Some(first)))) => (open, first),
            Ok(Ok((_, None))) | Err(_) => return Err(Failure::silence(Kind::Read, server)),
            Ok(Err(status)) => return Err(Failure::of(&status, Kind::Read, server)),
        };
        self.open = Some((open, server.clone()));
        self.place.get_or_insert(first.index);
        // From now on the place is one of this cluster, and of none that takes its place.
        if !first.cluster_id.is_empty() {
            self.request.cluster_id = first.cluster_id;
        }
        self.skip = self.told_ahead;
        self.turns.served();
        Ok(())
    }

    /// Leaves out what was told before, and moves on.
    fn take(&mut self, message: v1::WatchResponse) -> Option<Batch> {
        let v1::WatchResponse {
            mut events, index, ..
        } = message;
        let repeated = self.skip.min(events.len());
        self.skip -= repeated;
        if repeated > 0 {
            events.drain(..repeated);
        }
        let index = index.max(self.index());
        if index > self.index() {
            self.told_ahead = 0;
        }
        self.told_ahead += events.iter().filter(|event| event.index > index).count();
        self.place = Some(index);
        (repeated == 0 || !events.is_empty()).then_some(Batch { events, index })
    }
}

impl From<Topic> for v1::Topic {
    fn from(topic: Topic) -> Self {
        let topic = match topic {
            Topic::Keys(range) => WireTopic::Keys(range.into()),
            Topic::Service(name) => WireTopic::Service(name),
            Topic::Node(name) => WireTopic::Node(name),
            Topic::Services => WireTopic::Services(v1::Services {}),
            Topic::Nodes => WireTopic::Nodes(v1::Nodes {}),
            Topic::Instances => WireTopic::Instances(v1::Instances {}),
            Topic::Checks => WireTopic::Checks(v1::Checks {}),
            Topic::Servers => WireTopic::Servers(v1::Servers {}),
            Topic::Everything => WireTopic::Everything(v1::Everything {}),
        };
        Self { topic: Some(topic) }
    }
}
