//! The servers of a client, and how a call is tried at them.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use spine_proto::v1;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::error::{Error, Failure, Kind, Result};

/// A connection that takes longer counts as refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is asked whether it is there, and given up if it doesn't say.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after every server was tried once; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The least time that a read is given at a server while there are others.
const READ_ATTEMPT_MIN: Duration = Duration::from_millis(500);
/// Pages are about 1 MiB; a single row may be larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Who calls: the servers, and how fresh reads are.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) pool: Arc<Pool>,
    pub(crate) consistency: v1::Consistency,
}

impl Caller {
    pub(crate) fn consistency(&self) -> i32 {
        self.consistency.into()
    }
}

/// The servers.
pub(crate) struct Pool {
    servers: Vec<Server>,
    /// The one that answered last.
    preferred: AtomicUsize,
    authorization: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    wait_for_server: bool,
}

struct Server {
    address: String,
    channel: Channel,
}

impl Pool {
    pub(crate) fn new(
        addresses: &[String],
        token: Option<&str>,
        deadline: Duration,
        wait_for_server: bool,
    ) -> Result<Self> {
        let servers = addresses
            .iter()
            .map(|address| Server::new(address))
            .collect::<Result<Vec<_>>>()?;
        let authorization = token.map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::Config("the token has characters that can't be sent".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        // Clients that start together don't all begin with the same server.
        let first = usize::try_from(random() % servers.len() as u64).unwrap_or_default();
        Ok(Self {
            servers,
            preferred: AtomicUsize::new(first),
            authorization: authorization.transpose()?,
            deadline,
            wait_for_server,
        })
    }

    /// Makes a call, at one server after another where that is safe, until the deadline.
    pub(crate) async fn call<T, R, F, Fut>(&self, kind: Kind, message: T, send: F) -> Result<R>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + self.deadline;
        let mut pause = PAUSE_MIN;
        loop {
            let failure = match self.round(kind, &message, &send, until).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let give_up = !self.wait_for_server && matches!(failure.error, Error::Unreachable(_));
            if !failure.again || give_up || Instant::now() + pause >= until {
                return Err(failure.error);
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tries each server once, beginning with the one that answered last.
    async fn round<T, R, F, Fut>(
        &self,
        kind: Kind,
        message: &T,
        send: &F,
        until: Instant,
    ) -> Result<R, Failure>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut told: Option<Failure> = None;
        for step in 0..self.servers.len() {
            let at = (first + step) % self.servers.len();
            let others = self.servers.len() - step - 1;
            let end = attempt_end(kind, until, others);
            let server = &self.servers[at];
            let mut request = Request::new(message.clone());
            request.set_timeout(end.saturating_duration_since(Instant::now()));
            self.authorize(&mut request);
            let failure = match timeout_at(end, send(server.channel.clone(), request)).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => Failure::of(&status, kind, &server.address),
                Err(_) => Failure::silence(kind, &server.address),
            };
            let last = !failure.again || Instant::now() >= until;
            // "No leader" from one says more than "connection refused" from the next.
            let says_more = |before: &Failure| {
                matches!(failure.error, Error::Unreachable(_))
                    && !matches!(before.error, Error::Unreachable(_))
            };
            match told {
                Some(before) if failure.again && says_more(&before) => told = Some(before),
                _ => told = Some(failure),
            }
            if last {
                break;
            }
        }
        Err(told.expect("a pool has at least one server"))
    }

    /// The server to open a stream at: the one that answered last, or after failures the next one.
    pub(crate) fn stream_server(&self, failures: usize) -> (Channel, &str) {
        let at = (self.preferred.load(Ordering::Relaxed) + failures) % self.servers.len();
        (self.servers[at].channel.clone(), &self.servers[at].address)
    }

    pub(crate) fn authorize<T>(&self, request: &mut Request<T>) {
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
    }

    /// How long a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether a call waits for a server to be reached.
    pub(crate) fn waits(&self) -> bool {
        self.wait_for_server
    }

    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }
}

impl Server {
    fn new(address: &str) -> Result<Self> {
        let wrong = || Error::Config(format!("{address:?} is not an address: HOST:PORT is wanted"));
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || address.contains('/') {
            return Err(wrong());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| wrong())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            address: address.to_owned(),
            channel,
        })
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.servers.iter().map(|server| &server.address))
            .finish()
    }
}

/// When an attempt ends. A read leaves time for the other servers; a write has all of it, as it can't be sent again.
fn attempt_end(kind: Kind, until: Instant, others: usize) -> Instant {
    if kind == Kind::Write || others == 0 {
        return until;
    }
    let left = until.saturating_duration_since(Instant::now());
    (Instant::now() + (left / 2).max(READ_ATTEMPT_MIN)).min(until)
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
