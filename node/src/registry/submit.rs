//! The one task that makes entries.
//!
//! It alone stamps them with cluster time, so that stamps rise in the order of the log. What arrives while entries are
//! on their way is taken along by the next: there is no timer that waits for more. Several entries are on their way at
//! once; renewals have at most one of them, so that under load each carries all that came meanwhile.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use spine_api::{Error, hub::Hub};
use spine_core::{Applied, Command, Entry, Index, Outcome, RenewalRequest, Renewed, Request, codec, limits};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::Instant,
};

use super::clock::{ClusterClock, Lag};
use crate::{
    leader::{Duties, Duty, Heard, View},
    limits::ENTRIES_IN_FLIGHT_MAX,
    raft::{Consensus, ProposeError},
    world::clock::Clock,
};

/// How often the loop turns when nothing happens: a fraction of the election timeout, within which deadlines are late.
const TURN_EVERY: Duration = Duration::from_millis(50);
/// Bytes that an entry needs beside its requests.
pub(super) const ENTRY_OVERHEAD: u64 = 64;

/// A request on its way to the log.
pub(super) struct Ask {
    pub(super) content: Content,
    /// Bytes of the content, encoded.
    pub(super) bytes: u64,
    pub(super) deadline: Instant,
    pub(super) stage: Arc<Stage>,
}

/// What is asked, and where the answer goes.
pub(super) enum Content {
    Command(Box<Request>, Reply<Applied>),
    Renewal(RenewalRequest, Reply<(Index, Renewed)>),
}

/// Where an answer goes, and the request's share of the bound on what may be on its way. Dropped without an answer,
/// the client looks at the [`Stage`].
pub(super) struct Reply<T> {
    pub(super) to: oneshot::Sender<Result<T, Error>>,
    pub(super) _share: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    fn send(self, answer: Result<T, Error>) {
        // Whoever asked may have given up.
        let _ = self.to.send(answer);
    }
}

/// How far a request has come: what its outcome is called if no answer comes in time.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const PROPOSED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// From here on the request may take effect; `false` if it was withdrawn.
    fn propose(&self) -> bool {
        self.leave_waiting(Self::PROPOSED)
    }

    /// The client has given up; `false` if the request was proposed already.
    pub(super) fn withdraw(&self) -> bool {
        self.leave_waiting(Self::WITHDRAWN)
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.0
            .compare_exchange(Self::WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// What the task works with.
pub(super) struct Submitter {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) consensus: Arc<Consensus>,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Arc<dyn Clock>,
    /// This node's id.
    pub(super) node: u64,
    pub(super) history_revisions: u64,
    pub(super) entry_bytes_max: u64,
    pub(super) ready: watch::Sender<bool>,
}

/// An entry's way has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commands,
    Renewals,
    Duty,
}

/// Says so when it is dropped, whatever became of the entry.
struct InFlight {
    kind: Kind,
    landed: mpsc::UnboundedSender<Kind>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Nobody listens any more once this node doesn't lead.
        let _ = self.landed.send(self.kind);
    }
}

impl Submitter {
    /// Submits until Raft ends or nobody can ask any more.
    pub(super) async fn run(mut self) {
        while self.consensus.until_leading().await.is_ok() {
            let Some(leading) = self.take_lead().await else {
                continue;
            };
            let over = leading.run(&mut self.asks).await;
            if over == Over::NobodyAsks {
                return;
            }
            tracing::info!("this node does not lead any more");
        }
    }

    /// Waits until all that earlier leaders may have proposed is applied: the state then has the greatest stamp.
    async fn take_lead(&mut self) -> Option<Leading> {
        let index = match self.consensus.read_index().await {
            Ok(index) => index,
            Err(error) => {
                tracing::debug!(%error, "not leading yet");
                tokio::time::sleep(TURN_EVERY).await;
                return None;
            }
        };
        let mut applied = self.consensus.applied();
        applied.wait_for(|applied| applied.reaches(index)).await.ok()?;
        let state = self.hub.newest();
        self.ready.send_replace(true);
        tracing::info!(index = %state.index(), time_ms = state.time().0, "this node leads");
        let now = self.clock.monotonic();
        let (landed, landings) = mpsc::unbounded_channel();
        Some(Leading {
            consensus: self.consensus.clone(),
            hub: self.hub.clone(),
            clock: self.clock.clone(),
            time: ClusterClock::start(state.time(), now),
            lag: Lag::default(),
            duties: Duties::new(self.node, self.history_revisions, now),
            heard: Heard::new(),
            listen_at: now,
            entry_bytes_max: self.entry_bytes_max,
            commands: Draft::default(),
            renewals: Vec::new(),
            in_flight: 0,
            renewals_in_flight: false,
            landed,
            landings,
        })
    }
}

/// Why a node stopped making entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Another may lead.
    NotLeading,
    /// The registry is gone and all is done.
    NobodyAsks,
}

/// A leader at work.
struct Leading {
    consensus: Arc<Consensus>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    time: ClusterClock,
    lag: Lag,
    duties: Duties,
    heard: Heard,
    /// When it is looked again who was heard.
    listen_at: Duration,
    entry_bytes_max: u64,
    /// The next entry.
    commands: Draft,
    /// The next batch of renewals.
    renewals: Vec<WaitingRenewal>,
    in_flight: usize,
    renewals_in_flight: bool,
    landed: mpsc::UnboundedSender<Kind>,
    /// Bounded by the entries in flight.
    landings: mpsc::UnboundedReceiver<Kind>,
}

/// A renewal that waits for the last batch to land. There are no more of them than there are shares.
struct WaitingRenewal {
    request: RenewalRequest,
    bytes: u64,
    reply: Reply<(Index, Renewed)>,
}

/// Requests for one entry, and who waits for them.
#[derive(Default)]
struct Draft {
    requests: Vec<Request>,
    replies: Vec<Reply<Applied>>,
    bytes: u64,
}

impl Draft {
    /// Whether a request of so many bytes goes in too.
    fn has_room(&self, bytes: u64, bytes_max: u64) -> bool {
        self.requests.is_empty()
            || self.requests.len() < limits::ENTRY_REQUESTS_MAX
                && self.bytes + bytes + ENTRY_OVERHEAD <= bytes_max
    }

    fn add(&mut self, request: Request, bytes: u64, reply: Reply<Applied>) {
        self.requests.push(request);
        self.replies.push(reply);
        self.bytes += bytes;
    }
}

impl Leading {
    async fn run(mut self, asks: &mut mpsc::Receiver<Ask>) -> Over {
        let mut turn = tokio::time::interval(TURN_EVERY);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut held_over = None;
        loop {
            let room = self.in_flight < ENTRIES_IN_FLIGHT_MAX && held_over.is_none();
            tokio::select! {
                biased;
                Some(kind) = self.landings.recv() => self.land(kind),
                ask = asks.recv(), if room => match ask {
                    Some(ask) => held_over = self.take(ask),
                    None if self.in_flight == 0 => return Over::NobodyAsks,
                    // The last answers are on their way.
                    None => self.drain().await,
                },
                _ = turn.tick() => {
                    if !self.consensus.leads() {
                        self.abandon(held_over);
                        return Over::NotLeading;
                    }
                }
            }
            held_over = self.send_commands(asks, held_over).await;
            self.send_renewals().await;
            self.do_duties().await;
        }
    }

    /// Sends entries while there are requests and room in flight. An ask that had no room in the last entry comes
    /// back.
    async fn send_commands(&mut self, asks: &mut mpsc::Receiver<Ask>, mut next: Option<Ask>) -> Option<Ask> {
        while self.in_flight < ENTRIES_IN_FLIGHT_MAX {
            next = next.and_then(|ask| self.take(ask));
            while next.is_none() {
                let Ok(ask) = asks.try_recv() else { break };
                next = self.take(ask);
            }
            let Draft {
                requests, replies, ..
            } = mem::take(&mut self.commands);
            if requests.is_empty() {
                break;
            }
            self.propose(Kind::Commands, requests, move |result| {
                answer_commands(result, replies);
            })
            .await;
        }
        next
    }

    /// Looks at the clocks.
    fn look(&mut self) -> Duration {
        let now = self.clock.monotonic();
        let applied = self
            .consensus
            .applied()
            .borrow()
            .position
            .map_or(0, |position| position.index);
        let lags = self.lag.look(self.consensus.committed(), applied, now);
        self.time.turn(now, lags);
        now
    }

    /// Takes a request into a draft, or gives it back if it has no room there.
    fn take(&mut self, ask: Ask) -> Option<Ask> {
        let Ask {
            content,
            bytes,
            deadline,
            stage,
        } = ask;
        match content {
            Content::Command(request, reply) if !self.commands.has_room(bytes, self.entry_bytes_max) => {
                Some(Ask {
                    content: Content::Command(request, reply),
                    bytes,
                    deadline,
                    stage,
                })
            }
            // A client that gave up has its answer.
            _ if Instant::now() >= deadline || !stage.propose() => None,
            Content::Command(request, reply) => {
                self.commands.add(*request, bytes, reply);
                None
            }
            Content::Renewal(request, reply) => {
                self.renewals.push(WaitingRenewal {
                    request,
                    bytes,
                    reply,
                });
                None
            }
        }
    }

    async fn send_renewals(&mut self) {
        if self.renewals.is_empty() || self.renewals_in_flight {
            return;
        }
        self.renewals_in_flight = true;
        let mut bytes = ENTRY_OVERHEAD;
        let fitting = self
            .renewals
            .iter()
            .take(limits::ENTRY_RENEWALS_MAX)
            .take_while(|renewal| {
                bytes += renewal.bytes;
                bytes <= self.entry_bytes_max
            });
        // One that is too long for any entry would have been refused.
        let count = fitting.count().max(1);
        let (requests, replies): (Vec<_>, Vec<_>) = self
            .renewals
            .drain(..count)
            .map(|renewal| (renewal.request, renewal.reply))
            .unzip();
        let command = Request::internal(Command::Renew(requests));
        self.propose(Kind::Renewals, vec![command], |result| {
            answer_renewals(result, replies);
        })
        .await;
    }

    /// Looks who was heard, now and then: it copies all that Raft knows of itself.
    fn listen(&mut self, now: Duration) {
        if now < self.listen_at {
            return;
        }
        self.listen_at = now + TURN_EVERY;
        let contacts = self.consensus.contacts().into_iter();
        self.heard = contacts
            .filter_map(|(id, ago)| Some((id, now.saturating_sub(ago?))))
            .collect();
    }

    async fn do_duties(&mut self) {
        let now = self.look();
        self.listen(now);
        let state = self.hub.newest();
        let view = View {
            state: &state,
            time: self.time.stamp(),
            now,
            renewal_batches: usize::from(self.renewals_in_flight)
                + self.renewals.len().div_ceil(limits::ENTRY_RENEWALS_MAX),
            lags: self.lag.is_over(),
            heard: &self.heard,
        };
        let requests = match self.duties.due(view) {
            None => return,
            Some(Duty::Propose(command)) => vec![Request::internal(command)],
            Some(Duty::Stamp) => Vec::new(),
        };
        let kind = if requests.is_empty() {
            Kind::Commands
        } else {
            Kind::Duty
        };
        self.propose(kind, requests, |result| match result {
            Ok(applied) => {
                for Applied { index, result } in applied {
                    tracing::debug!(%index, ?result, "a leader's duty is done");
                }
            }
            Err(error) => tracing::debug!(%error, "a leader's duty was not done"),
        })
        .await;
    }

    /// Stamps, encodes and proposes an entry. `answer` is told what became of it.
    async fn propose(
        &mut self,
        kind: Kind,
        requests: Vec<Request>,
        answer: impl FnOnce(Result<Vec<Applied>, ProposeError>) + Send + 'static,
    ) {
        let count = requests.len();
        let now = self.look();
        let entry = Entry {
            time: self.time.stamp(),
            wall: self.clock.wall(),
            requests,
        };
        let bytes = Bytes::from(codec::encode_entry(&entry));
        let in_flight = InFlight {
            kind,
            landed: self.landed.clone(),
        };
        self.in_flight += 1;
        self.duties.entry_made(now);
        let answer = move |result: Result<Vec<Applied>, ProposeError>| {
            if let Ok(applied) = &result {
                assert_eq!(applied.len(), count, "each request of an entry has one outcome");
            }
            answer(result);
            drop(in_flight);
        };
        // If Raft has ended the answer is dropped, and with it all that was in it.
        if let Err(error) = self.consensus.propose(bytes, answer).await {
            tracing::debug!(%error, "an entry was not proposed");
        }
    }

    /// Answers those that were not proposed yet.
    fn abandon(self, held_over: Option<Ask>) {
        for renewal in self.renewals {
            renewal.reply.send(Err(Error::NoLeader));
        }
        match held_over.map(|ask| ask.content) {
            Some(Content::Command(_, reply)) => reply.send(Err(Error::NoLeader)),
            Some(Content::Renewal(_, reply)) => reply.send(Err(Error::NoLeader)),
            None => {}
        }
    }

    fn land(&mut self, kind: Kind) {
        self.in_flight -= 1;
        match kind {
            Kind::Commands => {}
            Kind::Renewals => {
                self.renewals_in_flight = false;
                self.duties.renewals_applied();
            }
            Kind::Duty => self.duties.done(),
        }
    }

    /// Waits for all that is in flight.
    async fn drain(&mut self) {
        while self.in_flight > 0 {
            match self.landings.recv().await {
                Some(kind) => self.land(kind),
                None => return,
            }
        }
    }
}

fn answer_commands(result: Result<Vec<Applied>, ProposeError>, replies: Vec<Reply<Applied>>) {
    match result {
        Ok(applied) => {
            for (reply, applied) in replies.into_iter().zip(applied) {
                reply.send(Ok(applied));
            }
        }
        Err(error) => {
            for reply in replies {
                reply.send(Err(not_applied(&error)));
            }
        }
    }
}

fn answer_renewals(result: Result<Vec<Applied>, ProposeError>, replies: Vec<Reply<(Index, Renewed)>>) {
    let fail = |replies: Vec<Reply<(Index, Renewed)>>, error: &Error| {
        for reply in replies {
            reply.send(Err(error.clone()));
        }
    };
    let applied = match result {
        Ok(mut applied) => applied.pop().expect("an entry of renewals holds one request"),
        Err(error) => return fail(replies, &not_applied(&error)),
    };
    match applied.result {
        Ok(Outcome::Renewed(outcomes)) => {
            for (reply, renewed) in replies.into_iter().zip(outcomes) {
                reply.send(Ok((applied.index, renewed)));
            }
        }
        Ok(other) => unreachable!("renewals have no outcome {other:?}"),
        Err(rejection) => fail(replies, &Error::Refused(rejection)),
    }
}

/// What a client is told of an entry that was not applied.
fn not_applied(error: &ProposeError) -> Error {
    match error {
        ProposeError::NotLeader | ProposeError::Ended => Error::NoLeader,
        ProposeError::Unknown => Error::Unknown("leadership changed before the write was committed".into()),
    }
}
