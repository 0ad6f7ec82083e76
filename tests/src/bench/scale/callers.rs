//! Clients that make one call after another: flat out or at a steady rate, so many calls or until they are told to stop.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use spine_client::{Client, Result};
use tokio::{runtime::Handle, task::JoinSet};

use crate::{Done, load::Figures};

/// Connections that they share.
const CONNECTIONS: usize = 32;
/// A call that waits long is a figure, not an error.
const PATIENCE: Duration = Duration::from_mins(1);

/// How fast calls follow one another.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// Each client makes its next call when the last one is answered.
    FlatOut,
    /// So many a second, whether earlier ones are answered or not, as long as a client is free.
    PerSecond(u32),
}

/// Makes the call of a number.
type Work = Arc<dyn Fn(Client, usize) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Who calls, and what.
#[derive(Clone)]
pub(super) struct Callers {
    servers: Vec<SocketAddr>,
    count: usize,
    pace: Pace,
    work: Work,
}

/// A call that was answered.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// When it was sent; with a steady rate and no client free, when it should have been.
    pub(super) due: Instant,
    pub(super) took: Duration,
}

impl Call {
    /// Whether it was under way at some moment of these.
    pub(super) fn meets(&self, begin: Instant, end: Instant) -> bool {
        self.due <= end && begin <= self.due + self.took
    }
}

/// The calls that were answered, in no order, and the time from the first to the last.
pub(super) struct Calls {
    pub(super) made: Vec<Call>,
    pub(super) time: Duration,
}

impl Calls {
    /// The figures of all of them.
    pub(super) fn figures(&self) -> Figures {
        let latencies = self.made.iter().map(|call| call.took).collect();
        Figures::new(self.time.as_secs_f64(), latencies)
    }
}

/// The latencies of some calls.
pub(super) fn figures<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Figures {
    Figures::new(0.0, calls.into_iter().map(|call| call.took).collect())
}

impl Callers {
    /// So many clients of these servers, by turns.
    pub(super) fn new<F>(
        servers: Vec<SocketAddr>,
        count: usize,
        pace: Pace,
        work: impl Fn(Client, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            servers,
            count,
            pace,
            work: Arc::new(move |client, number| work(client, number).boxed()),
        }
    }

    /// Writers of values of this size; `key` names the key of each put.
    pub(super) fn writers(
        servers: Vec<SocketAddr>,
        count: usize,
        pace: Pace,
        value_bytes: usize,
        key: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Self {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        Self::new(servers, count, pace, move |client, number| {
            let (key, value) = (key(number), value.clone());
            async move { client.kv.put(key, value).await.map(drop) }
        })
    }

    /// Makes so many calls.
    pub(super) fn make(&self, handle: &Handle, calls: usize) -> Done<Calls> {
        self.begin(handle, calls)?.end()
    }

    /// Begins to call until they are told to stop.
    pub(super) fn start(&self, handle: &Handle) -> Done<Calling> {
        self.begin(handle, usize::MAX)
    }

    fn begin(&self, handle: &Handle, calls: usize) -> Done<Calling> {
        let _entered = handle.enter();
        let connect = |at: usize| {
            let server = self.servers[at % self.servers.len()];
            Client::builder(&server.to_string()).deadline(PATIENCE).build()
        };
        let connections = CONNECTIONS.min(self.count);
        let clients = (0..connections).map(connect).collect::<Result<Vec<_>>>()?;
        let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for at in 0..self.count {
            let caller = Caller {
                client: clients[at % connections].clone(),
                pace: self.pace,
                work: self.work.clone(),
                calls,
                next: next.clone(),
                over: over.clone(),
                began,
            };
            tasks.spawn_on(caller.run(), handle);
        }
        Ok(Calling {
            handle: handle.clone(),
            tasks,
            over,
            began,
        })
    }
}

/// Callers at work.
pub(super) struct Calling {
    handle: Handle,
    tasks: JoinSet<Result<Vec<Call>>>,
    over: Arc<AtomicBool>,
    began: Instant,
}

impl Calling {
    /// Gives what was called, once the last call is answered.
    pub(super) fn stop(self) -> Done<Calls> {
        self.over.store(true, Ordering::Relaxed);
        self.end()
    }

    fn end(mut self) -> Done<Calls> {
        let mut made = Vec::new();
        self.handle.clone().block_on(async {
            while let Some(done) = self.tasks.join_next().await {
                made.append(&mut done??);
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        Ok(Calls {
            made,
            time: self.began.elapsed(),
        })
    }
}

/// One of them.
struct Caller {
    client: Client,
    pace: Pace,
    work: Work,
    /// So many calls all of them make.
    calls: usize,
    next: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    began: Instant,
}

impl Caller {
    async fn run(self) -> Result<Vec<Call>> {
        let mut made = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.calls {
                break;
            }
            let due = self.turn(number).await;
            (self.work)(self.client.clone(), number).await?;
            made.push(Call {
                due,
                took: due.elapsed(),
            });
        }
        Ok(made)
    }

    /// Waits until it is this call's turn. One that is late counts from when it should have been made, so that a stall
    /// shows in all that it held up.
    async fn turn(&self, number: usize) -> Instant {
        let now = Instant::now();
        let Pace::PerSecond(rate) = self.pace else {
            return now;
        };
        let due = self.began + Duration::from_secs_f64(in_seconds(number) / f64::from(rate));
        if due <= now {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
fn in_seconds(calls: usize) -> f64 {
    calls as f64
}
