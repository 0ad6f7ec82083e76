//! When what breaks: a schedule that the seed alone decides.

use std::time::Duration;

/// Something done to the cluster from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Cut this node off from the two others.
    Isolate(u64),
    /// End this node at once; its log stays.
    Crash(u64),
}

/// A fault, when it begins and when it is mended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
}

/// Draws faults one after another, so that two of three nodes are always whole: by turns a crash and a partition, of a node
/// drawn each time, for 1 to 4 s, with 1 to 4 s of peace between.
pub(crate) fn schedule(seed: u64, end: Duration) -> Vec<Planned> {
    let mut chance = Chance(seed);
    let mut planned = Vec::new();
    let mut at = Duration::from_secs(3);
    loop {
        let node = 1 + chance.below(3);
        let fault = if planned.len() % 2 == 0 {
            Fault::Crash(node)
        } else {
            Fault::Isolate(node)
        };
        let begins = at + Duration::from_millis(1_000 + chance.below(3_000));
        let ends = begins + Duration::from_millis(1_000 + chance.below(3_000));
        if ends >= end {
            return planned;
        }
        planned.push(Planned { fault, begins, ends });
        at = ends;
    }
}

/// `SplitMix64`: enough for a schedule, and the same everywhere for ever.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`; the slight bias of the remainder doesn't matter to a schedule.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
