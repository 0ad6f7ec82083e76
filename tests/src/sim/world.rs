//! The other [`World`]: turmoil's network and time, a disk that loses what was not flushed, chance from the seed.
//!
//! A [`Machine`] is what outlives the lives of one node: its disk, its checkpoints, its clocks, and how fast its disk is.
//! The log's driver is a task here, so that between a write and its flush there is simulated time in which the power can
//! fail.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use spine_core::WallTime;
use spine_node::World;
use spine_node::storage::log::{LogError, LogStore};
use spine_node::storage::memory::MemoryEngine;
use spine_node::storage::segment::{Driver, Opened};
use spine_node::world::RaftHome;
use spine_node::world::clock::Clock;
use spine_node::world::net::{Listener, Net, Stream};
use spine_tests::disk::{Rng, SimDisk, Unlocked};
use tokio::sync::Notify;
use tokio::time::timeout;
use turmoil::net::{TcpListener, TcpStream};

/// A driver at leisure confirms its last group after this long.
const CONFIRM_AFTER: Duration = Duration::from_millis(50);
/// What the wall clocks show when a simulation begins: the year 2026.
const EPOCH_MS: i64 = 1_790_000_000_000;

/// What outlives a node's lives.
pub(crate) struct Machine {
    disk: Mutex<SimDisk>,
    engine: MemoryEngine,
    clock: Arc<SimClock>,
    pace: Arc<Pace>,
    chance: Arc<SharedRng>,
    /// The log of the present life, for those who look into it.
    log: Mutex<Option<Arc<dyn LogStore>>>,
    votes: Arc<Mutex<Votes>>,
}

/// What is known of a node's vote, over all its lives.
#[derive(Debug, Default)]
struct Votes {
    /// The one that was flushed last.
    flushed: Option<Bytes>,
    /// The one that is being flushed, which a crash may leave or take.
    in_flight: Option<Bytes>,
    /// A life that found another one.
    lost: Option<String>,
}

impl Votes {
    /// A life begins with this vote.
    fn found(&mut self, vote: Option<Bytes>) {
        if vote != self.flushed && vote != self.in_flight {
            self.lost = Some(format!("it voted {:?}, and finds {vote:?}", self.flushed));
        }
        self.flushed.clone_from(&vote);
        self.in_flight = vote;
    }
}

impl Machine {
    /// A machine with an empty disk, all of whose chance follows from `seed`.
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let ahead = Duration::from_millis(rng.below(1 << 40));
        let wall_error_ms = i64::try_from(rng.below(2_000)).expect("below 2000") - 1_000;
        let clock = SimClock {
            ahead,
            wall_ms: AtomicI64::new(EPOCH_MS + wall_error_ms),
        };
        Arc::new(Self {
            disk: Mutex::default(),
            engine: MemoryEngine::new(),
            clock: Arc::new(clock),
            pace: Arc::new(Pace {
                slow: AtomicBool::new(false),
                rng: SharedRng::new(rng.next_u64()),
            }),
            chance: Arc::new(SharedRng::new(rng.next_u64())),
            log: Mutex::default(),
            votes: Arc::default(),
        })
    }

    /// The votes that it may have cast last.
    pub(crate) fn votes(&self) -> Vec<Bytes> {
        let submitted = self.log().and_then(|log| log.state().vote);
        let votes = locked(&self.votes);
        let known = [submitted, votes.flushed.clone(), votes.in_flight.clone()];
        known.into_iter().flatten().collect()
    }

    /// Whether a life found another vote than the one before it had cast, and which.
    pub(crate) fn lost_vote(&self) -> Option<String> {
        locked(&self.votes).lost.clone()
    }

    /// The world for the next life.
    pub(crate) fn world(self: &Arc<Self>) -> World {
        let (engine, machine) = (self.engine.clone(), Arc::clone(self));
        World {
            clock: self.clock.clone(),
            net: Arc::new(SimNet),
            rng: self.chance.clone(),
            files: Arc::new(self.disk()),
            run_log: Arc::new(move |opened| machine.run_log(opened)),
            locks: Arc::new(Unlocked),
            engine: Arc::new(move |_| Ok(Arc::new(engine.clone()))),
            raft_home: RaftHome::Here,
        }
    }

    /// The disk of the present life.
    pub(crate) fn disk(&self) -> SimDisk {
        locked(&self.disk).clone()
    }

    /// The log of the present life.
    pub(crate) fn log(&self) -> Option<Arc<dyn LogStore>> {
        locked(&self.log).clone()
    }

    /// Cuts the power. The life must be ended before anything else happens; the next one finds what was durable, and
    /// what of the rest `rng` leaves. Says whether anything was lost.
    pub(crate) fn cut_power(&self, rng: &mut Rng) -> bool {
        let mut disk = locked(&self.disk);
        let (found, lost) = disk.crashed(rng);
        disk.cut_power();
        *disk = found;
        self.engine.crash();
        locked(&self.log).take();
        lost
    }

    /// Lets the disk take its time, or be quick again.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.pace.slow.store(slow, Ordering::Relaxed);
    }

    /// Lets the wall clock jump.
    pub(crate) fn jump_wall(&self, by_ms: i64) {
        self.clock.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn run_log(&self, opened: Opened) -> Result<Arc<dyn LogStore>, LogError> {
        let work = Arc::new(Notify::new());
        let wake = Arc::clone(&work);
        let (log, driver) = opened.driven(Arc::new(move || wake.notify_one()))?;
        let log: Arc<dyn LogStore> = Arc::new(log);
        locked(&self.votes).found(log.state().vote);
        let driving = Driving {
            driver,
            log: Arc::downgrade(&log),
            votes: Arc::clone(&self.votes),
            pace: Arc::clone(&self.pace),
        };
        tokio::spawn(driving.run(work));
        *locked(&self.log) = Some(Arc::clone(&log));
        Ok(log)
    }
}

/// The log's thread, as a task: it ends with the runtime of its life, or with the log.
struct Driving {
    driver: Driver,
    log: Weak<dyn LogStore>,
    votes: Arc<Mutex<Votes>>,
    pace: Arc<Pace>,
}

impl Driving {
    async fn run(mut self, work: Arc<Notify>) {
        loop {
            // Everybody whom a failure concerns has been told.
            let Ok(wrote) = self.write_and_flush().await else {
                return;
            };
            if !wrote && timeout(CONFIRM_AFTER, work.notified()).await.is_err() {
                if self.driver.confirm().is_err() {
                    return;
                }
                work.notified().await;
            }
            self.driver.housekeep();
        }
    }

    /// Writes what is queued, lets the disk take its time, and flushes. Whether there was anything.
    async fn write_and_flush(&mut self) -> Result<bool, LogError> {
        let submitted = self.log.upgrade().and_then(|log| log.state().vote);
        if !self.driver.write()? {
            return Ok(false);
        }
        // All that was submitted is in this group: groups are much longer than what waits here.
        locked(&self.votes).in_flight.clone_from(&submitted);
        tokio::time::sleep(self.pace.flush_takes()).await;
        self.driver.flush()?;
        locked(&self.votes).flushed = submitted;
        Ok(true)
    }
}

/// How long flushes take.
#[derive(Debug)]
struct Pace {
    slow: AtomicBool,
    rng: SharedRng,
}

impl Pace {
    /// Mostly a few milliseconds, sometimes much longer, and on a slow disk mostly much longer.
    fn flush_takes(&self) -> Duration {
        let slow = self.slow.load(Ordering::Relaxed);
        let ms = self.rng.with(|rng| match rng.below(100) {
            0 => 20 + rng.below(100),
            _ if slow => 10 + rng.below(300),
            1..30 => rng.below(2),
            _ => 1 + rng.below(8),
        });
        Duration::from_millis(ms)
    }
}

/// A machine's clocks: the monotonic one began at another moment than everybody else's, the one on the wall is wrong.
#[derive(Debug)]
struct SimClock {
    ahead: Duration,
    wall_ms: AtomicI64,
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.ahead + now()
    }

    fn wall(&self) -> WallTime {
        let passed = i64::try_from(now().as_millis()).unwrap_or(i64::MAX);
        let wall = self.wall_ms.load(Ordering::Relaxed).saturating_add(passed);
        WallTime(u64::try_from(wall).unwrap_or(0))
    }
}

/// Simulated time since the beginning. Only simulated hosts have one.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Chance from the seed, for those who share it.
pub(crate) struct SharedRng(Mutex<Rng>);

impl SharedRng {
    /// Chance that follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::new(seed)))
    }

    /// Draws.
    pub(crate) fn with<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut locked(&self.0))
    }
}

impl fmt::Debug for SharedRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRng")
    }
}

impl spine_node::world::rng::Rng for SharedRng {
    fn bits(&self) -> u64 {
        self.with(Rng::next_u64)
    }
}

/// The network of a simulated host.
#[derive(Debug)]
struct SimNet;

#[async_trait]
impl Net for SimNet {
    async fn listen(&self, address: SocketAddr) -> io::Result<Arc<dyn Listener>> {
        let listener = TcpListener::bind(address).await?;
        Ok(Arc::new(SimListener(listener)))
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(address).await?))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
    }
}

struct SimListener(TcpListener);

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimListener")
    }
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((Box::new(stream), from))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The lock's content: the simulation has one thread, and a panic ends it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
