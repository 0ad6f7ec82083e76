//! What happens to the cluster when: a pure function of the seed.
//!
//! A [`Schedule`] names no node that leads: who that is shows only when the time comes. So a step says "the leader", and
//! [`crate::nemesis`] finds out whom that means.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::net::Node;

/// A kind of fault, as `--fault` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Processes end without a word, and are started again.
    Kill,
    /// Processes stand still for a while.
    Pause,
    /// Packets between nodes are dropped.
    Partition,
    /// What was not flushed is lost.
    PowerCut,
    /// A wall clock jumps.
    Clock,
    /// A process is asked to end, and started again: if it leads, another leads then.
    Restart,
    /// Servers join and go, and change places and addresses.
    Membership,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Kill,
        Self::Pause,
        Self::Partition,
        Self::PowerCut,
        Self::Clock,
        Self::Restart,
        Self::Membership,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::PowerCut => "power_cut",
            Self::Clock => "clock",
            Self::Restart => "restart",
            Self::Membership => "membership",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("no fault {name:?}; known are none, {}", known.join(", "))
        })
    }
}

/// Whom a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads when the time comes; this node, if nobody does.
    Leader(Node),
    /// This node, or, if it leads, the next.
    Follower(Node),
    /// This node, whatever it is.
    Node(Node),
}

impl Target {
    /// Who that is, of these nodes, while `leader` leads.
    pub fn resolve(self, nodes: &[Node], leader: Option<Node>) -> Node {
        match self {
            Self::Leader(node) => leader.unwrap_or(node),
            Self::Follower(node) if Some(node) == leader => {
                let place = nodes.iter().position(|other| *other == node).unwrap_or_default();
                nodes[(place + 1) % nodes.len()]
            }
            Self::Follower(node) | Self::Node(node) => node,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader(node) => write!(f, "the leader (or {node})"),
            Self::Follower(node) => write!(f, "a follower (at best {node})"),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// How packets are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Between the node and its peers, both ways.
    Isolated(Target),
    /// From the node to its peers.
    Mute(Target),
    /// From the peers to the node.
    Deaf(Target),
    /// Between these nodes and the others.
    Halves(BTreeSet<Node>),
    /// Between two halves that both reach the node.
    Bridge(Target),
    /// Each node reaches its nearest only; five nodes or more.
    Ring,
    /// Between the node and its peers, off and on for so long each.
    Flapping(Target, Duration),
}

/// How the members change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It loses its disk and joins again under its name.
    Replace(Target),
    /// It leaves, and joins again as an empty one.
    Leave(Target),
    /// It is removed while it runs, and joins again as an empty one.
    Remove(Target),
    /// One more server joins, and is removed.
    Visit,
    /// It comes back under another address.
    Move(Target),
    /// All do, at once.
    MoveAll,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends it, and starts it again when the time is over.
    Kill(Target),
    /// Ends all nodes at once.
    KillAll,
    /// Ends it again as soon as it serves, so many times.
    CrashLoop(Target, u32),
    /// It stands still until the time is over.
    Pause(Target),
    /// All nodes stand still.
    PauseAll,
    /// Drops packets until the time is over.
    Partition(Shape),
    /// Cuts the power of its disk, and starts it again when the time is over.
    PowerCut(Target),
    /// The same with all nodes at once.
    PowerCutAll,
    /// Its wall clock is wrong by so many seconds until the time is over.
    Clock(Target, i64),
    /// It is asked to end, and started again when the time is over.
    Restart(Target),
    /// The members change; whether the leader is killed while one is taken in.
    Members(Change, bool),
}

impl Action {
    /// What kind of fault this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kill(_) | Self::KillAll | Self::CrashLoop(..) => Kind::Kill,
            Self::Pause(_) | Self::PauseAll => Kind::Pause,
            Self::Partition(_) => Kind::Partition,
            Self::PowerCut(_) | Self::PowerCutAll => Kind::PowerCut,
            Self::Clock(..) => Kind::Clock,
            Self::Restart(_) => Kind::Restart,
            Self::Members(..) => Kind::Membership,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace(target) => write!(f, "wipe {target} and let it join again"),
            Self::Leave(target) => write!(f, "let {target} leave, and join again"),
            Self::Remove(target) => write!(f, "remove {target}, and let it join again"),
            Self::Visit => f.write_str("let one more server join, and remove it"),
            Self::Move(target) => write!(f, "give {target} another address"),
            Self::MoveAll => f.write_str("give all other addresses"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {target}"),
            Self::KillAll => f.write_str("kill all"),
            Self::CrashLoop(target, times) => write!(f, "kill {target}, {times} times"),
            Self::Pause(target) => write!(f, "pause {target}"),
            Self::PauseAll => f.write_str("pause all"),
            Self::Partition(Shape::Isolated(target)) => write!(f, "isolate {target}"),
            Self::Partition(Shape::Mute(target)) => write!(f, "nobody hears {target}"),
            Self::Partition(Shape::Deaf(target)) => write!(f, "nobody is heard by {target}"),
            Self::Partition(Shape::Halves(some)) => {
                let some: Vec<String> = some.iter().map(Node::to_string).collect();
                write!(f, "{} apart from the others", some.join(", "))
            }
            Self::Partition(Shape::Bridge(target)) => write!(f, "two halves, {target} between them"),
            Self::Partition(Shape::Ring) => f.write_str("majorities in a ring"),
            Self::Partition(Shape::Flapping(target, period)) => {
                write!(f, "isolate {target}, off and on every {period:.1?}")
            }
            Self::PowerCut(target) => write!(f, "cut the power of {target}"),
            Self::PowerCutAll => f.write_str("cut the power of all"),
            Self::Restart(target) => write!(f, "restart {target}"),
            Self::Members(change, false) => change.fmt(f),
            Self::Members(change, true) => write!(f, "{change}, and kill the leader meanwhile"),
            Self::Clock(target, seconds) => write!(f, "set the wall clock of {target} off by {seconds:+} s"),
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, from the start of the run; later if the one before took longer than it was to.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
    /// What.
    pub action: Action,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.1} s  {}  for {lasts:.1} s", self.action)
    }
}

/// All faults of a run, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// In the order of time.
    pub steps: Vec<Step>,
    /// All are over by then; a step that would not be, since those before took longer, is left out.
    pub until: Duration,
}

impl Schedule {
    /// A schedule of these kinds for a run of this length, decided by the seed alone. The first fault comes when the
    /// clients have begun, the last ends before the run does.
    pub fn draw(seed: u64, kinds: &[Kind], nodes: u8, time: Duration) -> Self {
        let mut draw = Draw {
            rng: StdRng::seed_from_u64(seed),
            nodes: Node::first(nodes).collect(),
        };
        let mut steps = Vec::new();
        let mut at = WARM_UP;
        // Every kind has its turn before one has its second.
        let mut turn: Vec<Kind> = Vec::new();
        while !kinds.is_empty() {
            if turn.is_empty() {
                turn = kinds.to_vec();
                turn.shuffle(&mut draw.rng);
            }
            let Some(kind) = turn.pop() else { break };
            let (action, lasts) = draw.fault(kind);
            if at + lasts + COOL_DOWN > time {
                break;
            }
            steps.push(Step { at, lasts, action });
            at += lasts + draw.between(QUIET);
        }
        let until = time.saturating_sub(COOL_DOWN);
        Self { steps, until }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// The clients begin undisturbed.
const WARM_UP: Duration = Duration::from_secs(3);

/// And end so.
const COOL_DOWN: Duration = Duration::from_secs(3);

/// Between two faults, in milliseconds: long enough for an election, mostly.
const QUIET: (u64, u64) = (500, 4_000);

/// Between two faults at the least, however long the first one took.
pub const QUIET_MIN: Duration = Duration::from_millis(QUIET.0);

/// What clocks are set off by, in seconds.
const OFFSETS: [i64; 8] = [-86_400, -3_600, -60, -10, 10, 60, 3_600, 86_400];

struct Draw {
    rng: StdRng,
    nodes: Vec<Node>,
}

impl Draw {
    fn fault(&mut self, kind: Kind) -> (Action, Duration) {
        match kind {
            Kind::Kill => {
                let action = match self.rng.random_range(0..10) {
                    0..2 => Action::KillAll,
                    2..4 => Action::CrashLoop(self.target(), self.rng.random_range(2..=4)),
                    _ => Action::Kill(self.target()),
                };
                (action, self.between((100, 5_000)))
            }
            Kind::Pause => {
                // Up to three election timeouts, by the effective one of 600 ms; now and then much longer.
                let lasts = match self.rng.random_range(0..5) {
                    0 => self.between((2_000, 6_000)),
                    _ => self.between((100, 1_800)),
                };
                let action = match self.rng.random_range(0..6) {
                    0 => Action::PauseAll,
                    _ => Action::Pause(self.target()),
                };
                (action, lasts)
            }
            Kind::Partition => (Action::Partition(self.shape()), self.between((1_000, 8_000))),
            Kind::PowerCut => {
                let action = match self.rng.random_range(0..3) {
                    0 => Action::PowerCutAll,
                    _ => Action::PowerCut(self.target()),
                };
                (action, self.between((100, 3_000)))
            }
            Kind::Clock => {
                let offset = *OFFSETS.choose(&mut self.rng).expect("there are offsets");
                (Action::Clock(self.target(), offset), self.between((2_000, 6_000)))
            }
            Kind::Restart => (Action::Restart(self.target()), self.between((100, 2_000))),
            Kind::Membership => {
                let change = self.change();
                let takes_in = !matches!(change, Change::Move(_) | Change::MoveAll);
                let kill = takes_in && self.rng.random_range(0..3) == 0;
                (Action::Members(change, kill), self.between((500, 3_000)))
            }
        }
    }

    fn change(&mut self) -> Change {
        // Of one or two nodes none can be spared.
        let chance = if self.nodes.len() < 3 { 7 } else { 0 };
        match self.rng.random_range(chance..12) {
            0..3 => Change::Replace(self.target()),
            3..5 => Change::Leave(self.target()),
            5..7 => Change::Remove(self.target()),
            7..9 => Change::Visit,
            9..11 => Change::Move(self.target()),
            _ => Change::MoveAll,
        }
    }

    fn shape(&mut self) -> Shape {
        let target = self.target();
        match self.rng.random_range(0..10) {
            0..3 => Shape::Isolated(target),
            3 => Shape::Mute(target),
            4 => Shape::Deaf(target),
            5..7 => {
                let mut nodes = self.nodes.clone();
                nodes.shuffle(&mut self.rng);
                let some = nodes.len() / 2;
                Shape::Halves(nodes.into_iter().take(some.max(1)).collect())
            }
            7 => Shape::Bridge(target),
            8 if self.nodes.len() >= 5 => Shape::Ring,
            _ => Shape::Flapping(target, self.between((200, 1_500))),
        }
    }

    /// The leader as often as not: what befalls it matters most.
    fn target(&mut self) -> Target {
        let node = *self.nodes.choose(&mut self.rng).expect("a cluster has nodes");
        match self.rng.random_range(0..10) {
            0..5 => Target::Leader(node),
            5..8 => Target::Follower(node),
            _ => Target::Node(node),
        }
    }

    fn between(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{COOL_DOWN, Kind, Schedule, Target, WARM_UP};
    use crate::net::Node;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_seed_decides_everything() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, &Kind::ALL, 3, MINUTE);
            assert_eq!(schedule, Schedule::draw(seed, &Kind::ALL, 3, MINUTE));
            assert_ne!(schedule, Schedule::draw(seed + 1, &Kind::ALL, 3, MINUTE));
        }
    }

    #[test]
    fn faults_of_all_kinds_follow_each_other_within_the_time() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, &Kind::ALL, 5, 2 * MINUTE);
            let kinds: BTreeSet<Kind> = schedule.steps.iter().map(|step| step.action.kind()).collect();
            assert_eq!(kinds.len(), Kind::ALL.len(), "{schedule}");
            let mut free = WARM_UP;
            for step in &schedule.steps {
                assert!(step.at >= free, "{schedule}");
                free = step.at + step.lasts;
            }
            assert!(free + COOL_DOWN <= 2 * MINUTE, "{schedule}");
        }
    }

    #[test]
    fn without_kinds_nothing_happens() {
        assert_eq!(Schedule::draw(1, &[], 3, MINUTE).to_string(), "");
    }

    #[test]
    fn a_target_is_found_when_the_time_comes() {
        let nodes = [Node(1), Node(2), Node(3)];
        let resolved = |target: Target, leader| target.resolve(&nodes, leader);
        assert_eq!(resolved(Target::Leader(Node(1)), Some(Node(2))), Node(2));
        assert_eq!(resolved(Target::Leader(Node(1)), None), Node(1));
        assert_eq!(resolved(Target::Follower(Node(3)), Some(Node(3))), Node(1));
        assert_eq!(resolved(Target::Follower(Node(3)), Some(Node(1))), Node(3));
        assert_eq!(resolved(Target::Node(Node(2)), Some(Node(2))), Node(2));
    }
}
