//! Every fault bites, and a node alone and three of them survive it: the nemesis' own test, against the real binary.
//!
//! Needs root, and runs sealed off: so it has a `main` of its own, and `cargo x faults` starts it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that is its own runner"
)]

use std::time::Duration;

use spine_jepsen::clock::Clock;
use spine_jepsen::db::{self, Cluster, Spec};
use spine_jepsen::fault::Fault;
use spine_jepsen::nemesis::{Nemesis, Stop};
use spine_jepsen::net::Node;
use spine_jepsen::schedule::{Action, Change, Schedule, Shape, Step, Target};
use spine_jepsen::sealed;

/// The one node.
const NODE: Target = Target::Node(Node(1));

fn main() {
    sealed::enter().unwrap();
    every_fault_bites_and_breaks_nothing();
    println!("test every_fault_bites_and_breaks_nothing ... ok");
    three_nodes_lose_nothing();
    println!("test three_nodes_lose_nothing ... ok");
    without_flushes_power_cuts_break_promises();
    println!("test without_flushes_power_cuts_break_promises ... ok");
    println!("test result: ok. 3 passed; 0 failed; 0 ignored");
}

fn every_fault_bites_and_breaks_nothing() {
    all_bite_and_break_nothing(
        1,
        &[
            Action::Kill(NODE),
            Action::CrashLoop(NODE, 3),
            Action::Pause(NODE),
            Action::PowerCut(NODE),
            Action::Clock(NODE, 3_600),
            Action::PowerCutAll,
            Action::Clock(NODE, -86_400),
        ],
    );
}

fn three_nodes_lose_nothing() {
    let leader = Target::Leader(Node(1));
    all_bite_and_break_nothing(
        3,
        &[
            Action::Partition(Shape::Isolated(leader)),
            Action::Partition(Shape::Mute(leader)),
            Action::Partition(Shape::Bridge(Target::Follower(Node(1)))),
            Action::Partition(Shape::Flapping(leader, Duration::from_millis(300))),
            Action::PowerCut(leader),
            Action::KillAll,
            Action::PauseAll,
            Action::PowerCutAll,
            Action::Restart(leader),
            Action::Members(Change::Replace(leader), false),
            Action::Members(Change::Visit, true),
            Action::Members(Change::MoveAll, false),
        ],
    );
}

fn all_bite_and_break_nothing(nodes: u8, actions: &[Action]) {
    let (faults, incidents) = played(nodes, actions, false);
    let toothless = faults.iter().filter(|fault| fault.evidence.is_none());
    assert_eq!(toothless.count(), 0);
    assert_eq!(incidents, Vec::<String>::new());
}

/// The nemesis' own writes show it.
fn without_flushes_power_cuts_break_promises() {
    let (_, incidents) = played(1, &[Action::PowerCut(NODE), Action::PowerCut(NODE)], true);
    println!("without flushes: {incidents:#?}");
    assert!(!incidents.is_empty(), "nothing was lost without flushes");
}

/// What the faults did to so many nodes, and what promises they broke.
fn played(nodes: u8, actions: &[Action], without_flushes: bool) -> (Vec<Fault>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&Spec {
        binary: db::binary().unwrap(),
        nodes,
        own_disks: true,
        own_clocks: true,
        changes: true,
        without_flushes,
        directory: directory.path().to_owned(),
        seed: 1,
    })
    .unwrap();
    let steps = actions.iter().map(|action| Step {
        at: Duration::ZERO,
        lasts: Duration::from_secs(1),
        action: action.clone(),
    });
    let schedule = Schedule {
        steps: steps.collect(),
        until: Duration::from_mins(10),
    };
    let mut faults = Vec::new();
    let mut nemesis = Nemesis::new(&mut cluster, Clock::start());
    nemesis
        .play(&schedule, &Stop::default(), |fault| {
            println!(
                "{} {}: {}: {:?}",
                fault.from, fault.until, fault.detail, fault.evidence
            );
            faults.push(fault.clone());
        })
        .unwrap();
    let incidents = nemesis.incidents();
    cluster.stop().unwrap();
    assert_eq!(faults.len(), actions.len());
    (faults, incidents)
}
