//! A node as an embedder has it: started, written to, stopped, started again; and what it refuses to start with.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use spine_api::{AdminCommand, AdminOutcome, Consistency, Context, Error, Read};
use spine_core::{Command, GetKey, LeaseGrant, LeaseId, Members, NodeName, Query, Renewal, Renewed, Ttl};
use spine_node::{
    Node, World,
    metrics_sink::Uncounted,
    raft::bootstrap::StartError,
    storage::{
        log::{LogEngine, LogHooks, LogStore},
        segment::LogPlace,
    },
    world::files::{Files, OsFiles},
};
use support::{cx, put, read, settings, start, try_start, write};

/// Up to where the log of a node that doesn't run is gone.
fn log_purged(directory: &Path) -> Option<u64> {
    let place = LogPlace {
        files: Arc::new(OsFiles),
        dir: directory.join("log"),
        options: settings(directory).log,
        hooks: LogHooks::fatal(|error| panic!("{error}")),
    };
    let log = place.open().unwrap().start().unwrap();
    log.state().purged.map(|position| position.index)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_stop_and_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let (identity, registry) = (node.identity(), node.registry());
    assert_eq!(node.boot_number(), 1);
    let first = write(&*registry, "a", "1").await;
    node.stop().await.unwrap();
    assert_eq!(
        registry.propose(&cx(), put("b", "2")).await.unwrap_err(),
        Error::ShuttingDown
    );

    let node = start(directory.path()).await;
    assert_eq!((node.identity(), node.boot_number()), (identity, 2));
    let registry = node.registry();
    assert_eq!(read(&*registry, "a").await.as_deref(), Some("1"));
    let second = write(&*registry, "b", "2").await;
    assert!(second.index > first.index);
    node.halt().await.unwrap();

    let node = start(directory.path()).await;
    let registry = node.registry();
    assert_eq!(read(&*registry, "a").await.as_deref(), Some("1"));
    assert_eq!(read(&*registry, "b").await.as_deref(), Some("2"));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_in_sled_keeps_it_there() {
    let directory = tempfile::tempdir().unwrap();
    let in_sled = || {
        let mut settings = settings(directory.path());
        settings.log.engine = LogEngine::Sled;
        settings
    };
    let begin = || async {
        let node = Node::start(in_sled(), World::real(), Arc::new(Uncounted))
            .await
            .unwrap();
        node.ready().await.unwrap();
        node
    };
    let node = begin().await;
    let identity = node.identity();
    write(&*node.registry(), "a", "1").await;
    node.halt().await.unwrap();

    let node = begin().await;
    assert_eq!(node.identity(), identity);
    assert_eq!(read(&*node.registry(), "a").await.as_deref(), Some("1"));
    write(&*node.registry(), "b", vec![b'x'; 400_000]).await;
    node.registry()
        .admin(&cx(), AdminCommand::Checkpoint)
        .await
        .unwrap();
    node.stop().await.unwrap();

    let refused = try_start(directory.path()).await.err().expect("it is refused");
    assert!(refused.is_refusal(), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("start this server with --log-engine sled"),
        "{refused}"
    );
    let node = begin().await;
    assert_eq!(
        read(&*node.registry(), "b").await.map(|value| value.len()),
        Some(400_000)
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    let status = registry.status();
    assert_eq!(status.name.as_str(), "n1");
    assert_eq!(status.leader.as_ref().map(NodeName::as_str), Some("n1"));
    assert!(status.ready && status.term > 0 && status.node_id == node.identity().node);
    let members = loop {
        let members = Members.ask(&registry.view(&cx()).await.unwrap()).value;
        if !members.is_empty() {
            break members;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(members[0].member.id, status.node_id);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_each_read_what_they_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let writers = (0..64).map(|writer| {
        let registry = node.registry();
        tokio::spawn(async move {
            for round in 0..20 {
                let (key, value) = (format!("w{writer}"), format!("{round}"));
                write(&*registry, &key, value.clone()).await;
                let stale = Context {
                    consistency: Consistency::Stale,
                    ..cx()
                };
                let query = GetKey(key.clone().into());
                let seen = registry
                    .read(&stale, &query, None)
                    .await
                    .unwrap()
                    .value
                    .unwrap()
                    .value
                    .clone();
                assert_eq!(seen, value, "the next read here shows the write");
                assert_eq!(read(&*registry, &key).await, Some(value));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_let_the_log_go_and_a_restart_goes_on_from_them() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    let checkpoint = async || match registry.admin(&cx(), AdminCommand::Checkpoint).await.unwrap() {
        AdminOutcome::Checkpointed { position } => position,
        other => panic!("a checkpoint has no outcome {other:?}"),
    };
    write(&*registry, "a", "1").await;
    let first = checkpoint().await;
    write(&*registry, "b", "2").await;
    let second = checkpoint().await;
    assert!(second > first);
    assert_eq!(checkpoint().await, second, "nothing new, nothing to write");
    for n in 0..100 {
        write(&*registry, "c", n.to_string()).await;
    }
    assert!(checkpoint().await > second);
    node.halt().await.unwrap();
    // What the newer of the two generations doesn't hold is there, and what the older one holds isn't.
    assert_eq!(log_purged(directory.path()), Some(second));

    let node = start(directory.path()).await;
    let registry = node.registry();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "99")] {
        assert_eq!(read(&*registry, key).await.as_deref(), Some(value));
    }
    let rows = write(&*registry, "d", "4").await;
    assert!(rows.index.0 > 100);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_much_writing_leaves_little_to_replay() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    for n in 0..8 {
        write(&*registry, &format!("k{n}"), vec![n; 200 << 10]).await;
    }
    node.stop().await.unwrap();
    let generations = directory.path().join("checkpoint").read_dir().unwrap();
    assert!(
        generations
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
            >= 2
    );

    let node = start(directory.path()).await;
    let state = node.registry().view(&cx()).await.unwrap();
    assert_eq!(
        GetKey("k7".into()).ask(&state).value.unwrap().value.len(),
        200 << 10
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_when_they_are_not_renewed_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let registry = node.registry();
    let grant = |id| {
        Command::LeaseGrant(LeaseGrant {
            id: LeaseId(id),
            ttl: Ttl::seconds(2),
        })
    };
    for id in [1, 2] {
        registry.propose(&cx(), grant(id)).await.unwrap().result.unwrap();
    }
    let began = tokio::time::Instant::now();
    let ended = loop {
        let renewed = registry.renew(&cx(), Renewal::Lease(LeaseId(1))).await.unwrap();
        assert!(
            matches!(renewed, Renewed::Until(Some(_))),
            "a renewed lease lives"
        );
        if registry
            .view(&cx())
            .await
            .unwrap()
            .leases()
            .get(LeaseId(2))
            .is_none()
        {
            break began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(ended >= Duration::from_millis(1_900), "{ended:?}");
    assert!(ended <= Duration::from_secs(4), "{ended:?}");
    assert_eq!(
        registry.renew(&cx(), Renewal::Lease(LeaseId(2))).await,
        Ok(Renewed::NotARenewal)
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    assert!(matches!(
        try_start(directory.path()).await,
        Err(StartError::InUse(_))
    ));
    node.stop().await.unwrap();
    start(directory.path()).await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_was_cut_short_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path()).await.halt().await.unwrap();
    // Generation 0 is there, the log's first segment never was.
    std::fs::remove_dir_all(directory.path().join("log")).unwrap();
    let node = start(directory.path()).await;
    write(&*node.registry(), "a", "1").await;
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_without_its_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    write(&*node.registry(), "a", "1").await;
    node.registry()
        .admin(&cx(), AdminCommand::Checkpoint)
        .await
        .unwrap();
    node.stop().await.unwrap();
    std::fs::remove_dir_all(directory.path().join("log")).unwrap();
    let error = try_start(directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::LogGone { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_checkpoint_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path()).await.stop().await.unwrap();
    std::fs::remove_dir_all(directory.path().join("checkpoint")).unwrap();
    let error = try_start(directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::NoCheckpoint { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_two_nodes_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&one, &other] {
        start(directory.path()).await.stop().await.unwrap();
    }
    std::fs::remove_dir_all(one.path().join("log")).unwrap();
    OsFiles
        .rename(&other.path().join("log"), &one.path().join("log"))
        .unwrap();
    let error = try_start(one.path()).await.err().unwrap();
    assert!(matches!(error, StartError::IdentitiesDiffer { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_live_in_one_process() {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes = Vec::new();
    for directory in &directories {
        nodes.push(start(directory.path()).await);
    }
    for (n, node) in nodes.iter().enumerate() {
        write(&*node.registry(), "who", n.to_string()).await;
    }
    for (n, node) in nodes.into_iter().enumerate() {
        assert_eq!(read(&*node.registry(), "who").await, Some(n.to_string()));
        node.stop().await.unwrap();
    }
}
