//! Three servers, each with a disk of its own. That of the leader becomes slow, or stops altogether: another server leads
//! then. Or that of a follower stops: nobody waits for it. Once a disk works again its server follows, without a restart.
//!
//! A disk is stopped by freezing its file system: whoever writes there waits. It is slowed down by doing so over and over.
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
    spine_process, wait,
    writers::Load,
};
use tokio::runtime::Runtime;

/// How long each freeze lasts: a flush takes so long then, or a part of it.
const FROZEN: Duration = Duration::from_millis(400);
/// Puts that are timed in each phase.
const PUTS: usize = 100;
/// How long a disk stands still that has stopped: far longer than it takes to be noticed.
const STOPPED: Duration = Duration::from_secs(30);
/// Writes between two steps, and what each writer rests after one.
const BETWEEN: u64 = 300;
const REST: Duration = Duration::from_millis(5);
/// So long at most no write is acknowledged: it is noticed in 5 s, and then another leads.
const GAP_MAX: Duration = Duration::from_secs(10);
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

#[test]
fn a_leader_whose_disk_has_stopped_is_relieved_and_comes_back() {
    sealed(
        "a_leader_whose_disk_has_stopped_is_relieved_and_comes_back",
        || {
            let place = tempfile::tempdir().unwrap();
            let disks = Disks::mount(place.path());
            let mut cluster = Cluster::new(disks.data(), place.path());
            cluster.start_all();
            let load = Load::start_paced(&cluster, REST);
            load.await_more(BETWEEN);

            let stuck = cluster.leader();
            let frozen = Frozen::freeze(disks.0[stuck].path());
            let began = Instant::now();
            cluster.await_leader_beside(stuck);
            let relieved = began.elapsed();
            says_that_it_is_stuck(&cluster, stuck);
            doctor_blames(&cluster, stuck);
            wait::until_true("the freeze was long", PATIENCE, || began.elapsed() >= STOPPED);
            load.await_more(BETWEEN);

            let thawed = Instant::now();
            drop(frozen);
            await_stepped_aside(&cluster, stuck);
            let back = follows_again(&mut cluster, stuck);
            load.await_more(BETWEEN);
            let written = load.end();
            println!(
                "leader's disk stopped for {:.1?}: another led after {relieved:.1?}; longest time without an acknowledged write \
             {:.2} s, after the thaw {:.2} s; it followed {back:.1?} after the thaw; {written}",
                thawed - began,
                written.gap(began, thawed),
                written.gap(thawed, Instant::now()),
            );
            assert!(
                written.gap(began, thawed) < GAP_MAX.as_secs_f64(),
                "writes stood still"
            );
            written.must_be_there(&cluster);
            cluster.must_agree();
            drop(cluster);
        },
    );
}

#[test]
fn a_follower_whose_disk_has_stopped_holds_nobody_up_and_comes_back() {
    sealed(
        "a_follower_whose_disk_has_stopped_holds_nobody_up_and_comes_back",
        || {
            let place = tempfile::tempdir().unwrap();
            let disks = Disks::mount(place.path());
            let mut cluster = Cluster::new(disks.data(), place.path());
            cluster.start_all();
            let leader = cluster.leader();
            let stuck = (leader + 1) % SERVERS;
            let load = Load::start_paced(&cluster, REST);
            load.await_more(BETWEEN);
            let puts = Puts::at(&cluster.grpc(leader).to_string());
            let before = puts.timed(PUTS);

            let frozen = Frozen::freeze(disks.0[stuck].path());
            let began = Instant::now();
            let mut during = puts.timed(PUTS);
            while began.elapsed() < STOPPED {
                during.extend(puts.timed(PUTS));
            }
            says_that_it_is_stuck(&cluster, stuck);
            doctor_blames(&cluster, stuck);

            let thawed = Instant::now();
            drop(frozen);
            let back = follows_again(&mut cluster, stuck);
            load.await_more(BETWEEN);
            let written = load.end();
            println!(
                "follower's disk stopped for {:.1?}: put at the leader, ms (min/median/max): before {}, meanwhile {}; it \
                 followed {back:.1?} after the thaw; {written}",
                thawed - began,
                spread(&before),
                spread(&during),
            );
            assert!(
                median(&during) <= median(&before) * 3 + Duration::from_millis(20),
                "puts are slow"
            );
            assert!(
                written.gap(began, thawed) < GAP_MAX.as_secs_f64(),
                "writes stood still"
            );
            written.must_be_there(&cluster);
            cluster.must_agree();
            drop((puts, cluster));
        },
    );
}

/// A server whose disk has stopped says of itself neither that it leads nor that it serves.
fn says_that_it_is_stuck(cluster: &Cluster, at: usize) {
    let of_itself = || http::get_json(&format!("http://{}/v1/agent/self", cluster.http(at)));
    wait::until_true("it doesn't say that it leads", PATIENCE, || {
        of_itself().is_some_and(|itself| itself["Stats"]["raft"]["state"] != "Leader")
    });
    wait::until_true("it is not ready", PATIENCE, || {
        !http::is_ok(&format!("http://{}/readyz", cluster.http(at)))
    });
}

/// `spine doctor`, asked of another server, says that this one's disk is stuck.
fn doctor_blames(cluster: &Cluster, at: usize) {
    let addr = cluster.grpc((at + 1) % SERVERS).to_string();
    let output = Command::new(spine_process::binary())
        .args(["doctor", "--addr", &addr])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let blames = |line: &str| line.contains("FAIL") && line.contains("log") && line.contains(&name(at));
    assert!(said.lines().any(blames), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}

/// Waits until a server serves and follows, in the life that it was in; how long that took.
fn follows_again(cluster: &mut Cluster, at: usize) -> Duration {
    let took = cluster.await_ready(at);
    wait::until_true("it follows", PATIENCE, || {
        let of_itself = http::get_json(&format!("http://{}/v1/agent/self", cluster.http(at)));
        of_itself.is_some_and(|itself| itself["Stats"]["raft"]["state"] == "Follower")
    });
    assert!(!cluster.said(at).contains("panicked"), "{}", cluster.said(at));
    took
}

fn name(at: usize) -> String {
    format!("n{}", at + 1)
}

/// Waits until a server knows that it has given leadership away because of its disk, and says so.
fn await_stepped_aside(cluster: &Cluster, at: usize) {
    wait::until_true("the server knows that another one leads", PATIENCE, || {
        cluster
            .metric(at, "spine_raft_stepped_aside_total")
            .is_some_and(|times| times >= 1.0)
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
    /// At any server.
    fn new(cluster: &Cluster) -> Self {
        Self::at(&cluster.grpc_of_all(0))
    }

    /// At these servers.
    fn at(addresses: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let client = Client::builder(addresses).exactly_once(true).build().unwrap();
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
