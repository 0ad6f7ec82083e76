//! Entries on their way to a follower: a stream of requests and a stream of answers, pipelined.
//!
//! openraft hands over a stream of requests that it makes as it goes, and takes back the answers. Four things are not as
//! they seem, each found when it went wrong:
//!
//! - openraft's pause after an error is *in* the stream of requests. Who connects before asking for the first one dials a
//!   peer that is down as fast as it refuses. So the first request is awaited before anything else.
//! - Only one task may ever ask for requests: all sessions of a follower draw from one source behind one lock. If hyper
//!   drew from it, a dead connection would hold the lock while its successor starves. So this stream of answers is what
//!   draws, and passes on through a channel; when openraft drops the answers, nothing draws any more.
//! - A follower that falls silent must be noticed: each request has a deadline for its answer. Without a request there is
//!   nothing to wait for, and a quiet stream is left alone.
//! - After a failure the connection is thrown away with the stream.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    channel::mpsc,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    OptionalSend,
    base::BoxStream as RaftStream,
    errors::RPCError,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use parking_lot::Mutex;
use spine_proto::internal::v1 as proto;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tonic::Status;

use super::{
    network::{Failure, Way},
    rpc,
    types::Types,
};
use crate::peer::{Lane, Link};

/// An answer takes as long as a flush of the follower's disk. This is for a peer that answers the pings of the connection
/// and yet nothing else.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether one is overdue.
const LOOK_EVERY: Duration = Duration::from_millis(250);

type Answers<'s> = RaftStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// Sends `requests` to a peer and gives back its answers. Opens nothing before there is a request.
pub(super) async fn stream<S>(way: &Way, requests: S) -> Result<Answers<'_>, RPCError<Types>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    let mut requests = requests.peekable();
    if Pin::new(&mut requests).peek().await.is_none() {
        return Ok(Box::pin(stream::empty()));
    }
    let session = Session::open(way, requests);
    let answers = stream::unfold(Some(session), move |session| async move {
        let mut session = session?;
        match session.next().await? {
            Ok(answer) => Some((Ok(answer), Some(session))),
            Err(failure) => {
                way.network.links.discard(&session.link);
                Some((Err(way.unreachable(failure).into()), None))
            }
        }
    });
    Ok(Box::pin(answers))
}

/// One stream there and back.
struct Session {
    link: Link,
    /// Takes requests from openraft and passes them on; `None` once there are no more.
    pump: Option<BoxFuture<'static, ()>>,
    answers: BoxStream<'static, Result<proto::AppendResponse, Status>>,
    /// When each request that is not answered yet was passed on. As many as openraft has on their way.
    unanswered: Arc<Mutex<VecDeque<Instant>>>,
    look: Interval,
}

impl Session {
    fn open<S>(way: &Way, requests: S) -> Self
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + 'static,
    {
        let unanswered = Arc::new(Mutex::new(VecDeque::new()));
        // No buffer: what is passed on is on its way.
        let (to_peer, messages) = mpsc::channel(0);
        let told = way.network.told.clone();
        let mut header = Some(way.header());
        let passed_on = unanswered.clone();
        let pump = requests
            .map(move |request| {
                passed_on.lock().push_back(Instant::now());
                Ok(rpc::append_message(request, header.take(), &told))
            })
            .forward(to_peer);
        let (link, mut client) = way.client(Lane::Raft);
        let answers = async move { client.append(messages).await.map(tonic::Response::into_inner) };
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            link,
            pump: Some(Box::pin(async move {
                // An error means that the peer takes no more, of which the answers say why.
                let _ = pump.await;
            })),
            answers: stream::once(answers)
                .map(|opened| match opened {
                    Ok(answers) => answers.left_stream(),
                    Err(status) => stream::iter([Err(status)]).right_stream(),
                })
                .flatten()
                .boxed(),
            unanswered,
            look,
        }
    }

    /// The next answer; `None` when the peer has answered all that there was.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, Failure>> {
        loop {
            tokio::select! {
                biased;
                () = async { self.pump.as_mut().expect("polled while there is one").await }, if self.pump.is_some() => {
                    self.pump = None;
                }
                answer = self.answers.next() => return Some(self.take(answer?)),
                _ = self.look.tick() => {
                    if self.is_overdue() {
                        return Some(Err(Failure::Silence(ANSWER_WITHIN)));
                    }
                }
            }
        }
    }

    fn take(
        &self,
        answer: Result<proto::AppendResponse, Status>,
    ) -> Result<StreamAppendResult<Types>, Failure> {
        let answer = answer?;
        self.unanswered.lock().pop_front();
        self.link.heard();
        Ok(rpc::message_appended(answer)?)
    }

    fn is_overdue(&self) -> bool {
        let unanswered = self.unanswered.lock();
        unanswered
            .front()
            .is_some_and(|passed_on| passed_on.elapsed() > ANSWER_WITHIN)
    }
}
