//! What the registry of a node promises: renewals that share entries, deadlines, honest outcomes.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::{
    ffi::OsString,
    fmt, io,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use spine_api::{AdminCommand, Consistency, Context, Error, Registry};
use spine_core::{
    CheckDefinition, CheckId, CheckKind, CheckUpdate, Command, Dialect, ExistingChecks, GetKey, InstanceId,
    InstanceKey, LeaseGrant, LeaseId, NodeName, Outcome, Query, RULES_KNOWN, Register, Renewal, Renewed,
    Scope, Service, ServiceName, Status, Thresholds, Ttl, UpdateSource, WallTime, Weights,
};
use spine_node::{
    Node, World, limits,
    metrics_sink::Uncounted,
    world::{
        clock::Clock,
        files::{File, Files, Open, OsFiles},
    },
};
use support::{cx, put, read, settings, start, write};
use tokio::time::Instant;

async fn start_in(directory: &Path, world: World) -> Node {
    let node = Node::start(settings(directory), world, Arc::new(Uncounted))
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), node.ready())
        .await
        .expect("ready in time")
        .unwrap();
    node
}

async fn propose(registry: &dyn Registry, command: Command) -> Outcome {
    registry.propose(&cx(), command).await.unwrap().result.unwrap()
}

fn registration(port: u16) -> Command {
    let service = Service {
        id: InstanceId::parse("photo-1").unwrap(),
        name: ServiceName::parse("photo").unwrap(),
        kind: "".into(),
        tags: Vec::new(),
        address: "".into(),
        tagged_addresses: std::collections::BTreeMap::new(),
        port,
        socket_path: "".into(),
        meta: std::collections::BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
    };
    let check = CheckDefinition {
        id: CheckId::parse("service:photo-1").unwrap(),
        name: "alive".into(),
        notes: "".into(),
        service: Some(service.id.clone()),
        status: None,
        output: "".into(),
        kind: CheckKind::Ttl(Ttl::seconds(30)),
        deregister_after: None,
        thresholds: Thresholds::default(),
    };
    Command::Register(Box::new(Register {
        node: NodeName::parse("n1").unwrap(),
        node_update: None,
        service: Some(service),
        checks: vec![check],
        existing: ExistingChecks::Keep,
        heartbeat: None,
    }))
}

fn report(status: Status) -> Command {
    Command::CheckUpdate(CheckUpdate {
        node: NodeName::parse("n1").unwrap(),
        check: CheckId::parse("service:photo-1").unwrap(),
        status,
        output: "".into(),
        source: UpdateSource::Service,
        scope: Scope::Node,
    })
}

/// Waits until the node has announced itself, and nothing more of its own is to come: its catalog node is there, and the
/// newest rules are in force.
async fn announced(registry: &dyn Registry) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let state = registry.view(&cx()).await.unwrap();
        if state.members().next().is_some() && state.rules() == RULES_KNOWN {
            return;
        }
        assert!(Instant::now() < until, "the node announces itself");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_a_renewal_and_a_change_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    announced(&*registry).await;
    assert_eq!(
        propose(&*registry, registration(80)).await,
        Outcome::Registered { changed: true }
    );
    let instance = async || {
        let key = InstanceKey {
            node: NodeName::parse("n1").unwrap(),
            id: InstanceId::parse("photo-1").unwrap(),
        };
        registry
            .view(&cx())
            .await
            .unwrap()
            .catalog()
            .instance(&key)
            .unwrap()
            .clone()
    };
    let before = instance().await;
    assert!(matches!(
        propose(&*registry, registration(80)).await,
        Outcome::Renewed(_)
    ));
    assert_eq!(instance().await, before, "a repeat changes no row");
    assert_eq!(
        propose(&*registry, registration(81)).await,
        Outcome::Registered { changed: true }
    );
    assert_eq!(instance().await.service.port, 81);

    assert!(matches!(
        propose(&*registry, report(Status::Passing)).await,
        Outcome::CheckUpdated { .. }
    ));
    assert!(matches!(
        propose(&*registry, report(Status::Passing)).await,
        Outcome::Renewed(_)
    ));
    assert!(matches!(
        propose(&*registry, report(Status::Critical)).await,
        Outcome::CheckUpdated { .. }
    ));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_is_overtaken_by_a_change_is_proposed_in_full() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    announced(&*registry).await;
    propose(&*registry, registration(80)).await;
    // Both look like repeats of what is there when they come in; whichever is second must not be lost.
    for _ in 0..50 {
        let ports = [80, 81].map(|port| {
            let registry = registry.clone();
            tokio::spawn(async move { propose(&*registry, registration(port)).await })
        });
        let mut indexes = Vec::new();
        for port in ports {
            indexes.push(port.await.unwrap());
        }
        assert!(
            indexes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Registered { .. } | Outcome::Renewed(_))),
            "{indexes:?}"
        );
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_that_come_together_travel_together() {
    const LEASES: u128 = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    for id in 0..LEASES {
        let grant = LeaseGrant {
            id: LeaseId(id),
            ttl: Ttl::seconds(60),
        };
        propose(&*registry, Command::LeaseGrant(grant)).await;
    }
    let before = registry.status();
    let renewals = (0..LEASES).map(|id| {
        let registry = registry.clone();
        tokio::spawn(async move { registry.renew(&cx(), Renewal::Lease(LeaseId(id))).await })
    });
    for renewal in renewals.collect::<Vec<_>>() {
        assert_eq!(renewal.await.unwrap(), Ok(Renewed::Until(Some(Ttl::seconds(60)))));
    }
    let entries = registry.status().applied - before.applied;
    assert!(entries <= 200, "{LEASES} renewals took {entries} entries");
    node.stop().await.unwrap();
}

/// A disk whose flushes wait while the gate is shut.
#[derive(Clone, Debug, Default)]
struct Gated(Arc<(Mutex<bool>, Condvar)>);

impl Gated {
    fn set_shut(&self, shut: bool) {
        *self.0.0.lock().unwrap() = shut;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(shut, |shut| *shut).unwrap());
    }
}

impl Files for Gated {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(GatedFile {
            file: OsFiles.open(path, how)?,
            gate: self.clone(),
        }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove(path)
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        OsFiles.list(path)
    }
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        OsFiles.names(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.create_dir(path)
    }
}

struct GatedFile {
    file: Arc<dyn File>,
    gate: Gated,
}

impl fmt::Debug for GatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_not_durable_in_time_is_unknown_and_nothing_else_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gated::default();
    let node = start_in(
        directory.path(),
        World {
            files: Arc::new(gate.clone()),
            ..World::real()
        },
    )
    .await;
    let registry = node.registry();
    announced(&*registry).await;
    write(&*registry, "a", "1").await;
    gate.set_shut(true);
    let soon = || Context {
        deadline: Instant::now() + Duration::from_millis(300),
        ..cx()
    };
    let unknown = registry.propose(&soon(), put("b", "2")).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    // Reads go on, and do not show what is not durable.
    assert_eq!(read(&*registry, "a").await.as_deref(), Some("1"));
    assert_eq!(read(&*registry, "b").await, None);
    gate.set_shut(false);
    let until = Instant::now() + Duration::from_secs(10);
    while read(&*registry, "b").await.is_none() {
        assert!(Instant::now() < until, "it was proposed, and takes effect");
        tokio::task::yield_now().await;
    }
    node.stop().await.unwrap();
}

/// Each write is an entry of its own, because the next comes only when the answer to it is overdue.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_stands_still_only_so_many_entries_are_proposed() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gated::default();
    let world = World {
        files: Arc::new(gate.clone()),
        ..World::real()
    };
    let node = start_in(directory.path(), world).await;
    let registry = node.registry();
    announced(&*registry).await;
    gate.set_shut(true);
    let mut proposed = 0;
    loop {
        let soon = Context {
            deadline: Instant::now() + Duration::from_millis(200),
            ..cx()
        };
        match registry.propose(&soon, put(&format!("k{proposed}"), "1")).await {
            Err(Error::Unknown(_)) if proposed < limits::ENTRIES_IN_FLIGHT_MAX => proposed += 1,
            refused => {
                assert_eq!(refused.unwrap_err(), Error::NoLeader, "it was not proposed");
                break;
            }
        }
    }
    assert_eq!(proposed, limits::ENTRIES_IN_FLIGHT_MAX);
    gate.set_shut(false);
    write(&*registry, "last", "1").await;
    assert_eq!(read(&*registry, "k0").await.as_deref(), Some("1"));
    node.stop().await.unwrap();
}

/// The clock is stopped while it waits: it leaps to the deadline, which nothing comes before.
#[tokio::test]
async fn a_request_that_names_no_deadline_has_the_usual_one() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gated::default();
    let world = World {
        files: Arc::new(gate.clone()),
        ..World::real()
    };
    let node = start_in(directory.path(), world).await;
    let registry = node.registry();
    announced(&*registry).await;
    gate.set_shut(true);
    tokio::time::pause();
    let began = Instant::now();
    let unknown = registry
        .propose(&Context::new(Dialect::Consul), put("a", "1"))
        .await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    let (took, bound) = (began.elapsed(), spine_api::limits::REQUEST_DEADLINE);
    assert!(
        took >= bound && took < bound + Duration::from_millis(10),
        "{took:?}"
    );
    tokio::time::resume();
    gate.set_shut(false);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_deadline_is_over_is_not_proposed() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    let late = Context {
        deadline: Instant::now(),
        ..cx()
    };
    assert_eq!(
        registry.propose(&late, put("a", "1")).await.unwrap_err(),
        Error::NoLeader
    );
    assert_eq!(read(&*registry, "a").await, None);
    let refused = registry.propose(&cx(), put("", "1")).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    node.stop().await.unwrap();
}

/// A monotonic clock that jumps ahead when told to.
#[derive(Debug, Default)]
struct Jumpy {
    real: spine_node::world::clock::OsClock,
    ahead: Mutex<Duration>,
}

impl Clock for Jumpy {
    fn monotonic(&self) -> Duration {
        self.real.monotonic() + *self.ahead.lock().unwrap()
    }
    fn wall(&self) -> WallTime {
        self.real.wall()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_node_ends_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Jumpy::default());
    let node = start_in(
        directory.path(),
        World {
            clock: clock.clone(),
            ..World::real()
        },
    )
    .await;
    let registry = node.registry();
    let grant = LeaseGrant {
        id: LeaseId(1),
        ttl: Ttl::seconds(30),
    };
    propose(&*registry, Command::LeaseGrant(grant)).await;
    *clock.ahead.lock().unwrap() = Duration::from_hours(1);
    // The next turns of the loop see the jump; a pulse would be proposed at once.
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        write(&*registry, "tick", format!("{:?}", Instant::now())).await;
    }
    assert!(matches!(
        registry.renew(&cx(), Renewal::Lease(LeaseId(1))).await,
        Ok(Renewed::Until(Some(_)))
    ));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_shows_no_stale_state() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    write(&*node.registry(), "a", "1").await;
    node.halt().await.unwrap();
    let node = support::try_start(directory.path()).await.unwrap();
    let registry = node.registry();
    let stale = Context {
        consistency: Consistency::Stale,
        ..cx()
    };
    loop {
        let ready = node.is_ready();
        match registry.view(&stale).await {
            Ok(state) => {
                assert_eq!(GetKey("a".into()).ask(&state).value.unwrap().value, "1");
                break;
            }
            Err(error) => assert!(!ready && error == Error::NoLeader, "{error}"),
        }
        tokio::task::yield_now().await;
    }
    node.stop().await.unwrap();
}

/// On one thread all have asked before the first entry is made, so entries are as full as they may be.
#[tokio::test]
async fn an_entry_holds_so_much_and_the_rest_comes_in_the_next() {
    use spine_core::limits::{ENTRY_BYTES_MAX, ENTRY_RENEWALS_MAX, ENTRY_REQUESTS_MAX};
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    // Room for the largest of entries.
    settings.log.segment_bytes = 32 << 20;
    let node = Node::start(settings, World::real(), Arc::new(Uncounted))
        .await
        .unwrap();
    node.ready().await.unwrap();
    let registry = node.registry();
    announced(&*registry).await;
    let context = cx();
    let entries = || registry.status().applied;

    let before = entries();
    let puts = (0..=2 * ENTRY_REQUESTS_MAX).map(|n| registry.propose(&context, put(&n.to_string(), "1")));
    let answers = futures::future::join_all(puts).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(entries() - before >= 3, "by their number");

    let before = entries();
    let value = vec![b'x'; ENTRY_BYTES_MAX / 8];
    let puts = (0..2 * 8).map(|n| registry.propose(&context, put(&n.to_string(), value.clone())));
    let answers = futures::future::join_all(puts).await;
    assert!(answers.iter().all(Result::is_ok));
    // Eight are a little more than an entry.
    assert!(entries() - before >= 3, "by their bytes");

    let grant = LeaseGrant {
        id: LeaseId(1),
        ttl: Ttl::seconds(60),
    };
    propose(&*registry, Command::LeaseGrant(grant)).await;
    let before = entries();
    let renewals = (0..=ENTRY_RENEWALS_MAX).map(|_| registry.renew(&context, Renewal::Lease(LeaseId(1))));
    let answers = futures::future::join_all(renewals).await;
    let renewed = Ok(Renewed::Until(Some(Ttl::seconds(60))));
    assert!(answers.iter().all(|answer| *answer == renewed));
    assert!(entries() - before >= 2, "of renewals");
    node.stop().await.unwrap();
}

/// On one thread nothing is taken from a queue until all have asked, so its bound is met exactly.
#[tokio::test]
async fn what_is_too_much_at_once_is_refused_and_the_rest_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let node = start_in(directory.path(), World::real()).await;
    let registry = node.registry();
    let context = cx();

    let asks =
        (0..limits::CHECKPOINT_ASKS_MAX + 8).map(|_| registry.admin(&context, AdminCommand::Checkpoint));
    let answers = futures::future::join_all(asks).await;
    let refused = |answer: &&Result<_, _>| matches!(answer, Err(Error::Overloaded { .. }));
    assert_eq!(answers.iter().filter(refused).count(), 8, "{answers:?}");

    let bytes = 256 << 10;
    let fitting = limits::SUBMIT_SHARES as u64 * limits::SUBMIT_SHARE_BYTES / bytes;
    let puts = (0..fitting + 8).map(|n| {
        let command = put(&format!("large/{n}"), vec![b'x'; usize::try_from(bytes).unwrap()]);
        registry.propose(&context, command)
    });
    let answers = futures::future::join_all(puts).await;
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(Error::Overloaded { .. })));
    let (refused, done) = (
        refused.count(),
        answers.iter().filter(|answer| answer.is_ok()).count(),
    );
    assert!(refused >= 8 && done > 0, "{refused} refused, {done} done");
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(_) | Err(Error::Overloaded { .. } | Error::Unknown(_)))),
        "{answers:?}"
    );

    let reads = (0..limits::READERS_WAITING_MAX + 8).map(|_| registry.view(&context));
    let answers = futures::future::join_all(reads).await;
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(Error::Overloaded { .. })));
    assert_eq!(refused.count(), 8);
    node.stop().await.unwrap();
}
