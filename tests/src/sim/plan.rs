//! What a seed decides before anything happens: the cluster, its network, who works on it, and what may break.

use std::time::Duration;

use spine_tests::disk::Rng;

use crate::client::Work;
use crate::faults::Kind;
use crate::life::LifePlan;

/// A simulation, before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How many nodes there are at first.
    pub(crate) nodes: usize,
    /// Members come and go, and more; `None`: they stay as they are.
    pub(crate) life: Option<LifePlan>,
    /// Length of the phase with faults.
    pub(crate) length: Duration,
    /// The simulation advances in steps of this length.
    pub(crate) tick: Duration,
    /// A message takes from 1 ms to this.
    pub(crate) latency_max: Duration,
    /// Keys that the clients fight for.
    pub(crate) keys: u64,
    /// Between two operations of a client, at most.
    pub(crate) pause: Duration,
    /// A request's deadline.
    pub(crate) within: Duration,
    pub(crate) clients: Vec<Work>,
    /// Between two checkpoints of a node that are asked for.
    pub(crate) checkpoint_every: Option<Duration>,
    /// What breaks.
    pub(crate) kinds: Vec<Kind>,
    /// Between two faults, at most.
    pub(crate) peace: Duration,
    /// Where the chance of everything else comes from.
    pub(crate) rng: Rng,
}

impl Plan {
    /// The plan of `seed`. Crashes and partitions are in each; of the other faults each seed leaves most out.
    /// With `lively`, life comes on top, from chance of its own.
    pub(crate) fn draw(seed: u64, nodes: Option<usize>, length: Duration, lively: bool) -> Self {
        let life = lively.then(|| LifePlan::draw(seed, nodes));
        let mut plan = Self::draw_faults(seed, nodes, length);
        if let Some(life) = life {
            plan.nodes = life.sizes[0];
            plan.checkpoint_every = life.checkpoint_every.or(plan.checkpoint_every);
            plan.life = Some(life);
        }
        plan
    }

    fn draw_faults(seed: u64, nodes: Option<usize>, length: Duration) -> Self {
        let mut rng = Rng::new(seed);
        let ms = |rng: &mut Rng, from: u64, to: u64| Duration::from_millis(from + rng.below(to - from));
        let drawn = [1, 3, 3, 3, 5][usize::try_from(rng.below(5)).expect("below 5")];
        let fine = rng.one_in(10);
        let workers = 2 + rng.below(4);
        let works = [
            (Work::Keys, workers),
            (Work::Ttl, 1 + rng.below(2)),
            (Work::Watch, 2),
        ];
        let kinds = Kind::SOMETIMES
            .into_iter()
            .filter(|_| rng.one_in(3))
            .collect::<Vec<_>>();
        Self {
            seed,
            nodes: nodes.unwrap_or(drawn),
            life: None,
            length,
            tick: Duration::from_millis(if fine { 1 } else { 10 }),
            latency_max: ms(&mut rng, 2, 40),
            keys: 1 + rng.below(8),
            pause: ms(&mut rng, 20, 150),
            within: ms(&mut rng, 500, 4_000),
            clients: works
                .into_iter()
                .flat_map(|(work, count)| (0..count).map(move |_| work))
                .collect(),
            checkpoint_every: (!rng.one_in(3)).then(|| ms(&mut rng, 500, 8_000)),
            kinds: Kind::ALWAYS.into_iter().chain(kinds).collect(),
            peace: ms(&mut rng, 800, 6_000),
            rng,
        }
    }
}
