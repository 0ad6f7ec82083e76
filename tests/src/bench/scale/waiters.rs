//! Those who wait for changes: watch streams over the native API and blocking queries over HTTP. Each notes when it was
//! told of which change.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use spine_client::{Client, Topic, WatchStream};
use spine_tests::wait;
use tokio::{sync::mpsc, task::JoinSet};

use super::Ground;
use crate::Done;

/// The service that blocking queries ask for, and how many instances it has.
pub(super) const QUERIED: &str = "queried";
pub(super) const QUERIED_INSTANCES: usize = 10;
/// Below this all watched keys lie.
pub(super) const WATCHED_KEYS: &str = "config/";
/// Streams that share a connection, of the thousand that may.
const STREAMS_PER_CONNECTION: usize = 400;
/// Streams that are opened at once.
const OPENED_AT_ONCE: usize = 64;
/// How long the first answers of all queries may take.
const PARKED_WITHIN: Duration = Duration::from_mins(1);

type Failed = Box<dyn Error + Send + Sync>;

/// How somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A blocking query on a service.
    Query,
    /// A watch stream of a service.
    OfService,
    /// A watch stream of keys.
    OfKeys,
}

/// Somebody was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) at: Instant,
}

type Tell = mpsc::UnboundedSender<Told>;

/// All who wait.
pub(super) struct Waiters {
    tasks: JoinSet<Result<(), Failed>>,
    tell: Tell,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Waiters {
    pub(super) fn new() -> Self {
        // Whoever reads it is in this process, and reads all of it.
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            tasks: JoinSet::new(),
            tell,
            told,
        }
    }

    /// Opens the watch streams, half of them on services and half on keys.
    pub(super) fn watch(&mut self, ground: &Ground<'_>) -> Done {
        let plan = ground.plan;
        let _entered = ground.runtime.enter();
        let connections = plan.watchers.div_ceil(STREAMS_PER_CONNECTION).max(3);
        let servers = ground.servers();
        let clients = (0..connections)
            .map(|at| Client::connect(&servers[at % servers.len()].to_string()))
            .collect::<Result<Vec<_>, _>>()?;
        let open = |number: usize| {
            let (kind, topic) = if number.is_multiple_of(2) {
                (
                    Kind::OfService,
                    Topic::service(service(number / 2 % plan.services)),
                )
            } else {
                (Kind::OfKeys, Topic::prefix(WATCHED_KEYS))
            };
            let watch = clients[number % connections].watch.topics([topic]);
            async move { Ok::<_, spine_client::Error>((kind, watch.start().await?)) }
        };
        let opened = stream::iter(0..plan.watchers)
            .map(open)
            .buffer_unordered(OPENED_AT_ONCE);
        let opened: Vec<_> = ground.runtime.block_on(opened.try_collect())?;
        for (kind, stream) in opened {
            self.tasks.spawn(listen(kind, stream, self.tell.clone()));
        }
        Ok(())
    }

    /// Has the blocking queries wait.
    pub(super) fn query(&mut self, ground: &Ground<'_>) -> Done {
        let plan = ground.plan;
        let _entered = ground.runtime.enter();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let parked = Arc::new(AtomicUsize::new(0));
        for number in 0..plan.queries {
            let server: SocketAddr = ground.cluster.http(number % 3);
            let query = Query {
                client: client.clone(),
                url: format!("http://{server}/v1/health/service/{QUERIED}?wait=5m"),
                parked: parked.clone(),
                tell: self.tell.clone(),
            };
            self.tasks.spawn(query.run());
        }
        wait::until_true("all queries are parked", PARKED_WITHIN, || {
            parked.load(Ordering::Relaxed) == plan.queries
        });
        Ok(())
    }

    /// Waits until so many were told, or the time is over; gives who was.
    pub(super) fn told(&mut self, ground: &Ground<'_>, wanted: usize, within: Duration) -> Done<Vec<Told>> {
        let mut all = Vec::new();
        ground
            .runtime
            .block_on(async {
                let collect = async {
                    while all.len() < wanted {
                        all.extend(self.told.recv().await);
                    }
                };
                // What is missing then is counted by the caller.
                let _ = tokio::time::timeout(within, collect).await;
                match self.tasks.try_join_next() {
                    None => Ok(()),
                    Some(Ok(Ok(()))) => Err("a watch has ended".into()),
                    Some(Ok(Err(failed))) => Err(failed.to_string().into()),
                    Some(Err(failed)) => Err(failed.into()),
                }
            })
            .map(|()| all)
    }
}

/// The name of a service that is watched.
pub(super) fn service(number: usize) -> String {
    format!("service-{number}")
}

async fn listen(kind: Kind, mut stream: WatchStream, tell: Tell) -> Result<(), Failed> {
    loop {
        let batch = stream.next().await?;
        let at = Instant::now();
        for event in batch.events {
            let index = event.index;
            tell.send(Told { kind, index, at })?;
        }
    }
}

/// One who asks again and again.
struct Query {
    client: reqwest::Client,
    url: String,
    parked: Arc<AtomicUsize>,
    tell: Tell,
}

impl Query {
    async fn run(self) -> Result<(), Failed> {
        let mut index = self.ask(0).await?;
        self.parked.fetch_add(1, Ordering::Relaxed);
        loop {
            let newer = self.ask(index).await?;
            if newer > index {
                let (kind, at) = (Kind::Query, Instant::now());
                self.tell.send(Told {
                    kind,
                    index: newer,
                    at,
                })?;
            }
            index = newer;
        }
    }

    async fn ask(&self, index: u64) -> Result<u64, Failed> {
        let url = format!("{}&index={index}", self.url);
        let answer = self.client.get(url).send().await?.error_for_status()?;
        let index = answer.headers().get("x-consul-index");
        let index = index.ok_or("no index")?.to_str()?.parse()?;
        answer.bytes().await?;
        Ok(index)
    }
}
