//! What is left of a node that was stopped, halted or dropped: nothing that runs, and a directory that the next one can have.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use spine_api::{AdminCommand, Error};
use spine_node::{Node, metrics_sink::Uncounted, raft::bootstrap::StartError};
use support::{cluster::Cluster, cx, put, read, settings, stall::Stall, start, try_start, write};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

/// Waits until no task is left on a runtime.
fn until_still(runtime: &Runtime) {
    let metrics = runtime.handle().metrics();
    let still = async {
        while metrics.num_alive_tasks() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let still = runtime.block_on(async { timeout(PATIENCE, still).await });
    assert!(still.is_ok(), "{} tasks are left", metrics.num_alive_tasks());
}

#[test]
fn nodes_that_are_dropped_leave_no_task_behind_whoever_still_has_their_registries() {
    let runtime = runtime();
    let (mut cluster, registries) = runtime.block_on(async {
        let cluster = Cluster::start().await;
        cluster.leader_among(&[0, 1, 2]).await;
        let mut registries = Vec::new();
        for number in 0..3 {
            let registry = cluster.registry(number);
            cluster.until_ready(number).await;
            write(&*registry, &format!("k{number}"), "v").await;
            assert_eq!(
                read(&*registry, &format!("k{number}")).await.as_deref(),
                Some("v")
            );
            registries.push(registry);
        }
        (cluster, registries)
    });
    // Outside of any runtime, as where a program ends.
    for number in 0..3 {
        cluster.drop_one(number);
    }
    until_still(&runtime);
    runtime.block_on(async {
        for registry in registries {
            let written = registry.propose(&cx(), put("late", "v")).await;
            assert_eq!(written.unwrap_err(), Error::ShuttingDown);
            assert_eq!(registry.view(&cx()).await.err(), Some(Error::ShuttingDown));
        }
    });
}

#[test]
fn the_directory_of_a_node_that_was_dropped_is_taken_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        for round in 0..5 {
            let node = start(directory.path()).await;
            assert_eq!(node.boot_number(), round + 1);
            write(&*node.registry(), &format!("k{round}"), "v").await;
        }
        let node = start(directory.path()).await;
        assert_eq!(read(&*node.registry(), "k4").await.as_deref(), Some("v"));
        node.stop().await.unwrap();
    });
    until_still(&runtime);
}

/// A node that is writing a checkpoint whose end the disk doesn't tell.
async fn stalled(directory: &Path) -> (Arc<Stall>, Node) {
    let node = start(directory).await;
    write(&*node.registry(), "a", "1").await;
    node.halt().await.unwrap();
    let stall = Arc::new(Stall::default());
    let node = Node::start(settings(directory), stall.world(), Arc::new(Uncounted)).await;
    let node = node.unwrap();
    node.ready().await.unwrap();
    let registry = node.registry();
    tokio::spawn(async move { registry.admin(&cx(), AdminCommand::Checkpoint).await });
    timeout(PATIENCE, stall.reached()).await.unwrap();
    (stall, node)
}

async fn is_held(directory: &Path) {
    let started = timeout(PATIENCE, try_start(directory)).await.unwrap();
    assert!(
        matches!(started, Err(StartError::InUse(_))),
        "{:?}",
        started.err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_held_while_a_checkpoint_is_written_there_though_its_node_is_gone() {
    let dropped = async {
        let directory = tempfile::tempdir().unwrap();
        let (stall, node) = stalled(directory.path()).await;
        drop(node);
        is_held(directory.path()).await;
        stall.end();
        start(directory.path()).await.stop().await.unwrap();
    };
    let halted = async {
        let directory = tempfile::tempdir().unwrap();
        let (stall, node) = stalled(directory.path()).await;
        // Nobody can say when the disk will answer.
        timeout(PATIENCE, node.halt()).await.unwrap().unwrap();
        is_held(directory.path()).await;
        // Who starts a little before it does, waits.
        let starts = tokio::spawn({
            let directory = directory.path().to_owned();
            async move { try_start(&directory).await }
        });
        stall.end();
        starts.await.unwrap().unwrap().stop().await.unwrap();
    };
    tokio::join!(dropped, halted);
}
