//! The life of a cluster while things break: servers come, get a vote, move, lose their disks and go; leadership is handed
//! over; members that are behind get the state whole.
//!
//! What an operator does: one change of the members after another, each followed to its end however long the faults make that
//! take, and no server is lost for good while another is. What is wanted is known here, and compared at the end with what
//! there is.

mod count;
mod plan;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use spine_api::Role;
use spine_tests::disk::Rng;
use spine_tests::trace::Trace;
use turmoil::Sim;

use self::task::{Shrink, Task, Way};
pub(crate) use self::{
    count::{Count, Event},
    plan::LifePlan,
};
use crate::faults::Faults;
use crate::fleet::Fleet;
use crate::invariants::Invariants;
use crate::node::{Answer, Order, Subject};

/// A leadership that is not taken in this time was not handed over.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Fewer servers than these never lose one for good.
const SPARING: usize = 3;

/// What is to be touched at each step.
pub(crate) struct Scene<'a, 'b> {
    pub(crate) sim: &'a mut Sim<'b>,
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) faults: &'a mut Faults,
    pub(crate) invariants: &'a Invariants,
}

impl Scene<'_, '_> {
    /// A server goes out of service, unless it is already.
    fn retire(&mut self, number: usize) {
        if !self.fleet.is_retired(number) {
            let subject = Rc::clone(self.fleet.subject(number));
            self.faults.retire(self.sim, &subject);
            self.fleet.retire(number);
        }
    }
}

/// The life of one cluster.
pub(crate) struct Life {
    plan: LifePlan,
    rng: Rng,
    /// Where in the plan's sizes it is, and how many more changes there are to be before the next.
    stage: usize,
    left: u64,
    founders: BTreeSet<usize>,
    /// Who is to be a member in the end.
    wanted: BTreeSet<usize>,
    task: Option<Task>,
    next_task: Duration,
    transfer: Option<(Duration, Answer)>,
    next_transfer: Duration,
    next_absence: Duration,
    /// Those who are members no longer, and when somebody sees to it that they end.
    leaving: Vec<(Duration, usize)>,
    /// Those who are started again though they are members no longer.
    ghosts: BTreeMap<usize, Duration>,
    /// Nothing new is begun.
    resting: bool,
    count: Count,
    trace: Trace,
}

impl Life {
    /// A life that has not begun.
    pub(crate) fn new(plan: LifePlan, trace: Trace) -> Self {
        let founders: BTreeSet<usize> = (1..=plan.sizes[0]).collect();
        Self {
            rng: plan.rng.clone(),
            stage: 0,
            left: 1,
            wanted: founders.clone(),
            founders,
            task: None,
            next_task: Duration::from_secs(2),
            transfer: None,
            next_transfer: Duration::from_secs(3),
            next_absence: Duration::from_secs(4),
            leaving: Vec::new(),
            ghosts: BTreeMap::new(),
            resting: false,
            count: Count::default(),
            trace,
            plan,
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Something happened that must not.
    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Result<(), String> {
        let now = scene.sim.elapsed();
        self.restart_ended(scene, now);
        self.see_off(scene, now);
        self.hand_over(scene, now);
        if !self.resting {
            self.interrupt_installs(scene);
            self.keep_away(scene, now);
        }
        let Some(members) = scene.invariants.committed_config() else {
            return Ok(());
        };
        match self.task.take() {
            Some(task) if task.is_done(scene.fleet, members) => self.end(task, scene, now),
            Some(task) => self.task = Some(self.go_on(task, scene, now)?),
            None if !self.resting && now >= self.next_task => {
                self.task = self.begin(scene, now);
                let begun = format!("{:?}", self.task);
                self.note(now, format_args!("{begun}"));
            }
            None => {}
        }
        Ok(())
    }

    /// From now on nothing new is begun; who was removed and still runs is ended.
    pub(crate) fn rest(&mut self) {
        self.resting = true;
        self.leaving.iter_mut().for_each(|(at, _)| *at = Duration::ZERO);
        let ghosts = std::mem::take(&mut self.ghosts);
        self.leaving
            .extend(ghosts.into_keys().map(|number| (Duration::ZERO, number)));
    }

    /// Whether all that was begun is done; what is not otherwise.
    pub(crate) fn is_over(&self) -> Result<(), String> {
        match &self.task {
            None => Ok(()),
            Some(task) => Err(format!("{task:?}")),
        }
    }

    /// Whether a server may end for this reason: it was removed.
    pub(crate) fn excuses(&self, number: usize, reason: &str) -> bool {
        let victim = self.task.as_ref().and_then(Task::victim);
        let goes = !self.wanted.contains(&number) || victim == Some(number);
        goes && reason.contains("was removed from cluster")
    }

    /// A server that was removed has ended. Some are started once more, on the directory that they had.
    pub(crate) fn bury(&mut self, scene: &mut Scene<'_, '_>, number: usize) {
        let now = scene.sim.elapsed();
        let again = !scene.fleet.is_retired(number) && !self.resting && self.rng.one_in(3);
        self.note(now, format_args!("n{number} was removed and has ended"));
        scene.retire(number);
        if again {
            let at = now + self.for_ms(500, 5_000);
            self.ghosts.insert(number, at);
        }
    }

    /// Those that are to be members.
    pub(crate) fn wanted(&self, fleet: &Fleet) -> Vec<Rc<Subject>> {
        let wanted = self.wanted.iter();
        wanted.map(|number| Rc::clone(fleet.subject(*number))).collect()
    }

    /// Whether each of those that are to be members knows them all as voters, where they are, and nobody else.
    pub(crate) fn is_as_wanted(&self, fleet: &Fleet) -> Result<(), String> {
        let wanted = self.wanted(fleet);
        let right: BTreeMap<_, _> = wanted
            .iter()
            .map(|subject| (subject.node_id(), (subject.peer_address(), true)))
            .collect();
        for subject in wanted {
            let roster = subject
                .roster()
                .ok_or_else(|| format!("n{} knows no members", subject.number))?;
            let seats = roster.seats.into_iter();
            let found: BTreeMap<_, _> = seats
                .map(|(id, seat)| (Some(id), (seat.peer.address, seat.votes)))
                .collect();
            if found != right {
                return Err(format!(
                    "n{} knows {found:?}, and wanted is {right:?}",
                    subject.number
                ));
            }
        }
        Ok(())
    }

    /// What happened.
    pub(crate) fn counted(&self, fleet: &Fleet) -> Count {
        let mut count = self.count;
        for subject in fleet.all() {
            count[Event::Installed] += subject.installs().whole();
            count[Event::Interrupted] += subject.installs().interrupted();
        }
        count
    }

    /// Why it does not count yet.
    pub(crate) fn falls_short(&self, fleet: &Fleet) -> Option<String> {
        let count = self.counted(fleet);
        let enough = count.changes() > 0
            && (!self.plan.snapshots || count[Event::Installed] > 0)
            && (self.plan.transfers.is_none() || count[Event::Transferred] > 0);
        (!enough).then(|| format!("too little happened: {count}"))
    }

    fn begin(&mut self, scene: &mut Scene<'_, '_>, now: Duration) -> Option<Task> {
        let (target, there) = (self.plan.sizes[self.stage], self.wanted.len());
        if there < target {
            let most = (target - there).min(2) as u64;
            let comers = 1 + self.rng.below(most);
            return Some(self.grow(scene, comers));
        }
        if there > target {
            return self.shrink(scene, now);
        }
        if self.left == 0 && self.stage + 1 < self.plan.sizes.len() {
            self.stage += 1;
            self.left = 1 + self.rng.below(3);
            return None;
        }
        self.left = self.left.saturating_sub(1);
        match self.rng.below(10) {
            // It takes another's place, who goes next.
            0..3 => Some(self.grow(scene, 1)),
            3..6 if there >= SPARING => self.rejoin(scene, now),
            6 if there >= SPARING => self.bury_dead(scene, now),
            // Its successor comes when it has gone.
            7..9 if there >= SPARING => self.shrink(scene, now),
            9 => Some(self.move_all(scene, now)),
            _ => self.move_one(scene),
        }
    }

    fn grow(&mut self, scene: &mut Scene<'_, '_>, comers: u64) -> Task {
        let mut numbers = BTreeSet::new();
        for _ in 0..comers {
            let comer = scene.fleet.come(scene.sim, self.rng.next_u64());
            numbers.insert(comer.number);
            self.wanted.insert(comer.number);
        }
        Task::Grow(numbers)
    }

    fn rejoin(&mut self, scene: &mut Scene<'_, '_>, now: Duration) -> Option<Task> {
        let subject = self.one_of_wanted(scene.fleet);
        let old = subject.node_id()?;
        let until = now + self.for_ms(50, 3_000);
        scene.faults.take_down(scene.sim, &subject, until);
        subject.wipe(self.rng.next_u64());
        let number = subject.number;
        Some(Task::Rejoin { number, old })
    }

    fn move_one(&mut self, scene: &mut Scene<'_, '_>) -> Option<Task> {
        let subject = self.one_of_wanted(scene.fleet);
        subject.node_id()?;
        let number = subject.number;
        Some(Task::Move {
            moving: [number].into(),
            ending: [(number, None)].into(),
        })
    }

    fn move_all(&mut self, scene: &mut Scene<'_, '_>, now: Duration) -> Task {
        for subject in self.wanted(scene.fleet) {
            let until = now + self.for_ms(50, 1_500);
            scene.faults.take_down(scene.sim, &subject, until);
            subject.moves();
        }
        Task::Move {
            moving: self.wanted.clone(),
            ending: BTreeMap::new(),
        }
    }

    /// One is dead for good, and is removed by force.
    fn bury_dead(&mut self, scene: &mut Scene<'_, '_>, now: Duration) -> Option<Task> {
        let subject = self.one_of_wanted(scene.fleet);
        subject.node_id()?;
        scene.retire(subject.number);
        let not_before = now + self.for_ms(0, 2_000);
        Some(Task::Shrink(Shrink::new(&subject, Way::Forced, not_before)))
    }

    fn shrink(&mut self, scene: &mut Scene<'_, '_>, now: Duration) -> Option<Task> {
        let leader = leader(scene.fleet).filter(|leader| self.wanted.contains(&leader.number));
        let founders: Vec<usize> = self.founders.intersection(&self.wanted).copied().collect();
        let going = match leader.clone() {
            Some(leader) if self.rng.one_in(3) => leader,
            _ if !founders.is_empty() && !self.rng.one_in(4) => {
                Rc::clone(scene.fleet.subject(founders[self.below(founders.len())]))
            }
            _ => self.one_of_wanted(scene.fleet),
        };
        going.node_id()?;
        if self.rng.one_in(4) {
            return Some(Task::Shrink(Shrink::new(&going, Way::Leaves, now)));
        }
        // One of those who are to stay goes down, a moment before or long before: does anybody count on it?
        let stays = |subject: &Rc<Subject>| {
            let leads = leader
                .as_ref()
                .is_some_and(|leader| leader.number == subject.number);
            subject.number != going.number && !leads
        };
        let mut stay = self.wanted(scene.fleet);
        stay.retain(stays);
        let mut not_before = now;
        if !stay.is_empty() && self.rng.one_in(2) {
            let down = Rc::clone(&stay[self.below(stay.len())]);
            let until = now + self.for_ms(2_000, 9_000);
            scene.faults.take_down(scene.sim, &down, until);
            not_before += self.for_ms(0, 900);
        }
        Some(Task::Shrink(Shrink::new(&going, Way::Asked, not_before)))
    }

    fn go_on(&mut self, mut task: Task, scene: &mut Scene<'_, '_>, now: Duration) -> Result<Task, String> {
        match &mut task {
            Task::Grow(_) | Task::Rejoin { .. } => {}
            Task::Move { ending, .. } => ending.retain(|number, told| {
                let subject = Rc::clone(scene.fleet.subject(*number));
                if scene.faults.is_down(*number) {
                    subject.moves();
                    return false;
                }
                if *told != Some(subject.lives()) && subject.order(Order::Stop).is_some() {
                    *told = Some(subject.lives());
                }
                true
            }),
            Task::Shrink(shrink) => {
                shrink.look(scene.fleet, scene.faults, scene.invariants)?;
                let mut stay = self.wanted(scene.fleet);
                stay.retain(|subject| subject.number != shrink.number);
                shrink.go_on(scene.fleet, scene.faults, &stay, &mut self.rng, now);
            }
        }
        Ok(task)
    }

    /// A change is done.
    fn end(&mut self, task: Task, scene: &Scene<'_, '_>, now: Duration) {
        self.note(now, format_args!("is done: {task:?}"));
        match task {
            Task::Grow(numbers) => self.count[Event::Joined] += numbers.len() as u64,
            Task::Rejoin { .. } => self.count[Event::Rejoined] += 1,
            Task::Move { moving, .. } => self.count[Event::Moved] += moving.len() as u64,
            Task::Shrink(shrink) => {
                self.count[Event::Removed] += 1;
                self.wanted.remove(&shrink.number);
                if scene.fleet.is_retired(shrink.number) {
                    // By force, and then it turns out not to be dead.
                    if self.rng.one_in(2) {
                        let at = now + self.for_ms(500, 5_000);
                        self.ghosts.insert(shrink.number, at);
                    }
                } else {
                    if self.rng.one_in(2) {
                        scene.fleet.book.serves_no_more(shrink.number);
                    }
                    let at = now + self.for_ms(0, 6_000);
                    self.leaving.push((at, shrink.number));
                }
            }
        }
        let peace = u64::try_from(self.plan.peace.as_millis()).expect("seconds");
        self.next_task = now + self.for_ms(100, peace);
    }

    /// Those who have ended in order come back.
    fn restart_ended(&mut self, scene: &mut Scene<'_, '_>, now: Duration) {
        for subject in scene.fleet.present() {
            if subject.has_stopped() {
                let until = now + self.for_ms(50, 2_000);
                scene.faults.take_down(scene.sim, &subject, until);
            }
        }
    }

    /// Ends those who were removed and did not notice, and starts those who are not to be there.
    fn see_off(&mut self, scene: &mut Scene<'_, '_>, now: Duration) {
        let (due, later) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition(|(at, _)| now >= *at);
        self.leaving = later;
        for (_, number) in due {
            scene.retire(number);
        }
        let due: Vec<usize> = self
            .ghosts
            .iter()
            .filter(|(_, at)| now >= **at)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.ghosts.remove(&number);
            self.note(now, format_args!("n{number} is started, though it was removed"));
            scene.fleet.revive(number);
            scene.sim.bounce(crate::node::name(number));
            let at = now + self.for_ms(3_000, 8_000);
            self.leaving.push((at, number));
        }
    }

    fn hand_over(&mut self, scene: &Scene<'_, '_>, now: Duration) {
        if let Some((at, answer)) = &self.transfer {
            let answered = answer.borrow().as_ref().map(Result::is_ok);
            if answered.is_none() && now < *at + TAKEN_WITHIN {
                return;
            }
            let event = if answered == Some(true) {
                Event::Transferred
            } else {
                Event::NotTaken
            };
            self.count[event] += 1;
            self.transfer = None;
        }
        let Some(peace) = self.plan.transfers else { return };
        let several = scene
            .invariants
            .committed_config()
            .is_some_and(|config| config.sets.iter().all(|set| set.len() > 1));
        if self.resting || now < self.next_transfer || !several {
            return;
        }
        let order = leader(scene.fleet).and_then(|leader| leader.order(Order::HandOver));
        if let Some(answer) = order {
            self.transfer = Some((now, answer));
            let peace = u64::try_from(peace.as_millis()).expect("seconds");
            self.next_transfer = now + self.for_ms(500, peace);
        }
    }

    /// Some states that come whole break off.
    fn interrupt_installs(&mut self, scene: &mut Scene<'_, '_>) {
        for subject in self.wanted(scene.fleet) {
            if !subject.installs().begins() || !self.rng.one_in(2) {
                continue;
            }
            let sender = leader(scene.fleet).filter(|leader| leader.number != subject.number);
            match (self.rng.below(3), sender) {
                (0, Some(sender)) => scene.faults.crash(scene.sim, &sender),
                (1, Some(sender)) => {
                    scene.faults.disconnect(scene.sim, sender.number, subject.number);
                }
                (_, _) => scene.faults.crash(scene.sim, &subject),
            }
        }
    }

    /// Keeps a member away for so long that the log which it lacks is gone.
    fn keep_away(&mut self, scene: &mut Scene<'_, '_>, now: Duration) {
        if !self.plan.snapshots || now < self.next_absence || self.wanted.len() < SPARING {
            return;
        }
        let victim = self.task.as_ref().and_then(Task::victim);
        let subject = self.one_of_wanted(scene.fleet);
        let until = now + self.for_ms(3_000, 9_000);
        if victim == Some(subject.number) || scene.faults.is_down(subject.number) {
            return;
        }
        if self.rng.one_in(2) {
            scene.faults.take_down(scene.sim, &subject, until);
        } else {
            let present = scene.fleet.present();
            scene.faults.cut_off(scene.sim, &subject, &present, until);
        }
        self.next_absence = until + self.for_ms(3_000, 12_000);
    }

    fn one_of_wanted(&mut self, fleet: &Fleet) -> Rc<Subject> {
        let wanted = self.wanted(fleet);
        Rc::clone(&wanted[self.below(wanted.len())])
    }

    fn for_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.rng.below(to - from))
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("it is below a usize")
    }

    fn note(&self, now: Duration, what: fmt::Arguments<'_>) {
        self.trace.record_at(now, "life", what);
    }
}

/// Who leads, by its own word, in the newest term.
fn leader(fleet: &Fleet) -> Option<Rc<Subject>> {
    let leads = |subject: &Rc<Subject>| {
        let status = subject.registry()?.status();
        (status.role == Role::Leader).then_some((status.term, Rc::clone(subject)))
    };
    let leaders = fleet.present().iter().filter_map(leads).collect::<Vec<_>>();
    leaders
        .into_iter()
        .max_by_key(|(term, _)| *term)
        .map(|(_, subject)| subject)
}
