//! A network that the harness owns: hosts are network namespaces, and every packet between two of them passes through
//! this process.
//!
//! ```text
//!  n1: 10.77.0.1        n2: 10.77.0.2        clients: 10.77.0.100
//!    [tun] ---+           [tun] ---+           [tun] ---+
//!             +---------- switch: may x send to y? -----+
//! ```
//!
//! [`Network`] makes the hosts, [`switch`] is the thread that moves packets between their TUN devices by the rules in
//! [`matrix`], and [`partition`] says which directions a partition of each kind cuts. A dropped packet is silence, as
//! on a real network: no route is taken away and no port closed.
//!
//! The harness itself is the host `clients`, in the namespace it runs in ([`crate::sealed`]): its sockets reach the
//! nodes by their addresses, and what they send obeys the rules as well.

mod host;
pub mod matrix;
pub mod partition;
mod switch;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Child, Command};

use host::Namespace;
pub use matrix::{Counts, Link, Matrix};
pub use partition::Partition;
use switch::Switch;

/// A server under test, by its number: 1 is `n1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u8);

impl Node {
    /// The first `count` nodes.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Somebody with an address of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A server under test.
    Node(Node),
    /// The harness: its clients, and the services that the servers probe.
    Clients,
}

impl Host {
    /// Its address.
    pub const fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Node(Node(number)) => number,
            Self::Clients => CLIENTS,
        };
        Ipv4Addr::new(10, 77, 0, last)
    }

    /// Who has this address; a node need not exist.
    pub const fn at(address: Ipv4Addr) -> Option<Self> {
        match address.octets() {
            [10, 77, 0, CLIENTS] => Some(Self::Clients),
            [10, 77, 0, number] if number > 0 && number < CLIENTS => Some(Self::Node(Node(number))),
            _ => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Clients => f.write_str("clients"),
        }
    }
}

/// Last byte of the clients' address, beyond every node's.
const CLIENTS: u8 = 100;

/// The hosts and the switch between them. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<(Host, Namespace)>,
    matrix: Matrix,
    _switch: Switch,
}

impl Network {
    /// As many nodes as asked for, and the clients. `seed` decides which packets a lossy link loses.
    ///
    /// The calling thread's own network namespace becomes the host `clients`: it must not be the machine's.
    ///
    /// # Errors
    /// No root, no `/dev/net/tun`, no `ip`.
    pub fn start(nodes: u8, seed: u64) -> io::Result<Self> {
        let mut hosts = vec![(Host::Clients, Namespace::own()?)];
        for host in Node::first(nodes).map(Host::Node) {
            hosts.push((host, Namespace::fresh()?));
        }
        let mut ports = Vec::new();
        for (host, namespace) in &hosts {
            ports.push((*host, namespace.attach(host.address())?));
        }
        let matrix = Matrix::default();
        let switch = Switch::start(ports, matrix.clone(), seed)?;
        Ok(Self {
            hosts,
            matrix,
            _switch: switch,
        })
    }

    /// The rules that the switch follows, and what it counted.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Starts a program on this host.
    ///
    /// # Errors
    /// The program doesn't start.
    pub fn spawn(&self, host: Host, command: &mut Command) -> io::Result<Child> {
        self.inside(host, || command.spawn())?
    }

    /// Runs `work` on a thread that sees this host's network: sockets it opens are the host's for as long as they live.
    ///
    /// # Errors
    /// There is no such host.
    pub fn inside<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let (_, namespace) = self
            .hosts
            .iter()
            .find(|(known, _)| *known == host)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no host {host}")))?;
        namespace.inside(work)
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, Node};

    #[test]
    fn an_address_tells_whose_it_is() {
        for host in Node::first(5).map(Host::Node).chain([Host::Clients]) {
            assert_eq!(Host::at(host.address()), Some(host));
        }
        assert_eq!(Host::at("10.77.0.0".parse().unwrap()), None);
        assert_eq!(Host::at("10.77.1.1".parse().unwrap()), None);
    }
}
