//! Three servers under load while their leader is killed, asked to stop, or all lose their power at once: what was
//! acknowledged is there on each of them, and writes go on after a pause that is measured.
//!
//! `SPINE_KILLS` says how often the leader is killed; the figures of a debug build on a busy machine say little.
//! Needs root: run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "its figures are part of what it shows")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use spine_client::{Client, Error, KeyRange};
use spine_tests::{
    cluster::{Cluster, SERVERS},
    ext4::Ext4,
    namespace::sealed,
    wait,
};
use tokio::{runtime::Runtime, task::JoinHandle};

const WRITERS: usize = 16;
const KILLS: usize = 4;
const CUTS: usize = 3;
const VALUE_BYTES: usize = 256;
/// Writes between two faults.
const BETWEEN: u64 = 1_000;
/// A power cut counts only if more than 2 MB of log were written since the last one.
const BETWEEN_CUTS: u64 = 8_000;
const PATIENCE: Duration = Duration::from_mins(2);

#[test]
fn kills_of_the_leader_lose_nothing() {
    sealed("kills_of_the_leader_lose_nothing", || {
        let place = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(place.path());
        let load = Load::start(&cluster);
        let (mut gaps, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..times("SPINE_KILLS", KILLS) {
            rates.push(load.await_more(BETWEEN));
            let leader = cluster.leader();
            let killed = Instant::now();
            cluster.kill(leader);
            load.await_more(BETWEEN);
            gaps.push((killed, Instant::now()));
            cluster.spawn(leader);
            cluster.await_ready(leader);
        }
        let written = load.end();
        let gaps = gaps.into_iter().map(|(from, to)| written.gap(from, to)).collect();
        println!(
            "{written}; acknowledged each second between kills: {}",
            Spread(rates)
        );
        println!("write gap of a killed leader, s: {}", Spread(gaps));
        written.must_be_there(&cluster);
    });
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over() {
    sealed("a_leader_that_is_asked_to_stop_hands_over", || {
        let place = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(place.path());
        let load = Load::start(&cluster);
        let mut gaps = Vec::new();
        for _ in 0..times("SPINE_KILLS", KILLS) {
            load.await_more(BETWEEN);
            let leader = cluster.leader();
            let asked = Instant::now();
            cluster.ask_to_stop(leader);
            let status = cluster.await_stopped(leader);
            assert!(status.success(), "{status}:\n{}", cluster.said(leader));
            load.await_more(BETWEEN);
            gaps.push((asked, Instant::now()));
            cluster.spawn(leader);
            cluster.await_ready(leader);
        }
        let written = load.end();
        let gaps = gaps.into_iter().map(|(from, to)| written.gap(from, to)).collect();
        println!("{written}; write gap of a planned handover, s: {}", Spread(gaps));
        written.must_be_there(&cluster);
    });
}

#[test]
fn all_killed_at_once_lose_nothing() {
    sealed("all_killed_at_once_lose_nothing", || {
        let place = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(place.path());
        let mut all = Written::default();
        for _ in 0..CUTS {
            let load = Load::start_after(&cluster, &all);
            load.await_more(BETWEEN);
            (0..SERVERS).for_each(|at| cluster.kill(at));
            all.extend(load.end());
            cluster.start_all();
            all.must_be_there(&cluster);
        }
        println!("kill -9 of all: {all}");
    });
}

#[test]
fn power_cuts_of_all_lose_nothing() {
    sealed("power_cuts_of_all_lose_nothing", || {
        let place = tempfile::tempdir().unwrap();
        let disks = ["d1", "d2", "d3"].map(|name| {
            let place = place.path().join(name);
            fs::create_dir(&place).unwrap();
            let disk = Ext4::new(&place, 2 << 30);
            disk.mount();
            disk
        });
        let data = disks.each_ref().map(|disk| disk.path().join("data"));
        let mut cluster = Cluster::new(data, place.path());
        let mut all = Written::default();
        for _ in 0..times("SPINE_CUTS", CUTS) {
            cluster.start_all();
            all.must_be_there(&cluster);
            let load = Load::start_after(&cluster, &all);
            load.await_more(BETWEEN_CUTS);
            disks.iter().for_each(Ext4::cut_power);
            (0..SERVERS).for_each(|at| cluster.kill(at));
            all.extend(load.end());
            for disk in &disks {
                disk.unmount();
                disk.mount();
            }
        }
        cluster.start_all();
        all.must_be_there(&cluster);
        println!("power cut of all: {all}");
        drop(cluster);
        disks.iter().for_each(Ext4::unmount);
    });
}

/// A service outlives the server that took its registration, and goes on being probed.
#[test]
fn a_service_outlives_the_server_that_took_it() {
    sealed("a_service_outlives_the_server_that_took_it", || {
        let place = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(place.path());
        let leader = cluster.leader();
        // A follower first, then the leader.
        for taker in [(leader + 1) % SERVERS, leader] {
            outlives(&mut cluster, taker);
            cluster.spawn(taker);
            cluster.await_ready(taker);
        }
    });
}

fn outlives(cluster: &mut Cluster, taker: usize) {
    let service = Probed::start();
    let id = format!("kiosk-{taker}");
    service.register(cluster, taker, &id);
    let others: Vec<_> = (0..SERVERS).filter(|at| *at != taker).collect();
    let passing = |cluster: &Cluster, at: usize| is_passing(cluster, at, &id);
    for at in &others {
        wait::until_true("the service passes everywhere", PATIENCE, || {
            passing(cluster, *at)
        });
    }
    let probes = service.probes();
    let killed = Instant::now();
    cluster.kill(taker);
    let (mut seen, mut probed) = (0, None);
    while killed.elapsed() < Duration::from_secs(8) {
        for at in &others {
            match is_passing_stale(cluster, *at, &id) {
                Some(true) => seen += 1,
                Some(false) => panic!(
                    "{id} left the passing view of n{} after {:?}",
                    at + 1,
                    killed.elapsed()
                ),
                None => {}
            }
        }
        if probed.is_none() && service.probes() > probes + 1 {
            probed = Some(killed.elapsed());
        }
    }
    println!("{id}: seen passing {seen} times without a break; probed twice {probed:?} after the kill");
    assert!(seen > 50, "the others answer: {seen}");
    assert!(
        probed.is_some_and(|after| after < Duration::from_secs(4)),
        "{probed:?}"
    );
    let stopped = Instant::now();
    drop(service);
    let at = others[0];
    wait::until_true("the stopped service is critical", PATIENCE, || {
        is_passing_stale(cluster, at, &id) == Some(false)
    });
    println!(
        "{id}: out of the passing view {:?} after it stopped",
        stopped.elapsed()
    );
    assert!(stopped.elapsed() < Duration::from_secs(8));
}

/// A service that counts who asks whether it is well, each second.
struct Probed {
    address: std::net::SocketAddr,
    asked: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Probed {
    fn start() -> Self {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (asked.clone(), over.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                count.fetch_add(1, Ordering::AcqRel);
                let _ = stream.read(&mut [0; 1024]);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            }
        });
        Self {
            address,
            asked,
            over,
            thread: Some(thread),
        }
    }

    fn probes(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    fn register(&self, cluster: &Cluster, at: usize, id: &str) {
        let body = serde_json::json!({
            "Name": "kiosk", "ID": id, "Address": "127.0.0.1", "Port": self.address.port(),
            "Check": {"HTTP": format!("http://{}/health", self.address), "Interval": "1s", "Timeout": "1s"},
        });
        let url = format!("http://{}/v1/agent/service/register", cluster.http(at));
        let answer = reqwest::blocking::Client::new()
            .put(url)
            .body(body.to_string())
            .send()
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = std::net::TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn is_passing(cluster: &Cluster, at: usize, id: &str) -> bool {
    passing(cluster, at, id, "").unwrap_or(false)
}

/// As this server has it, leader or not; `None` if it doesn't answer.
fn is_passing_stale(cluster: &Cluster, at: usize, id: &str) -> Option<bool> {
    passing(cluster, at, id, "&stale")
}

fn passing(cluster: &Cluster, at: usize, id: &str, mode: &str) -> Option<bool> {
    let url = format!(
        "http://{}/v1/health/service/kiosk?passing{mode}",
        cluster.http(at)
    );
    let answer = spine_tests::http::get_json(&url)?;
    let entries = answer.as_array()?;
    Some(entries.iter().any(|entry| entry["Service"]["ID"] == id))
}

fn times(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// Sixteen writers over all servers, each writing keys of its own one after the other.
struct Load {
    runtime: Runtime,
    writers: Vec<JoinHandle<Written>>,
    acknowledged: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        Self::start_after(cluster, &Written::default())
    }

    /// The keys go on after those that were written before.
    fn start_after(cluster: &Cluster, before: &Written) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (acknowledged, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let from = before.next;
        let writers = (0..WRITERS).map(|writer| {
            let _inside = runtime.enter();
            let clients = Clients {
                home: Client::builder(&cluster.grpc(writer % SERVERS).to_string())
                    .wait_for_server(false)
                    .build()
                    .unwrap(),
                any: Client::builder(&cluster.grpc_of_all(writer)).build().unwrap(),
            };
            runtime.spawn(write(clients, writer, from, acknowledged.clone(), over.clone()))
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
    fn await_more(&self, more: u64) -> f64 {
        let (began, before) = (Instant::now(), self.acknowledged.load(Ordering::Acquire));
        wait::until_true("the writers get on", PATIENCE, || {
            self.acknowledged.load(Ordering::Acquire) >= before + more
        });
        let done = self.acknowledged.load(Ordering::Acquire) - before;
        f64::from(u32::try_from(done).unwrap()) / began.elapsed().as_secs_f64()
    }

    fn end(self) -> Written {
        self.over.store(true, Ordering::Release);
        let mut all = Written::default();
        for writer in self.writers {
            all.extend(self.runtime.block_on(writer).unwrap());
        }
        all.acknowledgements.sort_unstable();
        all
    }
}

/// The ways of a writer.
struct Clients {
    /// To its own server.
    home: Client,
    /// To any of them, when that one is away.
    any: Client,
}

async fn write(
    clients: Clients,
    writer: usize,
    from: u64,
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
        let mut put = clients.home.kv.put(key.clone(), value.clone()).await;
        if matches!(put, Err(Error::Unreachable(_))) {
            put = clients.any.kv.put(key.clone(), value.clone()).await;
        }
        match put {
            Ok(_) => {
                written.acknowledgements.push(Instant::now());
                written.acknowledged.insert(key);
                acknowledged.fetch_add(1, Ordering::AcqRel);
            }
            Err(Error::Unknown(why)) => {
                *written.reasons.entry(why).or_default() += 1;
                written.unknown.insert(key);
            }
            Err(_) => {
                written.failed.insert(key);
            }
        }
    }
    written
}

/// What the writers know.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
    failed: BTreeSet<String>,
    acknowledgements: Vec<Instant>,
    /// Why outcomes are unknown, and how often.
    reasons: BTreeMap<String, u64>,
    next: u64,
}

impl Written {
    fn extend(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.failed.extend(other.failed);
        self.acknowledgements.extend(other.acknowledgements);
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.next = self.next.max(other.next);
    }

    /// The longest time without an acknowledgement that touches this one.
    fn gap(&self, from: Instant, to: Instant) -> f64 {
        let around = self.acknowledgements.windows(2);
        let gaps = around.filter(|pair| pair[1] >= from && pair[0] <= to);
        let longest = gaps.map(|pair| pair[1] - pair[0]).max();
        longest.unwrap_or_default().as_secs_f64()
    }

    /// On each server, by linearizable and by stale read: all that was acknowledged, nothing that failed.
    fn must_be_there(&self, cluster: &Cluster) {
        let runtime = Runtime::new().unwrap();
        for at in 0..SERVERS {
            let _inside = runtime.enter();
            let client = Client::connect(&cluster.grpc(at).to_string()).unwrap();
            // The linearizable read first: it makes the server catch up.
            for (mode, client) in [("linearizable", client.clone()), ("stale", client.stale())] {
                let there = runtime
                    .block_on(client.kv.keys(KeyRange::Prefix("load/".into())))
                    .unwrap();
                let there: BTreeSet<_> = there
                    .into_iter()
                    .map(|row| String::from_utf8(row.key.to_vec()).unwrap())
                    .collect();
                let lost: Vec<_> = self.acknowledged.difference(&there).take(5).collect();
                let risen: Vec<_> = self.failed.intersection(&there).take(5).collect();
                let whence: Vec<_> = there
                    .iter()
                    .filter(|key| !self.acknowledged.contains(*key) && !self.unknown.contains(*key))
                    .take(5)
                    .collect();
                let who = format!("n{}, {mode} read", at + 1);
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
struct Spread(Vec<f64>);

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
