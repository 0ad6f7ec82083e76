//! One server becomes three, five and three again; each of the first ones is replaced; all get other addresses; leaders are
//! removed while they lead. Sixteen writers go on all the while, and follow the members as they come and go.
//!
//! `SPINE_LIVES` says how often all of it is done; each step's longest pause between two acknowledged writes is in the table.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use spine_client::Client;
use spine_tests::{
    cluster::{Cluster, Places},
    namespace::sealed,
    writers::{Load, Spread, Written},
};
use tokio::runtime::Runtime;

use super::{PATIENCE, times};

/// Writes before and after each step.
const BETWEEN: u64 = 300;
/// What a server ends with that was removed.
const REFUSED: i32 = 4;

#[test]
fn a_cluster_grows_shrinks_and_moves_and_no_write_is_lost() {
    sealed(
        "grown::a_cluster_grows_shrinks_and_moves_and_no_write_is_lost",
        || {
            let lives: Vec<_> = (0..times("SPINE_LIVES", 1)).map(|_| Life::live()).collect();
            let steps: Vec<&Step> = lives.iter().flat_map(|life| &life.steps).collect();
            let mut names: Vec<_> = steps.iter().map(|step| step.name).collect();
            names.sort_unstable_by_key(|name| steps.iter().position(|step| step.name == *name));
            names.dedup();
            for name in names {
                let figures = |of: fn(&Step) -> f64| {
                    let steps = steps.iter().filter(|step| step.name == name);
                    Spread(steps.map(|step| of(step)).collect())
                };
                println!(
                    "{name:24} write gap, s: {}; done within, s: {}",
                    figures(|step| step.gap),
                    figures(|step| step.took)
                );
            }
            for life in &lives {
                let [median, nearly_all, longest] = life.written.latencies_ms();
                println!(
                    "{}; a write took {median:.1} / {nearly_all:.1} / {longest:.0} ms (median, 99 of 100, longest)",
                    life.written
                );
            }
        },
    );
}

/// What was seen of a life.
struct Life {
    steps: Vec<Step>,
    written: Written,
}

/// Something that was done to the cluster.
struct Step {
    name: &'static str,
    /// The longest pause of all writers together, in seconds.
    gap: f64,
    /// How long it took until it was done, in seconds.
    took: f64,
}

impl Life {
    fn live() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::alone(place.path());
        // An operator says beforehand where the servers will be once all of them have moved.
        let later = [2, 3, 4].map(|host| Places::free_at(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))));
        let seeds = std::iter::once(cluster.grpc(0)).chain(later.iter().map(Places::grpc));
        let seeds: Vec<_> = seeds.map(|seed| seed.to_string()).collect();
        let seeds = seeds.join(",");
        let mut life = Self {
            steps: Vec::new(),
            written: Written::default(),
        };

        let mut phase = Phase::begin(&mut cluster, &seeds, &life.written);
        phase.step("a second joins", join);
        phase.step("a third joins", join);
        phase.step("two join at once", |cluster| {
            for at in [cluster.join(), cluster.join()] {
                cluster.await_voter(at);
            }
        });
        phase.end(&mut life);
        println!("five servers, grown from one: {}", life.written);

        let mut phase = Phase::begin(&mut cluster, &seeds, &life.written);
        phase.step("the leader of five goes", remove_leader);
        phase.step("a follower of four goes", remove_follower);
        let first: Vec<_> = phase.cluster.running().filter(|at| *at < 3).collect();
        for at in first {
            phase.step("one of three is replaced", |cluster| {
                join(cluster);
                remove(cluster, at);
            });
        }
        phase.step("all addresses change", |cluster| cluster.move_to(&later));
        phase.step("a fourth joins", join);
        phase.step("the leader of four goes", remove_leader);
        phase.end(&mut life);
        let left: Vec<_> = cluster.running().collect();
        assert!(left.len() == 3 && left.iter().all(|at| *at >= 3), "{left:?}");
        life
    }
}

/// Some steps under one load.
struct Phase<'a> {
    cluster: &'a mut Cluster,
    load: Load,
    /// When each began, was done, and was over with what came of it.
    steps: Vec<(&'static str, [Instant; 3])>,
}

impl<'a> Phase<'a> {
    fn begin(cluster: &'a mut Cluster, seeds: &str, before: &Written) -> Self {
        Self {
            cluster,
            load: Load::following(seeds, before),
            steps: Vec::new(),
        }
    }

    fn step(&mut self, name: &'static str, act: impl FnOnce(&mut Cluster)) {
        self.load.await_more(BETWEEN);
        let begun = Instant::now();
        act(self.cluster);
        let done = Instant::now();
        self.load.await_more(BETWEEN);
        self.steps.push((name, [begun, done, Instant::now()]));
    }

    /// Ends the load; what was acknowledged must be on each server, and what failed on none.
    fn end(self, life: &mut Life) {
        let written = self.load.end();
        let steps = self.steps.into_iter().map(|(name, [begun, done, over])| Step {
            name,
            gap: written.gap(begun, over),
            took: (done - begun).as_secs_f64(),
        });
        life.steps.extend(steps);
        life.written.extend(written);
        life.written.must_be_there(self.cluster);
    }
}

fn join(cluster: &mut Cluster) {
    let at = cluster.join();
    cluster.await_voter(at);
}

fn remove_leader(cluster: &mut Cluster) {
    remove(cluster, cluster.leader());
}

/// One of the first three if there is one.
fn remove_follower(cluster: &mut Cluster) {
    let leader = cluster.leader();
    let follower = cluster.running().find(|at| *at != leader).unwrap();
    remove(cluster, follower);
}

/// Removes a server by the word of another, and waits until it has noticed and ended.
fn remove(cluster: &mut Cluster, at: usize) {
    let others = cluster.running().filter(|other| *other != at);
    let others: Vec<_> = others.map(|other| cluster.grpc(other).to_string()).collect();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&others.join(",")).unwrap().within(PATIENCE / 2);
        client.members.remove(cluster.name(at), false).await.unwrap();
    });
    let status = cluster.await_gone(at);
    assert_eq!(status.code(), Some(REFUSED), "{}", cluster.said(at));
}
