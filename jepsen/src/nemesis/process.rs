//! Ends processes, or lets them stand still.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Bite, Nemesis, all, list};
use crate::db::STOPPED_WITHIN;
use crate::net::Node;

impl Nemesis<'_> {
    /// Kills these nodes at once, and starts them again after a while.
    pub(super) fn kill(&mut self, nodes: &[Node], lasts: Duration) -> io::Result<Bite> {
        let evidence = self.end(nodes)?;
        thread::sleep(lasts);
        self.bring_back(nodes)?;
        Ok(Bite {
            detail: format!("kill {}", list(nodes)),
            nodes: nodes.to_vec(),
            cut_off: nodes.to_vec(),
            evidence,
        })
    }

    /// Kills a node and starts it again, so many times within a while: most times it doesn't come to serve in between.
    pub(super) fn crash_loop(&mut self, node: Node, times: u32, lasts: Duration) -> io::Result<Bite> {
        let mut evidence = Vec::new();
        for _ in 0..times {
            evidence.push(self.end(&[node])?);
            self.cluster.start_node(node)?;
            thread::sleep(lasts / times);
        }
        self.bring_back(&[node])?;
        Ok(Bite {
            detail: format!("kill {node}, {times} times"),
            nodes: vec![node],
            cut_off: vec![node],
            evidence: all(evidence),
        })
    }

    /// Asks a node to end, as before a change of its binary, and starts it again. One that leads hands over before.
    pub(super) fn restart(&mut self, node: Node, lasts: Duration) -> io::Result<Bite> {
        let led = self.cluster.leader() == Some(node);
        let ended = self.cluster.server_mut(node).stop(STOPPED_WITHIN)?;
        let in_order = ended.is_some_and(|status| status.success());
        if !in_order {
            self.incidents
                .push(format!("{node} was asked to end, and ended with {ended:?}"));
        }
        thread::sleep(lasts);
        self.bring_back(&[node])?;
        let what = if led { ", which led, " } else { " " };
        Ok(Bite {
            detail: format!("restart {node}"),
            nodes: vec![node],
            cut_off: vec![node],
            evidence: in_order.then(|| format!("{node}{what}ended in order")),
        })
    }

    /// Ends these nodes as the kernel does. The evidence is how each ended.
    pub(super) fn end(&mut self, nodes: &[Node]) -> io::Result<Option<String>> {
        let mut evidence = Vec::new();
        for node in nodes {
            let ended = self.cluster.server_mut(*node).kill()?;
            let by_us = ended.filter(|status| status.signal() == Some(Signal::KILL.as_raw()));
            evidence.push(by_us.map(|status| format!("{node} ended with {status}")));
        }
        Ok(all(evidence))
    }

    /// Stops these nodes in their tracks for a while.
    pub(super) fn pause(&mut self, nodes: &[Node], lasts: Duration) -> io::Result<Bite> {
        let start = Instant::now();
        for node in nodes {
            self.cluster.server(*node).pause()?;
        }
        thread::sleep(lasts);
        let mut evidence = Vec::new();
        for node in nodes {
            let server = self.cluster.server(*node);
            let stood_still = server.is_paused();
            server.resume()?;
            let seconds = start.elapsed().as_secs_f64();
            evidence.push(stood_still.then(|| format!("{node} stood still for {seconds:.3} s")));
        }
        Ok(Bite {
            detail: format!("pause {}", list(nodes)),
            nodes: nodes.to_vec(),
            cut_off: nodes.to_vec(),
            evidence: all(evidence),
        })
    }
}
