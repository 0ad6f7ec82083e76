//! What the one task does while this node leads: it makes entries.
//!
//! It alone stamps them with cluster time, so that stamps rise in the order of the log. What arrives while entries are
//! on their way is taken along by the next: there is no timer that waits for more. Several entries are on their way at
//! once; renewals have at most one of them, so that under load each carries all that came meanwhile, here and at the
//! other servers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use spine_api::{Error, hub::Hub};
use spine_core::{
    Applied, Command, Entry, Index, Outcome, RenewalRequest, Renewed, Request, SessionId, codec, limits,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    ask::{Ask, Asked, Client, Queue, draft, lost},
    clock::{ClusterClock, Lag},
    follow::until,
    numbers::{self, Fate, Numbering, stamp_id},
    submit::{Over, TURN_EVERY},
};
use crate::{
    forward::session::Session,
    leader::{Duties, Duty, Heard, Policy, View},
    limits::ENTRIES_IN_FLIGHT_MAX,
    raft::{Consensus, Leader, ProposeError},
    world::clock::Clock,
};

/// Bytes that an entry needs beside its requests.
pub(super) const ENTRY_OVERHEAD: u64 = 64;
/// After an entry that openraft would not take, though this node still seems to lead, the next one waits so long:
/// leadership is being handed over, or its lease has run out.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What was in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commands,
    Renewals,
    Duty,
}

/// An entry's way has ended.
#[derive(Clone, Copy, Debug)]
struct Landed {
    kind: Kind,
    /// It was not proposed.
    refused: bool,
}

/// Says so when it is dropped, whatever became of the entry.
struct InFlight {
    landed: Landed,
    tell: mpsc::UnboundedSender<Landed>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Nobody listens any more once this node doesn't lead.
        let _ = self.tell.send(self.landed);
    }
}

/// A leader at work.
pub(super) struct Leading {
    consensus: Arc<Consensus>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    time: ClusterClock,
    lag: Lag,
    duties: Duties,
    heard: Heard,
    members: BTreeMap<u64, String>,
    /// When it is looked again who was heard.
    listen_at: Duration,
    /// This node, and the term that it leads.
    node: u64,
    term: u64,
    entry_bytes_max: u64,
    in_flight: usize,
    renewals_in_flight: bool,
    /// A session for this node's own requests is being opened.
    opening: Option<oneshot::Receiver<SessionId>>,
    held_until: Option<Instant>,
    tell_landed: mpsc::UnboundedSender<Landed>,
    /// Bounded by the entries in flight.
    landings: mpsc::UnboundedReceiver<Landed>,
}

impl Leading {
    /// Begins to lead `term` at `time`.
    pub(super) fn begin(
        consensus: Arc<Consensus>,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        time: ClusterClock,
        (node, term): (u64, u64),
        policy: Policy,
        entry_bytes_max: u64,
    ) -> Self {
        let (tell_landed, landings) = mpsc::unbounded_channel();
        let now = clock.monotonic();
        Self {
            consensus,
            hub,
            clock,
            time,
            lag: Lag::default(),
            duties: Duties::new(node, policy, now),
            heard: Heard::new(),
            members: BTreeMap::new(),
            listen_at: now,
            node,
            term,
            entry_bytes_max,
            in_flight: 0,
            renewals_in_flight: false,
            opening: None,
            held_until: None,
            tell_landed,
            landings,
        }
    }

    /// Makes entries of what comes until another leads, or nobody can ask any more.
    ///
    /// Until this node leads another term, too: another leader's clock came between, and this one may be ahead of it.
    pub(super) async fn run(
        mut self,
        queue: &mut Queue,
        leads: &mut watch::Receiver<Option<Leader>>,
        numbering: &mut Numbering,
    ) -> Over {
        let mut turn = tokio::time::interval(TURN_EVERY);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let leads_now = leads
                .borrow_and_update()
                .as_ref()
                .map(|leader| (leader.id, leader.term));
            if leads_now != Some((self.node, self.term)) {
                return Over::NotLeading;
            }
            queue.take_in();
            self.send_commands(queue, numbering).await;
            self.send_renewals(queue).await;
            self.do_duties(queue).await;
            if queue.is_done() && self.in_flight == 0 {
                return Over::NobodyAsks;
            }
            let held_until = self.held_until;
            // While there is none, what comes waits where it is, and nothing here turns for it.
            let has_room = self.has_room();
            tokio::select! {
                biased;
                Some(landed) = self.landings.recv() => self.land(landed),
                changed = leads.changed() => if changed.is_err() { return Over::Ended },
                () = queue.more(), if has_room => {}
                () = until(held_until) => self.held_until = None,
                _ = turn.tick() => queue.sweep(Instant::now()),
            }
        }
    }

    /// Whether another entry may be proposed now.
    fn has_room(&self) -> bool {
        self.in_flight < ENTRIES_IN_FLIGHT_MAX && self.held_until.is_none()
    }

    /// Sends entries while there are commands and room in flight.
    async fn send_commands(&mut self, queue: &mut Queue, numbering: &mut Numbering) {
        let bytes_max = self.entry_bytes_max - ENTRY_OVERHEAD;
        let session = self.session(queue, numbering).await;
        while self.has_room() {
            if let Some(session) = &session {
                let next = queue.commands.iter_mut().take(limits::ENTRY_REQUESTS_MAX);
                // Those for which there is no number go without.
                numbers::number(next, session);
            }
            let mut asks = draft(
                &mut queue.commands,
                limits::ENTRY_REQUESTS_MAX,
                bytes_max,
                Instant::now(),
            );
            if asks.is_empty() {
                break;
            }
            asks.iter_mut().for_each(stamp_id);
            let (requests, clients): (Vec<_>, Vec<_>) = asks
                .into_iter()
                .map(|Ask { content, client }| (*content, client))
                .unzip();
            let back = queue.give_back.clone();
            self.propose(Kind::Commands, requests, move |result, requests| {
                answer_commands(result, clients, requests, &back);
            })
            .await;
        }
    }

    /// The session in which what this node's own clients ask is numbered, if another node might lead next: it is sent there,
    /// should this one lose its lead. Nothing waits for a session that is being opened.
    async fn session(&mut self, queue: &Queue, numbering: &mut Numbering) -> Option<Arc<Session>> {
        if queue.commands.is_empty() || self.members.len() < 2 || !self.has_room() {
            return None;
        }
        match self.opening.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Err(oneshot::error::TryRecvError::Empty)) => return None,
            Some(Ok(id)) => numbering.opened(id),
            None | Some(Err(oneshot::error::TryRecvError::Closed)) => {}
        }
        self.opening = None;
        if let Some(session) = numbering.session() {
            return Some(session);
        }
        let (tell, opening) = oneshot::channel();
        self.opening = Some(opening);
        let open = Request::internal(Command::OpenSession);
        self.propose(Kind::Commands, vec![open], |result, _| {
            let applied = result.ok().and_then(|mut applied| applied.pop());
            if let Some(Ok(id)) = applied.and_then(numbers::opened) {
                // It ends by itself if nobody waits for it any more.
                let _ = tell.send(id);
            }
        })
        .await;
        None
    }

    async fn send_renewals(&mut self, queue: &mut Queue) {
        if self.renewals_in_flight || self.held_until.is_some() {
            return;
        }
        let bytes_max = self.entry_bytes_max - ENTRY_OVERHEAD;
        let asks = draft(
            &mut queue.renewals,
            limits::ENTRY_RENEWALS_MAX,
            bytes_max,
            Instant::now(),
        );
        if asks.is_empty() {
            return;
        }
        self.renewals_in_flight = true;
        let (renewals, clients): (Vec<_>, Vec<_>) = asks
            .into_iter()
            .map(|Ask { content, client }| (content, client))
            .unzip();
        let command = Request::internal(Command::Renew(renewals));
        let back = queue.give_back.clone();
        self.propose(Kind::Renewals, vec![command], move |result, requests| {
            answer_renewals(result, clients, requests, &back);
        })
        .await;
    }

    /// Looks at the clocks, and lets the followers know.
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
        self.consensus.tell_time(self.term, self.time.stamp());
        now
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
        self.members = self.consensus.member_names();
    }

    async fn do_duties(&mut self, queue: &Queue) {
        let now = self.look();
        self.listen(now);
        if self.held_until.is_some() {
            return;
        }
        let state = self.hub.newest();
        let view = View {
            state: &state,
            time: self.time.stamp(),
            now,
            renewal_batches: usize::from(self.renewals_in_flight)
                + queue.renewals.len().div_ceil(limits::ENTRY_RENEWALS_MAX),
            lags: self.lag.is_over(),
            heard: &self.heard,
            members: &self.members,
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
        self.propose(kind, requests, |result, _| match result {
            Ok(applied) => {
                for Applied { index, result } in applied {
                    tracing::debug!(%index, ?result, "a leader's duty is done");
                }
            }
            Err(error) => tracing::debug!(%error, "a leader's duty was not done"),
        })
        .await;
    }

    /// Stamps, encodes and proposes an entry. `answer` is told what became of it, and gets the requests back.
    async fn propose(
        &mut self,
        kind: Kind,
        requests: Vec<Request>,
        answer: impl FnOnce(Result<Vec<Applied>, ProposeError>, Vec<Request>) + Send + 'static,
    ) {
        let now = self.look();
        let entry = Entry {
            time: self.time.stamp(),
            wall: self.clock.wall(),
            requests,
        };
        let bytes = Bytes::from(codec::encode_entry(&entry));
        let requests = entry.requests;
        let mut in_flight = InFlight {
            // If Raft has ended nobody answers; what is done for that would be done again at once.
            landed: Landed { kind, refused: true },
            tell: self.tell_landed.clone(),
        };
        self.in_flight += 1;
        self.duties.entry_made(now);
        let answer = move |result: Result<Vec<Applied>, ProposeError>| {
            if let Ok(applied) = &result {
                assert_eq!(
                    applied.len(),
                    requests.len(),
                    "each request of an entry has one outcome"
                );
            }
            in_flight.landed.refused = matches!(result, Err(ProposeError::NotLeader));
            answer(result, requests);
            drop(in_flight);
        };
        // If Raft has ended the answer is dropped, and with it all that was in it.
        if let Err(error) = self.consensus.propose(bytes, answer).await {
            tracing::debug!(%error, "an entry was not proposed");
        }
    }

    fn land(&mut self, landed: Landed) {
        self.in_flight -= 1;
        if landed.refused {
            self.held_until = Some(Instant::now() + AGAIN_AFTER);
        }
        match landed.kind {
            Kind::Commands => {}
            Kind::Renewals => {
                self.renewals_in_flight = false;
                self.duties.renewals_applied();
            }
            Kind::Duty => self.duties.done(),
        }
    }
}

fn answer_commands(
    result: Result<Vec<Applied>, ProposeError>,
    clients: Vec<Client<Applied>>,
    requests: Vec<Request>,
    back: &mpsc::UnboundedSender<Asked>,
) {
    match result {
        Ok(applied) => {
            let asks = clients.into_iter().zip(requests);
            for ((client, request), applied) in asks.zip(applied) {
                let content = Box::new(request);
                match numbers::fate(Ask { content, client }, applied) {
                    Fate::Settled(ask, applied) => ask.client.answer(Ok(applied)),
                    Fate::Again(ask) => drop(back.send(Asked::from(ask))),
                    Fate::Over => {}
                }
            }
        }
        Err(error) => {
            for (client, request) in clients.into_iter().zip(requests) {
                // With an id it may be proposed again, wherever it stands in the log.
                let may_be_repeated = request.id.is_some();
                let content = Box::new(request);
                again(Ask { content, client }, &error, may_be_repeated, back);
            }
        }
    }
}

fn answer_renewals(
    result: Result<Vec<Applied>, ProposeError>,
    clients: Vec<Client<(Index, Renewed)>>,
    requests: Vec<Request>,
    back: &mpsc::UnboundedSender<Asked>,
) {
    let applied = match result {
        Ok(mut applied) => applied.pop().expect("an entry of renewals holds one request"),
        Err(error) => {
            for (client, content) in clients.into_iter().zip(renewals(requests)) {
                // Renewing twice is renewing.
                again(Ask { content, client }, &error, true, back);
            }
            return;
        }
    };
    match applied.result {
        Ok(Outcome::Renewed(outcomes)) => {
            for (client, renewed) in clients.into_iter().zip(outcomes) {
                client.answer(Ok((applied.index, renewed)));
            }
        }
        Ok(other) => unreachable!("renewals have no outcome {other:?}"),
        Err(rejection) => {
            for client in clients {
                client.answer(Err(Error::Refused(rejection.clone())));
            }
        }
    }
}

fn renewals(requests: Vec<Request>) -> Vec<RenewalRequest> {
    let commands = requests.into_iter().map(|request| request.command);
    commands
        .flat_map(|command| match command {
            Command::Renew(renewals) => renewals,
            _ => Vec::new(),
        })
        .collect()
}

/// What becomes of a request whose entry was not applied: it goes on to whoever leads next, if that can do no harm.
fn again<Q, A>(
    mut ask: Ask<Q, A>,
    error: &ProposeError,
    may_be_repeated: bool,
    back: &mpsc::UnboundedSender<Asked>,
) where
    Asked: From<Ask<Q, A>>,
{
    match error {
        ProposeError::NotLeader => ask.client.not_proposed(),
        ProposeError::Unknown if may_be_repeated && !ask.client.forwarded => ask.client.doubt(),
        ProposeError::Unknown => return ask.client.answer(Err(lost())),
        ProposeError::Ended => return ask.client.refuse(Error::NoLeader),
    }
    // A closed queue means that the node ends: the client then learns how far its request had come.
    let _ = back.send(Asked::from(ask));
}
