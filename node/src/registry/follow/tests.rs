//! Forwarding against a leader made of channels.

use async_trait::async_trait;
use spine_core::{Entry, Outcome, RequestId, SessionId, State, Time, WallTime};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

use super::*;
use crate::{
    raft::ReadError,
    registry::{Submitted, submit},
    world::rng::OsRng,
};

const WITHIN: Duration = Duration::from_secs(5);

/// A call as the leader gets it.
struct Call {
    leader: u64,
    requests: Vec<Request>,
    answer: oneshot::Sender<Answers>,
}

impl Call {
    fn ids(&self) -> Vec<RequestId> {
        self.requests.iter().filter_map(|request| request.id).collect()
    }

    /// The same for each request.
    fn reply(self, result: impl Fn() -> Answered) {
        let answers = self.requests.iter().map(|_| proto::Answer {
            result: Some(result()),
        });
        let _ = self.answer.send(Ok(answers.collect()));
    }
}

#[derive(Debug)]
struct Fake(mpsc::UnboundedSender<Call>);

#[async_trait]
impl Way for Fake {
    async fn propose(&self, leader: &Leader, requests: Vec<proto::Forwarded>, _: Duration) -> Answers {
        let (answer, answers) = oneshot::channel();
        let requests = requests
            .iter()
            .map(|request| codec::decode_row(&request.content).unwrap())
            .collect();
        let call = Call {
            leader: leader.id,
            requests,
            answer,
        };
        self.0.send(call).map_err(|_| CallError::NotSent("over".into()))?;
        answers.await.unwrap_or(Err(CallError::Lost("dropped".into())))
    }

    async fn renew(&self, _: &Leader, _: Vec<proto::Forwarded>, _: Duration) -> Answers {
        Err(CallError::NotSent("nobody renews here".into()))
    }

    async fn read_index(&self, _: &Leader, _: Duration) -> Result<u64, ReadError> {
        Err(ReadError::NotLeader)
    }
}

struct Node {
    asks: mpsc::Sender<Asked>,
    shares: Arc<Semaphore>,
    calls: mpsc::UnboundedReceiver<Call>,
    leads: watch::Sender<Option<Leader>>,
    applied: watch::Sender<raft::Applied>,
    _task: JoinHandle<()>,
}

fn leader(id: u64) -> Leader {
    Leader {
        id,
        name: format!("n{id}"),
        peer_address: String::new(),
        term: id,
    }
}

fn at(index: u64) -> raft::Applied {
    let mut state = State::new();
    while state.index().0 < index {
        state.apply(&Entry {
            time: Time(0),
            wall: WallTime(0),
            requests: vec![Request::internal(Command::OpenSession)],
        });
    }
    raft::Applied {
        position: None,
        membership: Arc::default(),
        state,
    }
}

fn applied(index: u64, result: Result<Outcome, Rejection>) -> Answered {
    let applied = Applied {
        index: Index(index),
        result,
    };
    Answered::Applied(codec::encode_row(&applied).into())
}

impl Node {
    /// A node that follows server 1.
    fn start() -> Self {
        let (asks, asked) = mpsc::channel(100);
        let (tell_call, calls) = mpsc::unbounded_channel();
        let (leads, mut led) = watch::channel(Some(leader(1)));
        let (tell_applied, applied) = watch::channel(at(0));
        let mut follower = Follower {
            way: Arc::new(Fake(tell_call)),
            applied,
            bytes_max: 1 << 20,
            numbering: Numbering::default(),
            rng: Arc::new(OsRng),
        };
        let mut queue = Queue::new(asked);
        let task = tokio::spawn(async move {
            loop {
                let leader = led.borrow_and_update().clone();
                let over = match leader {
                    Some(leader) => follower.run(&mut queue, leader, &mut led).await,
                    None => submit::wait(&mut queue, &mut led).await,
                };
                if over != Over::NotLeading {
                    return;
                }
            }
        });
        Self {
            asks,
            shares: Arc::new(Semaphore::new(1_000)),
            calls,
            leads,
            applied: tell_applied,
            _task: task,
        }
    }

    /// A node whose session is open.
    async fn with_session(id: u128) -> Self {
        let mut node = Self::start();
        let first = node.ask(WITHIN, false);
        node.open(id).await;
        node.call().await.reply(|| applied(1, Ok(Outcome::MemberUp)));
        node.applied.send_replace(at(1));
        first.answer().await.unwrap();
        node
    }

    async fn open(&mut self, id: u128) {
        let opening = self.call().await;
        assert_eq!(opening.requests[0].command, Command::OpenSession);
        opening.reply(|| applied(1, Ok(Outcome::SessionOpened(session(id)))));
    }

    fn ask(&self, within: Duration, forwarded: bool) -> Submitted<Applied> {
        let deadline = Instant::now() + within;
        let share = self.shares.clone().try_acquire_owned().unwrap();
        let content = Box::new(Request::internal(Command::RulesRaise(1)));
        let (ask, waiting) = Ask::new(content, 100, deadline, forwarded, share);
        self.asks.try_send(Asked::Command(ask)).ok().unwrap();
        Submitted { waiting, deadline }
    }

    async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(Duration::from_mins(1), self.calls.recv());
        call.await.expect("a call comes").expect("the node runs")
    }

    async fn no_call(&mut self) {
        let call = tokio::time::timeout(Duration::from_millis(500), self.calls.recv());
        assert!(call.await.is_err(), "no call comes");
    }
}

fn session(id: u128) -> SessionId {
    SessionId(u64::try_from(id).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_calls_are_out_travels_together() {
    let mut node = Node::with_session(7).await;
    let mut asked = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..limits::FORWARD_CALLS_MAX {
        asked.push(node.ask(WITHIN, false));
        calls.push(node.call().await);
    }
    for _ in 0..10 {
        asked.push(node.ask(WITHIN, false));
    }
    node.no_call().await;
    let sequences: Vec<_> = calls.iter().flat_map(Call::ids).map(|id| id.sequence).collect();
    assert_eq!(sequences, [2, 3, 4, 5]);
    calls.remove(0).reply(|| applied(2, Ok(Outcome::MemberUp)));
    let next = node.call().await;
    assert_eq!(next.requests.len(), 10);
    assert_eq!(
        next.ids()[0],
        RequestId {
            session: session(7),
            sequence: 6,
            answered_up_to: 2
        }
    );
    calls.push(next);
    node.applied.send_replace(at(2));
    for call in calls {
        call.reply(|| applied(2, Ok(Outcome::MemberUp)));
    }
    for asked in asked {
        asked.answer().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_passed_on_once_it_is_applied_here() {
    let mut node = Node::with_session(7).await;
    let asked = node.ask(WITHIN, false);
    node.call().await.reply(|| applied(5, Ok(Outcome::MemberUp)));
    let mut answer = Box::pin(asked.answer());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut answer)
            .await
            .is_err()
    );
    node.applied.send_replace(at(4));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut answer)
            .await
            .is_err()
    );
    node.applied.send_replace(at(5));
    assert_eq!(answer.await.unwrap().index, Index(5));
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_goes_to_the_next_leader_under_the_same_number() {
    let mut node = Node::with_session(7).await;
    let asked = node.ask(WITHIN, false);
    let lost = node.call().await;
    node.leads.send_replace(Some(leader(2)));
    let again = node.call().await;
    assert_eq!((lost.leader, again.leader), (1, 2));
    assert_eq!(lost.ids(), again.ids());
    // What the first leader says now is heard by nobody.
    lost.reply(|| Answered::NotLeader(proto::NotLeader { leader_id: 2 }));
    node.applied.send_replace(at(3));
    again.reply(|| applied(3, Ok(Outcome::MemberUp)));
    assert_eq!(asked.answer().await.unwrap().index, Index(3));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_asked_for_again_and_told_only_at_the_deadline() {
    let mut node = Node::with_session(7).await;
    let asked = node.ask(WITHIN, false);
    let first = node.call().await;
    let ids = first.ids();
    first.reply(|| {
        Answered::Unknown(proto::Unknown {
            reason: "leadership changed".into(),
        })
    });
    let second = node.call().await;
    assert_eq!(second.ids(), ids);
    let began = Instant::now();
    let error = asked.answer().await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error}");
    assert!(began.elapsed() <= WITHIN);
}

#[tokio::test(start_paused = true)]
async fn what_was_certainly_not_proposed_is_not_called_unknown() {
    let mut node = Node::with_session(7).await;
    let asked = node.ask(Duration::from_secs(1), false);
    node.call()
        .await
        .reply(|| Answered::NotLeader(proto::NotLeader { leader_id: 0 }));
    let refused = node.call().await;
    let _ = refused.answer.send(Err(CallError::NotSent("refused".into())));
    node.leads.send_replace(None);
    assert_eq!(asked.answer().await, Err(Error::NoLeader));
    // Refusals of the leader's queue come back as they are, unless an earlier sending may have been proposed.
    node.leads.send_replace(Some(leader(1)));
    let overloaded = || {
        Answered::Overloaded(proto::Overloaded {
            what: "requests".into(),
            limit: 1,
        })
    };
    let asked = node.ask(WITHIN, false);
    node.call().await.reply(overloaded);
    let error = asked.answer().await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    let asked = node.ask(WITHIN, false);
    let lost = node.call().await;
    let _ = lost.answer.send(Err(CallError::Lost("broken".into())));
    node.call().await.reply(overloaded);
    node.applied.send_replace(at(9));
    node.call().await.reply(|| applied(9, Ok(Outcome::MemberUp)));
    assert_eq!(asked.answer().await.unwrap().index, Index(9));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ended_is_replaced_but_nothing_doubtful_gets_a_new_number() {
    let mut node = Node::with_session(7).await;
    let unknown = || applied(4, Err(Rejection::UnknownSession(session(7))));
    node.applied.send_replace(at(9));

    let doubtful = node.ask(WITHIN, false);
    let lost = node.call().await;
    let _ = lost.answer.send(Err(CallError::Lost("broken".into())));
    node.call().await.reply(unknown);
    let error = doubtful.answer().await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error}");

    let asked = node.ask(WITHIN, false);
    node.open(8).await;
    let call = node.call().await;
    assert_eq!(
        call.ids()[0],
        RequestId {
            session: session(8),
            sequence: 1,
            answered_up_to: 0
        }
    );
    call.reply(|| applied(6, Ok(Outcome::MemberUp)));
    asked.answer().await.unwrap();

    let first = node.ask(WITHIN, false);
    node.call()
        .await
        .reply(|| applied(7, Err(Rejection::UnknownSession(session(8)))));
    node.open(9).await;
    let call = node.call().await;
    assert_eq!(call.ids()[0].session, session(9));
    call.reply(|| applied(8, Ok(Outcome::MemberUp)));
    first.answer().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_forwarded_here_goes_no_further() {
    let mut node = Node::with_session(7).await;
    assert_eq!(node.ask(WITHIN, true).answer().await, Err(Error::NoLeader));
    node.leads.send_replace(None);
    assert_eq!(node.ask(WITHIN, true).answer().await, Err(Error::NoLeader));
    node.no_call().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_nobody_leads_waits_for_whoever_leads_next() {
    let mut node = Node::with_session(7).await;
    node.leads.send_replace(None);
    let asked = node.ask(WITHIN, false);
    let given_up = node.ask(Duration::from_millis(100), false);
    node.no_call().await;
    assert_eq!(given_up.answer().await, Err(Error::NoLeader));
    node.leads.send_replace(Some(leader(3)));
    let call = node.call().await;
    assert_eq!((call.leader, call.requests.len()), (3, 1));
    call.reply(|| applied(1, Ok(Outcome::MemberUp)));
    asked.answer().await.unwrap();
}
