//! One change of who is in the cluster or where: from the wish to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use spine_tests::disk::Rng;

use crate::config::Config;
use crate::faults::Faults;
use crate::fleet::Fleet;
use crate::invariants::Invariants;
use crate::node::{Answer, Order, Subject};

/// Who was asked and says nothing for so long is not waited for any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Who was refused asks again after this.
const ASK_AGAIN: Duration = Duration::from_millis(400);

/// A change that is under way.
#[derive(Debug)]
pub(super) enum Task {
    /// Servers are to come in and to get a vote.
    Grow(BTreeSet<usize>),
    /// One that lost its disk is to take its own place.
    Rejoin {
        /// Which.
        number: usize,
        /// The node id that it had.
        old: u64,
    },
    /// Servers are to be found elsewhere.
    Move {
        /// Which.
        moving: BTreeSet<usize>,
        /// Those that are to end in order before they move, and in which of their lives they were told.
        ending: BTreeMap<usize, Option<u64>>,
    },
    /// One is to go.
    Shrink(Shrink),
}

/// How one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Another is asked to remove it.
    Asked,
    /// The same, by force: it is dead for good.
    Forced,
    /// It is asked to leave.
    Leaves,
}

/// A server that is to go.
#[derive(Debug)]
pub(super) struct Shrink {
    /// Which.
    pub(super) number: usize,
    /// The node id of its directory.
    id: u64,
    way: Way,
    /// Nobody is asked before.
    not_before: Duration,
    /// Who was asked.
    asked: Option<Asked>,
    /// Who of those who stay was down when somebody was asked for the first time, and which life it had lost.
    down: Option<BTreeMap<usize, u64>>,
    /// It was seen to begin.
    begun: bool,
}

/// Somebody who was asked.
#[derive(Debug)]
struct Asked {
    number: usize,
    life: u64,
    at: Duration,
    answer: Answer,
}

impl Task {
    /// The one that is on its way out.
    pub(super) fn victim(&self) -> Option<usize> {
        match self {
            Self::Shrink(shrink) => Some(shrink.number),
            Self::Grow(_) | Self::Rejoin { .. } | Self::Move { .. } => None,
        }
    }

    /// Whether the log says that it is done.
    pub(super) fn is_done(&self, fleet: &Fleet, members: &Config) -> bool {
        let settled = members.is_settled();
        let votes = |number: usize| {
            let id = fleet.subject(number).node_id();
            id.is_some_and(|id| members.votes(id))
        };
        match self {
            Self::Grow(numbers) => settled && numbers.iter().all(|number| votes(*number)),
            Self::Rejoin { number, old } => settled && votes(*number) && !members.servers.contains_key(old),
            Self::Move { moving, ending } => {
                let there = |number: &usize| {
                    let subject = fleet.subject(*number);
                    let id = subject.node_id().unwrap_or_default();
                    let server = members.servers.get(&id);
                    server.is_some_and(|server| server.peer_address == subject.peer_address())
                };
                ending.is_empty() && moving.iter().all(there)
            }
            Self::Shrink(shrink) => settled && !members.servers.contains_key(&shrink.id),
        }
    }
}

impl Shrink {
    /// A wish that this server go, of which nobody hears before `not_before`.
    pub(super) fn new(subject: &Subject, way: Way, not_before: Duration) -> Self {
        Self {
            number: subject.number,
            id: subject.node_id().expect("it was a member"),
            way,
            not_before,
            asked: None,
            down: None,
            begun: false,
        }
    }

    /// Asks somebody, and again whoever may know if that comes to nothing.
    pub(super) fn go_on(
        &mut self,
        fleet: &Fleet,
        faults: &Faults,
        stay: &[Rc<Subject>],
        rng: &mut Rng,
        now: Duration,
    ) {
        if let Some(asked) = &self.asked {
            let answered = asked.answer.borrow().is_some();
            let lives = fleet.subject(asked.number).lives() == asked.life;
            if !answered && lives && now < asked.at + ANSWER_WITHIN {
                return;
            }
            self.asked = None;
            self.not_before = now + ASK_AGAIN;
        }
        if now < self.not_before {
            return;
        }
        let (asked, order) = match self.way {
            Way::Leaves => (Rc::clone(fleet.subject(self.number)), Order::Leave),
            Way::Asked | Way::Forced => {
                let place = usize::try_from(rng.below(stay.len() as u64)).expect("it is below a usize");
                let order = Order::Remove {
                    number: self.number,
                    forced: self.way == Way::Forced,
                };
                (Rc::clone(&stay[place]), order)
            }
        };
        let Some(answer) = asked.order(order) else { return };
        self.down.get_or_insert_with(|| {
            let down = stay.iter().filter(|subject| faults.is_down(subject.number));
            down.map(|subject| (subject.number, subject.lives())).collect()
        });
        self.asked = Some(Asked {
            number: asked.number,
            life: asked.lives(),
            at: now,
            answer,
        });
    }

    /// A removal that isn't forced begins only if enough of those who stay were there when it was asked for: else nothing
    /// could be written any more, itself included.
    pub(super) fn look(
        &mut self,
        fleet: &Fleet,
        faults: &Faults,
        invariants: &Invariants,
    ) -> Result<(), String> {
        if self.begun || self.way == Way::Forced {
            return Ok(());
        }
        let mut configs = fleet
            .all()
            .iter()
            .filter_map(|subject| invariants.config(subject));
        let begins = |config: &&Config| match &config.sets[..] {
            [old, new] => old.contains(&self.id) && !new.contains(&self.id),
            _ => false,
        };
        let Some(config) = configs.find(begins) else {
            return Ok(());
        };
        self.begun = true;
        let mut down = self.down.iter().flatten();
        let gone = |id: u64| {
            down.clone().any(|(number, life)| {
                let subject = fleet.subject(*number);
                subject.node_id() == Some(id) && subject.lives() == *life && faults.is_down(*number)
            })
        };
        let stay = &config.sets[1];
        let there = stay.iter().filter(|id| !gone(**id)).count();
        if there > stay.len() / 2 || down.next().is_none() {
            return Ok(());
        }
        Err(format!(
            "n{} is being removed though too few of those who stay have been there since that was asked for: {there} of {}",
            self.number,
            stay.len()
        ))
    }
}
