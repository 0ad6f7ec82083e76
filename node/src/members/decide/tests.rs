use std::time::Duration;

use super::*;

const NOW: Option<Duration> = Some(Duration::from_millis(80));
const LONG_AGO: Option<Duration> = Some(Duration::from_secs(9));

fn peer(name: &str) -> Peer {
    Peer {
        name: name.to_owned(),
        address: format!("{name}:8300"),
    }
}

fn voter(name: &str, heard: Option<Duration>) -> Standing {
    Standing {
        peer: peer(name),
        said: None,
        votes: true,
        matched: Some(100),
        heard,
    }
}

fn learner(name: &str, matched: u64) -> Standing {
    Standing {
        votes: false,
        matched: Some(matched),
        ..voter(name, NOW)
    }
}

/// The first leads, and 100 entries are committed.
fn seen(members: impl IntoIterator<Item = (u64, Standing)>) -> Composition {
    Composition {
        leader: 1,
        at: None,
        phase: Phase::Settled,
        committed: 100,
        members: members.into_iter().collect(),
    }
}

fn three(second: Option<Duration>, third: Option<Duration>) -> Composition {
    seen([
        (1, voter("a", NOW)),
        (2, voter("b", second)),
        (3, voter("c", third)),
    ])
}

/// The wish to remove these directories of the name; none: whoever has it.
fn wish(name: &str, nodes: &[u64]) -> Wish {
    Wish {
        name: name.to_owned(),
        nodes: nodes.iter().copied().collect(),
        forced: false,
    }
}

/// What becomes of a wish that is an election timeout old.
fn removal(seen: &Composition, name: &str, forced: bool) -> Removal {
    let wish = Wish {
        forced,
        ..wish(name, &[])
    };
    super::removal(seen, &wish, ELECTION_TIMEOUT)
}

#[test]
fn a_new_server_learns_first_and_is_taken_in_once() {
    let cluster = three(NOW, NOW);
    let add = Change::Add {
        node: 4,
        peer: peer("d"),
        instead_of: BTreeSet::new(),
    };
    assert_eq!(admission(&cluster, 4, &peer("d")), Admission::Take(add));
    let mut with = cluster;
    with.members.insert(4, learner("d", 0));
    assert_eq!(admission(&with, 4, &peer("d")), Admission::Member);
    assert!(matches!(admission(&with, 4, &peer("e")), Admission::Refused(why) if why.contains("--name")));
}

#[test]
fn a_name_is_in_use_while_its_server_is_heard() {
    let taken = admission(&three(NOW, NOW), 9, &peer("c"));
    assert!(
        matches!(&taken, Admission::NameInUse(why) if why.contains("c:8300")),
        "{taken:?}"
    );
    // The leader hears itself.
    let own = admission(&three(NOW, NOW), 9, &peer("a"));
    assert!(matches!(own, Admission::NameInUse(_)));
    // An address too, by whoever has another name.
    let elsewhere = Peer {
        name: "d".to_owned(),
        ..peer("c")
    };
    let refused = admission(&three(NOW, NOW), 9, &elsewhere);
    assert!(
        matches!(&refused, Admission::Refused(why) if why.contains("the address of \"c\"")),
        "{refused:?}"
    );
    assert!(matches!(
        admission(&three(NOW, LONG_AGO), 9, &elsewhere),
        Admission::Take(_)
    ));
}

#[test]
fn one_that_was_wiped_takes_the_place_of_the_one_it_was() {
    let mut cluster = three(NOW, LONG_AGO);
    let Admission::Take(Change::Add { instead_of, .. }) = admission(&cluster, 9, &peer("c")) else {
        panic!("a server of this name is not heard any more");
    };
    assert_eq!(instead_of, BTreeSet::new(), "a voter goes later");
    cluster.members.insert(9, learner("c", 100));
    // Wiped once more, before it had caught up.
    cluster.members.get_mut(&9).unwrap().heard = LONG_AGO;
    let Admission::Take(Change::Add { instead_of, .. }) = admission(&cluster, 10, &peer("c")) else {
        panic!("nor is this one");
    };
    assert_eq!(instead_of, BTreeSet::from([9]));
    cluster.members.insert(9, learner("c", 100));
    let mut steward = Steward { committed: Some(100) };
    let promote = Change::Promote {
        node: 9,
        instead_of: BTreeSet::from([3]),
    };
    assert_eq!(steward.next(&cluster), Some(promote));
    // If the old one is back meanwhile, it keeps its place.
    cluster.members.insert(3, voter("c", NOW));
    assert_eq!(steward.next(&cluster), None);
}

#[test]
fn there_is_a_bound_on_voters_and_on_those_who_learn() {
    let full = seen((1..=limits::VOTERS_MAX as u64).map(|id| (id, voter(&format!("n{id}"), NOW))));
    let refused = admission(&full, 77, &peer("x"));
    assert!(
        matches!(&refused, Admission::Refused(why) if why.contains("spine members remove")),
        "{refused:?}"
    );
    let mut one_lost = full;
    one_lost.members.insert(2, voter("n2", LONG_AGO));
    assert!(matches!(
        admission(&one_lost, 77, &peer("n2")),
        Admission::Take(_)
    ));
    let mut busy = three(NOW, NOW);
    for id in 0..limits::LEARNERS_MAX as u64 {
        assert!(matches!(admission(&busy, 77, &peer("x")), Admission::Take(_)));
        busy.members.insert(10 + id, learner(&format!("n{id}"), 0));
    }
    assert!(matches!(admission(&busy, 77, &peer("x")), Admission::NotNow(_)));
}

#[test]
fn no_more_are_taken_in_than_may_vote() {
    let names = (1..).map(|number| format!("n{number}"));
    let ids = 1..limits::VOTERS_MAX as u64;
    let mut cluster = seen(ids.zip(names).map(|(id, name)| (id, voter(&name, NOW))));
    assert!(matches!(admission(&cluster, 77, &peer("x")), Admission::Take(_)));
    cluster.members.insert(77, learner("x", 100));
    assert!(matches!(
        admission(&cluster, 78, &peer("y")),
        Admission::Refused(_)
    ));
    // One that was wiped takes a place that there is.
    cluster.members.insert(2, voter("n2", LONG_AGO));
    assert!(matches!(admission(&cluster, 79, &peer("n2")), Admission::Take(_)));
    // An earlier release took in more: they don't vote, but for the one that takes a place.
    cluster.members.insert(77, voter("x", NOW));
    cluster.members.insert(78, learner("y", 100));
    let mut steward = Steward { committed: Some(100) };
    assert_eq!(steward.next(&cluster), None);
    cluster.members.insert(79, learner("n2", 100));
    let promote = Change::Promote {
        node: 79,
        instead_of: BTreeSet::from([2]),
    };
    assert_eq!(steward.next(&cluster), Some(promote));
}

#[test]
fn a_learner_votes_once_it_has_all_that_was_committed_at_the_last_look() {
    let mut cluster = three(NOW, NOW);
    cluster.members.insert(4, learner("d", 40));
    let mut steward = Steward::default();
    // The first look has nothing to compare with.
    cluster.members.insert(4, learner("d", 100));
    assert_eq!(steward.next(&cluster), None);
    cluster.members.insert(4, learner("d", 99));
    cluster.committed = 150;
    assert_eq!(steward.next(&cluster), None);
    cluster.members.insert(4, learner("d", 151));
    cluster.committed = 200;
    let promote = Change::Promote {
        node: 4,
        instead_of: BTreeSet::new(),
    };
    assert_eq!(steward.next(&cluster), Some(promote.clone()));
    // One that fell silent doesn't, whatever it has.
    cluster.members.get_mut(&4).unwrap().heard = Some(ELECTION_TIMEOUT + Duration::from_millis(1));
    cluster.members.get_mut(&4).unwrap().matched = Some(200);
    assert_eq!(steward.next(&cluster), None);
}

#[test]
fn one_change_at_a_time_and_what_was_left_half_done_first() {
    let mut cluster = three(NOW, NOW);
    cluster.members.insert(4, learner("d", 100));
    cluster.members.get_mut(&2).unwrap().said = Some("b:9300".to_owned());
    let mut steward = Steward { committed: Some(100) };
    cluster.phase = Phase::Uncommitted;
    assert_eq!(steward.next(&cluster), None);
    assert!(matches!(admission(&cluster, 9, &peer("e")), Admission::NotNow(_)));
    assert!(matches!(removal(&cluster, "b", false), Removal::NotNow(_)));
    cluster.phase = Phase::Halfway;
    assert_eq!(steward.next(&cluster), Some(Change::Finish));
    cluster.phase = Phase::Settled;
    let moved = Change::Move {
        node: 2,
        peer: Peer {
            address: "b:9300".to_owned(),
            ..peer("b")
        },
    };
    assert_eq!(steward.next(&cluster), Some(moved));
    cluster.members.get_mut(&2).unwrap().peer.address = "b:9300".to_owned();
    assert!(matches!(
        steward.next(&cluster),
        Some(Change::Promote { node: 4, .. })
    ));
}

#[test]
fn a_server_goes_if_those_who_remain_can_go_on() {
    let gone = |voters: &[u64], learners: &[u64], id| {
        let change = Change::Remove {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
        };
        Removal::Take(change, id)
    };
    assert_eq!(removal(&three(NOW, NOW), "c", false), gone(&[3], &[], 3));
    assert_eq!(removal(&three(NOW, LONG_AGO), "c", false), gone(&[3], &[], 3));
    assert_eq!(removal(&three(NOW, NOW), "x", false), Removal::Unknown);
    assert_eq!(removal(&three(NOW, NOW), "a", false), Removal::HandOver);
    // Of three, one is down: without one of the two others there is no quorum.
    let refused = removal(&three(NOW, LONG_AGO), "b", false);
    assert!(
        matches!(&refused, Removal::Refused(why) if why.contains("until c is back") && why.contains("--force")),
        "{refused:?}"
    );
    assert_eq!(removal(&three(NOW, LONG_AGO), "b", true), gone(&[2], &[], 2));
    let alone = seen([(1, voter("a", NOW))]);
    for forced in [false, true] {
        assert!(matches!(removal(&alone, "a", forced), Removal::Refused(why) if why.contains("only voter")));
    }
}

#[test]
fn who_answered_before_the_wish_may_be_dead_and_does_not_count() {
    let cluster = three(NOW, NOW);
    let wished = |ago| super::removal(&cluster, &wish("c", &[]), Duration::from_millis(ago));
    assert!(matches!(wished(79), Removal::Refused(why) if why.contains("until b is back")));
    assert!(matches!(wished(80), Removal::Take(..)));
}

#[test]
fn one_that_fell_silent_a_moment_ago_gets_no_vote() {
    let mut steward = Steward { committed: Some(100) };
    let mut cluster = three(NOW, NOW);
    let mut silent = learner("d", 100);
    silent.heard = Some(Duration::from_millis(400));
    cluster.members.insert(4, silent);
    assert_eq!(steward.next(&cluster), None);
    cluster.members.insert(4, learner("d", 100));
    assert!(matches!(
        steward.next(&cluster),
        Some(Change::Promote { node: 4, .. })
    ));
}

#[test]
fn one_that_learns_goes_without_a_question_and_with_the_one_whose_place_it_was_to_take() {
    let mut cluster = three(NOW, LONG_AGO);
    cluster.members.insert(4, learner("d", 0));
    cluster.members.insert(9, learner("c", 0));
    let learner_alone = Change::Remove {
        voters: BTreeSet::new(),
        learners: BTreeSet::from([4]),
    };
    assert_eq!(removal(&cluster, "d", false), Removal::Take(learner_alone, 4));
    let both = Change::Remove {
        voters: BTreeSet::from([3]),
        learners: BTreeSet::from([9]),
    };
    assert_eq!(removal(&cluster, "c", false), Removal::Take(both, 3));
}

#[test]
fn a_wish_that_is_repeated_does_not_mean_who_came_later_under_the_name() {
    let wished =
        |seen: &Composition, nodes: &[u64]| super::removal(seen, &wish("c", nodes), ELECTION_TIMEOUT);
    let voter_alone = Change::Remove {
        voters: BTreeSet::from([3]),
        learners: BTreeSet::new(),
    };
    // It comes before the other has gone.
    let mut cluster = three(NOW, LONG_AGO);
    cluster.members.insert(9, learner("c", 0));
    assert_eq!(wished(&cluster, &[3]), Removal::Take(voter_alone, 3));
    // And after: first it learns, then it votes.
    cluster.members.remove(&3);
    assert_eq!(wished(&cluster, &[3]), Removal::Unknown);
    cluster.members.insert(9, voter("c", NOW));
    assert_eq!(wished(&cluster, &[3]), Removal::Unknown);
    assert!(matches!(wished(&cluster, &[3, 9]), Removal::Take(_, 9)));
    // An id alone means nobody.
    assert_eq!(
        super::removal(&cluster, &wish("b", &[9]), ELECTION_TIMEOUT),
        Removal::Unknown
    );
}
