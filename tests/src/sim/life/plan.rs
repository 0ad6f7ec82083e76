//! What a seed decides about the life of a cluster.

use std::time::Duration;

use spine_tests::disk::Rng;

/// How many servers there are to be, one after another.
const SHAPES: [&[usize]; 6] = [&[1, 3, 5, 3], &[1, 3], &[3, 5, 3], &[3], &[3], &[5]];

/// The life of a cluster, before it begins.
#[derive(Clone, Debug)]
pub(crate) struct LifePlan {
    /// How many members there are to be; the first ones found the cluster.
    pub(crate) sizes: Vec<usize>,
    /// Members that are behind get the state whole, again and again: of the log nothing is kept for them.
    pub(crate) snapshots: bool,
    /// Between two transfers of leadership, at most.
    pub(crate) transfers: Option<Duration>,
    /// Between two changes of the members, at most.
    pub(crate) peace: Duration,
    /// Bytes that are stored beside what is needed, at most: they make the state larger.
    pub(crate) padding: u64,
    /// Between two checkpoints that are asked for.
    pub(crate) checkpoint_every: Option<Duration>,
    /// Where the chance of everything else comes from.
    pub(crate) rng: Rng,
}

impl LifePlan {
    /// The life of `seed`, which has chance of its own: nothing else that the seed decides depends on it.
    pub(crate) fn draw(seed: u64, nodes: Option<usize>) -> Self {
        let mut rng = Rng::new(seed ^ 0x6c69_6665);
        let ms = |rng: &mut Rng, from: u64, to: u64| Duration::from_millis(from + rng.below(to - from));
        let shape = SHAPES[usize::try_from(rng.below(SHAPES.len() as u64)).expect("below 6")];
        let snapshots = !rng.one_in(3);
        Self {
            sizes: nodes.map_or_else(|| shape.to_vec(), |nodes| vec![nodes]),
            snapshots,
            transfers: (!rng.one_in(4)).then(|| ms(&mut rng, 2_000, 12_000)),
            peace: ms(&mut rng, 300, 4_000),
            padding: if snapshots { 1 << (4 + rng.below(8)) } else { 0 },
            checkpoint_every: snapshots.then(|| ms(&mut rng, 300, 1_500)),
            rng,
        }
    }
}
