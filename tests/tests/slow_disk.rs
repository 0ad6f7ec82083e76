//! Three servers, each with a disk of its own, of which the leader's becomes slow: another server leads then.
//!
//! A disk is slowed down by freezing its file system over and over, each time for a while: whoever writes there waits.
//! Needs root: run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use spine_client::Client;
use spine_tests::{
    cluster::{Cluster, SERVERS},
    ext4::Ext4,
    http,
    namespace::sealed,
    wait,
};
use tokio::runtime::Runtime;

/// How long each freeze lasts: a flush takes so long then, or a part of it.
const FROZEN: Duration = Duration::from_millis(400);
/// Puts that are timed in each phase.
const PUTS: usize = 100;
const PATIENCE: Duration = Duration::from_mins(2);

#[test]
fn a_leader_with_a_slow_disk_steps_aside() {
    sealed("a_leader_with_a_slow_disk_steps_aside", || {
        let place = tempfile::tempdir().unwrap();
        let disks = Disks::mount(place.path());
        let mut cluster = Cluster::new(disks.data(), place.path());
        cluster.start_all();
        let puts = Puts::new(&cluster);
        let before = puts.timed(PUTS);
        let slow = cluster.leader();
        let freezing = Freezing::start(disks.0[slow].path(), FROZEN);
        let (took, during) = puts.until_another_leads(&cluster, slow);
        let after = puts.timed(PUTS);
        await_stepped_aside(&cluster, slow);
        assert_ne!(
            puts.leader_without(&cluster, slow),
            Some(name(slow)),
            "leadership came back"
        );
        drop(freezing);
        println!("slow disk: another server led after {took:.1?}; put, ms (min/median/max):");
        for (phase, took) in [("before", &before), ("meanwhile", &during), ("after", &after)] {
            println!("  {phase:<9} {}", spread(took));
        }
        assert!(median(&after) * 2 < FROZEN, "puts are slow: {}", spread(&after));
        drop((puts, cluster));
    });
}

fn name(at: usize) -> String {
    format!("n{}", at + 1)
}

/// Waits until a server knows that it has given leadership away because of its disk, and says so.
fn await_stepped_aside(cluster: &Cluster, at: usize) {
    wait::until_true("the server knows that another one leads", PATIENCE, || {
        metric(cluster, at, "spine_raft_stepped_aside_total").is_some_and(|times| times >= 1.0)
    });
    assert!(cluster.said(at).contains("because of this one's disk"));
}

/// A file system for each server. Dropped, they are thawed and unmounted.
struct Disks([Ext4; 3]);

impl Disks {
    fn mount(place: &Path) -> Self {
        Self(["d1", "d2", "d3"].map(|name| {
            let place = place.join(name);
            fs::create_dir(&place).unwrap();
            let disk = Ext4::new(&place, 1 << 30);
            disk.mount();
            disk
        }))
    }

    fn data(&self) -> [PathBuf; 3] {
        self.0.each_ref().map(|disk| disk.path().join("data"))
    }
}

/// A frozen file system, until dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(mount: &Path) -> Self {
        assert!(fsfreeze("--freeze", mount), "fsfreeze works for root on ext4");
        Self(mount.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fsfreeze("--unfreeze", &self.0);
    }
}

fn fsfreeze(what: &str, mount: &Path) -> bool {
    Command::new("fsfreeze")
        .arg(what)
        .arg(mount)
        .status()
        .unwrap()
        .success()
}

/// Freezes a file system over and over, until dropped.
struct Freezing {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Freezing {
    fn start(mount: &Path, long: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, mount) = (over.clone(), mount.to_owned());
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let frozen = Frozen::freeze(&mount);
                let began = Instant::now();
                wait::until_true("the freeze is over", PATIENCE, || began.elapsed() >= long);
                drop(frozen);
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Freezing {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One who writes, one put after the other.
struct Puts {
    runtime: Runtime,
    client: Client,
}

impl Puts {
    fn new(cluster: &Cluster) -> Self {
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let client = Client::builder(&cluster.grpc_of_all(0))
            .exactly_once(true)
            .build()
            .unwrap();
        drop(inside);
        Self { runtime, client }
    }

    fn timed(&self, times: usize) -> Vec<Duration> {
        let client = self.client.within(PATIENCE / 2);
        let put = |_| {
            let began = Instant::now();
            self.runtime.block_on(client.kv.put("key", "value")).unwrap();
            began.elapsed()
        };
        (0..times).map(put).collect()
    }

    /// Puts on and on, until another server leads than `at`: after how long, and what the puts took.
    fn until_another_leads(&self, cluster: &Cluster, at: usize) -> (Duration, Vec<Duration>) {
        let (began, mut took) = (Instant::now(), Vec::new());
        while self
            .leader_without(cluster, at)
            .is_none_or(|leader| leader == name(at))
        {
            assert!(began.elapsed() < PATIENCE, "{} leads still", name(at));
            took.extend(self.timed(1));
        }
        (began.elapsed(), took)
    }

    /// Who leads, as a server other than `at` says: that one may be the last to know.
    fn leader_without(&self, cluster: &Cluster, at: usize) -> Option<String> {
        let inside = self.runtime.enter();
        let asked = Client::connect(&cluster.grpc((at + 1) % SERVERS).to_string()).unwrap();
        drop(inside);
        let status = self.runtime.block_on(asked.members.server_status()).unwrap();
        Some(status.leader).filter(|leader| !leader.is_empty())
    }
}

fn median(took: &[Duration]) -> Duration {
    let mut took = took.to_vec();
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default()
}

fn spread(took: &[Duration]) -> String {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let (least, most) = (took.iter().min().copied(), took.iter().max().copied());
    let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
    format!(
        "{:.1} / {:.1} / {:.1} of {}",
        ms(least),
        ms(median(took)),
        ms(most),
        took.len()
    )
}

/// A metric of a server.
fn metric(cluster: &Cluster, at: usize, name: &str) -> Option<f64> {
    let text = http::get(&format!("http://{}/metrics", cluster.http(at)))?
        .text()
        .ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}
