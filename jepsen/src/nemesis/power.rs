//! Cuts the power of disks.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::{Bite, Nemesis, all, list};
use crate::net::Node;

/// A cut counts only if more than this was written to the log since the one before: what a short log loses, the first
/// blocks of a file, is not what a long one does.
const LOG_BYTES_MIN: u64 = 2_000_000;

/// Time to write that much.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at the log.
const LOOK: Duration = Duration::from_millis(50);

impl Nemesis<'_> {
    /// Cuts the power of these nodes at once, while they write, and starts them again after a while.
    pub(super) fn cut_power(&mut self, nodes: &[Node], lasts: Duration) -> io::Result<Bite> {
        let writing = self.ballast.write_to(&self.cluster.endpoints());
        let written = self.write_enough(nodes);
        let in_flight = writing.in_flight();
        for node in nodes {
            let disk = self.cluster.server(*node).disk();
            disk.ok_or_else(|| io::Error::other("this cluster has no disks whose power can be cut"))?
                .cut_power()?;
        }
        // A node that noticed has ended already, as it should.
        self.end(nodes)?;
        writing.end();
        thread::sleep(lasts);
        for node in nodes {
            if let Some(disk) = self.cluster.server(*node).disk() {
                disk.remount()?;
            }
        }
        self.bring_back(nodes)?;
        drop(writing);
        self.ballast.check(&self.cluster.endpoints());
        Ok(Bite {
            detail: format!("cut the power of {}", list(nodes)),
            nodes: nodes.to_vec(),
            cut_off: nodes.to_vec(),
            evidence: all([written, in_flight.then(|| "writes in flight".to_owned())]),
        })
    }

    /// Waits until each of these nodes has written enough to its log since it was started; its last power cut was before.
    fn write_enough(&self, nodes: &[Node]) -> Option<String> {
        let start = Instant::now();
        loop {
            let written = nodes.iter().map(|node| self.cluster.server(*node).log_bytes());
            // Of the one that wrote least; nothing, if one doesn't say.
            let least = written.min().flatten().unwrap_or_default();
            if least > LOG_BYTES_MIN {
                return Some(format!("{} kB of log written before", least / 1_000));
            }
            if start.elapsed() > WRITTEN_WITHIN {
                return None;
            }
            thread::sleep(LOOK);
        }
    }
}
