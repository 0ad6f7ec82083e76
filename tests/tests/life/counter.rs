//! Counters that many clients count up while three servers lose their leader again and again: each ends at exactly what
//! was acknowledged and some of what was reported as unknown.
//!
//! An increment reads the counter and stores the next number if nobody else did meanwhile, by check-and-set or by a
//! transaction. Half of the clients number their writes, so that what got no answer is sent again: had it been applied and
//! were applied a second time, or were refused the second time, its client would count wrong.
//!
//! `SPINE_KILLS` says how often a leader is lost, in each of the ways.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::{Client, Compare, Error, Guard, Op, proto::PutOutcome};
use spine_tests::{cluster::Cluster, namespace::sealed, wait};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{PATIENCE, times};

/// How often each way, unless it is said.
const LOSSES: usize = 4;
/// Clients that count on the same counter.
const CLIENTS: usize = 4;
/// Increments before and after each loss, of all counters together.
const BETWEEN: u64 = 300;
/// What a call may take: longer than a leader is ever away.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn counters_are_exact_while_leaders_are_killed() {
    sealed("counter::counters_are_exact_while_leaders_are_killed", || {
        exact_while("killed", |cluster, leader, counting| {
            cluster.kill(leader);
            counting.await_more(BETWEEN);
            cluster.spawn(leader);
        });
    });
}

/// The old leader still has its clients, and what it had proposed, when it finds that another leads.
#[test]
fn counters_are_exact_while_leaders_are_paused() {
    sealed("counter::counters_are_exact_while_leaders_are_paused", || {
        exact_while("paused", |cluster, leader, counting| {
            cluster.pause(leader);
            cluster.await_leader_beside(leader);
            counting.await_more(BETWEEN);
            cluster.resume(leader);
        });
    });
}

#[test]
fn counters_are_exact_while_leaders_are_asked_to_stop() {
    sealed(
        "counter::counters_are_exact_while_leaders_are_asked_to_stop",
        || {
            exact_while("asked to stop", |cluster, leader, counting| {
                cluster.ask_to_stop(leader);
                cluster.await_stopped(leader);
                counting.await_more(BETWEEN);
                cluster.spawn(leader);
            });
        },
    );
}

/// Counts while leaders are lost and come back.
fn exact_while(how: &str, lose: impl Fn(&mut Cluster, usize, &Counting)) {
    let place = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(place.path());
    let counting = Counting::begin(&cluster);
    let losses = times("SPINE_KILLS", LOSSES);
    for _ in 0..losses {
        counting.await_more(BETWEEN);
        let leader = cluster.leader();
        lose(&mut cluster, leader, &counting);
        cluster.await_ready(leader);
    }
    counting.await_more(BETWEEN);
    println!("leaders {how} {losses} times, {CLIENTS} clients for each counter");
    for counted in counting.end(&cluster) {
        println!("{counted}");
        counted.must_be_exact();
    }
}

/// How a client counts.
#[derive(Clone, Copy, Debug)]
struct How {
    /// By a transaction, not by check-and-set.
    transaction: bool,
    numbered: bool,
}

impl How {
    fn all() -> impl Iterator<Item = Self> {
        let ways = [false, true].into_iter();
        ways.flat_map(|numbered| {
            [false, true].map(|transaction| Self {
                transaction,
                numbered,
            })
        })
    }

    fn key(self) -> String {
        format!("counters/{self}")
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbered = if self.numbered { "numbered" } else { "plain" };
        let write = if self.transaction {
            "transaction"
        } else {
            "check-and-set"
        };
        write!(f, "{numbered} {write}")
    }
}

/// Clients at work.
struct Counting {
    runtime: Runtime,
    clients: Vec<(How, JoinHandle<Tally>)>,
    acknowledged: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// What clients know of their increments.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    unknown: u64,
    failed: u64,
    longest: Duration,
}

impl Counting {
    fn begin(cluster: &Cluster) -> Self {
        let runtime = Runtime::new().unwrap();
        let (acknowledged, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let clients = How::all().flat_map(|how| (0..CLIENTS).map(move |number| (how, number)));
        let clients = clients.map(|(how, number)| {
            let _inside = runtime.enter();
            let builder = Client::builder(&cluster.grpc_of_all(number));
            let client = builder
                .deadline(DEADLINE)
                .exactly_once(how.numbered)
                .build()
                .unwrap();
            let counting = count(client, how, acknowledged.clone(), over.clone());
            (how, runtime.spawn(counting))
        });
        let clients = clients.collect();
        Self {
            runtime,
            clients,
            acknowledged,
            over,
        }
    }

    /// Waits until so many more increments are acknowledged.
    fn await_more(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Acquire) + more;
        wait::until_true("the counters get on", PATIENCE, || {
            self.acknowledged.load(Ordering::Acquire) >= goal
        });
    }

    /// Ends the clients, each after the increment that it is at, and reads the counters.
    fn end(self, cluster: &Cluster) -> Vec<Counted> {
        self.over.store(true, Ordering::Release);
        let mut counted: Vec<Counted> = How::all().map(Counted::new).collect();
        let _inside = self.runtime.enter();
        let reader = Client::connect(&cluster.grpc_of_all(0)).unwrap().within(DEADLINE);
        self.runtime.block_on(async {
            for (how, client) in self.clients {
                let tally = client.await.unwrap();
                let counter = counted.iter_mut().find(|counter| counter.how.key() == how.key());
                counter.unwrap().tally.add(&tally);
            }
            for counter in &mut counted {
                counter.value = read(&reader, counter.how).await.unwrap().0;
            }
        });
        counted
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.longest = self.longest.max(other.longest);
    }
}

/// A counter in the end.
struct Counted {
    how: How,
    value: u64,
    tally: Tally,
}

impl Counted {
    fn new(how: How) -> Self {
        Self {
            how,
            value: 0,
            tally: Tally::default(),
        }
    }

    fn must_be_exact(&self) {
        let Tally {
            acknowledged,
            unknown,
            ..
        } = self.tally;
        let possible = acknowledged..=acknowledged + unknown;
        assert!(possible.contains(&self.value), "{self}");
        assert!(acknowledged > 0, "nothing was counted: {self}");
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, value, tally } = self;
        let Tally {
            acknowledged,
            unknown,
            failed,
            longest,
        } = tally;
        let how = how.to_string();
        let applied = i128::from(*value) - i128::from(*acknowledged);
        write!(
            f,
            "{how:24} ends at {value:6}: {acknowledged:6} acknowledged, {unknown:3} unknown of which {applied:3} count, {failed} \
             failed; longest {:.2} s",
            longest.as_secs_f64()
        )
    }
}

/// Counts up until it is over.
async fn count(client: Client, how: How, acknowledged: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    while !over.load(Ordering::Acquire) {
        let began = Instant::now();
        // Reading may fail and is tried again.
        let Ok((before, index)) = read(&client, how).await else {
            continue;
        };
        match increment(&client, how, before, index).await {
            Ok(true) => {
                tally.acknowledged += 1;
                tally.longest = tally.longest.max(began.elapsed());
                acknowledged.fetch_add(1, Ordering::AcqRel);
            }
            // Another client was faster.
            Ok(false) => {}
            Err(Error::Unknown(_)) => tally.unknown += 1,
            Err(_) => tally.failed += 1,
        }
    }
    tally
}

/// The counter, and when it was changed last; 0: it is not there.
async fn read(client: &Client, how: How) -> Result<(u64, u64), Error> {
    let row = client.kv.get(how.key()).await?;
    Ok(row.map_or((0, 0), |row| {
        let text = std::str::from_utf8(&row.value).unwrap();
        (text.parse().unwrap(), row.modify_index)
    }))
}

/// Stores the number that follows; whether nobody else did meanwhile.
async fn increment(client: &Client, how: How, before: u64, index: u64) -> Result<bool, Error> {
    let (key, next) = (how.key(), (before + 1).to_string());
    if how.transaction {
        let unchanged = match index {
            0 => Compare::absent(key.clone()),
            index => Compare::modify_index(key.clone(), index),
        };
        let txn = client.kv.txn().when(unchanged).then(Op::put(key, next));
        return Ok(txn.commit().await?.held);
    }
    let guard = match index {
        0 => Guard::Absent,
        index => Guard::ModifyIndex(index),
    };
    let put = client.kv.put_if(key, next, guard).await?;
    Ok(put.outcome() == PutOutcome::Written)
}
