//! Writers over all servers of a [`Cluster`], those of its beginning or those that its clients learn of, and what they know in the end: what was acknowledged, what failed, what nobody
//! knows. [`Written::must_be_there`] holds the cluster to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::{Client, Error, KeyRange};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{cluster::Cluster, wait};

const WRITERS: usize = 16;
const VALUE_BYTES: usize = 256;
/// How long a number of writes may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Sixteen writers over all servers, each writing keys of its own one after the other.
#[derive(Debug)]
pub struct Load {
    runtime: Runtime,
    writers: Vec<JoinHandle<Written>>,
    acknowledged: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Writers that never rest.
    pub fn start(cluster: &Cluster) -> Self {
        Self::over(cluster, &Written::default(), Duration::ZERO)
    }

    /// The keys go on after those that were written before.
    pub fn start_after(cluster: &Cluster, before: &Written) -> Self {
        Self::over(cluster, before, Duration::ZERO)
    }

    /// Writers that rest so long between a write's end and the next.
    pub fn start_paced(cluster: &Cluster, rest: Duration) -> Self {
        Self::over(cluster, &Written::default(), rest)
    }

    /// Writers that are named these servers and follow the members of their cluster; every other one numbers its writes.
    /// The keys go on after those that were written before.
    pub fn following(seeds: &str, before: &Written) -> Self {
        let ways = |writer: usize| {
            let client = following(seeds, writer % 2 == 1);
            Ways::Following(Following {
                known: client.servers(),
                numbered: writer % 2 == 1,
                client,
            })
        };
        Self::begin(ways, before, Duration::ZERO)
    }

    fn over(cluster: &Cluster, before: &Written, rest: Duration) -> Self {
        let ways = |writer: usize| {
            let servers: Vec<_> = cluster.running().collect();
            let home = cluster.grpc(servers[writer % servers.len()]).to_string();
            Ways::Home {
                home: Client::builder(&home)
                    .wait_for_server(false)
                    .build()
                    .expect("a client of an address"),
                any: Client::builder(&cluster.grpc_of_all(writer))
                    .build()
                    .expect("a client of addresses"),
            }
        };
        Self::begin(ways, before, rest)
    }

    fn begin(ways: impl Fn(usize) -> Ways, before: &Written, rest: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (acknowledged, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let from = before.next;
        let writers = (0..WRITERS).map(|writer| {
            let _inside = runtime.enter();
            let keys = (writer, from);
            runtime.spawn(write(
                ways(writer),
                keys,
                rest,
                acknowledged.clone(),
                over.clone(),
            ))
        });
        let writers = writers.collect();
        Self {
            runtime,
            writers,
            acknowledged,
            over,
        }
    }

    /// Waits until so many more writes are acknowledged, and says how many that were each second.
    pub fn await_more(&self, more: u64) -> f64 {
        let (began, before) = (Instant::now(), self.acknowledged.load(Ordering::Acquire));
        wait::until_true("the writers get on", PATIENCE, || {
            self.acknowledged.load(Ordering::Acquire) >= before + more
        });
        let done = self.acknowledged.load(Ordering::Acquire) - before;
        f64::from(u32::try_from(done).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64()
    }

    /// Ends the writers, each after the write that it is at.
    pub fn end(self) -> Written {
        self.over.store(true, Ordering::Release);
        let mut all = Written::default();
        for writer in self.writers {
            all.extend(self.runtime.block_on(writer).expect("a writer ends"));
        }
        all.acknowledgements.sort_unstable();
        all
    }
}

/// The ways of a writer.
#[derive(Debug)]
enum Ways {
    /// To its own server, or to any of them when that one is away.
    Home { home: Client, any: Client },
    /// To the servers of the cluster as they come and go.
    Following(Following),
}

#[derive(Debug)]
struct Following {
    client: Client,
    /// The servers that it was begun with.
    known: Vec<String>,
    numbered: bool,
}

fn following(servers: &str, numbered: bool) -> Client {
    let builder = Client::builder(servers)
        .follow_members(true)
        .exactly_once(numbered);
    builder.build().expect("a client of addresses")
}

impl Ways {
    async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), Error> {
        let put = match self {
            Self::Home { home, any } => match home.kv.put(key.clone(), value.clone()).await {
                Err(Error::Unreachable(_)) => any.kv.put(key, value).await,
                put => put,
            },
            Self::Following(following) => {
                let servers = following.client.servers();
                if servers != following.known {
                    // As a program that starts now would: it begins at any of them.
                    following.client = self::following(&servers.join(","), following.numbered);
                    following.known = servers;
                }
                following.client.kv.put(key, value).await
            }
        };
        put.map(drop)
    }
}

async fn write(
    mut ways: Ways,
    (writer, from): (usize, u64),
    rest: Duration,
    acknowledged: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Written {
    let mut written = Written::default();
    let value = vec![b'v'; VALUE_BYTES];
    for number in from.. {
        if over.load(Ordering::Acquire) {
            written.next = number;
            break;
        }
        let key = format!("load/{writer}/{number}");
        let began = Instant::now();
        match ways.put(key.clone(), value.clone()).await {
            Ok(()) => {
                let now = Instant::now();
                written.acknowledgements.push(now);
                written.latencies.push(now - began);
                written.acknowledged.insert(key);
                acknowledged.fetch_add(1, Ordering::AcqRel);
            }
            Err(Error::Unknown(why)) => {
                *written.reasons.entry(why.to_string()).or_default() += 1;
                written.unknown.insert(key);
            }
            Err(_) => {
                written.failed.insert(key);
            }
        }
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
    written
}

/// What the writers know.
#[derive(Debug, Default)]
pub struct Written {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
    failed: BTreeSet<String>,
    acknowledgements: Vec<Instant>,
    latencies: Vec<Duration>,
    /// Why outcomes are unknown, and how often.
    reasons: BTreeMap<String, u64>,
    next: u64,
}

impl Written {
    /// Adds what other writers know, or the same ones later.
    pub fn extend(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.failed.extend(other.failed);
        self.acknowledgements.extend(other.acknowledgements);
        self.latencies.extend(other.latencies);
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.next = self.next.max(other.next);
    }

    /// The longest time without an acknowledgement that touches this one.
    pub fn gap(&self, from: Instant, to: Instant) -> f64 {
        let around = self.acknowledgements.windows(2);
        let gaps = around.filter(|pair| pair[1] >= from && pair[0] <= to);
        let longest = gaps.map(|pair| pair[1] - pair[0]).max();
        longest.unwrap_or_default().as_secs_f64()
    }

    /// How long acknowledged writes took, in milliseconds: the median, 99 of 100, and the longest.
    pub fn latencies_ms(&self) -> [f64; 3] {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3;
        [at(last / 2), at(last * 99 / 100), at(last)]
    }

    /// On each server, by linearizable and by stale read: all that was acknowledged, nothing that failed.
    ///
    /// # Panics
    /// If it is not so.
    pub fn must_be_there(&self, cluster: &Cluster) {
        let runtime = Runtime::new().expect("a runtime");
        for at in cluster.running() {
            let _inside = runtime.enter();
            let client = Client::connect(&cluster.grpc(at).to_string()).expect("a client of an address");
            // The linearizable read first: it makes the server catch up.
            for (mode, client) in [("linearizable", client.clone()), ("stale", client.stale())] {
                let there = runtime
                    .block_on(client.kv.keys(KeyRange::Prefix("load/".into())))
                    .expect("a server that is ready answers");
                let there: BTreeSet<_> = there
                    .into_iter()
                    .map(|row| String::from_utf8_lossy(&row.key).into_owned())
                    .collect();
                let lost: Vec<_> = self.acknowledged.difference(&there).take(5).collect();
                let risen: Vec<_> = self.failed.intersection(&there).take(5).collect();
                let whence: Vec<_> = there
                    .iter()
                    .filter(|key| !self.acknowledged.contains(*key) && !self.unknown.contains(*key))
                    .take(5)
                    .collect();
                let who = format!("{}, {mode} read", cluster.name(at));
                assert!(lost.is_empty(), "{who}: acknowledged and lost: {lost:?}");
                assert!(risen.is_empty(), "{who}: failed and there: {risen:?}");
                assert!(whence.is_empty(), "{who}: never written: {whence:?}");
            }
        }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes acknowledged, {} of unknown outcome, {} failed",
            self.acknowledged.len(),
            self.unknown.len(),
            self.failed.len()
        )?;
        if !self.reasons.is_empty() {
            write!(f, " (unknown: {:?})", self.reasons)?;
        }
        Ok(())
    }
}

/// Figures as least, median and greatest.
#[derive(Clone, Debug)]
pub struct Spread(pub Vec<f64>);

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut figures = self.0.clone();
        figures.sort_by(f64::total_cmp);
        let median = figures[figures.len() / 2];
        let (least, greatest) = (figures[0], figures[figures.len() - 1]);
        write!(
            f,
            "{least:.3} / {median:.3} / {greatest:.3} (min/median/max of {})",
            figures.len()
        )
    }
}
