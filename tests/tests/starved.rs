//! Three servers on a machine that has no time for them: twenty programs that compute without rest, beside writers and
//! owners of leases. Nobody failed, so nobody may be declared failed: the leader stays, and whoever renewed its lease has it.
//!
//! `SPINE_STARVED_SECONDS` says for how long. Needs root: run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use spine_client::{Client, Registration, WatchStream, proto as v1};
use spine_tests::{
    cluster::{Cluster, SERVERS},
    namespace::sealed,
    wait,
    writers::Load,
};
use tokio::{runtime::Runtime, task::JoinHandle};

const SECONDS: u64 = 20;
/// Programs that compute.
const HUNGRY: usize = 20;
/// Between two writes of a writer: some 200 writes a second in all, so that it is the others who starve the servers.
const REST: Duration = Duration::from_millis(50);
const OWNERS: usize = 60;
/// The shortest lease that etcd knows, half of the owners have it; and one as tutorials have.
const TTLS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

#[test]
fn no_leader_changes_and_no_live_lease_ends() {
    sealed("no_leader_changes_and_no_live_lease_ends", || {
        let place = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(place.path());
        let owners = Owners::start(&cluster);
        let load = Load::start_paced(&cluster, REST);
        load.await_more(100);
        let term = owners.term(&cluster);
        let hungry = Hungry::start();
        let long = Duration::from_secs(seconds());
        let began = Instant::now();
        wait::until_true("the time is over", long + Duration::from_mins(1), || {
            began.elapsed() >= long
        });
        let runnable = fs::read_to_string("/proc/loadavg").unwrap();
        let elections = owners.term(&cluster) - term;
        drop(hungry);
        let written = load.end();
        let kept = owners.end();
        let [median, most, longest] = written.latencies_ms();
        println!(
            "{HUNGRY} programs computing for {} s (load {}): terms begun: {elections}; {written}; \
             put ms: {median:.1} / {most:.1} / {longest:.1} (median/p99/max)",
            long.as_secs(),
            runnable.trim(),
        );
        println!("{kept}");
        written.must_be_there(&cluster);
        assert_eq!(kept.lost, Vec::<String>::new(), "leases ended whose owners lived");
        // One election is an accident that the users hardly notice; a leader that is not let be is a fault.
        assert!(elections <= 1 + long.as_secs() / 300, "terms begun: {elections}");
    });
}

fn seconds() -> u64 {
    std::env::var("SPINE_STARVED_SECONDS").map_or(SECONDS, |text| text.parse().unwrap())
}

/// Programs that compute, until dropped.
struct Hungry(Vec<Child>);

impl Hungry {
    fn start() -> Self {
        let program = || {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .unwrap()
        };
        Self((0..HUNGRY).map(|_| program()).collect())
    }
}

impl Drop for Hungry {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Instances with TTL checks, each renewed through one server three times in its TTL, and somebody who sees them end.
struct Owners {
    runtime: Runtime,
    renewing: Vec<JoinHandle<Vec<Instant>>>,
    ended: JoinHandle<Vec<String>>,
    over: Arc<AtomicBool>,
}

impl Owners {
    fn start(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let inside = runtime.enter();
        let clients = (0..SERVERS).map(|at| Client::connect(&cluster.grpc_of_all(at)).unwrap());
        let clients: Vec<_> = clients.collect();
        drop(inside);
        for owner in 0..OWNERS {
            let registration = Registration::new("owner", "127.0.0.1", 1).id(&format!("owner-{owner}"));
            let registered = clients[owner % SERVERS]
                .catalog
                .register(registration.ttl_check(ttl(owner)));
            runtime.block_on(registered).unwrap();
        }
        let renewing = (0..OWNERS).map(|owner| {
            let client = clients[owner % SERVERS].clone();
            runtime.spawn(renew(client, owner, over.clone()))
        });
        let renewing: Vec<_> = renewing.collect();
        wait::until_true("all owners pass", Duration::from_secs(30), || {
            let found = runtime.block_on(clients[0].catalog.resolve("owner"));
            found.is_ok_and(|found| found.targets.len() == OWNERS)
        });
        let watch = clients[0].watch.topics([spine_client::Topic::service("owner")]);
        let stream = runtime.block_on(watch.start()).unwrap();
        let ended = runtime.spawn(watch_ends(stream, over.clone()));
        Self {
            runtime,
            renewing,
            ended,
            over,
        }
    }

    /// The greatest term that a server knows.
    fn term(&self, cluster: &Cluster) -> u64 {
        let terms = (0..SERVERS).map(|at| {
            let _inside = self.runtime.enter();
            let client = Client::connect(&cluster.grpc(at).to_string()).unwrap();
            let status = self.runtime.block_on(client.members.server_status());
            status.unwrap().term
        });
        terms.max().unwrap()
    }

    fn end(self) -> Kept {
        self.over.store(true, Ordering::Release);
        let ended = self.runtime.block_on(self.ended).unwrap();
        let mut kept = Kept {
            ended: ended.len(),
            ..Kept::default()
        };
        for (owner, renewals) in self.renewing.into_iter().enumerate() {
            let renewals = self.runtime.block_on(renewals).unwrap();
            let silence = renewals.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            kept.renewals += renewals.len();
            kept.silence = kept.silence.max(silence);
            let name = format!("service:owner-{owner}");
            if silence < ttl(owner) && ended.contains(&name) {
                kept.lost.push(name);
            }
        }
        kept
    }
}

fn ttl(owner: usize) -> Duration {
    TTLS[owner / SERVERS % TTLS.len()]
}

/// Renews until it is over, and says when each renewal was answered.
async fn renew(client: Client, owner: usize, over: Arc<AtomicBool>) -> Vec<Instant> {
    let check = format!("service:owner-{owner}");
    let mut renewals = Vec::new();
    let mut pace = tokio::time::interval(ttl(owner) / 3);
    while !over.load(Ordering::Acquire) {
        pace.tick().await;
        if client
            .health
            .report(&check, v1::Status::Passing, "")
            .await
            .is_ok()
        {
            renewals.push(Instant::now());
        }
    }
    renewals
}

/// The checks that became critical, as often as they did.
async fn watch_ends(mut stream: WatchStream, over: Arc<AtomicBool>) -> Vec<String> {
    let mut ended = Vec::new();
    while !over.load(Ordering::Acquire) {
        let Ok(batch) = tokio::time::timeout(Duration::from_secs(1), stream.next()).await else {
            continue;
        };
        for event in batch.unwrap().events {
            if let Some(v1::event::Change::Check(check)) = event.change
                && check
                    .after
                    .is_some_and(|after| after.status() == v1::Status::Critical)
            {
                ended.push(check.id);
            }
        }
    }
    ended
}

/// What became of the leases.
#[derive(Default)]
struct Kept {
    renewals: usize,
    /// The longest between two answered renewals.
    silence: Duration,
    /// How many ended.
    ended: usize,
    /// Those of them whose owners were answered in time all along.
    lost: Vec<String>,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{OWNERS} leases of {TTLS:?}: {} renewals, the longest silence {:.2} s; {} ended, {} of owners that were never late",
            self.renewals,
            self.silence.as_secs_f64(),
            self.ended,
            self.lost.len()
        )
    }
}
