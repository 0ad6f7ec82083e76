//! Sets wall clocks.

use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{Bite, Nemesis};
use crate::net::Node;

/// Time in which a set clock has to show, the library looking once a second.
const SHOWN_WITHIN: Duration = Duration::from_secs(4);

/// How far a clock may be from what it was set to, in seconds: the node states it in whole ones.
const TOLERANCE: i64 = 2;

/// Between two looks at a clock.
const LOOK: Duration = Duration::from_millis(100);

impl Nemesis<'_> {
    /// Sets the wall clock of a node off for a while, and right again.
    pub(super) fn set_clock(&mut self, node: Node, seconds: i64, lasts: Duration) -> io::Result<Bite> {
        let clock = self.cluster.server(node).clock();
        let clock = clock.ok_or_else(|| io::Error::other("this cluster has no clocks that can be set"))?;
        let set = Instant::now();
        clock.set(seconds)?;
        let seen = self.awaits_clock(node, seconds);
        thread::sleep(lasts.saturating_sub(set.elapsed()));
        clock.set(0)?;
        let seen_right = self.awaits_clock(node, 0);
        let evidence = seen.zip(seen_right).map(|(wrong, right)| {
            format!("{node} showed a time {wrong:+} s from the machine's, then {right:+} s")
        });
        Ok(Bite {
            detail: format!("set the wall clock of {node} off by {seconds:+} s"),
            nodes: vec![node],
            cut_off: Vec::new(),
            evidence,
        })
    }

    /// Waits until a node's clock is off by so many seconds; gives by how many it is.
    fn awaits_clock(&self, node: Node, seconds: i64) -> Option<i64> {
        let start = Instant::now();
        while start.elapsed() < SHOWN_WITHIN {
            let shown = self.cluster.server(node).wall_clock();
            let off = shown.map(|shown| seconds_between(SystemTime::now(), shown));
            if let Some(off) = off.filter(|off| (off - seconds).abs() <= TOLERANCE) {
                return Some(off);
            }
            thread::sleep(LOOK);
        }
        None
    }
}

/// How many seconds `to` is after `from`; negative if it is before.
fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let whole = |duration: Duration| (duration + HALF_A_SECOND).as_secs().cast_signed();
    match to.duration_since(from) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);
