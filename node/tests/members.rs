//! Nodes come into a cluster that runs, take the place of ones that were lost, and leave it, while others write.

#[path = "support/deaf.rs"]
mod deaf;
mod support;

use std::{collections::BTreeMap, time::Duration};

use deaf::Deaf;
use spine_api::{AdminCommand, AdminOutcome, Error};
use spine_core::NodeName;
use spine_node::limits;
use support::{
    cluster::{Cluster, Writer},
    cx,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// The names of `count` nodes.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_five_while_it_takes_writes() {
    let mut cluster = Cluster::start_one().await;
    let writer = Writer::start("grow", cluster.registry(0));
    writer.until_more(20).await;
    for count in 2..=5 {
        cluster.join().await;
        cluster.until_voters(&names(count)).await;
        writer.until_more(20).await;
    }
    let written = writer.stop().await;
    cluster.until_equal(&[0, 1, 2, 3, 4]).await;
    for number in 0..5 {
        cluster.until_ready(number).await;
        written.are_in(&cluster.state(number));
        let known: Vec<NodeName> = cluster
            .state(number)
            .members()
            .map(|member| member.name.clone())
            .collect();
        assert_eq!(known.len(), 5, "{known:?}");
    }
    // Two of five may go.
    let leader = cluster.leader_among(&[0, 1, 2, 3, 4]).await;
    cluster.halt(leader).await;
    let rest: Vec<_> = (0..5).filter(|number| *number != leader).collect();
    cluster.halt(rest[0]).await;
    cluster.leader_among(&rest[1..]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_voter_knows_who_votes_and_who_only_learns() {
    let mut cluster = Cluster::start().await;
    let id = |cluster: &Cluster, number| cluster.node(number).identity().node;
    let mut votes: BTreeMap<_, _> = (0..3).map(|number| (id(&cluster, number), true)).collect();
    for number in 0..3 {
        cluster.until_votes(number, &votes).await;
    }
    // One that can't be sent anything is never given a vote.
    cluster.join_unreachable().await;
    votes.insert(id(&cluster, 3), false);
    for number in 0..3 {
        cluster.until_votes(number, &votes).await;
    }
    cluster.join().await;
    votes.insert(id(&cluster, 4), true);
    for number in [0, 1, 2, 4] {
        cluster.until_votes(number, &votes).await;
    }
    cluster.stop().await;
}

/// The learner's first entries are gone from the leader's log: it gets a state.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_late_gets_a_state_and_then_a_vote() {
    let mut cluster = Cluster::start_one().await;
    let writer = Writer::start("late", cluster.registry(0));
    for _ in 0..2 {
        writer.until_more(20).await;
        cluster.checkpoint(0).await;
    }
    cluster.until_purged(0, 20).await;
    cluster.join().await;
    cluster.until_voters(&names(2)).await;
    assert!(cluster.installed(1) > 0);
    let written = writer.stop().await;
    cluster.until_equal(&[0, 1]).await;
    written.are_in(&cluster.state(1));
    // It is a member like any other: it comes back without being told whom to join.
    cluster.halt(1).await;
    cluster.forget_seeds(1);
    cluster.revive(1).await;
    cluster.until_ready(1).await;
    cluster.until_equal(&[0, 1]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_wiped_takes_its_own_place() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let wiped = (leader + 1) % 3;
    let before = cluster.node(wiped).identity();
    let writer = Writer::start("wiped", cluster.registry(leader));
    writer.until_more(20).await;
    cluster.halt(wiped).await;
    cluster.wipe(wiped);
    cluster.revive(wiped).await;
    cluster.until_voters(&names(3)).await;
    let after = cluster.node(wiped).identity();
    assert_eq!(after.cluster, before.cluster);
    assert_ne!(after.node, before.node);
    let written = writer.stop().await;
    cluster.until_equal(&[0, 1, 2]).await;
    written.are_in(&cluster.state(wiped));
    // It counts: with it and one other the cluster goes on.
    cluster.halt(leader).await;
    let rest: Vec<_> = (0..3).filter(|number| *number != leader).collect();
    cluster.leader_among(&rest).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_in_use_is_refused() {
    let mut cluster = Cluster::start().await;
    let refused = cluster.join_as("n1").await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    assert!(refused.to_string().contains("--name"), "{refused}");
    cluster.stop().await;
}

/// So many catch up at once; the next one waits until one of them is done.
#[tokio::test(flavor = "multi_thread")]
async fn many_come_at_once_and_all_get_in() {
    let mut cluster = Cluster::start_one().await;
    cluster.join_many(limits::LEARNERS_MAX + 1).await;
    cluster.until_voters(&names(limits::LEARNERS_MAX + 2)).await;
    cluster.stop().await;
}

async fn remove(cluster: &Cluster, by: usize, name: &str, forced: bool) -> Result<AdminOutcome, Error> {
    let mut cx = cx();
    cx.deadline = tokio::time::Instant::now() + PATIENCE;
    let name = name.into();
    let command = AdminCommand::RemoveMember { name, forced };
    cluster.registry(by).admin(&cx, command).await
}

/// Waits until a node has noticed that it is a member no longer, and halts it.
async fn ends_as_removed(cluster: &mut Cluster, number: usize) {
    let reason = timeout(PATIENCE, cluster.node(number).fatal()).await;
    let reason = reason.expect("it notices");
    assert!(
        reason.contains("was removed from cluster") && reason.contains("spine join"),
        "{reason}"
    );
    assert!(cluster.node(number).is_refused());
    cluster.halt(number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_shrinks_from_five_to_three_while_it_takes_writes() {
    let mut cluster = Cluster::start().await;
    cluster.join_many(2).await;
    cluster.until_voters(&names(5)).await;
    for number in 0..5 {
        cluster.until_ready(number).await;
    }
    let leader = cluster.leader_among(&[0, 1, 2, 3, 4]).await;
    let others: Vec<_> = (0..5).filter(|number| *number != leader).collect();
    let writer = Writer::start("shrink", cluster.registry(others[3]));
    writer.until_more(20).await;
    // One that follows, on the word of another that does; then the leader, on its own.
    remove(&cluster, others[1], &format!("n{}", others[0]), false)
        .await
        .unwrap();
    ends_as_removed(&mut cluster, others[0]).await;
    writer.until_more(20).await;
    remove(&cluster, leader, &format!("n{leader}"), false)
        .await
        .unwrap();
    writer.until_more(20).await;
    ends_as_removed(&mut cluster, leader).await;
    let rest = &others[1..];
    let names: Vec<_> = rest.iter().map(|number| format!("n{number}")).collect();
    cluster.until_voters(&names).await;
    let written = writer.stop().await;
    cluster.until_equal(rest).await;
    for number in rest {
        written.are_in(&cluster.state(*number));
        cluster.until_members(*number, &names).await;
    }
    let gone = remove(&cluster, rest[0], &format!("n{leader}"), false).await;
    assert!(matches!(gone, Err(Error::NoMember(_))), "{gone:?}");

    // One that comes back is refused, and told what to do.
    let refused = cluster.try_revive(others[0]).await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    assert!(
        refused.to_string().contains("was removed from cluster"),
        "{refused}"
    );
    // As an empty one it is welcome.
    cluster.wipe(others[0]);
    cluster.revive(others[0]).await;
    let mut names = names;
    names.push(format!("n{}", others[0]));
    cluster.until_voters(&names).await;
    cluster.stop().await;
}

/// The answer to a removal is lost, and the server is back under its name before it is asked for again: as another
/// directory, which was not meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_answer_was_lost_does_not_remove_the_next_of_the_name() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let (asked, going) = ((leader + 1) % 3, (leader + 2) % 3);
    let deaf = Deaf::default();
    cluster.halt(asked).await;
    cluster.revive_in(asked, deaf.world()).await;
    cluster.until_ready(asked).await;
    let gone = cluster.node(going).identity().node;

    deaf.set(true);
    let registry = cluster.registry(asked);
    let mut cx = cx();
    cx.deadline = tokio::time::Instant::now() + PATIENCE * 2;
    let name = format!("n{going}").into();
    let removal = tokio::spawn(async move {
        let command = AdminCommand::RemoveMember { name, forced: false };
        registry.admin(&cx, command).await
    });
    ends_as_removed(&mut cluster, going).await;
    cluster.wipe(going);
    cluster.revive(going).await;
    assert!(!removal.is_finished(), "its answer was lost");
    deaf.set(false);
    let removed = timeout(PATIENCE * 2, removal).await.expect("it ends").unwrap();
    assert!(
        matches!(&removed, Ok(AdminOutcome::Removed { id }) if *id == gone),
        "{removed:?}"
    );
    cluster.until_voters(&names(3)).await;
    assert_ne!(cluster.node(going).identity().node, gone);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_leave_no_quorum_is_refused() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let (lost, second) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.until_members(leader, &names(3)).await;
    cluster.halt(lost).await;
    cluster.until_lost(leader, &format!("n{lost}")).await;
    let name = format!("n{second}");
    let refused = remove(&cluster, leader, &name, false).await;
    let until = format!("until n{lost} is back");
    assert!(
        matches!(&refused, Err(Error::Unsafe(why)) if why.contains(&until)),
        "{refused:?}"
    );
    // The lost one may go.
    remove(&cluster, second, &format!("n{lost}"), false)
        .await
        .unwrap();
    cluster
        .until_members(leader, &[format!("n{leader}"), name.clone()])
        .await;
    // And then the other, and the last one never.
    remove(&cluster, second, &name, false).await.unwrap();
    for forced in [false, true] {
        let refused = remove(&cluster, leader, &format!("n{leader}"), forced).await;
        assert!(
            matches!(&refused, Err(Error::Unsafe(why)) if why.contains("the only voter")),
            "{refused:?}"
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_leaves_by_its_own_wish() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let mut cx = cx();
    cx.deadline = tokio::time::Instant::now() + PATIENCE;
    let left = cluster.registry(leader).admin(&cx, AdminCommand::Leave).await;
    assert!(matches!(left, Ok(AdminOutcome::Left)), "{left:?}");
    timeout(PATIENCE, cluster.node(leader).left())
        .await
        .expect("it knows");
    cluster.stop_one(leader).await;
    let rest: Vec<_> = (0..3).filter(|number| *number != leader).collect();
    cluster.leader_among(&rest).await;
    let names: Vec<_> = rest.iter().map(|number| format!("n{number}")).collect();
    cluster.until_members(rest[0], &names).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over_to_whom_it_is_told() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let mut cx = cx();
    cx.deadline = tokio::time::Instant::now() + PATIENCE;
    let transfer = async |by: usize, name: Option<&str>| {
        let name = name.map(Into::into);
        cluster
            .registry(by)
            .admin(&cx, AdminCommand::Transfer { name })
            .await
    };
    let other = (leader + 1) % 3;
    let named = format!("n{other}");
    // A follower says whom to ask.
    let refused = transfer(other, Some(&named)).await;
    let whom = format!("n{leader} leads");
    assert!(
        matches!(&refused, Err(Error::Unsafe(why)) if why.contains(&whom)),
        "{refused:?}"
    );
    let nobody = transfer(leader, Some("n9")).await;
    assert!(matches!(nobody, Err(Error::NoMember(_))), "{nobody:?}");
    let done = transfer(leader, Some(&named)).await;
    assert!(
        matches!(&done, Ok(AdminOutcome::Transferred { name }) if **name == *named),
        "{done:?}"
    );
    assert_eq!(cluster.leader_among(&[0, 1, 2]).await, other);
    // It leads already.
    let again = transfer(other, Some(&named)).await;
    assert!(matches!(again, Ok(AdminOutcome::Transferred { .. })), "{again:?}");
    let done = transfer(other, None).await;
    assert!(
        matches!(&done, Ok(AdminOutcome::Transferred { name }) if **name != *named),
        "{done:?}"
    );
    cluster.stop().await;
}
