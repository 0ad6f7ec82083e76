//! Three nodes in one process: what one of them leads is on all of them, and goes on without it.

mod support;

use std::time::Duration;

use support::{cluster::Cluster, write};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_applied_on_all_and_survive_the_leader() {
    let mut cluster = Cluster::start().await;
    let first = cluster.leader_among(&[0, 1, 2]).await;
    for number in 0..200 {
        write(&*cluster.registry(first), &format!("k{number}"), vec![7; 300]).await;
    }
    cluster.until_equal(&[0, 1, 2]).await;

    // The leader goes; another leads, and takes writes.
    cluster.halt(first).await;
    let rest: Vec<_> = (0..3).filter(|node| *node != first).collect();
    let began = Instant::now();
    let second = cluster.leader_among(&rest).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "another leads after {took:?}");
    for number in 0..200 {
        write(&*cluster.registry(second), &format!("k{number}"), vec![8; 300]).await;
    }
    cluster.until_equal(&rest).await;

    // It comes back and catches up.
    cluster.revive(first).await;
    write(&*cluster.registry(second), "back", "again").await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_many_megabytes_pass_within_the_bounds_of_a_message() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    cluster.halt(away).await;
    for number in 0..24 {
        write(
            &*cluster.registry(leader),
            &format!("large{number}"),
            vec![number; 500 << 10],
        )
        .await;
    }
    cluster.revive(away).await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    write(&*cluster.registry(leader), "before", "handover").await;
    let began = Instant::now();
    let next = cluster.node(leader).hand_over().await.unwrap();
    println!("handed over within {:?}", began.elapsed());
    assert_ne!(next.name, format!("n{leader}"));
    let now = cluster.leader_among(&[0, 1, 2]).await;
    write(&*cluster.registry(now), "after", "handover").await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}
