//! The load: keys put by many writers, and a fleet of instances that report that they are well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::{Client, KeyRange, Registration, proto};
use tokio::task::JoinSet;

use crate::Done;

/// Connections that the writers share: one alone would measure its own ceiling.
const CONNECTIONS: usize = 8;
/// Longer than a heartbeat's period, so that a healthy fleet stays passing.
const CHECK_TTL: Duration = Duration::from_secs(30);

/// What a load came to.
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    /// Of each call, in order of length.
    latencies: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(seconds: f64, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self { seconds, latencies }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.latencies.is_empty()
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
    pub(crate) fn count(&self) -> f64 {
        self.latencies.len() as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.count() / self.seconds
    }

    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies
            .get(place)
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Keys to put.
pub(crate) struct Keys {
    pub(crate) count: usize,
    pub(crate) value_bytes: usize,
    pub(crate) writers: usize,
}

impl Keys {
    /// Puts every key once.
    pub(crate) async fn load(&self, address: &str) -> Done<Figures> {
        let value = vec![b'v'; self.value_bytes];
        run(
            address,
            self.writers,
            self.count,
            Duration::ZERO,
            move |client, number| {
                let value = value.clone();
                async move { client.kv.put(format!("bench/{number:08}"), value).await.map(drop) }
            },
        )
        .await
    }

    /// How many of them are there.
    pub(crate) async fn count(&self, address: &str) -> Done<u64> {
        Ok(Client::connect(address)?
            .kv
            .count(KeyRange::Prefix("bench/".into()))
            .await?)
    }
}

/// Instances with a TTL check each.
#[derive(Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) size: usize,
    pub(crate) writers: usize,
}

impl Fleet {
    /// Registers every instance.
    pub(crate) async fn register(self, address: &str) -> Done<Figures> {
        run(
            address,
            self.writers,
            self.size,
            Duration::ZERO,
            |client, number| async move {
                let service = format!("service-{}", number % 100);
                let registration = Registration::new(&service, "127.0.0.1", 8080)
                    .id(&format!("instance-{number}"))
                    .version("v1")
                    .ttl_check(CHECK_TTL);
                client.catalog.register(registration).await.map(drop)
            },
        )
        .await
    }

    /// Each instance reports once in a period, spread evenly, for so long.
    pub(crate) async fn heartbeat(self, address: &str, period: u64, seconds: u64) -> Done<Figures> {
        let beats = self.size * usize::try_from(seconds)? / usize::try_from(period)?;
        let step = Duration::from_secs(seconds).div_f64(f64::from(u32::try_from(beats)?));
        let size = self.size;
        run(
            address,
            self.writers,
            beats,
            step,
            move |client, beat| async move {
                let check = format!("service:instance-{}", beat % size);
                client
                    .health
                    .report(&check, proto::Status::Passing, "")
                    .await
                    .map(drop)
            },
        )
        .await
    }
}

/// Calls `work` for each number below `count`, one each `step`, by so many writers at once.
async fn run<W, F>(address: &str, writers: usize, count: usize, step: Duration, work: W) -> Done<Figures>
where
    W: Fn(Client, usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = spine_client::Result<()>> + Send,
{
    let clients = (0..CONNECTIONS)
        .map(|_| Client::connect(address))
        .collect::<Result<Vec<_>, _>>()?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (client, next, work) = (clients[writer % CONNECTIONS].clone(), next.clone(), work.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, spine_client::Error>(latencies);
                }
                tokio::time::sleep_until(
                    began + step.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)),
                )
                .await;
                let sent = Instant::now();
                work(client.clone(), number).await?;
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        latencies.append(&mut done??);
    }
    Ok(Figures::new(began.elapsed().as_secs_f64(), latencies))
}
