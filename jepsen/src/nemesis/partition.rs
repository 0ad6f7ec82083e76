//! Drops packets between nodes.

use std::thread;
use std::time::{Duration, Instant};

use super::{Bite, Nemesis};
use crate::net::partition::{Partition, cut_off};
use crate::schedule::Shape;

impl Nemesis<'_> {
    /// Cuts the directions of this shape for a while.
    pub(super) fn partition(&mut self, shape: &Shape, lasts: Duration) -> Bite {
        let partition = self.named(shape);
        let nodes = self.cluster.nodes();
        let directions = partition.directions(&nodes);
        let matrix = self.cluster.network().matrix();
        let dropped_before = matrix.dropped(&directions);
        let (detail, period) = match shape {
            Shape::Flapping(_, period) => (format!("{partition}, off and on every {period:.1?}"), *period),
            _ => (partition.to_string(), lasts),
        };
        let start = Instant::now();
        let left = || lasts.saturating_sub(start.elapsed());
        while !left().is_zero() {
            matrix.cut(directions.clone());
            thread::sleep(period.min(left()));
            matrix.heal();
            thread::sleep(period.min(left()));
        }
        let dropped = matrix.dropped(&directions) - dropped_before;
        let cut_off = cut_off(&directions, &nodes);
        Bite {
            detail,
            nodes: cut_off.clone(),
            cut_off,
            evidence: (dropped > 0).then(|| format!("{dropped} packets dropped")),
        }
    }

    fn named(&self, shape: &Shape) -> Partition {
        match shape {
            Shape::Isolated(target) | Shape::Flapping(target, _) => {
                Partition::Isolated(self.resolve(*target))
            }
            Shape::Mute(target) => Partition::Mute(self.resolve(*target)),
            Shape::Deaf(target) => Partition::Deaf(self.resolve(*target)),
            Shape::Halves(some) => Partition::Halves(some.clone()),
            Shape::Bridge(target) => Partition::Bridge(self.resolve(*target)),
            Shape::Ring => Partition::Ring,
        }
    }
}
