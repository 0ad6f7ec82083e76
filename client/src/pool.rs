//! The servers of a client, and how a call is tried at them.
//!
//! A call goes to the server that answered last. What comes of it decides what follows:
//!
//! | the attempt | a read | a write | a write with a number |
//! |---|---|---|---|
//! | was answered, or refused by the cluster's rules | ends | ends | ends |
//! | did not get there, or found no leader, or a server that is full or stops | again | again | again |
//! | got there and was not answered | again | ends as unknown | again, with the same number |
//!
//! "Again" is at the next server, and when each had its turn, after a pause, at the first, until the deadline. What a
//! write needs before it, its number, is within the deadline as well.
//!
//! A refusal that comes after a sending without an answer ends the call as unknown, unless it is the outcome that the
//! cluster remembers under the number ([`Error::after`]).

mod follow;
mod servers;
mod turns;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use spine_proto::v1::{self, sessions_client::SessionsClient};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use self::servers::{List, Servers};
pub(crate) use self::turns::Turns;
pub(crate) use crate::limits::MESSAGE_BYTES_MAX;
use crate::{
    error::{Error, Failure, Kind, Next, Result},
    limits::DURATION_MAX,
    session::{Number, Sessions},
};

/// A connection that takes longer counts as refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is asked whether it is there, and given up if it doesn't say.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after every server was tried once; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The least time that a call is given at a server while there are others.
const READ_ATTEMPT_MIN: Duration = Duration::from_millis(500);
/// A write that runs out of time may be unknown then, so it gets more: elections, a few in a row, are over.
const WRITE_ATTEMPT_MIN: Duration = Duration::from_secs(2);
/// Metadata of a request: its number in a request session.
const REQUEST: &str = "spine-request";

/// Who calls: the servers, and how fresh reads are.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) pool: Pool,
    pub(crate) consistency: v1::Consistency,
}

impl Caller {
    pub(crate) fn consistency(&self) -> i32 {
        self.consistency.into()
    }
}

/// What a pool is to be.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a builder is told, each for itself"
)]
pub(crate) struct Settings {
    pub(crate) addresses: Vec<String>,
    pub(crate) token: Option<String>,
    pub(crate) deadline: Duration,
    pub(crate) wait_for_server: bool,
    pub(crate) prefer_leader: bool,
    pub(crate) sessions: bool,
    pub(crate) follow_members: bool,
}

/// The servers, and how long a call to them may take. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    servers: Servers,
    /// Told when a server has failed, and when nobody has the pool any more.
    lost: Arc<Notify>,
    authorization: Option<MetadataValue<Ascii>>,
    wait_for_server: bool,
    prefer_leader: bool,
    sessions: Option<Sessions>,
}

impl Pool {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let authorization = settings.token.as_deref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::Config("the token has characters that can't be sent".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let shared = Arc::new(Shared {
            servers: Servers::new(&settings.addresses)?,
            lost: Arc::default(),
            authorization: authorization.transpose()?,
            wait_for_server: settings.wait_for_server,
            prefer_leader: settings.prefer_leader,
            sessions: settings.sessions.then(Sessions::default),
        });
        if settings.follow_members {
            tokio::spawn(follow::follow(Arc::downgrade(&shared)));
        }
        Ok(Self {
            shared,
            deadline: settings.deadline.min(DURATION_MAX),
        })
    }

    /// The same servers, whose calls may take so long.
    pub(crate) fn within(&self, deadline: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            deadline: deadline.min(DURATION_MAX),
        }
    }

    /// Makes a call, at one server after another where that is safe, until the deadline.
    pub(crate) async fn call<T, R, F, Fut>(&self, kind: Kind, message: T, send: F) -> Result<R>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + self.deadline;
        self.attempt(Attempt::new(kind, None, until), message, send).await
    }

    /// Makes a call that is one write of the cluster, so that a number in a request session makes it safe to send again:
    /// with one, if this client has sessions and not too many numbers are out.
    pub(crate) async fn once<T, R, F, Fut>(&self, message: T, send: F) -> Result<R>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + self.deadline;
        let number = match &self.shared.sessions {
            Some(sessions) => sessions.number(until, self.open_session(until)).await?,
            None => None,
        };
        self.attempt(Attempt::new(Kind::Write, number, until), message, send)
            .await
    }

    async fn attempt<T, R, F, Fut>(&self, mut attempt: Attempt, message: T, send: F) -> Result<R>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let until = attempt.until;
        let mut pause = PAUSE_MIN;
        loop {
            let failure = match self.shared.round(&mut attempt, &message, &send).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.next {
                Next::Stop => return Err(failure.error.after(attempt.doubt)),
                Next::Doubt if attempt.number.is_none() => return Err(failure.error),
                Next::Again | Next::Doubt => {}
                Next::SessionGone => {
                    let (Some(sessions), Some(number), None) =
                        (&self.shared.sessions, attempt.number.take(), &attempt.doubt)
                    else {
                        // What the session knew of an earlier attempt is gone with it.
                        return Err(attempt.doubt.unwrap_or(failure.error));
                    };
                    sessions.gone(number, until).await;
                    attempt.number = sessions.number(until, self.open_session(until)).await?;
                }
            }
            let give_up = !self.waits() && matches!(failure.error, Error::Unreachable(_));
            if give_up || Instant::now() + pause >= until {
                return Err(attempt.doubt.unwrap_or(failure.error));
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A session that is opened and not heard of ends by itself, so opening one may be tried again.
    fn open_session(&self, until: Instant) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let send =
                |channel, request| async move { SessionsClient::new(channel).open_session(request).await };
            let opening = Attempt::new(Kind::Read, None, until);
            let opened: v1::OpenSessionResponse =
                self.attempt(opening, v1::OpenSessionRequest {}, send).await?;
            Ok(opened.session)
        })
    }

    /// The place of the server to open a stream at: of the one that answered last. The next places are those of the others.
    pub(crate) fn preferred(&self) -> usize {
        self.shared.servers.list().preferred()
    }

    /// The server at this place, counted round and round.
    pub(crate) fn server(&self, place: usize) -> (Channel, Arc<str>) {
        let servers = self.shared.servers.list();
        let server = servers.at(place);
        (server.channel.clone(), server.address.clone())
    }

    /// The server at this address did not serve a stream: what begins next begins elsewhere.
    pub(crate) fn failed(&self, address: &str) {
        let servers = self.shared.servers.list();
        if let Some(at) = servers.place_of(address) {
            servers.failed(at);
        }
        self.shared.lost.notify_one();
    }

    pub(crate) fn authorize<T>(&self, request: &mut Request<T>) {
        self.shared.authorize(request);
    }

    /// How long a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether a call waits for a server to be reached.
    pub(crate) fn waits(&self) -> bool {
        self.shared.wait_for_server
    }

    pub(crate) fn servers(&self) -> usize {
        self.shared.servers.list().all().len()
    }

    /// Where the servers are, in the order in which they are tried.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let servers = self.shared.servers.list();
        servers
            .all()
            .iter()
            .map(|server| server.address.to_string())
            .collect()
    }
}

/// What the attempts of a call have in common.
struct Attempt {
    kind: Kind,
    number: Option<Number>,
    /// Set once one of them may have been applied: then nothing but an answer says that it was not.
    doubt: Option<Error>,
    until: Instant,
}

impl Attempt {
    fn new(kind: Kind, number: Option<Number>, until: Instant) -> Self {
        Self {
            kind,
            number,
            doubt: None,
            until,
        }
    }

    /// When an attempt ends that begins now, while there are so many other servers to come. One that can't be repeated
    /// if it runs out of time leaves less for them.
    fn end(&self, others: usize) -> Instant {
        let least = match (self.kind, &self.number) {
            (Kind::Read, _) | (Kind::Write, Some(_)) => READ_ATTEMPT_MIN,
            (Kind::Write, None) => WRITE_ATTEMPT_MIN,
        };
        end_of_attempt(self.until, others, least)
    }
}

/// When an attempt of a read ends that begins now, while there are so many other servers to come.
fn end_of_read(until: Instant, others: usize) -> Instant {
    end_of_attempt(until, others, READ_ATTEMPT_MIN)
}

/// An attempt leaves half of the time for the other servers, if there are any, but is given no less than this itself.
fn end_of_attempt(until: Instant, others: usize, least: Duration) -> Instant {
    if others == 0 {
        return until;
    }
    let now = Instant::now();
    let left = until.saturating_duration_since(now);
    (now + (left / 2).max(least)).min(until)
}

impl Shared {
    /// Tries each server once. What may have been done ends the round for a call without a number.
    async fn round<T, R, F, Fut>(&self, attempt: &mut Attempt, message: &T, send: &F) -> Result<R, Failure>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let servers = self.servers.list();
        let first = self.first(&servers, attempt.kind);
        let count = servers.all().len();
        let mut told: Option<Failure> = None;
        for step in 0..count {
            let at = (first + step) % count;
            let end = attempt.end(count - step - 1);
            let server = servers.at(at);
            let mut request = Request::new(message.clone());
            request.set_timeout(end.saturating_duration_since(Instant::now()));
            self.authorize(&mut request);
            if let Some(number) = &attempt.number {
                request.metadata_mut().insert(REQUEST, number.metadata());
            }
            let failure = match timeout_at(end, send(server.channel.clone(), request)).await {
                Ok(Ok(answer)) => {
                    servers.answered(at, attempt.kind, self.prefer_leader, answer.metadata());
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => Failure::of(&status, attempt.kind, &server.address),
                Err(_) => Failure::silence(attempt.kind, &server.address),
            };
            let goes_on = match failure.next {
                Next::Again => true,
                Next::Doubt => {
                    attempt.doubt = Some(failure.error.clone());
                    attempt.number.is_some()
                }
                Next::Stop | Next::SessionGone => false,
            };
            if goes_on {
                servers.failed(at);
                self.lost.notify_one();
            }
            told = Some(match told {
                Some(before) if goes_on && before.says_more_than(&failure) => before,
                _ => failure,
            });
            if !goes_on || Instant::now() >= attempt.until {
                break;
            }
        }
        Err(told.expect("a pool has at least one server"))
    }

    /// Where a call begins.
    fn first(&self, servers: &List, kind: Kind) -> usize {
        let leader = servers
            .leader()
            .filter(|_| self.prefer_leader && kind != Kind::Read);
        leader.unwrap_or_else(|| servers.preferred())
    }

    fn authorize<T>(&self, request: &mut Request<T>) {
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.lost.notify_one();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

/// Between half of a pause and all of it, so that clients which failed together don't come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half + half * u32::try_from(random() % 1_000).unwrap_or_default() / 1_000
}

/// The pause that follows this one.
pub(crate) fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX))
}

/// A number that differs from process to process and from call to call: the standard library seeds its hashers so.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
