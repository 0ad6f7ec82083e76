//! All servers that there ever were, which of them are in service, and where each is found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use spine_tests::disk::Rng;
use spine_tests::trace::Trace;
use turmoil::Sim;

use crate::node::{self, Subject};
use crate::plan::Plan;

/// What servers and clients are told of each other by people.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Whom clients turn to.
    serving: RefCell<Vec<usize>>,
    /// Where servers say that they listen for each other.
    addresses: RefCell<BTreeMap<usize, String>>,
}

impl Book {
    /// A server, for a client.
    pub(crate) fn choose(&self, rng: &mut Rng) -> usize {
        let serving = self.serving.borrow();
        serving[usize::try_from(rng.below(serving.len() as u64)).expect("it is below a usize")]
    }

    /// Where the others of a server are.
    pub(crate) fn others(&self, number: usize) -> Vec<String> {
        let addresses = self.addresses.borrow();
        let others = addresses.iter().filter(|(other, _)| **other != number);
        others.map(|(_, address)| address.clone()).collect()
    }

    /// Clients turn to a server from now on.
    pub(crate) fn serves(&self, number: usize) {
        let mut serving = self.serving.borrow_mut();
        if !serving.contains(&number) {
            serving.push(number);
        }
    }

    /// Clients turn to a server no more.
    pub(crate) fn serves_no_more(&self, number: usize) {
        self.serving.borrow_mut().retain(|other| *other != number);
    }

    /// A server is found there.
    pub(crate) fn is_at(&self, number: usize, address: String) {
        self.addresses.borrow_mut().insert(number, address);
    }

    /// Nobody is sent to a server any more.
    pub(crate) fn forget(&self, number: usize) {
        self.serves_no_more(number);
        self.addresses.borrow_mut().remove(&number);
    }
}

/// The servers.
pub(crate) struct Fleet {
    /// By their numbers, from 1 on.
    all: Vec<Rc<Subject>>,
    /// Those that are in service no more.
    retired: BTreeSet<usize>,
    pub(crate) book: Rc<Book>,
    plan: Plan,
    trace: Trace,
}

impl Fleet {
    /// Those who found the cluster, with these seeds.
    pub(crate) fn found(sim: &mut Sim<'_>, plan: &Plan, seeds: Vec<u64>, trace: Trace) -> Self {
        let mut fleet = Self {
            all: Vec::new(),
            retired: BTreeSet::new(),
            book: Rc::default(),
            plan: plan.clone(),
            trace,
        };
        for seed in seeds {
            fleet.add(sim, seed, node::Origin::Founder);
        }
        fleet
    }

    /// One more server, which asks to be taken in.
    pub(crate) fn come(&mut self, sim: &mut Sim<'_>, seed: u64) -> Rc<Subject> {
        self.add(sim, seed, node::Origin::Comer)
    }

    fn add(&mut self, sim: &mut Sim<'_>, seed: u64, origin: node::Origin) -> Rc<Subject> {
        let number = self.all.len() + 1;
        let subject = Subject::new(
            number,
            seed,
            origin,
            &self.plan,
            Rc::clone(&self.book),
            self.trace.clone(),
        );
        self.book.is_at(number, subject.peer_address());
        self.book.serves(number);
        self.all.push(Rc::clone(&subject));
        let living = Rc::clone(&subject);
        sim.host(node::name(number), move || Rc::clone(&living).live());
        subject
    }

    /// Everybody, also those in service no more.
    pub(crate) fn all(&self) -> &[Rc<Subject>] {
        &self.all
    }

    /// One of them.
    pub(crate) fn subject(&self, number: usize) -> &Rc<Subject> {
        &self.all[number - 1]
    }

    /// Those in service, in the order of their numbers.
    pub(crate) fn present(&self) -> Vec<Rc<Subject>> {
        let present = self
            .all
            .iter()
            .filter(|subject| !self.retired.contains(&subject.number));
        present.cloned().collect()
    }

    /// A server goes out of service. Its life must have ended.
    pub(crate) fn retire(&mut self, number: usize) {
        self.book.forget(number);
        self.retired.insert(number);
    }

    /// A server is started again that was out of service. Nobody is sent to it.
    pub(crate) fn revive(&mut self, number: usize) {
        self.retired.remove(&number);
    }

    /// Whether a server is out of service.
    pub(crate) fn is_retired(&self, number: usize) -> bool {
        self.retired.contains(&number)
    }
}
