//! One simulation from start to verdict: clients at work while things break, then healing, then the judgement.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use spine_api::Role;
use spine_tests::trace::{Summary, Trace};
use turmoil::Sim;

use crate::audit::{self, Truth};
use crate::client::{Client, Setting};
use crate::faults::{Count, Faults, Kind};
use crate::fleet::Fleet;
use crate::history::{History, Op, Outcome};
use crate::invariants::Invariants;
use crate::leaderless::Leaderless;
use crate::life::{self, Life, Scene};
use crate::node::Subject;
use crate::oracle;
use crate::plan::Plan;
use crate::watchdog::Steps;

/// After the last fault there is a leader within this time,
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// a write is acknowledged within this time,
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// the members are those that are wanted within this time,
const MEMBERS_WITHIN: Duration = Duration::from_mins(1);
/// and all nodes are one within this time.
const CONVERGED_WITHIN: Duration = Duration::from_mins(1);
/// Clients finish what they are at.
const CLIENTS_REST: Duration = Duration::from_secs(8);
/// What a simulation must have seen to count.
const OPS_MIN: usize = 500;
const ACKNOWLEDGED_MIN: usize = 100;
const LOSSY_MIN: u64 = 2;
const PARTITIONS_MIN: u64 = 1;
/// A simulation that falls short goes on up to so many times its length.
const LENGTHS_MAX: u32 = 3;

/// What one seed gave.
pub(crate) struct Report {
    plan: Plan,
    steps: u64,
    pub(crate) simulated: Duration,
    count: Count,
    life: Option<life::Count>,
    tally: Tally,
    changes: usize,
    trace: Summary,
    /// Why it does not count.
    pub(crate) void: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            ok, failed, unknown, ..
        } = self.tally;
        write!(
            f,
            "seed {} nodes {} steps {} simulated {} s; {}{}; ops {ok} ok {failed} failed {unknown} unknown; \
             {} changes; digest {}",
            self.plan.seed,
            self.plan.nodes,
            self.steps,
            self.simulated.as_secs(),
            self.count,
            self.life.map(|life| life.line()).unwrap_or_default(),
            self.changes,
            &self.trace.digest[..16],
        )
    }
}

/// Operations by how they ended.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ok: usize,
    failed: usize,
    unknown: usize,
    /// Acknowledged writes after the first fault.
    acknowledged: usize,
}

impl Tally {
    fn of(ops: &[Op], first_fault: Option<Duration>) -> Self {
        let mut tally = Self::default();
        for op in ops {
            match op.outcome {
                Outcome::Failed => tally.failed += 1,
                Outcome::Open | Outcome::Unknown => tally.unknown += 1,
                _ => tally.ok += 1,
            }
            let acknowledged = matches!(op.outcome, Outcome::Written { .. });
            tally.acknowledged +=
                usize::from(acknowledged && first_fault.is_some_and(|first| op.invoked >= first));
        }
        tally
    }
}

/// Runs a plan.
///
/// # Errors
/// What was promised and not kept.
pub(crate) fn run(plan: Plan, trace: &Trace, steps: &Steps) -> Result<Report, String> {
    let mut scenario = Scenario::new(plan, trace.clone(), steps.clone());
    scenario.break_things()?;
    scenario.heal()?;
    let truth = scenario.audit()?;
    let ops = scenario.history.ops();
    let streams = scenario.history.streams();
    oracle::judge(&ops, &streams, &truth, &scenario.leaderless)?;
    let tally = Tally::of(&ops, scenario.faults.count.first);
    Ok(Report {
        steps: steps.get(),
        simulated: scenario.sim.elapsed(),
        count: scenario.faults.count.clone(),
        life: scenario.life.as_ref().map(|life| life.counted(&scenario.fleet)),
        changes: truth.changes.len(),
        trace: trace.summary(),
        void: scenario.falls_short(),
        tally,
        plan: scenario.plan.clone(),
    })
}

struct Scenario {
    plan: Plan,
    sim: Sim<'static>,
    fleet: Fleet,
    faults: Faults,
    life: Option<Life>,
    invariants: Invariants,
    leaderless: Leaderless,
    history: History,
    setting: Rc<Setting>,
    steps: Steps,
    trace: Trace,
}

impl Scenario {
    fn new(mut plan: Plan, trace: Trace, steps: Steps) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .tick_duration(plan.tick)
            .simulation_duration(Duration::from_hours(24))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency_max)
            .tcp_capacity(1 << 14)
            .enable_random_order()
            .build();
        let seeds = (0..plan.nodes).map(|_| plan.rng.next_u64()).collect();
        let fleet = Fleet::found(&mut sim, &plan, seeds, trace.clone());
        let history = History::new(trace.clone());
        let setting = Rc::new(Setting::new(&plan, Rc::clone(&fleet.book), history.clone()));
        let mut names = Vec::new();
        for (number, work) in plan.clients.clone().into_iter().enumerate() {
            let (seed, setting) = (plan.rng.next_u64(), Rc::clone(&setting));
            let name = format!("client{number}");
            names.push(name.clone());
            sim.host(name, move || {
                Client::new(number, seed, Rc::clone(&setting)).run(work)
            });
        }
        let seed = plan.rng.next_u64();
        let faults = Faults::new(&plan, seed, names, trace.clone());
        Self {
            sim,
            fleet,
            faults,
            life: plan.life.clone().map(|life| Life::new(life, trace.clone())),
            invariants: Invariants::new(trace.clone()),
            leaderless: Leaderless::default(),
            history,
            setting,
            steps,
            trace,
            plan,
        }
    }

    /// Lets time go on by a step, and looks at everything.
    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| self.at(&error.to_string()))?;
        self.steps.count();
        for subject in self.fleet.present() {
            if let Some(reason) = subject.died()
                && !self.is_excused(&subject, &reason)
            {
                return Err(self.at(&format!("n{} can't go on: {reason}", subject.number)));
            }
        }
        let now = self.sim.elapsed();
        self.invariants
            .look(now, self.fleet.all())
            .map_err(|what| self.at(&what))?;
        let (life, mut scene) = self.scene();
        if let Some(life) = life {
            life.step(&mut scene).map_err(|what| self.at(&what))?;
        }
        let led = self.is_led();
        self.leaderless.step(now, led);
        Ok(())
    }

    /// What life is made of, beside what it takes place in.
    fn scene(&mut self) -> (Option<&mut Life>, Scene<'_, 'static>) {
        let scene = Scene {
            sim: &mut self.sim,
            fleet: &mut self.fleet,
            faults: &mut self.faults,
            invariants: &self.invariants,
        };
        (self.life.as_mut(), scene)
    }

    /// Whether a life may end so; it is seen to then.
    fn is_excused(&mut self, subject: &Rc<Subject>, reason: &str) -> bool {
        if self.faults.is_excused(&mut self.sim, subject) {
            return true;
        }
        let (life, mut scene) = self.scene();
        let Some(life) = life.filter(|life| life.excuses(subject.number, reason)) else {
            return false;
        };
        life.bury(&mut scene, subject.number);
        true
    }

    /// The phase with faults: until enough has happened.
    fn break_things(&mut self) -> Result<(), String> {
        loop {
            self.step()?;
            self.faults.step(&mut self.sim, &self.fleet);
            let now = self.sim.elapsed();
            let over = now >= self.plan.length;
            if over {
                // What breaks so often that nothing gets done leaves more time from here on.
                self.faults.relent(self.lacking());
            }
            let enough = over && self.falls_short().is_none();
            if enough || now >= self.plan.length * LENGTHS_MAX {
                return Ok(());
            }
        }
    }

    /// The phase without: all must be well again.
    fn heal(&mut self) -> Result<(), String> {
        self.faults.heal(&mut self.sim, &self.fleet);
        if let Some(life) = &mut self.life {
            life.rest();
        }
        let healed = self.sim.elapsed();
        self.until(healed + LEADER_WITHIN, "there is a leader", |scenario| {
            if scenario.is_led() {
                Ok(())
            } else {
                Err("none".to_owned())
            }
        })?;
        self.until(healed + WRITE_WITHIN, "a write is acknowledged", |scenario| {
            let ops = scenario.history.ops();
            let since = ops.iter().rev().take_while(|op| op.invoked >= healed);
            let mut written = since.filter(|op| matches!(op.outcome, Outcome::Written { .. }));
            written.next().map(|_| ()).ok_or_else(|| "none".to_owned())
        })?;
        self.until(
            healed + MEMBERS_WITHIN,
            "the members are those wanted",
            |scenario| {
                let Some(life) = &scenario.life else { return Ok(()) };
                life.is_over()?;
                life.is_as_wanted(&scenario.fleet)
            },
        )?;
        self.setting.rest();
        let resting = self.sim.elapsed() + CLIENTS_REST;
        while self.sim.elapsed() < resting {
            self.step()?;
        }
        let resting = self.sim.elapsed();
        self.until(resting + CONVERGED_WITHIN, "all nodes are one", |scenario| {
            Invariants::converged(&scenario.members())
        })
    }

    /// Reads everything, from every node.
    fn audit(&mut self) -> Result<Truth, String> {
        let told = Rc::new(RefCell::new(BTreeMap::new()));
        let members = self.members();
        for subject in &members {
            let name = format!("auditor{}", subject.number);
            let audit = audit::audit(subject.number, Rc::clone(&told));
            self.sim.client(name, audit);
        }
        let count = members.len();
        let until = self.sim.elapsed() + audit::WITHIN;
        self.until(until, "every node tells what happened", |_| {
            let told = told.borrow().len();
            (told == count)
                .then_some(())
                .ok_or_else(|| format!("{told} of {count} did"))
        })?;
        Truth::agreed(&told.borrow()).map_err(|what| self.at(&what))
    }

    /// Steps until something holds.
    fn until(
        &mut self,
        deadline: Duration,
        what: &str,
        holds: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            let Err(why_not) = holds(self) else {
                return Ok(());
            };
            if self.sim.elapsed() >= deadline {
                return Err(self.at(&format!("after healing not in time: {what}: {why_not}")));
            }
            self.step()?;
        }
    }

    /// Those that are to be members.
    fn members(&self) -> Vec<Rc<Subject>> {
        match &self.life {
            Some(life) => life.wanted(&self.fleet),
            None => self.fleet.present(),
        }
    }

    /// Whether some node leads that can reach a majority of those who vote and is reached by it.
    fn is_led(&self) -> bool {
        let present = self.fleet.present();
        present.iter().any(|subject| {
            let Some(registry) = subject.registry() else {
                return false;
            };
            let Some(config) = self.invariants.config(subject) else {
                return false;
            };
            let status = registry.status();
            let with = |id: u64| {
                let other = present.iter().find(|other| other.node_id() == Some(id));
                other.is_some_and(|other| {
                    !self.faults.is_down(other.number)
                        && (other.number == subject.number
                            || (self.faults.passes(subject.number, other.number)
                                && self.faults.passes(other.number, subject.number)))
                })
            };
            status.role == Role::Leader && status.ready && config.has_quorum(with)
        })
    }

    /// The faults that there were too few of.
    fn lacking(&self) -> Option<Kind> {
        let count = &self.faults.count;
        if count.lossy < LOSSY_MIN {
            Some(Kind::Crash)
        } else {
            (count.of(Kind::Partition) < PARTITIONS_MIN).then_some(Kind::Partition)
        }
    }

    /// Why it does not count yet.
    fn falls_short(&self) -> Option<String> {
        let ops = self.history.ops();
        let count = &self.faults.count;
        let acknowledged = Tally::of(&ops, count.first).acknowledged;
        let partitions = count.of(Kind::Partition);
        let enough = ops.len() >= OPS_MIN
            && acknowledged >= ACKNOWLEDGED_MIN
            && count.lossy >= LOSSY_MIN
            && partitions >= PARTITIONS_MIN;
        let lively = self.life.as_ref().and_then(|life| life.falls_short(&self.fleet));
        let idle = (!enough).then(|| {
            format!(
                "{} operations, {acknowledged} acknowledged after the first fault, {} lossy crashes, \
                 {partitions} partitions",
                ops.len(),
                count.lossy
            )
        });
        idle.or(lively)
    }

    fn at(&self, what: &str) -> String {
        let what = format!("at {} ms: {what}", self.sim.elapsed().as_millis());
        self.trace
            .record_at(self.sim.elapsed(), "scenario", format_args!("{what}"));
        what
    }
}
