//! What the one task does while another node leads: it sends on what clients ask here.
//!
//! What arrives while calls are on their way is taken along by the next. When the leader changes, calls to the old one
//! are given up and what was in them goes to the new one at once: a command under the same number, so that it is applied
//! once; a renewal as it is, since renewing twice is renewing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde::Serialize;
use spine_api::Error;
use spine_core::{
    Applied, Command, Index, Rejection, Renewed, Request, codec,
    limits::{ENTRY_RENEWALS_MAX, ENTRY_REQUESTS_MAX},
};
use spine_proto::internal::v1::{self as proto, answer::Result as Answered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use super::{
    ask::{Ask, Asked, CommandAsk, Queue, RenewalAsk, draft, put_back},
    numbers::{self, Fate, Numbering, stamp_id},
    submit::{Over, TURN_EVERY},
};
use crate::{
    forward::{CallError, Way, session::Session},
    limits,
    raft::{self, Leader},
    world::rng::Rng,
};

/// After a call that did nothing, the next one waits so long: the leader may be gone, or not have begun to lead.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// As long as nothing is done, it waits twice as long each time, up to a heartbeat. Another leader ends the wait.
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(100);
/// A call for a session is given up after this long.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// What forwarding needs, whoever leads.
pub(super) struct Follower {
    pub(super) way: Arc<dyn Way>,
    pub(super) applied: watch::Receiver<raft::Applied>,
    /// Bytes of requests in a call.
    pub(super) bytes_max: u64,
    /// Kept while others lead and while this node does.
    pub(super) numbering: Numbering,
    /// So that those who failed together don't come back together.
    pub(super) rng: Arc<dyn Rng>,
}

/// What is in a call that is on its way.
enum Sent {
    /// The session is being opened.
    Open,
    Commands(Vec<CommandAsk>),
    Renewals(Vec<RenewalAsk>),
}

type Answers = Result<Vec<proto::Answer>, CallError>;

/// Follows one leader.
struct Following<'a> {
    follower: &'a mut Follower,
    queue: &'a mut Queue,
    leader: Leader,
    calls: FuturesUnordered<BoxFuture<'static, (u64, Answers)>>,
    sent: BTreeMap<u64, Sent>,
    next_call: u64,
    commands_sent: usize,
    renewing: bool,
    opening: bool,
    paused_until: Option<Instant>,
    /// The last pause, if nothing was done since.
    paused: Option<Duration>,
}

impl Follower {
    /// Sends to `leader` what comes until another leads, or nobody can ask any more.
    pub(super) async fn run(
        &mut self,
        queue: &mut Queue,
        leader: Leader,
        leads: &mut watch::Receiver<Option<Leader>>,
    ) -> Over {
        let following = Following {
            follower: self,
            queue,
            leader,
            calls: FuturesUnordered::new(),
            sent: BTreeMap::new(),
            next_call: 0,
            commands_sent: 0,
            renewing: false,
            opening: false,
            paused_until: None,
            paused: None,
        };
        following.run(leads).await
    }
}

impl Following<'_> {
    async fn run(mut self, leads: &mut watch::Receiver<Option<Leader>>) -> Over {
        let mut turn = tokio::time::interval(TURN_EVERY);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let over = loop {
            if leads.borrow_and_update().as_ref() != Some(&self.leader) {
                break Over::NotLeading;
            }
            self.queue.take_in();
            self.queue.return_forwarded();
            self.send();
            if self.queue.is_done() && self.sent.is_empty() {
                break Over::NobodyAsks;
            }
            let paused_until = self.paused_until;
            // While there is none, what comes waits where it is, and nothing here turns for it.
            let has_room =
                paused_until.is_none() && (self.commands_sent < limits::FORWARD_CALLS_MAX || !self.renewing);
            tokio::select! {
                biased;
                Some((call, answers)) = self.calls.next() => self.returned(call, answers),
                changed = leads.changed() => if changed.is_err() { break Over::Ended },
                () = self.queue.more(), if has_room => {}
                () = until(paused_until) => self.paused_until = None,
                _ = turn.tick() => self.queue.sweep(Instant::now()),
            }
        };
        // What has been answered by now is known.
        while let Some(Some((call, answers))) = self.calls.next().now_or_never() {
            self.returned(call, answers);
        }
        self.give_up_calls();
        over
    }

    /// What is in calls that nobody waits for any more goes to whoever leads next.
    fn give_up_calls(self) {
        for (_, sent) in self.sent.into_iter().rev() {
            match sent {
                Sent::Open => {}
                Sent::Commands(asks) => put_back(&mut self.queue.commands, doubted(asks)),
                Sent::Renewals(asks) => put_back(&mut self.queue.renewals, doubted(asks)),
            }
        }
    }

    fn send(&mut self) {
        if self.paused_until.is_some() {
            return;
        }
        if !self.renewing {
            self.send_renewals();
        }
        while self.commands_sent < limits::FORWARD_CALLS_MAX && !self.queue.commands.is_empty() {
            let Some(session) = self.follower.numbering.session() else {
                return self.open_session();
            };
            let asks = self.numbered(&session);
            if asks.is_empty() {
                return;
            }
            let requests = asks
                .iter()
                .map(|ask| forwarded(&*ask.content, ask.client.deadline))
                .collect();
            let within = longest(&asks);
            let (way, leader) = (self.follower.way.clone(), self.leader.clone());
            let call = async move { way.propose(&leader, requests, within).await };
            self.commands_sent += 1;
            self.call(Sent::Commands(asks), call.boxed());
        }
    }

    /// The next commands, as many as fit into a call and have numbers.
    fn numbered(&mut self, session: &Arc<Session>) -> Vec<CommandAsk> {
        let next = self.queue.commands.iter_mut().take(ENTRY_REQUESTS_MAX);
        let numbered = numbers::number(next, session);
        let bytes_max = self.follower.bytes_max;
        let mut asks = draft(&mut self.queue.commands, numbered, bytes_max, Instant::now());
        asks.iter_mut().for_each(stamp_id);
        asks
    }

    fn send_renewals(&mut self) {
        let now = Instant::now();
        let asks = draft(
            &mut self.queue.renewals,
            ENTRY_RENEWALS_MAX,
            self.follower.bytes_max,
            now,
        );
        if asks.is_empty() {
            return;
        }
        let renewals = asks
            .iter()
            .map(|ask| forwarded(&ask.content, ask.client.deadline))
            .collect();
        let within = longest(&asks);
        let (way, leader) = (self.follower.way.clone(), self.leader.clone());
        let call = async move { way.renew(&leader, renewals, within).await };
        self.renewing = true;
        self.call(Sent::Renewals(asks), call.boxed());
    }

    fn open_session(&mut self) {
        if self.opening {
            return;
        }
        self.opening = true;
        let request = Request::internal(Command::OpenSession);
        let requests = vec![forwarded(&request, Instant::now() + OPEN_WITHIN)];
        let (way, leader) = (self.follower.way.clone(), self.leader.clone());
        let call = async move { way.propose(&leader, requests, OPEN_WITHIN).await };
        self.call(Sent::Open, call.boxed());
    }

    fn call(&mut self, sent: Sent, call: BoxFuture<'static, Answers>) {
        let number = self.next_call;
        self.next_call += 1;
        self.sent.insert(number, sent);
        self.calls
            .push(call.map(move |answers| (number, answers)).boxed());
    }

    fn returned(&mut self, call: u64, answers: Answers) {
        if let Err(error) = &answers {
            tracing::debug!(%error, leader = self.leader.name, "a call to the leader failed");
            self.pause();
        }
        match self.sent.remove(&call) {
            None => {}
            Some(Sent::Open) => {
                self.opening = false;
                self.opened(answers);
            }
            Some(Sent::Commands(asks)) => {
                self.commands_sent -= 1;
                self.commands_answered(asks, answers);
            }
            Some(Sent::Renewals(asks)) => {
                self.renewing = false;
                self.renewals_answered(asks, answers);
            }
        }
    }

    fn opened(&mut self, answers: Answers) {
        let answer = answers.ok().and_then(|mut answers| answers.pop());
        match answer.and_then(|answer| answer.result) {
            Some(Answered::Applied(bytes)) => match codec::decode_row::<Applied>(&bytes) {
                Ok(applied) => match numbers::opened(applied) {
                    Some(Ok(id)) => {
                        self.paused = None;
                        self.follower.numbering.opened(id);
                    }
                    Some(Err(rejection)) => self.refuse_commands(&Error::Refused(rejection)),
                    None => self.pause(),
                },
                Err(_) => self.pause(),
            },
            // Another one than was opened now and not heard of ends by itself when it was idle for long enough.
            _ => self.pause(),
        }
    }

    fn refuse_commands(&mut self, error: &Error) {
        tracing::warn!(%error, "no session for forwarding");
        for ask in self.queue.commands.drain(..) {
            ask.client.refuse(error.clone());
        }
    }

    fn commands_answered(&mut self, asks: Vec<CommandAsk>, answers: Answers) {
        let mut back = Vec::new();
        let mut settled = Vec::new();
        for (ask, verdict) in judged(asks, answers) {
            match verdict {
                Verdict::Applied(bytes) => match codec::decode_row::<Applied>(&bytes) {
                    Ok(applied) => match numbers::fate(ask, applied) {
                        Fate::Settled(ask, applied) => settled.push((applied.index, ask, applied)),
                        Fate::Again(ask) => back.push(ask),
                        Fate::Over => {}
                    },
                    Err(error) => ask.client.answer(Err(Error::Unknown(error.to_string().into()))),
                },
                Verdict::Refused(error) => ask.client.refuse(error),
                Verdict::Again => back.push(ask),
            }
        }
        self.again(back, !settled.is_empty(), |queue| &mut queue.commands);
        settle(
            self.follower.applied.clone(),
            settled,
            self.queue.give_back.clone(),
        );
    }

    fn renewals_answered(&mut self, asks: Vec<RenewalAsk>, answers: Answers) {
        let mut back = Vec::new();
        let mut settled = Vec::new();
        for (ask, verdict) in judged(asks, answers) {
            match verdict {
                Verdict::Applied(bytes) => match codec::decode_row::<(Index, Renewed)>(&bytes) {
                    Ok(renewed) => settled.push((renewed.0, ask, renewed)),
                    Err(error) => ask.client.answer(Err(Error::Unknown(error.to_string().into()))),
                },
                Verdict::Refused(error) => ask.client.refuse(error),
                Verdict::Again => back.push(ask),
            }
        }
        self.again(back, !settled.is_empty(), |queue| &mut queue.renewals);
        settle(
            self.follower.applied.clone(),
            settled,
            self.queue.give_back.clone(),
        );
    }

    /// Puts back what is to be sent again; `done`: something else was done.
    fn again<Q, A>(
        &mut self,
        back: Vec<Ask<Q, A>>,
        done: bool,
        to: impl FnOnce(&mut Queue) -> &mut VecDeque<Ask<Q, A>>,
    ) {
        if done {
            self.paused = None;
        }
        if !back.is_empty() {
            self.pause();
            put_back(to(self.queue), back);
        }
    }

    /// Sends nothing for a while. Calls that fail together make one pause.
    fn pause(&mut self) {
        if self.paused_until.is_some() {
            return;
        }
        let longest = self
            .paused
            .map_or(AGAIN_AFTER, |before| (before * 2).min(AGAIN_AFTER_MAX));
        self.paused = Some(longest);
        self.paused_until = Some(Instant::now() + jittered(longest, self.follower.rng.bits()));
    }
}

/// Between half of a pause and all of it.
fn jittered(longest: Duration, bits: u64) -> Duration {
    let half = longest / 2;
    half + half * u32::from(bits.to_le_bytes()[0]) / u32::from(u8::MAX)
}

/// What the leader says of one request.
enum Verdict {
    /// It is applied: the bytes of its outcome.
    Applied(Bytes),
    /// It was not proposed, and won't be.
    Refused(Error),
    /// It is to be sent again.
    Again,
}

/// Requests with what the leader said of each, or what is known if it said nothing.
fn judged<Q, A>(asks: Vec<Ask<Q, A>>, answers: Answers) -> Vec<(Ask<Q, A>, Verdict)> {
    let not_sent = matches!(answers, Err(CallError::NotSent(_)));
    let mut answers = answers.unwrap_or_default().into_iter();
    let judge = |mut ask: Ask<Q, A>| {
        let verdict = match answers.next().and_then(|answer| answer.result) {
            Some(Answered::Applied(bytes)) => Verdict::Applied(bytes),
            Some(Answered::Refused(bytes)) => Verdict::Refused(refusal(&bytes)),
            Some(Answered::NotLeader(_)) => {
                ask.client.not_proposed();
                Verdict::Again
            }
            Some(Answered::Overloaded(_)) if ask.client.is_doubtful() => Verdict::Again,
            Some(Answered::Overloaded(proto::Overloaded { what, limit })) => {
                Verdict::Refused(Error::Overloaded {
                    what: what.into(),
                    limit,
                })
            }
            None if not_sent => {
                ask.client.not_proposed();
                Verdict::Again
            }
            Some(Answered::Unknown(_)) | None => {
                ask.client.doubt();
                Verdict::Again
            }
        };
        (ask, verdict)
    };
    asks.into_iter().map(judge).collect()
}

fn refusal(bytes: &[u8]) -> Error {
    match codec::decode_row::<Rejection>(bytes) {
        Ok(rejection) => Error::Refused(rejection),
        // By a newer server, for a reason that this one doesn't know.
        Err(error) => Error::Unsupported(format!("the leader refused it: {error}").into()),
    }
}

fn doubted<Q, A>(mut asks: Vec<Ask<Q, A>>) -> Vec<Ask<Q, A>> {
    for ask in &mut asks {
        ask.client.doubt();
    }
    asks
}

fn forwarded<T: Serialize>(content: &T, deadline: Instant) -> proto::Forwarded {
    let remaining = deadline.saturating_duration_since(Instant::now());
    proto::Forwarded {
        content: codec::encode_row(content).into(),
        remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
    }
}

/// How long the most patient client waits.
fn longest<Q, A>(asks: &[Ask<Q, A>]) -> Duration {
    let last = asks.iter().map(|ask| ask.client.deadline).max();
    last.map_or(Duration::ZERO, |last| {
        last.saturating_duration_since(Instant::now())
    })
}

/// Answers each once this node has applied what it is told: its next read here shows it. While one of them waits the queue
/// is not done: who holds a way back into it counts as on the way.
fn settle<Q: Send + 'static, A: Send + 'static>(
    mut applied: watch::Receiver<raft::Applied>,
    mut settled: Vec<(Index, Ask<Q, A>, A)>,
    on_their_way: mpsc::UnboundedSender<Asked>,
) {
    if settled.is_empty() {
        return;
    }
    settled.sort_by_key(|(index, ..)| *index);
    for (_, ask, _) in &mut settled {
        // The answer is here: the session needs to remember it no longer.
        ask.client.number = None;
    }
    tokio::spawn(async move {
        let _on_their_way = on_their_way;
        for (index, ask, answer) in settled {
            let reached = applied.wait_for(|applied| applied.state.index() >= index);
            match timeout_at(ask.client.deadline, reached).await {
                Ok(Ok(_)) => ask.client.answer(Ok(answer)),
                // The node ends.
                Ok(Err(_)) => return,
                // Its client has given up.
                Err(_) => {}
            }
        }
    });
}

pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
