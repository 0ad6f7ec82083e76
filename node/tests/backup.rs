//! A snapshot file, and the cluster that begins with it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "support/remains.rs"]
mod remains;
mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use remains::{Remains, disk::Rng};
use spine_api::{Registry, hub::Hub};
use spine_core::{Command, Index, LeaseGrant, LeaseId, NodeName, Outcome, SessionId, State, Ttl, snapshot};
use spine_node::{
    Node, World,
    backup::{
        self, Loaded, ReadError, RestoreError, Restored,
        file::{FileError, Head, Writer},
    },
    metrics_sink::Uncounted,
    node::{PeerPort, PeerSettings},
    raft::{
        Peer,
        bootstrap::{self, FirstStart, Found, StartError},
        recovery::NUMBERS_SKIPPED,
    },
    storage::{log::LogHooks, segment::LogOptions},
    world::net::{Net, OsNet},
};
use support::{cx, put, read, settings, start, try_start, write};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// The file of a state.
fn file_of(state: &State) -> Vec<u8> {
    let head = Head {
        state: snapshot::Header::of(state).encode().into(),
        cluster: "11111111-2222-3333-4444-555555555555".into(),
        server: "n1".into(),
        release: "0.1.0".into(),
    };
    let mut writer = Writer::new(Vec::new(), &head).unwrap();
    for chunk in snapshot::chunks(state) {
        writer.chunk(&chunk).unwrap();
    }
    writer.finish().unwrap().1
}

fn load(file: &[u8]) -> Result<Loaded, ReadError> {
    backup::read(file, &mut |_| {})
}

fn restore(state: &State, directory: &Path) -> Result<Restored, RestoreError> {
    backup::restore(&World::real(), state, NUMBERS_SKIPPED, directory, &|_, _| {})
}

async fn newest(node: &Node) -> State {
    State::clone(&node.registry().view(&cx()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_has_the_data_and_another_id_and_its_counters_go_on() {
    let place = tempfile::tempdir().unwrap();
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    let node = start(&old).await;
    let registry = node.registry();
    for number in 0..200 {
        write(&*registry, &format!("k{number}"), vec![b'x'; 5_000]).await;
    }
    write(&*registry, "a", "first").await;
    write(&*registry, "a", "second").await;
    let grant = LeaseGrant {
        id: LeaseId(7),
        ttl: Ttl::seconds(600),
    };
    let granted = registry.propose(&cx(), Command::LeaseGrant(grant)).await.unwrap();
    assert!(granted.result.is_ok());
    let state = newest(&node).await;
    let first = node.identity();
    node.stop().await.unwrap();

    let loaded = load(&file_of(&state)).unwrap();
    assert_eq!(loaded.state.digest(), state.digest());
    let Restored {
        identity,
        index,
        revision,
    } = restore(&loaded.state, &new).unwrap();
    assert_ne!(identity.cluster, first.cluster);
    assert_ne!(identity.node, first.node);
    assert_eq!(index.0, state.index().0 + NUMBERS_SKIPPED);
    assert_eq!(revision.0, state.revision().0 + NUMBERS_SKIPPED);

    let node = start(&new).await;
    assert_eq!(node.identity(), identity);
    let registry = node.registry();
    let found = newest(&node).await;
    assert!(found.index() >= index && found.revision() >= revision);
    assert!(found.time() >= state.time());
    assert_eq!(read(&*registry, "a").await.as_deref(), Some("second"));
    assert_eq!(found.kv().len(), 201);
    assert!(found.leases().get(LeaseId(7)).is_some());
    let written = write(&*registry, "a", "third").await;
    assert!(written.index > index);
    assert!(newest(&node).await.revision() > revision);
    node.halt().await.unwrap();

    let node = start(&new).await;
    assert_eq!(
        node.identity(),
        identity,
        "it is an ordinary directory from then on"
    );
    assert_eq!(read(&*node.registry(), "a").await.as_deref(), Some("third"));
    node.stop().await.unwrap();
}

/// What the old cluster's clients were given after the save is theirs alone, and a lease that was renewed meanwhile has not
/// become shorter.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_from_after_the_save_is_given_again() {
    const LEASE: LeaseId = LeaseId(7);
    let place = tempfile::tempdir().unwrap();
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    let node = start(&old).await;
    let registry = node.registry();
    let grant = LeaseGrant {
        id: LEASE,
        ttl: Ttl::seconds(600),
    };
    propose(&*registry, Command::LeaseGrant(grant)).await;
    write(&*registry, "a", "saved").await;
    let saved = newest(&node).await;
    write(&*registry, "a", "late").await;
    let late_session = open_session(&*registry).await;
    let late = newest(&node).await;
    node.stop().await.unwrap();

    restore(&saved, &new).unwrap();
    let node = start(&new).await;
    let registry = node.registry();
    let found = newest(&node).await;
    assert!(found.lease_deadline(LEASE) >= Some(saved.time().after(Ttl::seconds(600))));
    // As many requests as the old cluster had after the save.
    for number in saved.index().0..=late.index().0 {
        let index = write(&*registry, "a", number.to_string()).await.index;
        assert!(index > late.index(), "{index:?} was given to another write");
    }
    let session = open_session(&*registry).await;
    assert!(session > late_session, "{session:?} was somebody else's");
    assert!(newest(&node).await.revision() > late.revision());
    // Of what was undone nobody can tell: who watches from then is told to begin anew.
    assert!(newest(&node).await.changes().oldest() > late.index().next());
    assert_eq!(found.kv().compacted(), found.revision());
    node.stop().await.unwrap();
}

async fn propose(registry: &dyn Registry, command: Command) -> Outcome {
    let applied = registry.propose(&cx(), command).await.unwrap();
    applied.result.unwrap()
}

async fn open_session(registry: &dyn Registry) -> SessionId {
    match propose(registry, Command::OpenSession).await {
        Outcome::SessionOpened(session) => session,
        other => panic!("no session: {other:?}"),
    }
}

/// One that joins gets what was restored, though the log is there from its first entry on.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_restored_server_has_its_state() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("first");
    let state = written_state();
    let restored = restore(&state, &dir).unwrap();
    let first = start_with_port("n1", &dir, Vec::new()).await;
    let seed = first.peer_address().unwrap().to_string();
    let second = start_with_port("n2", &place.path().join("second"), vec![seed]).await;
    for node in [&first, &second] {
        timeout(PATIENCE, node.ready()).await.unwrap().unwrap();
        assert_eq!(read(&*node.registry(), "a").await.as_deref(), Some("1"));
    }
    let written = write(&*second.registry(), "b", "2").await;
    assert!(written.index > restored.index);
    let index = |node: &Node| node.applied().borrow().state.index();
    let equal = async {
        while index(&first) != index(&second) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, equal).await.unwrap();
    let digest = |node: &Node| node.applied().borrow().state.digest();
    assert_eq!(digest(&first), digest(&second));
    second.stop().await.unwrap();
    first.stop().await.unwrap();
}

/// A node with a port for others.
async fn start_with_port(name: &str, dir: &Path, join: Vec<String>) -> Node {
    let listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    let mut settings = settings(dir);
    settings.name = NodeName::parse(name).unwrap();
    settings.peer_address = address.to_string().into();
    settings.peers = Some(PeerSettings {
        port: PeerPort::Bound(listener),
        founders: Vec::new(),
        join,
        replace: None,
    });
    let node = Node::start(settings, World::real(), Arc::new(Uncounted));
    timeout(PATIENCE, node).await.unwrap().unwrap()
}

/// The others would begin without the state.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_does_not_found_a_cluster_with_others() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("new");
    let state = written_state();
    restore(&state, &dir).unwrap();
    let mut settings = settings(&dir);
    settings.peer_address = "127.0.0.1:1".into();
    let peer = |name: &str, port: u16| Peer {
        name: name.into(),
        address: format!("127.0.0.1:{port}"),
    };
    settings.peers = Some(PeerSettings {
        port: PeerPort::At("127.0.0.1:0".parse().unwrap()),
        founders: vec![peer("n1", 1), peer("n2", 2)],
        join: Vec::new(),
        replace: None,
    });
    let refused = Node::start(settings, World::real(), Arc::new(Uncounted))
        .await
        .err()
        .expect("it is refused");
    assert!(matches!(refused, StartError::RestoredAmongOthers(_)), "{refused}");
    assert!(refused.is_refusal());
    // It is as it was: alone it starts.
    let node = start(&dir).await;
    assert_eq!(read(&*node.registry(), "a").await.as_deref(), Some("1"));
    node.stop().await.unwrap();
}

fn written_state() -> State {
    let local = spine_api::local::Local::new(NodeName::parse("n1").unwrap());
    futures::executor::block_on(local.propose(&cx(), put("a", "1"))).unwrap();
    State::clone(&Hub::newest(local.hub()))
}

/// Cuts for each step, as each time the disk keeps something else of what was not flushed.
const CUTS: u64 = 6;

#[test]
fn at_every_step_all_is_restored_or_nothing_and_it_can_be_run_again() {
    let state = written_state();
    let directory = Path::new("/data");
    let restore =
        |remains: &Remains| backup::restore(&remains.world(), &state, NUMBERS_SKIPPED, directory, &|_, _| {});
    let restored = Index(state.index().0 + NUMBERS_SKIPPED);
    // The root of a file system that was just made.
    let fresh = || {
        let remains = Remains::default();
        remains.disk.put(&directory.join("lost+found/file"), b"");
        remains
    };
    let steps = {
        let remains = fresh();
        restore(&remains).unwrap();
        remains.disk.operations()
    };
    assert!(steps > 8, "{steps}");
    let (mut nothing, mut half, mut whole) = (0, 0, 0);
    for (step, cut) in (0..=steps).flat_map(|step| (0..CUTS).map(move |cut| (step, cut))) {
        let mut rng = Rng::new(step * CUTS + cut + 1);
        let remains = fresh();
        remains.disk.crash_at(step);
        let first = restore(&remains);
        let remains = remains.after_crash(&mut rng);
        // And once more, while it is run again.
        remains.disk.crash_at(rng.below(2 * steps));
        let second = restore(&remains);
        let remains = remains.after_crash(&mut rng);
        let done = first.or(second);
        match found(&remains.after_crash(&mut rng), directory) {
            Ok(index) if index == restored => {
                whole += 1;
                let refused = restore(&remains).unwrap_err();
                assert!(matches!(refused, RestoreError::NotEmpty(_)), "{refused}");
            }
            Ok(index) => {
                nothing += 1;
                assert_eq!(index, Index(0), "step {step}: a part of it");
                assert!(done.is_err(), "step {step}: it was said to be done");
                restore(&remains).unwrap();
            }
            Err(error) => {
                half += 1;
                assert!(
                    matches!(error, StartError::HalfRestored(_)),
                    "step {step}: {error}"
                );
                assert!(done.is_err(), "step {step}: it was said to be done");
                restore(&remains).unwrap();
            }
        }
        let index = found(&remains, directory).unwrap();
        assert_eq!(index, restored, "step {step}: in the end it is there");
    }
    assert!(
        nothing > 0 && half > 0 && whole > 0,
        "from the first step to the last: {nothing}, {half}, {whole}"
    );
}

/// What a server that starts there has.
fn found(remains: &Remains, directory: &Path) -> Result<Index, StartError> {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        spares: 0,
        ..LogOptions::default()
    };
    let hooks = LogHooks::fatal(|_| {});
    match bootstrap::open(&remains.world(), directory, options, hooks, FirstStart::Alone)? {
        Found::Node(opened) => {
            opened.log.close().unwrap();
            Ok(opened.loaded.applied.state.index())
        }
        Found::Empty(_) => panic!("alone it begins"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_starts_on_what_is_half_restored() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    fs::create_dir(dir.join("lost+found")).unwrap();
    fs::create_dir(dir.join("checkpoint")).unwrap();
    fs::write(dir.join("checkpoint/half"), "x").unwrap();
    fs::write(dir.join("restoring"), "").unwrap();
    let refused = try_start(dir).await.err().expect("it is refused");
    assert!(matches!(refused, StartError::HalfRestored(_)), "{refused}");
    assert!(refused.is_refusal());
    assert!(
        refused.to_string().contains("run `spine snapshot restore` again"),
        "{refused}"
    );
    restore(&written_state(), dir).unwrap();
    assert_eq!(names(dir), ["checkpoint", "lock", "lost+found"]);
    assert!(!dir.join("checkpoint/half").exists());
    let node = start(dir).await;
    assert_eq!(read(&*node.registry(), "a").await.as_deref(), Some("1"));
    let refused = restore(&State::new(), dir).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty(_)), "{refused}");
    node.stop().await.unwrap();
}

#[test]
fn two_do_not_restore_into_one_directory() {
    let place = tempfile::tempdir().unwrap();
    let state = State::new();
    let held = World::real().locks.lock(place.path()).unwrap();
    let refused = restore(&state, place.path()).unwrap_err();
    assert!(matches!(refused, RestoreError::InUse(_)), "{refused}");
    drop(held);
    restore(&state, place.path()).unwrap();
}

#[test]
fn only_an_empty_directory_is_taken_and_nothing_is_left_in_another() {
    let place = tempfile::tempdir().unwrap();
    let state = State::new();
    let dir = place.path().join("data");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    let refused = restore(&state, &dir).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty(_)), "{refused}");
    assert_eq!(names(&dir), ["mine"]);
    fs::remove_file(dir.join("mine")).unwrap();
    // Without the mark it is somebody's.
    fs::create_dir(dir.join("checkpoint")).unwrap();
    let refused = restore(&state, &dir).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty(_)), "{refused}");
    fs::remove_dir(dir.join("checkpoint")).unwrap();
    restore(&state, &dir).unwrap();
    assert_eq!(names(place.path()), ["data"]);
    assert_eq!(names(&dir), ["checkpoint", "lock"]);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The checksums of the file hold, and the state is none all the same.
#[test]
fn what_newer_releases_wrote_and_what_is_no_state_is_refused() {
    let state = written_state();
    let header = snapshot::Header::of(&state);
    let file = |header: snapshot::Header, chunks: &[Vec<u8>]| {
        let head = Head {
            state: header.encode().into(),
            ..Head::default()
        };
        let mut writer = Writer::new(Vec::new(), &head).unwrap();
        for chunk in chunks {
            writer.chunk(chunk).unwrap();
        }
        writer.finish().unwrap().1
    };
    let chunks: Vec<_> = snapshot::chunks(&state).collect();
    assert!(load(&file(header, &chunks)).is_ok());
    for newer in [
        snapshot::Header {
            rules: u32::MAX,
            ..header
        },
        snapshot::Header {
            format: u16::MAX,
            ..header
        },
    ] {
        let refused = load(&file(newer, &chunks)).err().unwrap();
        assert!(refused.to_string().contains("is newer than"), "{refused}");
    }
    let other = snapshot::Header {
        digest: header.digest ^ 1,
        ..header
    };
    let refused = load(&file(other, &chunks)).err().unwrap();
    assert!(matches!(refused, ReadError::State(_)), "{refused}");
    let refused = load(&file(header, &[])).err().unwrap();
    assert!(matches!(refused, ReadError::State(_)), "{refused}");
    let mut newer = file(header, &chunks);
    newer[8] = 9;
    let refused = load(&newer).err().unwrap();
    assert!(
        matches!(refused, ReadError::File(FileError::Newer { found: 9 })),
        "{refused}"
    );
}
