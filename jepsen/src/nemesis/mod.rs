//! Carries out a schedule of faults, and says what came of each.
//!
//! [`Nemesis`] waits for each step's time, makes its fault, keeps it up, undoes it, and looks whether it bit: a process
//! that ended by a signal, packets that were dropped, a clock that shows another time. A fault that leaves no such trace is
//! written down without evidence, and whatever the checkers find, the run says nothing about it.
//!
//! [`process`] ends processes and lets them stand still, [`membership`] changes who they are, [`partition`] drops packets, [`power`] cuts power while
//! [`ballast`] sees to it that there is something to lose, and [`wall_clock`] sets clocks.
//!
//! All of it is one thread that blocks: what is done to the cluster is done in one order, which can be written down.

mod ballast;
mod membership;
mod partition;
mod power;
mod process;
mod wall_clock;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ballast::Ballast;

use crate::clock::{Clock, Micros};
use crate::db::{Cluster, READY_WITHIN};
use crate::fault::Fault;
use crate::net::Node;
use crate::schedule::{Action, QUIET_MIN, Schedule, Step, Target};

/// Ends a play before its time; clones end the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// No further fault is made. The one under way is undone at its own time.
    pub fn now(&self) {
        self.0.store(true, Relaxed);
    }
}

/// What breaks a cluster.
#[derive(Debug)]
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    clock: Clock,
    ballast: Ballast,
    incidents: Vec<String>,
    given_up: BTreeSet<Node>,
}

/// What a fault did.
#[derive(Debug, Default)]
struct Bite {
    detail: String,
    nodes: Vec<Node>,
    cut_off: Vec<Node>,
    evidence: Option<String>,
}

impl<'a> Nemesis<'a> {
    /// Breaks this cluster. `clock` is the one of the run's history.
    pub fn new(cluster: &'a mut Cluster, clock: Clock) -> Self {
        Self {
            cluster,
            clock,
            ballast: Ballast::default(),
            incidents: Vec::new(),
            given_up: BTreeSet::new(),
        }
    }

    /// Makes all faults of the schedule, one after the other, for as long as a majority comes back; `record` is told each
    /// when it is over. When this comes back nothing is broken any more, as far as this thread can see to it.
    ///
    /// # Errors
    /// The harness itself failed: the run is worth nothing.
    pub fn play(
        &mut self,
        schedule: &Schedule,
        stop: &Stop,
        mut record: impl FnMut(&Fault),
    ) -> io::Result<()> {
        let mut free = Duration::ZERO;
        for step in &schedule.steps {
            let at = step.at.max(free);
            if at + step.lasts > schedule.until || !self.wait_until(at, stop) {
                break;
            }
            let from = self.clock.now();
            let bite = self.make(step)?;
            let until = self.clock.now();
            self.look_after_processes()?;
            record(&fault(step, bite, from, until));
            if self.is_beyond_help() {
                break;
            }
            free = self.now() + QUIET_MIN;
        }
        Ok(())
    }

    /// What went wrong that no fault explains: nodes that ended by themselves, panicked or didn't come back, writes of
    /// the nemesis' own that were lost. Each breaks a promise, so a run with one has failed.
    pub fn incidents(&mut self) -> Vec<String> {
        self.incidents.extend(self.ballast.losses());
        std::mem::take(&mut self.incidents)
    }

    fn make(&mut self, step: &Step) -> io::Result<Bite> {
        match &step.action {
            Action::Kill(target) => {
                let node = self.resolve(*target);
                self.kill(&[node], step.lasts)
            }
            Action::KillAll => self.kill(&self.cluster.nodes(), step.lasts),
            Action::CrashLoop(target, times) => self.crash_loop(self.resolve(*target), *times, step.lasts),
            Action::Pause(target) => {
                let node = self.resolve(*target);
                self.pause(&[node], step.lasts)
            }
            Action::PauseAll => self.pause(&self.cluster.nodes(), step.lasts),
            Action::Partition(shape) => Ok(self.partition(shape, step.lasts)),
            Action::PowerCut(target) => {
                let node = self.resolve(*target);
                self.cut_power(&[node], step.lasts)
            }
            Action::PowerCutAll => self.cut_power(&self.cluster.nodes(), step.lasts),
            Action::Restart(target) => self.restart(self.resolve(*target), step.lasts),
            Action::Members(change, kill) => self.change_members(*change, *kill, step.lasts),
            Action::Clock(target, seconds) => self.set_clock(self.resolve(*target), *seconds, step.lasts),
        }
    }

    fn resolve(&self, target: Target) -> Node {
        target.resolve(&self.cluster.nodes(), self.cluster.leader())
    }

    /// Starts what doesn't run, and waits until it serves; a node that doesn't is an incident, and not waited for again.
    fn bring_back(&mut self, nodes: &[Node]) -> io::Result<()> {
        for node in nodes {
            self.cluster.start_node(*node)?;
        }
        let start = Instant::now();
        for node in nodes {
            if self.given_up.contains(node) {
                continue;
            }
            let left = READY_WITHIN.saturating_sub(start.elapsed());
            if let Err(error) = self.cluster.await_ready(*node, left) {
                self.incidents.push(error.to_string());
                self.given_up.insert(*node);
            }
        }
        Ok(())
    }

    /// Too few nodes came back for anything to work: the rest of the schedule would break what is broken.
    fn is_beyond_help(&self) -> bool {
        2 * self.given_up.len() >= self.cluster.nodes().len()
    }

    /// What befell nodes is an incident, and those that ended are started again, so that the run goes on.
    fn look_after_processes(&mut self) -> io::Result<()> {
        let mishaps = self.cluster.mishaps()?;
        self.incidents.extend(mishaps);
        let nodes = self.cluster.nodes().into_iter();
        let down: Vec<Node> = nodes
            .filter(|node| !self.cluster.server(*node).is_started())
            .collect();
        self.bring_back(&down)
    }

    /// Since the run began.
    fn now(&self) -> Duration {
        self.clock.now().since(Micros::default())
    }

    /// Waits for a moment of the run; `false`: it was told to stop.
    fn wait_until(&self, at: Duration, stop: &Stop) -> bool {
        loop {
            if stop.0.load(Relaxed) {
                return false;
            }
            let left = at.saturating_sub(self.now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK));
        }
    }
}

/// How soon a stop is noticed.
const LOOK: Duration = Duration::from_millis(50);

fn fault(step: &Step, bite: Bite, from: Micros, until: Micros) -> Fault {
    let names = |nodes: Vec<Node>| nodes.iter().map(Node::to_string).collect();
    Fault {
        fault: step.action.kind().to_string(),
        detail: bite.detail,
        from,
        until,
        nodes: names(bite.nodes),
        cut_off: names(bite.cut_off),
        // Clients and services reach every node that runs.
        evidence: bite.evidence,
    }
}

/// `n1, n2`.
fn list(nodes: &[Node]) -> String {
    let names: Vec<String> = nodes.iter().map(Node::to_string).collect();
    names.join(", ")
}

/// All parts, if each is there: half an effect is none.
fn all(evidence: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Option<Vec<String>> = evidence.into_iter().collect();
    parts
        .filter(|parts| !parts.is_empty())
        .map(|parts| parts.join("; "))
}
