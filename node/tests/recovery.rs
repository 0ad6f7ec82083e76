//! One of three goes on alone: with all that its log holds, or not at all, at whatever step its power fails.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use spine_core::{
    Command, Entry, Guard, Index, Put, RULES_KNOWN, Repeat, Request, Revision, Time, WallTime, codec,
};
use spine_node::{
    Node, NodeSettings, World,
    metrics_sink::Uncounted,
    raft::{
        Peer,
        bootstrap::{self, FirstStart, Found, Opened, StartError},
        founding::Founding,
        identity::{ClusterId, Identity},
        recovery::{self, NUMBERS_SKIPPED, Recovered, Survivor},
    },
    storage::{
        log::{LogEngine, LogEntry, LogHooks, LogStore, Position, Write},
        segment::LogOptions,
    },
};

#[path = "support/remains.rs"]
mod remains;
mod support;

use remains::{Remains, disk::Rng};
use support::{cluster::Cluster, write};

const DIR: &str = "/data";
/// Entries in the log; the last few are not known to be committed.
const ENTRIES: u64 = 20;
const COMMITTED: u64 = 17;
/// Each step is cut so often, as each time the disk keeps something else of what was not flushed.
const CUTS: u64 = 6;

impl Remains {
    fn open(&self) -> Result<Found, StartError> {
        let hooks = LogHooks::fatal(|_| {});
        bootstrap::open(
            &self.world(),
            Path::new(DIR),
            options(),
            hooks,
            FirstStart::Together,
        )
    }

    fn opened(&self) -> Opened {
        match self.open().unwrap() {
            Found::Node(opened) => *opened,
            Found::Empty(_) => panic!("a server is never empty again"),
        }
    }

    fn survey(&self) -> Survivor {
        let surveyed = recovery::survey(&self.world(), Path::new(DIR), options()).unwrap();
        surveyed.unwrap().survivor().clone()
    }

    fn recover(&self) -> Result<Recovered, StartError> {
        let world = self.world();
        let surveyed = recovery::survey(&world, Path::new(DIR), options())?;
        surveyed.unwrap().go_on(&world, Path::new(DIR), &options())
    }
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        spares: 0,
        ..LogOptions::default()
    }
}

fn founding(node: u64) -> Founding {
    let peer = |name: &str| Peer {
        name: name.to_owned(),
        address: format!("{name}:8300"),
    };
    Founding {
        cluster: ClusterId(77),
        members: BTreeMap::from([
            (node, peer("a")),
            (u64::MAX, peer("b")),
            (u64::MAX - 1, peer("c")),
        ]),
    }
}

fn submit(log: &dyn LogStore, write: Write) {
    let (done, durable) = mpsc::channel();
    log.submit(
        write,
        Box::new(move |result| {
            let _ = done.send(result);
        }),
    );
    durable.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
}

fn entry(index: u64) -> LogEntry {
    let put = Put {
        key: format!("k{index}").into(),
        value: "value".into(),
        flags: 0,
        lease: None,
        guard: Guard::Always,
        repeat: Repeat::Skip,
    };
    let entry = Entry {
        time: Time(index),
        wall: WallTime(1_000 * index),
        requests: vec![Request::internal(Command::Put(put))],
    };
    LogEntry {
        position: Position {
            term: 3,
            leader: 0,
            index,
        },
        payload: codec::encode_entry(&entry).into(),
    }
}

/// A voter of three that has stopped. Its vote is that of term 3.
fn stopped() -> (Remains, Identity) {
    let remains = Remains::default();
    let Found::Empty(mut beginning) = remains.open().unwrap() else {
        panic!("the directory was empty");
    };
    beginning.found(founding(beginning.node())).unwrap();
    let opened = beginning.begin().unwrap();
    let log = &*opened.log;
    // The vote as Raft writes it: term 3, for node 1, won.
    submit(log, Write::Vote(vec![10, 4, 8, 3, 16, 1, 16, 1].into()));
    submit(log, Write::Append((0..ENTRIES).map(entry).collect()));
    let committed = entry(COMMITTED).position;
    submit(log, Write::Committed(committed));
    submit(log, Write::Append(vec![entry(ENTRIES)]));
    log.close().unwrap();
    (remains, opened.identity)
}

#[test]
fn a_survivor_is_described() {
    let (remains, identity) = stopped();
    let survivor = remains.survey();
    assert_eq!((survivor.node, survivor.cluster), (identity.node, ClusterId(77)));
    assert_eq!((survivor.server.as_str(), survivor.starts), ("a", 1));
    assert_eq!(survivor.term, Some(3));
    assert_eq!(
        survivor.last.map(|last| (last.term, last.index)),
        Some((3, ENTRIES))
    );
    assert_eq!(survivor.committed, Some(COMMITTED));
    assert_eq!((survivor.index, survivor.revision), (ENTRIES + 1, ENTRIES + 2));
    assert_eq!(survivor.last_write.as_deref(), Some("1970-01-01T00:00:20Z"));
    let voters: Vec<_> = survivor
        .other_voters()
        .map(|voter| voter.server.as_str())
        .collect();
    assert_eq!(voters, ["b", "c"]);
    // Looking is no start.
    assert_eq!(remains.survey(), survivor);
    assert_eq!(remains.opened().starts.present().number, 2);
}

#[test]
fn nothing_is_no_survivor() {
    let remains = Remains::default();
    let world = remains.world();
    assert!(
        recovery::survey(&world, Path::new(DIR), options())
            .unwrap()
            .is_none()
    );
}

#[test]
fn all_of_its_log_goes_on_in_another_cluster() {
    let (remains, old) = stopped();
    let recovered = remains.recover().unwrap();
    let opened = remains.opened();
    assert_eq!(opened.identity, recovered.identity);
    assert_ne!(opened.identity.cluster, old.cluster);
    assert_ne!(opened.identity.node, old.node);
    assert!(opened.founding.is_none() && opened.joined.is_none());
    assert!(opened.lineage.has(old.cluster) && !opened.lineage.has(opened.identity.cluster));
    let state = &opened.loaded.applied.state;
    assert_eq!(
        state.kv().len() as u64,
        ENTRIES + 1,
        "also what was not known to be committed"
    );
    assert_eq!(state.index(), Index(ENTRIES + 1 + NUMBERS_SKIPPED));
    assert_eq!(state.revision(), Revision(ENTRIES + 2 + NUMBERS_SKIPPED));
    let last = opened.log.state().last.unwrap();
    assert_eq!(
        (last.term, last.index),
        (0, ENTRIES),
        "who joins is sent the state"
    );
    opened.log.close().unwrap();
    // What was there is kept, and is whole.
    let kept = Path::new(DIR).join(recovered.aside).join("founding");
    assert!(remains.disk.contents(&kept).is_some());
    // It has no need to be recovered again.
    let alone = recovery::judge(&remains.survey(), &[]).unwrap_err();
    assert!(matches!(alone, recovery::Unsafe::Blank { .. }), "{alone}");
}

/// What the newest rules made of the entries behind them isn't known here: the data would go on as others than they were.
#[test]
fn a_log_that_a_newer_release_wrote_is_left_to_that() {
    let (remains, old) = stopped();
    let opened = remains.opened();
    let raise = Entry {
        time: Time(ENTRIES + 1),
        wall: WallTime(0),
        requests: vec![Request::internal(Command::RulesRaise(RULES_KNOWN + 1))],
    };
    let raise = LogEntry {
        payload: codec::encode_entry(&raise).into(),
        ..entry(ENTRIES + 1)
    };
    submit(&*opened.log, Write::Append(vec![raise, entry(ENTRIES + 2)]));
    opened.log.close().unwrap();
    drop(opened);
    let world = remains.world();
    let refused = recovery::survey(&world, Path::new(DIR), options())
        .map(drop)
        .unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("raises the rules to") && said.contains("take the release"),
        "{said}"
    );
    assert_eq!(remains.opened().identity, old, "nothing was changed");
}

#[test]
fn at_every_step_the_directory_is_as_before_or_recovered() {
    let steps = {
        let (remains, _) = stopped();
        let before = remains.disk.operations();
        remains.recover().unwrap();
        remains.disk.operations() - before
    };
    assert!(steps > 20, "{steps}");
    let (mut as_before, mut recovered) = (0, 0);
    for step in 0..=steps {
        for cut in 0..CUTS {
            let mut rng = Rng::new(step * CUTS + cut + 1);
            let (remains, old) = stopped();
            remains.disk.crash_at(step);
            let done = remains.recover();
            let remains = remains.after_crash(&mut rng);
            // And once more, while it is being looked at or brought to its end.
            remains.disk.crash_at(rng.below(12));
            let _ = remains.open();
            let remains = remains.after_crash(&mut rng);
            let opened = remains.opened();
            let state = &opened.loaded.applied.state;
            opened.log.close().unwrap();
            if opened.identity == old {
                assert!(done.is_err(), "step {step}: it was said to be done");
                let survivor = remains.survey();
                assert_eq!(survivor.last.unwrap().index, ENTRIES, "step {step}");
                as_before += 1;
                remains.recover().unwrap();
                let again = remains.opened();
                assert_eq!(again.loaded.applied.state.kv().len() as u64, ENTRIES + 1);
            } else {
                assert_eq!(state.kv().len() as u64, ENTRIES + 1, "step {step}");
                assert_eq!(state.index(), Index(ENTRIES + 1 + NUMBERS_SKIPPED), "step {step}");
                assert!(opened.lineage.has(old.cluster), "step {step}");
                recovered += 1;
            }
        }
    }
    assert!(
        as_before > 0 && recovered > 0,
        "from the first step to the last: {as_before}, {recovered}"
    );
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Recovers the server of a real directory. What lay at the top of that, but for the lock and what was set aside before.
fn recover_and_compare(settings: &NodeSettings) -> BTreeSet<String> {
    let (world, directory) = (World::real(), &settings.data_dir);
    let mut before = names(directory);
    before.retain(|name| name != "lock" && !name.starts_with("before-"));
    let surveyed = recovery::survey(&world, directory, settings.log.clone()).unwrap();
    let recovered = surveyed.unwrap().go_on(&world, directory, &settings.log).unwrap();
    assert_eq!(names(&directory.join(recovered.aside)), before);
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_writes_into_its_directory_is_set_aside() {
    for (engine, log) in [(LogEngine::Segment, "log"), (LogEngine::Sled, "log-sled")] {
        let mut cluster = Cluster::start_with(|settings| settings.log.engine = engine).await;
        cluster.leader_among(&[0, 1, 2]).await;
        write(&*cluster.registry(0), "a", "1").await;
        // What it remembers of another that has started again is written as well.
        cluster.halt(1).await;
        cluster.revive(1).await;
        for number in 0..3 {
            cluster.halt(number).await;
        }
        let mut settings = cluster.settings(0).clone();
        let of_three = recover_and_compare(&settings);
        let known = ["boot", "checkpoint", "founding", log, "peers", "starts"];
        assert_eq!(of_three, known.map(str::to_owned).into());

        // The next cluster has its own.
        settings.peers = None;
        let node = Node::start(settings.clone(), World::real(), Arc::new(Uncounted));
        let node = node.await.unwrap();
        node.ready().await.unwrap();
        node.stop().await.unwrap();
        let of_one = recover_and_compare(&settings);
        assert!(of_one.contains("lineage"), "{of_one:?}");
    }
}
