//! Each fault, planted in a cluster that is well.

use super::*;
use crate::cli::doctor::finding::Verdict::{self, Fail, Ok as Well, Warn};

/// A server that is well, of three.
fn server(number: u64) -> Server {
    let name = format!("n{number}");
    let peers = (1..=3)
        .filter(|peer| *peer != number)
        .map(|peer| v1::PeerCondition {
            name: format!("n{peer}"),
            id: peer,
            peer_address: format!("10.0.0.{peer}:8300"),
            answered_ms: Some(700),
            round_trip_us: 400,
            clock_ahead_ms: 1,
            failure: String::new(),
        });
    let said = v1::DiagnoseResponse {
        name: name.clone(),
        id: number,
        rules: 1,
        rules_known: 1,
        leader: "n1".to_owned(),
        role: v1::Role::Follower.into(),
        term: 3,
        committed: 1_000,
        applied: 990,
        ready: true,
        state_bytes: 1 << 20,
        state_bytes_max: 8 << 30,
        log: Some(v1::LogPace {
            writes: 100,
            median_us: 2_000,
            p99_us: 9_000,
            longest_us: 9_000,
            waiting_us: 0,
        }),
        disk: Some(v1::Disk {
            kind: "ext4".to_owned(),
            total_bytes: 100 << 30,
            available_bytes: 50 << 30,
        }),
        open_files: Some(v1::OpenFiles {
            open: 90,
            limit: 1 << 20,
        }),
        peers: peers.collect(),
        marks: vec![v1::StateMark {
            index: 1_000,
            digest: vec![7; 16].into(),
        }],
        ..v1::DiagnoseResponse::default()
    };
    let port = |name| Port {
        name,
        address: format!("10.0.0.{number}:1"),
        problem: None,
    };
    Server {
        member: v1::Member {
            name,
            id: number,
            version: "0.3.0".to_owned(),
            ..v1::Member::default()
        },
        said: Ok(Reached {
            said,
            round_trip: Duration::from_millis(2),
            ahead_ms: 3,
        }),
        ports: vec![port("grpc"), port("http"), port("peer")],
    }
}

fn three() -> Facts {
    Facts {
        servers: (1..=3).map(server).collect(),
        voters: None,
    }
}

/// What is not well when the second of three is changed: which check, at which server.
fn found(change: impl FnOnce(&mut Server)) -> Vec<(&'static str, String, Verdict)> {
    let mut facts = three();
    change(&mut facts.servers[1]);
    wrong(&facts)
}

fn wrong(facts: &Facts) -> Vec<(&'static str, String, Verdict)> {
    let findings = judge(facts);
    for finding in &findings {
        assert_eq!(finding.result == Well, finding.remedy.is_empty(), "{finding:?}");
        assert!(!finding.measured.is_empty(), "{finding:?}");
    }
    let wrong = findings.into_iter().filter(|finding| finding.result != Well);
    wrong
        .map(|finding| (finding.check, finding.server, finding.result))
        .collect()
}

fn said(change: impl FnOnce(&mut v1::DiagnoseResponse)) -> impl FnOnce(&mut Server) {
    |server| change(&mut server.said.as_mut().unwrap().said)
}

fn pace(change: impl FnOnce(&mut v1::LogPace)) -> impl FnOnce(&mut Server) {
    said(|said| change(said.log.as_mut().unwrap()))
}

fn one(check: &'static str, result: Verdict) -> Vec<(&'static str, String, Verdict)> {
    vec![(check, "n2".to_owned(), result)]
}

fn all(check: &'static str, result: Verdict) -> (&'static str, String, Verdict) {
    (check, String::new(), result)
}

#[test]
fn a_cluster_that_is_well_is_called_well_with_a_line_for_each_check() {
    let findings = judge(&three());
    let checks: BTreeSet<_> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!((checks.len(), findings.len()), (14, 14), "{findings:#?}");
    assert_eq!(wrong(&three()), []);
}

#[test]
fn a_server_that_is_down_is_named_and_so_is_what_it_costs() {
    let down = |server: &mut Server| server.said = Err(Error::Unreachable("refused".into()));
    assert_eq!(
        found(down),
        [("members", "n2".to_owned(), Fail), all("quorum", Warn)]
    );
    let mut facts = three();
    facts.servers[1..].iter_mut().for_each(down);
    let results: Vec<_> = wrong(&facts)
        .into_iter()
        .map(|(check, _, result)| (check, result))
        .collect();
    assert_eq!(results, [("members", Fail), ("members", Fail), ("quorum", Fail)]);
    assert_eq!(found(|server| server.member.failed = true), one("members", Warn));
}

/// A cluster of so many that is well.
fn of(count: u64) -> Facts {
    let mut facts = Facts {
        servers: (1..=count).map(server).collect(),
        voters: None,
    };
    for server in &mut facts.servers {
        let own = server.member.id;
        let said = &mut server.said.as_mut().unwrap().said;
        let model = said.peers[0].clone();
        let others = (1..=count).filter(|id| *id != own);
        said.peers = others
            .map(|id| v1::PeerCondition { id, ..model.clone() })
            .collect();
    }
    facts
}

/// What is said of the quorum.
fn quorum_of(facts: &Facts) -> Vec<String> {
    quorum(facts)
        .into_iter()
        .map(|finding| finding.measured)
        .collect()
}

#[test]
fn numbers_of_voters_that_help_nobody_are_noted() {
    assert_eq!(wrong(&of(1)), [all("quorum", Warn)]);
    // Of two, the loss of either stops everything.
    assert_eq!(wrong(&of(2)), [all("quorum", Warn), all("quorum", Warn)]);
    assert_eq!(wrong(&of(4)), [all("quorum", Warn)]);
    assert_eq!(wrong(&of(5)), []);
}

#[test]
fn who_learns_is_no_voter_whether_it_answers_or_not() {
    let mut facts = of(4);
    for server in &mut facts.servers {
        server.member.votes = Some(server.member.id != 4);
    }
    assert_eq!(wrong(&facts), []);
    let unreachable = || Err(Error::Unreachable("refused".into()));
    facts.servers[3].said = unreachable();
    assert_eq!(quorum_of(&facts), ["3 of 3 voters answer, 2 are needed"]);
    assert_eq!(
        wrong(&facts),
        [("members", "n4".to_owned(), Fail)],
        "its death costs no quorum"
    );
    // A voter that is down beside it does.
    facts.servers[2].said = unreachable();
    let down = quorum_of(&facts);
    assert_eq!(
        down,
        ["2 of 3 voters answer, 2 are needed: no further failure is survived"]
    );
}

#[test]
fn where_nobody_tells_who_votes_each_has_a_word_on_itself() {
    let mut facts = of(4);
    facts.servers[3].said.as_mut().unwrap().said.role = v1::Role::Learner.into();
    assert_eq!(wrong(&facts), [], "it says that it learns");
    facts.servers[3].said = Err(Error::Unreachable("refused".into()));
    assert_eq!(quorum_of(&facts).len(), 2, "it may be a voter");
}

#[test]
fn one_that_lost_its_directory_does_not_vote_in_its_own_place() {
    let mut facts = three();
    for server in &mut facts.servers {
        server.member.votes = Some(true);
    }
    let wiped = &mut facts.servers[1].said.as_mut().unwrap().said;
    wiped.id = 9;
    wiped.role = v1::Role::Learner.into();
    assert_eq!(
        quorum_of(&facts),
        ["2 of 3 voters answer, 2 are needed: no further failure is survived"]
    );
}

#[test]
fn the_vote_of_one_that_is_back_without_its_directory_counts_before_it_has_one_again() {
    let mut facts = three();
    facts.voters = Some(3);
    let back = &mut facts.servers[1];
    back.member.id = 9;
    for server in &mut facts.servers {
        server.member.votes = Some(server.member.id != 9);
    }
    let said = &mut facts.servers[1].said.as_mut().unwrap().said;
    said.id = 9;
    said.role = v1::Role::Learner.into();
    let one_is_missing = ["2 of 3 voters answer, 2 are needed: no further failure is survived"];
    assert_eq!(quorum_of(&facts), one_is_missing);
    // The same where each has only a word on itself.
    for server in &mut facts.servers {
        server.member.votes = None;
    }
    assert_eq!(quorum_of(&facts), one_is_missing);
}

#[test]
fn each_fault_of_a_server_is_found() {
    assert_eq!(found(said(|said| said.leader.clear())), one("leader", Fail));
    assert_eq!(found(said(|said| said.term = 4)), [all("leader", Warn)]);
    assert_eq!(found(said(|said| said.ready = false)), one("lag", Fail));
    assert_eq!(
        found(said(|said| said.committed = 30_000)).len(),
        3,
        "all are behind it"
    );
    assert_eq!(
        found(said(|said| said.digest_mismatches = 1)),
        one("digests", Fail)
    );
    assert_eq!(
        found(said(|said| said.marks[0].digest = vec![8; 16].into())),
        one("digests", Fail)
    );
    assert_eq!(found(said(|said| said.disk = None)), one("disk space", Warn));
    let space = |bytes| said(move |said| said.disk.as_mut().unwrap().available_bytes = bytes);
    assert_eq!(found(space(1 << 30)), one("disk space", Warn));
    assert_eq!(found(space(1 << 20)), one("disk space", Fail));
    let kind = |kind: &'static str| said(move |said| said.disk.as_mut().unwrap().kind = kind.to_owned());
    for untrusted in ["tmpfs", "overlay", "nfs"] {
        assert_eq!(found(kind(untrusted)), one("file system", Warn));
    }
    assert_eq!(found(kind("xfs")), []);
    assert_eq!(
        found(said(|said| said.state_bytes = 15 << 29)),
        one("quota", Warn)
    );
    let full = found(said(|said| said.state_bytes = 8 << 30));
    assert_eq!(full, one("quota", Fail));
    let files = |open, limit| said(move |said| said.open_files = Some(v1::OpenFiles { open, limit }));
    assert_eq!(found(files(90, 1_024)), one("open files", Warn));
    assert_eq!(found(files(900_000, 1 << 20)), one("open files", Warn));
    assert_eq!(
        found(|server| server.member.version = "0.2.0".to_owned()),
        [all("versions", Warn)]
    );
    assert_eq!(found(said(|said| said.rules = 2)), one("versions", Fail));
}

#[test]
fn who_does_not_see_the_others_is_named() {
    assert_eq!(
        found(said(|said| said.peers[0].answered_ms = None)),
        one("peers", Fail)
    );
    assert_eq!(
        found(said(|said| said.peers[0].answered_ms = Some(6_000))),
        one("peers", Fail)
    );
    assert_eq!(
        found(said(|said| said.peers[0].failure = "refused".to_owned())),
        one("peers", Fail)
    );
    assert_eq!(found(said(|said| drop(said.peers.pop()))), one("peers", Warn));
}

#[test]
fn a_clock_is_judged_by_what_the_way_leaves_sure() {
    let skew = |ahead_ms, round_trip| {
        move |server: &mut Server| {
            let reached = server.said.as_mut().unwrap();
            reached.ahead_ms = ahead_ms;
            reached.round_trip = Duration::from_millis(round_trip);
        }
    };
    assert_eq!(found(skew(400, 2)), []);
    assert_eq!(found(skew(700, 2)), one("clocks", Warn));
    assert_eq!(found(skew(700, 1_000)), [], "it may be the way");
    assert_eq!(found(skew(11_000, 2)), one("clocks", Fail));
    // One that is behind puts all others ahead of it.
    let behind = found(skew(-700, 2));
    assert!(behind.contains(&("clocks", "n2".to_owned(), Warn)), "{behind:?}");
}

#[test]
fn a_log_is_judged_by_its_writes_or_by_a_probe() {
    assert_eq!(found(pace(|log| log.median_us = 30_000)), one("log", Warn));
    assert_eq!(found(pace(|log| log.p99_us = 200_000)), one("log", Warn));
    assert_eq!(found(pace(|log| log.median_us = 60_000)), one("log", Fail));
    assert_eq!(found(pace(|log| log.waiting_us = 6_000_000)), one("log", Fail));
    let stuck_for_long = |log: &mut v1::LogPace| {
        *log = v1::LogPace {
            waiting_us: 60_000_000,
            ..v1::LogPace::default()
        };
    };
    assert_eq!(found(pace(stuck_for_long)), one("log", Fail));
    let probed = |probe_us| {
        said(move |said| {
            said.log = Some(v1::LogPace::default());
            said.probe_us = probe_us;
        })
    };
    assert_eq!(found(probed(Some(3_000))), []);
    assert_eq!(found(probed(Some(70_000))), one("log", Fail));
    assert_eq!(found(probed(None)), one("log", Warn));
}

#[test]
fn a_port_for_clients_that_is_closed_is_broken_and_one_for_peers_is_noted() {
    let closed = |at: usize| move |server: &mut Server| server.ports[at].problem = Some("refused".to_owned());
    assert_eq!(found(closed(0)), one("ports", Fail));
    assert_eq!(found(closed(1)), one("ports", Fail));
    assert_eq!(found(closed(2)), one("ports", Warn));
    let mut alone = Facts {
        servers: vec![server(1)],
        voters: Some(1),
    };
    closed(2)(&mut alone.servers[0]);
    alone.servers[0].said.as_mut().unwrap().said.peers.clear();
    assert_eq!(
        wrong(&alone),
        [all("quorum", Warn)],
        "nobody is to reach it there"
    );
}

#[test]
fn bytes_are_told_for_people() {
    let told: Vec<_> = [0, 1_023, 1_024, 1_536, 3 << 30, 5 << 40].map(size).into();
    assert_eq!(
        told,
        ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.0 GiB", "5.0 TiB"]
    );
}
