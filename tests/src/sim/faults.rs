//! What breaks: faults drawn one after another, applied to the simulation, and mended again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use spine_tests::disk::{Faults as DiskFaults, Rng};
use spine_tests::trace::Trace;
use turmoil::Sim;

use crate::fleet::Fleet;
use crate::node::{self, Subject};
use crate::plan::Plan;

/// A way to break something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The power of a node fails, or of all at once.
    Crash,
    /// Hosts can't reach each other, both ways or one way.
    Partition,
    /// Connections lose what is on its way for a moment, and with it their life: nothing is sent again here.
    Glitch,
    /// Nothing arrives from a node, nor at it, for a while; then all of it does, at once.
    Stall,
    /// A node's disk takes much longer to flush.
    SlowDisk,
    /// A node's disk fails to flush, or is full: the node must end itself.
    BadDisk,
    /// A node's wall clock jumps.
    WallClock,
}

impl Kind {
    /// In every simulation.
    pub(crate) const ALWAYS: [Self; 2] = [Self::Crash, Self::Partition];
    /// In some.
    pub(crate) const SOMETIMES: [Self; 5] = [
        Self::Glitch,
        Self::Stall,
        Self::SlowDisk,
        Self::BadDisk,
        Self::WallClock,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Partition => "partition",
            Self::Glitch => "glitch",
            Self::Stall => "stall",
            Self::SlowDisk => "slow disk",
            Self::BadDisk => "bad disk",
            Self::WallClock => "wall clock",
        }
    }
}

/// What is broken at the moment.
#[derive(Clone, Debug)]
enum Broken {
    /// From the first host nothing arrives at the second.
    Cut(BTreeSet<(String, String)>),
    /// Messages between this host and those wait.
    Held(String, Vec<String>),
    /// A slow disk.
    Slow(usize),
    /// A node is to crash as soon as it has something to lose.
    Doomed(usize),
    /// A node is down.
    Down(usize),
}

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    by_kind: BTreeMap<Kind, u64>,
    /// Crashes in which something was lost that was not flushed.
    pub(crate) lossy: u64,
    /// When the first one began.
    pub(crate) first: Option<Duration>,
}

impl Count {
    /// How often.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.by_kind.get(&kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.by_kind {
            write!(f, "{} {count}, ", kind.label())?;
        }
        write!(f, "lossy {}", self.lossy)
    }
}

/// What is between two faults at most, once a simulation goes on only because too little got done.
const RELENTING: Duration = Duration::from_secs(8);

/// The world, to be broken.
pub(crate) struct Faults {
    rng: Rng,
    kinds: Vec<Kind>,
    /// What there were too few of, when a simulation goes on only for that.
    lacking: Option<Kind>,
    peace: Duration,
    clients: Vec<String>,
    next: Duration,
    broken: Vec<(Duration, Broken)>,
    /// Nodes whose disk was made bad in this life.
    bad: BTreeSet<usize>,
    /// When nodes crashed.
    pub(crate) crashes: Vec<Duration>,
    pub(crate) count: Count,
    trace: Trace,
}

impl Faults {
    /// Nothing is broken yet.
    pub(crate) fn new(plan: &Plan, seed: u64, clients: Vec<String>, trace: Trace) -> Self {
        Self {
            rng: Rng::new(seed),
            kinds: plan.kinds.clone(),
            lacking: None,
            peace: plan.peace,
            clients,
            next: Duration::from_secs(2),
            broken: Vec::new(),
            bad: BTreeSet::new(),
            crashes: Vec::new(),
            count: Count::default(),
            trace,
        }
    }

    /// Breaks and mends what is due.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, fleet: &Fleet) {
        let now = sim.elapsed();
        self.mend(sim, fleet, now);
        if now >= self.next {
            let drawn = self.below(self.kinds.len());
            let kind = self.lacking.unwrap_or(self.kinds[drawn]);
            self.begin(sim, &fleet.present(), kind, now);
            self.next = now + self.for_ms(100, u64::try_from(self.peace.as_millis()).expect("seconds"));
        }
    }

    /// From now on peace lasts longer, and what breaks it is what is lacking, if anything is.
    pub(crate) fn relent(&mut self, lacking: Option<Kind>) {
        self.peace = self.peace.max(RELENTING);
        self.lacking = lacking;
    }

    /// Mends everything. Nodes that were ended by their disk come back.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, fleet: &Fleet) {
        let now = sim.elapsed();
        for number in std::mem::take(&mut self.bad) {
            self.cut_power(sim, fleet.subject(number), now);
        }
        for (until, _) in &mut self.broken {
            *until = now;
        }
        self.broken
            .retain(|(_, broken)| !matches!(broken, Broken::Doomed(_)));
        self.mend(sim, fleet, now);
        self.note(now, format_args!("all is mended"));
    }

    /// Ends the life of a node that said it can't go on. `false` if nothing was done to it that excuses this.
    pub(crate) fn is_excused(&mut self, sim: &mut Sim<'_>, subject: &Rc<Subject>) -> bool {
        let excused = self.bad.contains(&subject.number);
        if excused {
            self.cut_power(sim, subject, sim.elapsed());
        }
        excused
    }

    /// Takes a node down, by no fault, and has it come back at `until`; whatever else was planned for it is off.
    pub(crate) fn take_down(&mut self, sim: &mut Sim<'_>, subject: &Rc<Subject>, until: Duration) {
        let now = sim.elapsed();
        self.retire(sim, subject);
        self.note(now, format_args!("n{} is taken down", subject.number));
        self.broken.push((until, Broken::Down(subject.number)));
    }

    /// Takes a node down, by no fault, and for good.
    pub(crate) fn retire(&mut self, sim: &mut Sim<'_>, subject: &Rc<Subject>) {
        let number = subject.number;
        if !self.is_down(number) {
            subject.machine().cut_power(&mut self.rng);
            subject.bury();
            sim.crash(node::name(number));
        }
        subject.machine().set_slow(false);
        self.bad.remove(&number);
        self.broken.retain(|(_, broken)| {
            !matches!(broken, Broken::Down(of) | Broken::Doomed(of) | Broken::Slow(of) if *of == number)
        });
    }

    /// Lets a node crash at once, which is a fault.
    pub(crate) fn crash(&mut self, sim: &mut Sim<'_>, subject: &Rc<Subject>) {
        if !self.is_down(subject.number) {
            *self.count.by_kind.entry(Kind::Crash).or_default() += 1;
            self.cut_power(sim, subject, sim.elapsed());
        }
    }

    /// Cuts the connections between two nodes for a moment, which is a fault. Whether it could be.
    pub(crate) fn disconnect(&mut self, sim: &mut Sim<'_>, one: usize, other: usize) -> bool {
        let (now, one, other) = (sim.elapsed(), node::name(one), node::name(other));
        let pairs = [(one.clone(), other.clone()), (other, one)].into();
        let cut = self.cut(sim, pairs, now);
        if cut {
            *self.count.by_kind.entry(Kind::Glitch).or_default() += 1;
        }
        cut
    }

    /// Cuts a node off from all other nodes, by no fault. Whether it could be.
    pub(crate) fn cut_off(
        &mut self,
        sim: &mut Sim<'_>,
        subject: &Subject,
        nodes: &[Rc<Subject>],
        until: Duration,
    ) -> bool {
        let own = node::name(subject.number);
        let others = nodes.iter().filter(|other| other.number != subject.number);
        let others = others.map(|other| node::name(other.number));
        let pairs = others.flat_map(|other| [(own.clone(), other.clone()), (other, own.clone())]);
        self.cut(sim, pairs.collect(), until)
    }

    /// Whether messages pass from one node to another.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        let (from, to) = (node::name(from), node::name(to));
        !self.broken.iter().any(|(_, broken)| match broken {
            Broken::Cut(pairs) => pairs.contains(&(from.clone(), to.clone())),
            Broken::Held(host, others) => {
                (*host == from && others.contains(&to)) || (*host == to && others.contains(&from))
            }
            Broken::Slow(_) | Broken::Doomed(_) | Broken::Down(_) => false,
        })
    }

    /// Whether a node is down.
    pub(crate) fn is_down(&self, number: usize) -> bool {
        self.broken
            .iter()
            .any(|(_, broken)| matches!(broken, Broken::Down(down) if *down == number))
    }

    fn begin(&mut self, sim: &mut Sim<'_>, nodes: &[Rc<Subject>], kind: Kind, now: Duration) {
        let begun = match kind {
            Kind::Crash => self.doom(nodes, now),
            Kind::Partition => {
                let pairs = self.partition(nodes);
                let until = now + self.for_ms(300, 5_000);
                self.cut(sim, pairs, until)
            }
            Kind::Glitch => {
                let pairs = self.glitch(nodes);
                self.cut(sim, pairs, now)
            }
            Kind::Stall => self.stall(sim, nodes, now),
            Kind::SlowDisk => self.slow_down(nodes, now),
            Kind::BadDisk => self.spoil(nodes),
            Kind::WallClock => {
                let by = self.rng.below(7_200_000).cast_signed() - 3_600_000;
                let jumps = self.one_of(nodes);
                jumps.machine().jump_wall(by);
                true
            }
        };
        if begun {
            *self.count.by_kind.entry(kind).or_default() += 1;
            self.count.first.get_or_insert(now);
            let last = format!("{:?}", self.broken.last());
            self.note(now, format_args!("{kind:?} begins: {last}"));
        }
    }

    /// Nodes that shall lose their power at the next moment at which they have something to lose.
    fn doom(&mut self, nodes: &[Rc<Subject>], now: Duration) -> bool {
        let all = self.rng.one_in(8);
        let chosen = self.one_of(nodes).number;
        let until = now + Duration::from_secs(2);
        for subject in nodes {
            let number = subject.number;
            if (all || number == chosen) && !self.is_down(number) {
                self.broken.push((until, Broken::Doomed(number)));
            }
        }
        true
    }

    /// A cut between hosts. With one node it lies between that and its clients.
    fn partition(&mut self, nodes: &[Rc<Subject>]) -> BTreeSet<(String, String)> {
        let names: Vec<String> = nodes.iter().map(|subject| node::name(subject.number)).collect();
        let nodes = names.len();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let with_clients = nodes == 1 || self.rng.one_in(4);
        if with_clients {
            let cut_off = self.below(nodes);
            here.push(names[cut_off].clone());
            let clients = self.clients.clone();
            there.extend(clients.into_iter().filter(|_| !self.rng.one_in(3)));
        }
        if nodes > 1 {
            let chosen = self.below(nodes);
            let alone = self.rng.one_in(2);
            let (one, other): (Vec<_>, Vec<_>) = names
                .into_iter()
                .enumerate()
                .partition(|(place, _)| *place == chosen || (!alone && self.rng.one_in(3)));
            here.extend(one.into_iter().map(|(_, name)| name));
            there.extend(other.into_iter().map(|(_, name)| name));
        }
        let ways = [(true, true), (true, true), (true, false), (false, true)][self.below(4)];
        let mut pairs = BTreeSet::new();
        for from in &here {
            for to in there.iter().filter(|to| *to != from) {
                if ways.0 {
                    pairs.insert((from.clone(), to.clone()));
                }
                if ways.1 {
                    pairs.insert((to.clone(), from.clone()));
                }
            }
        }
        pairs
    }

    /// Both ways between a node and any other host.
    fn glitch(&mut self, nodes: &[Rc<Subject>]) -> BTreeSet<(String, String)> {
        let one = node::name(self.one_of(nodes).number);
        let others = self.others(&one, nodes);
        let other = others[self.below(others.len())].clone();
        [(one.clone(), other.clone()), (other, one)].into()
    }

    fn cut(&mut self, sim: &mut Sim<'_>, pairs: BTreeSet<(String, String)>, until: Duration) -> bool {
        // turmoil can't combine the two on one link.
        if pairs.is_empty()
            || self
                .broken
                .iter()
                .any(|(_, broken)| matches!(broken, Broken::Held(..)))
        {
            return false;
        }
        for (from, to) in &pairs {
            sim.partition_oneway(from.as_str(), to.as_str());
        }
        self.broken.push((until, Broken::Cut(pairs)));
        true
    }

    /// All hosts but one.
    fn others(&self, one: &str, nodes: &[Rc<Subject>]) -> Vec<String> {
        let nodes = nodes.iter().map(|subject| node::name(subject.number));
        let all = nodes.chain(self.clients.iter().cloned());
        all.filter(|other| *other != one).collect()
    }

    fn stall(&mut self, sim: &mut Sim<'_>, nodes: &[Rc<Subject>], now: Duration) -> bool {
        let cut = |(_, broken): &(Duration, Broken)| matches!(broken, Broken::Cut(_) | Broken::Held(..));
        if self.broken.iter().any(cut) {
            return false;
        }
        let host = node::name(self.one_of(nodes).number);
        let others = self.others(&host, nodes);
        for other in &others {
            sim.hold(host.as_str(), other.as_str());
        }
        let until = now + self.for_ms(50, 1_800);
        self.broken.push((until, Broken::Held(host, others)));
        true
    }

    fn slow_down(&mut self, nodes: &[Rc<Subject>], now: Duration) -> bool {
        if self
            .broken
            .iter()
            .any(|(_, broken)| matches!(broken, Broken::Slow(_)))
        {
            return false;
        }
        let slow = self.one_of(nodes);
        slow.machine().set_slow(true);
        let until = now + self.for_ms(500, 8_000);
        self.broken.push((until, Broken::Slow(slow.number)));
        true
    }

    fn spoil(&mut self, nodes: &[Rc<Subject>]) -> bool {
        let spoiled = self.one_of(nodes);
        let number = spoiled.number;
        // One at a time: a majority of failing disks is more than anybody promises to survive.
        if !self.bad.is_empty() || self.is_down(number) {
            return false;
        }
        let full = self.rng.one_in(3);
        spoiled.machine().disk().set_faults(DiskFaults {
            fail_sync: !full,
            full,
            ..DiskFaults::default()
        });
        self.bad.insert(number);
        true
    }

    /// Mends what has lasted long enough, and lets crash who has something to lose.
    fn mend(&mut self, sim: &mut Sim<'_>, fleet: &Fleet, now: Duration) {
        let (mut due, mut going) = (Vec::new(), Vec::new());
        for (until, broken) in std::mem::take(&mut self.broken) {
            let is_due = match &broken {
                Broken::Doomed(number) => {
                    now >= until || fleet.subject(*number).machine().disk().unsynced_bytes() > 0
                }
                _ => now >= until,
            };
            if is_due {
                due.push(broken);
            } else {
                going.push((until, broken));
            }
        }
        self.broken = going;
        for broken in due {
            self.end(sim, fleet, broken, now);
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, fleet: &Fleet, broken: Broken, now: Duration) {
        match broken {
            Broken::Cut(pairs) => {
                for (from, to) in &pairs {
                    let still = self
                        .broken
                        .iter()
                        .any(|(_, other)| matches!(other, Broken::Cut(cut) if cut.contains(&(from.clone(), to.clone()))));
                    if !still {
                        sim.repair_oneway(from.as_str(), to.as_str());
                    }
                }
                self.note(now, format_args!("a cut is mended"));
            }
            Broken::Held(host, others) => {
                for other in &others {
                    sim.release(host.as_str(), other.as_str());
                }
                self.note(now, format_args!("{host} goes on"));
            }
            Broken::Slow(number) => fleet.subject(number).machine().set_slow(false),
            Broken::Doomed(number) => {
                if !self.is_down(number) {
                    self.cut_power(sim, fleet.subject(number), now);
                }
            }
            Broken::Down(number) => {
                self.note(now, format_args!("n{number} comes back"));
                sim.bounce(node::name(number));
            }
        }
    }

    /// Ends a life, and plans the next one.
    fn cut_power(&mut self, sim: &mut Sim<'_>, subject: &Rc<Subject>, now: Duration) {
        let number = subject.number;
        let lost = subject.machine().cut_power(&mut self.rng);
        subject.bury();
        sim.crash(node::name(number));
        self.bad.remove(&number);
        self.crashes.push(now);
        self.count.lossy += u64::from(lost);
        self.note(now, format_args!("n{number} crashes, lossy: {lost}"));
        let until = now + self.for_ms(50, 3_000);
        self.broken.push((until, Broken::Down(number)));
    }

    fn for_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.rng.below(to.max(from + 1) - from))
    }

    fn one_of(&mut self, nodes: &[Rc<Subject>]) -> Rc<Subject> {
        Rc::clone(&nodes[self.below(nodes.len())])
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("it is below a usize")
    }

    fn note(&self, now: Duration, what: fmt::Arguments<'_>) {
        self.trace.record_at(now, "fault", what);
    }
}
