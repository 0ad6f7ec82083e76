//! Three servers under load while their leader is killed, asked to stop, or all lose their power at once: what was
//! acknowledged is there on each of them, and writes go on after a pause that is measured.
//!
//! `SPINE_KILLS` says how often the leader is killed; the figures of a debug build on a busy machine say little.
//! Needs root: run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "its figures are part of what it shows")]

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use spine_tests::{
    cluster::{Cluster, SERVERS},
    ext4::Ext4,
    namespace::sealed,
    wait,
    writers::{Load, Spread, Written},
};

const KILLS: usize = 4;
const CUTS: usize = 3;
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
