//! The thread between the hosts: reads packets from their TUN devices, asks the matrix, and delivers.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::matrix::{Direction, Matrix};
use super::{Host, Link};

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Switch {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts to move packets between these hosts' devices.
    pub(super) fn start(ports: Vec<(Host, File)>, matrix: Matrix, seed: u64) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let work = Work {
            ports,
            matrix,
            rng: StdRng::seed_from_u64(seed),
            on_their_way: BinaryHeap::new(),
            admitted: 0,
        };
        let thread = thread::Builder::new().name("switch".to_owned()).spawn({
            let ends = Arc::clone(&ends);
            move || work.run(&ends)
        })?;
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is already on standard error.
            let _ = thread.join();
        }
    }
}

struct Work {
    ports: Vec<(Host, File)>,
    matrix: Matrix,
    rng: StdRng,
    on_their_way: BinaryHeap<Reverse<OnItsWay>>,
    admitted: u64,
}

/// A packet that was let in and isn't due yet. The first due is the least.
struct OnItsWay {
    due: Instant,
    /// Keeps the order of packets that are due at the same time.
    number: u64,
    direction: Direction,
    packet: Vec<u8>,
}

/// The longest wait for packets: how soon the end is noticed.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Packets taken from one device before the next has its turn.
const BURST: usize = 64;

/// Packets on their way: beyond it a slow link loses, as a full queue of a router does.
const ON_THEIR_WAY_MAX: usize = 100_000;

impl Work {
    fn run(mut self, ends: &AtomicBool) {
        let mut buffer = vec![0; 65_536];
        while !ends.load(Relaxed) {
            self.deliver_due();
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => panic!("the switch can't wait for packets: {error}"),
            };
            for port in ready {
                for _ in 0..BURST {
                    let (from, tun) = &mut self.ports[port];
                    let from = *from;
                    let Ok(length) = tun.read(&mut buffer) else { break };
                    self.take(from, &buffer[..length]);
                }
            }
        }
    }

    /// Waits until a packet came or the next one is due; gives the devices that have something.
    fn wait(&self) -> Result<Vec<usize>, Errno> {
        let until_due = self
            .on_their_way
            .peek()
            .map_or(WAIT_MAX, |Reverse(next)| next.due.duration_since(Instant::now()));
        let timeout = Timespec::try_from(until_due.min(WAIT_MAX)).expect("50 ms fit");
        let mut polled: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|(_, tun)| PollFd::new(tun, PollFlags::IN))
            .collect();
        poll(&mut polled, Some(&timeout))?;
        let ready = polled.iter().enumerate();
        Ok(ready
            .filter(|(_, tun)| tun.revents().contains(PollFlags::IN))
            .map(|(port, _)| port)
            .collect())
    }

    /// Decides about a packet that a host has sent.
    fn take(&mut self, from: Host, packet: &[u8]) {
        let Some(to) = addressee(packet) else { return };
        let direction = (from, to);
        let Some(link) = self.matrix.admit(direction) else {
            return;
        };
        if self.happens(link.loss) || self.on_their_way.len() >= ON_THEIR_WAY_MAX {
            self.matrix.count(direction, |counts| counts.lost += 1);
            return;
        }
        self.send(direction, link, packet);
        if self.happens(link.duplication) {
            self.matrix.count(direction, |counts| counts.duplicated += 1);
            self.send(direction, link, packet);
        }
    }

    fn send(&mut self, direction: Direction, link: Link, packet: &[u8]) {
        if link.delay.is_zero() && link.jitter.is_zero() {
            self.deliver(direction, packet);
            return;
        }
        let delay = link.delay + link.jitter.mul_f64(self.rng.random());
        self.admitted += 1;
        self.on_their_way.push(Reverse(OnItsWay {
            due: Instant::now() + delay,
            number: self.admitted,
            direction,
            packet: packet.to_vec(),
        }));
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self
            .on_their_way
            .peek()
            .is_some_and(|Reverse(next)| next.due <= now)
        {
            if let Some(Reverse(due)) = self.on_their_way.pop() {
                self.deliver(due.direction, &due.packet);
            }
        }
    }

    fn deliver(&mut self, direction: Direction, packet: &[u8]) {
        let Some((_, tun)) = self.ports.iter_mut().find(|(host, _)| *host == direction.1) else {
            return;
        };
        if self.matrix.arrives(direction) {
            // A host that can't take it has lost it, like every network card.
            let _ = tun.write(packet);
        }
    }

    fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.random_bool(chance.min(1.0))
    }
}

/// Whom an IPv4 packet is for. Other packets, such as the kernel's search for IPv6 routers, are for nobody.
fn addressee(packet: &[u8]) -> Option<Host> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    Host::at(Ipv4Addr::from(address))
}

impl Ord for OnItsWay {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for OnItsWay {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OnItsWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OnItsWay {}

#[cfg(test)]
mod tests {
    use super::{Host, addressee};
    use crate::net::Node;

    #[test]
    fn finds_the_addressee_of_ipv4_alone() {
        let mut packet = [0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 77, 0, 2]);
        assert_eq!(addressee(&packet), Some(Host::Node(Node(2))));
        packet[19] = 250;
        assert_eq!(addressee(&packet), None, "nobody there");
        packet[19] = 2;
        packet[0] = 0x60;
        assert_eq!(addressee(&packet), None, "IPv6");
        assert_eq!(addressee(&[0x45]), None, "too short");
    }
}
