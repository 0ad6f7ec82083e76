//! Where probes may go. Whoever may register a check makes this server connect to an address of his choice, so the
//! addresses that are worth abusing are closed: link-local ones, the metadata services of clouds, which give out
//! credentials, and Spine's own ports.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

/// Metadata services that are not link-local: AWS over IPv6, Alibaba, Azure's wire server, Oracle's old one.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Decides which addresses probes may reach.
#[derive(Clone, Debug)]
pub struct Guard {
    allow: Option<Vec<IpNet>>,
    own_ports: BTreeSet<u16>,
    is_local: fn(IpAddr) -> bool,
}

/// Why an address is closed to probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Link-local.
    #[error("{0} is link-local, which probes may not reach")]
    LinkLocal(IpAddr),
    /// A cloud's metadata service.
    #[error("{0} is a cloud's metadata service, which probes may not reach")]
    Metadata(IpAddr),
    /// Not one machine's address.
    #[error("{0} is not the address of one machine")]
    NotUnicast(IpAddr),
    /// This server itself.
    #[error("{0} is Spine's own port, which probes may not reach")]
    Own(SocketAddr),
    /// Not in the list of what is allowed.
    #[error("{0} is not in a network that --probe-allow names")]
    NotAllowed(IpAddr),
}

impl Guard {
    /// Allows the networks of `allow`, or all, but for what is never allowed: `own_ports` on this machine among it.
    pub fn new(allow: Option<Vec<IpNet>>, own_ports: impl IntoIterator<Item = u16>) -> Self {
        Self {
            allow,
            own_ports: own_ports.into_iter().collect(),
            is_local,
        }
    }

    /// Whether a probe may connect to `address`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Denied> {
        // An IPv4 address in IPv6's clothes is the IPv4 address.
        let ip = address.ip().to_canonical();
        let (link_local, other) = match ip {
            IpAddr::V4(ip) => (ip.is_link_local(), ip.is_multicast() || ip.is_broadcast()),
            IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.is_multicast()),
        };
        if link_local {
            return Err(Denied::LinkLocal(ip));
        }
        if METADATA.contains(&ip) {
            return Err(Denied::Metadata(ip));
        }
        if other {
            return Err(Denied::NotUnicast(ip));
        }
        if self.own_ports.contains(&address.port()) && (ip.is_unspecified() || (self.is_local)(ip)) {
            return Err(Denied::Own(address));
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|network| network.contains(&ip)) => Err(Denied::NotAllowed(ip)),
            _ => Ok(()),
        }
    }
}

/// Whether an address is one of this machine's: only to those can a socket be bound.
#[expect(
    clippy::disallowed_methods,
    reason = "asks the machine about its addresses; nothing is sent or received"
)]
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: Option<&[&str]>) -> Guard {
        let allow = allow.map(|allow| allow.iter().map(|network| network.parse().unwrap()).collect());
        Guard {
            is_local: |ip| ip.is_loopback() || ip == "10.0.0.5".parse::<IpAddr>().unwrap(),
            ..Guard::new(allow, [8500])
        }
    }

    fn check(guard: &Guard, address: &str) -> Result<(), Denied> {
        guard.check(address.parse().unwrap())
    }

    #[test]
    fn what_is_worth_abusing_is_closed_in_every_clothing() {
        let guard = guard(None);
        for address in [
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[::ffff:169.254.169.254]:80",
        ] {
            assert!(
                matches!(check(&guard, address), Err(Denied::LinkLocal(_))),
                "{address}"
            );
        }
        for address in ["[fd00:ec2::254]:80", "100.100.100.200:80", "168.63.129.16:32526"] {
            assert!(
                matches!(check(&guard, address), Err(Denied::Metadata(_))),
                "{address}"
            );
        }
        for address in ["224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"] {
            assert!(
                matches!(check(&guard, address), Err(Denied::NotUnicast(_))),
                "{address}"
            );
        }
    }

    #[test]
    fn spines_own_ports_are_closed_on_this_machine_alone() {
        let guard = guard(None);
        for address in [
            "127.0.0.1:8500",
            "127.9.9.9:8500",
            "[::1]:8500",
            "0.0.0.0:8500",
            "[::]:8500",
            "10.0.0.5:8500",
        ] {
            assert!(matches!(check(&guard, address), Err(Denied::Own(_))), "{address}");
        }
        assert_eq!(check(&guard, "10.0.0.6:8500"), Ok(()));
        assert_eq!(check(&guard, "127.0.0.1:8501"), Ok(()));
    }

    #[test]
    fn an_allow_list_narrows_and_opens_nothing() {
        let guard = guard(Some(&["10.0.0.0/8", "169.254.0.0/16"]));
        assert_eq!(check(&guard, "10.1.2.3:80"), Ok(()));
        assert!(matches!(
            check(&guard, "192.168.0.1:80"),
            Err(Denied::NotAllowed(_))
        ));
        assert!(matches!(
            check(&guard, "169.254.169.254:80"),
            Err(Denied::LinkLocal(_))
        ));
    }
}
