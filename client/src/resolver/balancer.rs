//! Which instance gets the next request. Pure: the time and the chance come in.
//!
//! Those whose breaker is closed share the requests by weight. One of weight 0 has no share, even when no other is left;
//! only where nobody has a weight all share evenly. One whose breaker waits for a probe gets the next request as soon as
//! it may: that one tells whether it is back.

use std::{cmp::Ordering, sync::Arc, time::Instant};

use rand::{
    Rng, RngExt,
    distr::{Distribution, weighted::WeightedIndex},
};
use spine_proto::v1::ResolvedTarget;

use super::breaker::{Breaker, BreakerPolicy, Turn};

/// Instances and their breakers.
#[derive(Debug)]
pub(crate) struct Balancer {
    policy: BreakerPolicy,
    /// By node and id.
    seats: Vec<Seat>,
    /// Over those that have a share and whose breaker is closed: their places in `seats`, and the chances.
    closed: Vec<usize>,
    chances: Option<WeightedIndex<u64>>,
    /// When the first of the others may be probed.
    probe_at: Option<Instant>,
}

#[derive(Debug)]
struct Seat {
    target: Arc<ResolvedTarget>,
    breaker: Breaker,
}

/// The breakers let nobody through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// There is no instance.
    Empty,
    /// Every instance is left alone; the first one is probed then.
    Open(Instant),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Failure,
    Untold,
}

impl Balancer {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            seats: Vec::new(),
            closed: Vec::new(),
            chances: None,
            probe_at: None,
        }
    }

    /// From now on these are the instances. One that was there, at the same address, keeps its breaker.
    pub(crate) fn replace(&mut self, targets: impl IntoIterator<Item = ResolvedTarget>) {
        let mut before = std::mem::take(&mut self.seats);
        let mut seats: Vec<Seat> = targets.into_iter().map(Seat::new).collect();
        seats.sort_by(|a, b| order(&a.target, &b.target));
        seats.dedup_by(|a, b| order(&a.target, &b.target).is_eq());
        for seat in &mut seats {
            if let Some(known) = find(&before, &seat.target) {
                seat.breaker = std::mem::take(&mut before[known].breaker);
            }
        }
        self.seats = seats;
        self.arrange();
    }

    /// The instance for a request that begins now.
    pub(crate) fn pick(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<(Arc<ResolvedTarget>, Turn), Nobody> {
        if self.probe_at.is_some_and(|due| due <= now)
            && let Some(probe) = self.probe(now)
        {
            return Ok(probe);
        }
        let at = match (&self.chances, self.closed.len(), self.probe_at) {
            (Some(chances), ..) => self.closed[chances.sample(rng)],
            (None, 0, None) => return Err(Nobody::Empty),
            (None, 0, Some(probe_at)) => return Err(Nobody::Open(probe_at)),
            (None, several, _) => self.closed[rng.random_range(0..several)],
        };
        let seat = &mut self.seats[at];
        let turn = seat
            .breaker
            .enter(now, self.policy)
            .expect("a closed breaker lets all through");
        Ok((seat.target.clone(), turn))
    }

    /// A request that was picked for ended so.
    pub(crate) fn ended(&mut self, target: &ResolvedTarget, turn: Turn, end: End, now: Instant) {
        let Some(at) = find(&self.seats, target) else {
            return;
        };
        let breaker = &mut self.seats[at].breaker;
        let before = (breaker.is_closed(), breaker.probe_at());
        match end {
            End::Success => breaker.succeeded(turn),
            End::Failure => breaker.failed(turn, now, self.policy),
            End::Untold => breaker.abandoned(turn, now),
        }
        if before != (breaker.is_closed(), breaker.probe_at()) {
            self.arrange();
        }
    }

    /// All instances, by node and id.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<ResolvedTarget>> {
        self.seats.iter().map(|seat| &seat.target)
    }

    fn probe(&mut self, now: Instant) -> Option<(Arc<ResolvedTarget>, Turn)> {
        let policy = self.policy;
        let found = self.seats.iter_mut().find_map(|seat| {
            let due = seat.breaker.probe_at().is_some_and(|due| due <= now);
            let turn = due.then(|| seat.breaker.enter(now, policy))??;
            Some((seat.target.clone(), turn))
        });
        self.arrange();
        found
    }

    /// After a breaker or the instances have changed.
    fn arrange(&mut self) {
        let weighted = self.seats.iter().any(|seat| seat.target.weight > 0);
        let closed = |(at, seat): (usize, &Seat)| {
            let shares = seat.target.weight > 0 || !weighted;
            (shares && seat.breaker.is_closed()).then_some(at)
        };
        self.closed = self.seats.iter().enumerate().filter_map(closed).collect();
        let weights = self
            .closed
            .iter()
            .map(|&at| u64::from(self.seats[at].target.weight));
        // None where there are no instances, or none with a weight.
        self.chances = WeightedIndex::new(weights).ok();
        self.probe_at = self.seats.iter().filter_map(|seat| seat.breaker.probe_at()).min();
    }
}

impl Seat {
    fn new(target: ResolvedTarget) -> Self {
        Self {
            target: Arc::new(target),
            breaker: Breaker::default(),
        }
    }
}

fn order(a: &ResolvedTarget, b: &ResolvedTarget) -> Ordering {
    (&a.node, &a.id).cmp(&(&b.node, &b.id))
}

/// The seat of the same instance at the same address.
fn find(seats: &[Seat], target: &ResolvedTarget) -> Option<usize> {
    let at = seats.binary_search_by(|seat| order(&seat.target, target)).ok()?;
    let there = &seats[at].target;
    (there.address == target.address && there.port == target.port).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn target(id: &str, weight: u32) -> ResolvedTarget {
        ResolvedTarget {
            node: "n1".into(),
            id: id.into(),
            address: "10.0.0.1".into(),
            port: 80,
            weight,
            ..ResolvedTarget::default()
        }
    }

    fn of(targets: &[(&str, u32)]) -> Balancer {
        let mut balancer = Balancer::new(BreakerPolicy::default());
        balancer.replace(targets.iter().map(|(id, weight)| target(id, *weight)));
        balancer
    }

    fn shares(balancer: &mut Balancer, picks: u32) -> BTreeMap<String, u32> {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(7));
        let mut shares = BTreeMap::new();
        for _ in 0..picks {
            let (target, _) = balancer.pick(now, &mut rng).unwrap();
            *shares.entry(target.id.clone()).or_default() += 1;
        }
        shares
    }

    fn fail(balancer: &mut Balancer, now: Instant, times: u32) -> Vec<String> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut failed = Vec::new();
        for _ in 0..times {
            let (target, turn) = balancer.pick(now, &mut rng).unwrap();
            balancer.ended(&target, turn, End::Failure, now);
            failed.push(target.id.clone());
        }
        failed
    }

    #[test]
    fn requests_are_shared_by_weight() {
        let shares = shares(&mut of(&[("a", 80), ("b", 20), ("c", 0)]), 10_000);
        assert!((7_800..8_200).contains(&shares["a"]), "{shares:?}");
        assert_eq!(shares.get("c"), None);
    }

    #[test]
    fn without_weights_they_are_shared_evenly() {
        let shares = shares(&mut of(&[("a", 0), ("b", 0)]), 10_000);
        assert!((4_700..5_300).contains(&shares["a"]), "{shares:?}");
    }

    #[test]
    fn one_that_fails_is_left_alone_and_the_others_go_on() {
        let mut balancer = of(&[("a", 1_000), ("b", 1), ("idle", 0)]);
        let now = Instant::now();
        assert_eq!(fail(&mut balancer, now, 3), ["a", "a", "a"]);
        assert_eq!(shares(&mut balancer, 100), BTreeMap::from([("b".into(), 100)]));
        let due = now + BreakerPolicy::default().pause;
        let mut rng = StdRng::seed_from_u64(7);
        // The probe goes first, and alone.
        let (probed, turn) = balancer.pick(due, &mut rng).unwrap();
        assert_eq!(probed.id, "a");
        assert_eq!(balancer.pick(due, &mut rng).unwrap().0.id, "b");
        balancer.ended(&probed, turn, End::Success, due);
        assert!(shares(&mut balancer, 100)["a"] > 90);
    }

    #[test]
    fn where_all_fail_it_is_said_when_the_first_is_tried_again() {
        let mut balancer = of(&[("a", 1), ("idle", 0)]);
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(7));
        fail(&mut balancer, now, 3);
        let due = now + BreakerPolicy::default().pause;
        assert_eq!(balancer.pick(now, &mut rng).unwrap_err(), Nobody::Open(due));
        let (probed, turn) = balancer.pick(due, &mut rng).unwrap();
        let later = due + Duration::from_secs(1);
        balancer.ended(&probed, turn, End::Untold, later);
        assert!(
            balancer.pick(later, &mut rng).is_ok(),
            "what was given up makes room for the next"
        );
        assert_eq!(of(&[]).pick(now, &mut rng).unwrap_err(), Nobody::Empty);
    }

    #[test]
    fn a_breaker_stays_with_its_instance_and_not_with_a_new_address() {
        let mut balancer = of(&[("a", 1)]);
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(7);
        fail(&mut balancer, now, 3);
        balancer.replace([target("0", 1), target("a", 5)]);
        assert_eq!(shares(&mut balancer, 10), BTreeMap::from([("0".into(), 10)]));
        let moved = ResolvedTarget {
            port: 81,
            ..target("a", 5)
        };
        balancer.replace([moved]);
        assert!(balancer.pick(now, &mut rng).is_ok());
        assert_eq!(balancer.targets().count(), 1);
    }
}
