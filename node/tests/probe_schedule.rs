//! Who runs which check how often, and what of it is reported.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]
use async_trait::async_trait;
use parking_lot::Mutex;
use spine_api::local::Local;
use spine_api::{AdminCommand, AdminOutcome, Context, Error, NodeStatus, Registry, hub::Hub};
use spine_core::{
    Applied, Change, Check, CheckDefinition, CheckId, CheckKey, CheckKind, CheckUpdate, Command, Dialect,
    ExistingChecks, Index, Member, MemberReport, MemberStatus, NodeDefinition, NodeName, Pace, Register,
    Renewal, Renewed, Scope, State, Status, TcpProbe, Thresholds, Topic, Ttl, UpdateSource,
};
use spine_node::limits::{PROBE_REPORTS_MAX, PROBE_RUNS_MAX};
use spine_node::metrics_sink::Uncounted;
use spine_node::probe::{Finding, ProbeMetrics, Prober, Probes};
use spine_node::world::rng::OsRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

const PACE: Pace = Pace {
    interval: Ttl::seconds(10),
    timeout: Ttl::seconds(5),
};

/// A prober that says what it is told to say.
#[derive(Default)]
struct Scripted {
    says: Mutex<BTreeMap<Arc<str>, (Status, String)>>,
    runs: Mutex<BTreeMap<Arc<str>, usize>>,
    /// How long a run takes.
    takes: Duration,
    running: AtomicUsize,
    running_most: AtomicUsize,
    /// Each output differs from the one before.
    counting: bool,
}

impl Scripted {
    fn say(&self, address: &str, status: Status, output: &str) {
        self.says
            .lock()
            .insert(address.into(), (status, output.to_owned()));
    }

    fn runs_of(&self, address: &str) -> usize {
        self.runs.lock().get(address).copied().unwrap_or_default()
    }
}

#[async_trait]
impl Prober for Scripted {
    async fn run(&self, kind: &CheckKind) -> Finding {
        let CheckKind::Tcp(probe) = kind else {
            panic!("the tests register TCP checks")
        };
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let run = {
            let mut runs = self.runs.lock();
            let run = runs.entry(probe.address.clone()).or_default();
            *run += 1;
            *run
        };
        let said = self.says.lock().get(&probe.address).cloned();
        let (status, output) = said.unwrap_or((Status::Passing, "scripted".to_owned()));
        let output = if self.counting {
            format!("{output} {run}")
        } else {
            output
        };
        Finding {
            status,
            output: output.into(),
        }
    }
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn key(id: &str) -> CheckKey {
    CheckKey {
        node: node("n1"),
        id: CheckId::parse(id).unwrap(),
    }
}

async fn propose(local: &Local, command: Command) {
    let applied = local
        .propose(&Context::new(Dialect::Consul), command)
        .await
        .unwrap();
    applied.result.unwrap();
}

async fn member_up(local: &Local, name: &str, id: u64) {
    let member = Member {
        name: node(name),
        id,
        node_uuid: format!("00000000-0000-0000-0000-00000000000{id}").into(),
        host: "127.0.0.1".into(),
        peer_address: "".into(),
        http_address: "".into(),
        grpc_address: "".into(),
        version: "0.1.0".into(),
        rules: 1,
    };
    propose(local, Command::MemberUp(member)).await;
}

async fn local() -> Arc<Local> {
    let local = Arc::new(Local::new(node("n1")));
    member_up(&local, "n1", 1).await;
    local
}

/// Registers checks of the node n1, each of a target named like the check.
async fn register(local: &Local, ids: impl IntoIterator<Item = String>, thresholds: Thresholds) {
    let ids: Vec<_> = ids.into_iter().collect();
    for some in ids.chunks(50) {
        let checks = some.iter().map(|id| CheckDefinition {
            id: CheckId::parse(id).unwrap(),
            name: id.as_str().into(),
            notes: "".into(),
            service: None,
            status: None,
            output: "".into(),
            kind: CheckKind::Tcp(TcpProbe {
                address: id.as_str().into(),
                tls: false,
                pace: PACE,
            }),
            deregister_after: None,
            thresholds,
        });
        let register = Register {
            node: node("n1"),
            node_update: Some(NodeDefinition {
                address: "127.0.0.1".into(),
                ..NodeDefinition::default()
            }),
            service: None,
            checks: checks.collect(),
            existing: ExistingChecks::Keep,
            heartbeat: None,
        };
        propose(local, Command::Register(Box::new(register))).await;
    }
}

fn check(local: &Local, id: &str) -> Arc<Check> {
    local.hub().newest().health().check(&key(id)).unwrap().clone()
}

/// Waits until `holds`; with time standing still but for timers, a day passes in no time.
async fn wait(what: &str, holds: impl Fn() -> bool) {
    let day = tokio::time::Instant::now() + Duration::from_hours(24);
    while !holds() {
        assert!(tokio::time::Instant::now() < day, "{what}: not within a day");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn start(local: &Arc<Local>, prober: &Arc<Scripted>) -> Probes {
    Probes::start(
        local.clone(),
        prober.clone(),
        Arc::new(OsRng),
        Arc::new(Uncounted),
    )
}

#[tokio::test(start_paused = true)]
async fn a_change_of_status_is_reported_and_a_repeated_result_is_not() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let _probes = start(&local, &prober);
    // Registered while the probes run: they follow the catalog.
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    wait("it passes", || check(&local, "a").status == Status::Passing).await;
    assert_eq!(&*check(&local, "a").output, "scripted");
    let index = local.hub().newest().index();
    let runs = prober.runs_of("a");
    wait("it runs on", || prober.runs_of("a") >= runs + 5).await;
    assert_eq!(local.hub().newest().index(), index, "nothing was written");
    prober.say("a", Status::Critical, "down");
    wait("it is critical", || check(&local, "a").status == Status::Critical).await;
    assert_eq!(&*check(&local, "a").output, "down");
}

#[tokio::test(start_paused = true)]
async fn thresholds_count_results_in_a_row() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let thresholds = Thresholds {
        success_before_passing: 2,
        failures_before_warning: 2,
        failures_before_critical: 3,
    };
    register(&local, ["a".to_owned()], thresholds).await;
    let _probes = start(&local, &prober);
    let ran = async |times| wait("it runs", || prober.runs_of("a") == times).await;
    let settled = async |status| wait("it is reported", || check(&local, "a").status == status).await;
    ran(1).await;
    assert_eq!(
        check(&local, "a").status,
        Status::Critical,
        "one success is not enough"
    );
    settled(Status::Passing).await;
    assert_eq!(prober.runs_of("a"), 2);
    prober.say("a", Status::Critical, "down");
    ran(3).await;
    assert_eq!(
        (check(&local, "a").status, &*check(&local, "a").output),
        (Status::Passing, "scripted")
    );
    settled(Status::Warning).await;
    assert_eq!(prober.runs_of("a"), 4);
    settled(Status::Critical).await;
    assert_eq!(prober.runs_of("a"), 5);
}

#[tokio::test(start_paused = true)]
async fn an_output_alone_is_reported_every_few_minutes() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        counting: true,
        ..Scripted::default()
    });
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("it passes", || check(&local, "a").status == Status::Passing).await;
    let (index, runs) = (local.hub().newest().index(), prober.runs_of("a"));
    // Half an hour: a run every 10 s, a report every 3 minutes.
    wait("it runs for half an hour", || prober.runs_of("a") >= runs + 180).await;
    let reports = local.hub().newest().index().0 - index.0;
    assert!((9..=10).contains(&reports), "{reports} reports");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_finds_no_leader_is_made_again() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    register(&local, ["a".to_owned()], Thresholds::default()).await;
    local.set_leaderless(true);
    let _probes = start(&local, &prober);
    wait("it runs", || prober.runs_of("a") >= 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(check(&local, "a").status, Status::Critical);
    local.set_leaderless(false);
    let runs = prober.runs_of("a");
    wait("it is reported", || check(&local, "a").status == Status::Passing).await;
    assert!(
        prober.runs_of("a") <= runs + 1,
        "it does not wait for the next run"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_gone_or_another_nodes_is_not_run() {
    let local = local().await;
    let prober = Arc::new(Scripted::default());
    let ids: Vec<_> = (0..100).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("all run", || ids.iter().all(|id| prober.runs_of(id) >= 1)).await;
    member_up(&local, "n2", 2).await;
    let state = local.hub().newest();
    let mine = |id: &String| state.assignment(&check(&local, id)).unwrap().member == node("n1");
    let (kept, given): (Vec<_>, Vec<_>) = ids.iter().partition(|id| mine(id));
    assert!((20..80).contains(&kept.len()), "{} of 100 stay", kept.len());
    // What ran at that moment ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<_> = given.iter().map(|id| prober.runs_of(id)).collect();
    let runs = prober.runs_of(kept[0]);
    wait("its own run on", || prober.runs_of(kept[0]) >= runs + 5).await;
    assert_eq!(
        given.iter().map(|id| prober.runs_of(id)).collect::<Vec<_>>(),
        before
    );
}

async fn lost(local: &Local, name: &str, id: u64, status: MemberStatus) {
    let name = node(name);
    propose(local, Command::MemberStatus(MemberReport { name, id, status })).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_nodes_checks_run_here_at_once_and_keep_what_they_say() {
    let local = local().await;
    member_up(&local, "n2", 2).await;
    let prober = Arc::new(Scripted::default());
    let ids: Vec<_> = (0..200).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let assigned = |id: &String| local.hub().newest().assignment(&check(&local, id)).unwrap();
    let theirs: Vec<_> = ids
        .iter()
        .filter(|id| assigned(id).member == node("n2"))
        .cloned()
        .collect();
    // What n2 found before it was lost.
    for id in &theirs {
        let found = CheckUpdate {
            node: node("n1"),
            check: CheckId::parse(id).unwrap(),
            status: Status::Passing,
            output: "as n2 found it".into(),
            source: UpdateSource::Probe(assigned(id)),
            scope: Scope::Node,
        };
        propose(&local, Command::CheckUpdate(found)).await;
    }
    // From here one target is not reached, and one is not reached the first time.
    let (dead, shaky) = (&theirs[0], &theirs[1]);
    prober.say(dead, Status::Critical, "down");
    prober.say(shaky, Status::Critical, "down");
    let _probes = start(&local, &prober);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(theirs.iter().all(|id| prober.runs_of(id) == 0));

    lost(&local, "n2", 2, MemberStatus::Failed).await;
    let took_over = tokio::time::Instant::now();
    wait("all run here", || theirs.iter().all(|id| prober.runs_of(id) >= 1)).await;
    assert!(
        took_over.elapsed() < Duration::from_secs(1),
        "{:?}",
        took_over.elapsed()
    );
    for id in &theirs {
        assert_eq!(
            check(&local, id).status,
            Status::Passing,
            "one failure settles nothing"
        );
    }
    prober.say(shaky, Status::Passing, "up");
    wait("what is dead is critical", || {
        check(&local, dead).status == Status::Critical
    })
    .await;
    assert!(
        took_over.elapsed() < Duration::from_secs(3),
        "{:?}",
        took_over.elapsed()
    );
    assert_eq!(prober.runs_of(dead), 2);
    assert_eq!(check(&local, shaky).status, Status::Passing);
    // Confirmed once, it is judged as any other.
    let runs = prober.runs_of(shaky);
    prober.say(shaky, Status::Critical, "down");
    wait("it is critical", || {
        check(&local, shaky).status == Status::Critical
    })
    .await;
    assert_eq!(prober.runs_of(shaky), runs + 1);

    lost(&local, "n2", 2, MemberStatus::Alive).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let runs: Vec<_> = theirs.iter().map(|id| prober.runs_of(id)).collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        theirs.iter().map(|id| prober.runs_of(id)).collect::<Vec<_>>(),
        runs
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_found_before_a_check_was_anothers_is_not_reported_after() {
    let local = local().await;
    member_up(&local, "n2", 2).await;
    let prober = Arc::new(Scripted::default());
    let ids: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let _probes = start(&local, &prober);
    let assigned = |id: &&String| local.hub().newest().assignment(&check(&local, id)).unwrap();
    let mine = ids.iter().find(|id| assigned(id).member == node("n1")).unwrap();
    wait("it passes", || check(&local, mine).status == Status::Passing).await;
    // Cut off, it finds the target dead and can't say so; meanwhile the check is another's, and then its own again.
    local.set_leaderless(true);
    prober.say(mine, Status::Critical, "down");
    let runs = prober.runs_of(mine);
    wait("it runs", || prober.runs_of(mine) > runs).await;
    local.set_leaderless(false);
    let first = assigned(&mine);
    lost(&local, "n1", 1, MemberStatus::Failed).await;
    lost(&local, "n1", 1, MemberStatus::Alive).await;
    prober.say(mine, Status::Passing, "up");
    assert_ne!(assigned(&mine), first);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let state = local.hub().newest();
    let (events, _) = state.changes().since(Index(1), &[Topic::Checks], usize::MAX);
    let said = events.iter().filter_map(|event| match &event.change {
        Change::Check(key, _, delta) if key.id.as_str() == mine => Some(delta.after.as_ref()?.status),
        _ => None,
    });
    assert_eq!(said.collect::<Vec<_>>().last(), Some(&Status::Passing));
    assert_eq!(check(&local, mine).status, Status::Passing);
}

#[derive(Default)]
struct Tally(Mutex<BTreeMap<Status, usize>>);

impl ProbeMetrics for Tally {
    fn probes(&self, status: Status, count: usize) {
        self.0.lock().insert(status, count);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_checks_share_a_bounded_number_of_workers() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        takes: Duration::from_millis(200),
        ..Scripted::default()
    });
    let ids: Vec<_> = (0..10_000).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let tally = Arc::new(Tally::default());
    let began = tokio::time::Instant::now();
    let _probes = Probes::start(local.clone(), prober.clone(), Arc::new(OsRng), tally.clone());
    let passing = || tally.0.lock().get(&Status::Passing).copied() == Some(10_000);
    wait("all pass", passing).await;
    // Spread over the interval of 10 s, 1,000 a second of 200 ms each: some 200 at once, and on time.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(11), "{took:?}");
    let most = prober.running_most.load(Ordering::SeqCst);
    assert!(
        most > 100 && most < 400 && most <= PROBE_RUNS_MAX,
        "{most} at once"
    );
    assert!(ids.iter().all(|id| prober.runs_of(id) <= 2));
}

#[tokio::test(start_paused = true)]
async fn slow_targets_wait_for_a_worker() {
    let local = local().await;
    let prober = Arc::new(Scripted {
        takes: Duration::from_secs(9),
        ..Scripted::default()
    });
    let ids: Vec<_> = (0..3_000).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let _probes = start(&local, &prober);
    wait("all run in the end", || {
        ids.iter().all(|id| prober.runs_of(id) >= 1)
    })
    .await;
    assert_eq!(prober.running_most.load(Ordering::SeqCst), PROBE_RUNS_MAX);
}

/// A registry that takes its time, and counts who waits for it.
struct Slow {
    local: Arc<Local>,
    proposing: AtomicUsize,
    proposing_most: AtomicUsize,
}

#[async_trait]
impl Registry for Slow {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        let now = self.proposing.fetch_add(1, Ordering::SeqCst) + 1;
        self.proposing_most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(4)).await;
        self.proposing.fetch_sub(1, Ordering::SeqCst);
        self.local.propose(cx, command).await
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        self.local.renew(cx, renewal).await
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        self.local.view(cx).await
    }

    fn hub(&self) -> &Hub {
        self.local.hub()
    }

    fn status(&self) -> NodeStatus {
        self.local.status()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.local.ready()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        self.local.admin(cx, command).await
    }
}

#[tokio::test(start_paused = true)]
async fn reports_wait_while_the_registry_is_slow() {
    let local = local().await;
    let ids: Vec<_> = (0..3_000).map(|n| format!("c{n}")).collect();
    register(&local, ids.clone(), Thresholds::default()).await;
    let slow = Arc::new(Slow {
        local: local.clone(),
        proposing: AtomicUsize::new(0),
        proposing_most: AtomicUsize::new(0),
    });
    let prober = Arc::new(Scripted::default());
    let _probes = Probes::start(slow.clone(), prober, Arc::new(OsRng), Arc::new(Uncounted));
    wait("all are reported in the end", || {
        ids.iter().all(|id| check(&local, id).status == Status::Passing)
    })
    .await;
    assert_eq!(slow.proposing_most.load(Ordering::SeqCst), PROBE_REPORTS_MAX);
}
