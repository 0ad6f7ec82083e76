//! The servers that a pool speaks to: those that it was named, and, if it follows the cluster, its members.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, random};
use crate::{
    error::{Error, Kind, Result},
    limits::SERVERS_MAX,
};

/// No server is known to lead.
const NOBODY: usize = usize::MAX;
/// Metadata of an answer: where the leader serves the native API.
const LEADER: &str = "spine-leader";

/// The servers, as they change.
#[derive(Debug)]
pub(super) struct Servers {
    /// Those that the client was named: it always comes back to them.
    named: Vec<Server>,
    /// A call takes the list that is there when it begins a round.
    list: RwLock<Arc<List>>,
}

/// The servers at one time, and what is known of them. There is at least one.
#[derive(Debug)]
pub(super) struct List {
    servers: Vec<Server>,
    /// The one that answered last.
    preferred: AtomicUsize,
    /// The one that is said to lead, or [`NOBODY`].
    leader: AtomicUsize,
}

/// A server. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) address: Arc<str>,
    pub(super) channel: Channel,
}

impl Servers {
    /// Those at these addresses.
    pub(super) fn new(addresses: &[String]) -> Result<Self> {
        let named = addresses
            .iter()
            .map(|address| Server::new(address))
            .collect::<Result<Vec<_>>>()?;
        // Clients that start together don't all begin with the same server.
        let first = usize::try_from(random() % named.len() as u64).unwrap_or_default();
        let list = List {
            servers: named.clone(),
            preferred: AtomicUsize::new(first),
            leader: AtomicUsize::new(NOBODY),
        };
        Ok(Self {
            named,
            list: RwLock::new(Arc::new(list)),
        })
    }

    /// Those of now.
    pub(super) fn list(&self) -> Arc<List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the members are these, which the cluster says, in the order in which they are to be tried.
    pub(super) fn learn<'a>(&self, members: impl Iterator<Item = &'a str>) {
        let before = self.list();
        if let Some(after) = before.renewed(members, &self.named) {
            *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        }
    }
}

impl List {
    /// The servers, in their order.
    pub(super) fn all(&self) -> &[Server] {
        &self.servers
    }

    /// The server at this place, counted round and round.
    pub(super) fn at(&self, place: usize) -> &Server {
        &self.servers[place % self.servers.len()]
    }

    /// The place of the one that answered last.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The place of the one that leads, if that is known.
    pub(super) fn leader(&self) -> Option<usize> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|leader| *leader != NOBODY)
    }

    /// The server at this place has answered a call, and so the next one goes there, unless writes have a way of their own.
    pub(super) fn answered(&self, at: usize, kind: Kind, prefer_leader: bool, metadata: &MetadataMap) {
        let told = metadata.get(LEADER).and_then(|leader| leader.to_str().ok());
        if let Some(leader) = told.and_then(|leader| self.place_of(leader)) {
            self.leader.store(leader, Ordering::Relaxed);
        }
        // Writes that go to the leader say nothing of where reads are answered well.
        if !prefer_leader || kind == Kind::Read {
            self.preferred.store(at, Ordering::Relaxed);
        }
    }

    /// The next call does not begin here.
    pub(super) fn failed(&self, at: usize) {
        let next = (at + 1) % self.servers.len();
        let _ = self
            .preferred
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        let _ = self
            .leader
            .compare_exchange(at, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The place of the server at this address.
    pub(super) fn place_of(&self, address: &str) -> Option<usize> {
        self.servers.iter().position(|server| &*server.address == address)
    }

    /// These members, then those that were named and are none; `None` if nothing changes. What is known goes along, and
    /// so do the connections.
    fn renewed<'a>(&self, members: impl Iterator<Item = &'a str>, named: &[Server]) -> Option<Self> {
        let mut servers: Vec<Server> = Vec::new();
        for address in members {
            let is_new = servers.iter().all(|server| &*server.address != address);
            let known = self.place_of(address).map(|place| self.servers[place].clone());
            // What is no address can't be asked anything.
            if let Some(server) = known.or_else(|| Server::new(address).ok()).filter(|_| is_new) {
                servers.push(server);
            }
            if servers.len() == SERVERS_MAX {
                break;
            }
        }
        if servers.is_empty() {
            return None;
        }
        for server in named {
            if servers.iter().all(|member| member.address != server.address) {
                servers.push(server.clone());
            }
        }
        let addresses = |servers: &[Server]| -> Vec<Arc<str>> {
            servers.iter().map(|server| server.address.clone()).collect()
        };
        if addresses(&servers) == addresses(&self.servers) {
            return None;
        }
        let place = |before: usize| {
            let address = &self.servers[before].address;
            servers.iter().position(|server| server.address == *address)
        };
        let preferred = place(self.preferred()).unwrap_or(0);
        let leader = self.leader().and_then(place).unwrap_or(NOBODY);
        Some(Self {
            servers,
            preferred: AtomicUsize::new(preferred),
            leader: AtomicUsize::new(leader),
        })
    }
}

impl Server {
    fn new(address: &str) -> Result<Self> {
        let wrong = || Error::Config(format!("{address:?} is not an address: HOST:PORT is wanted"));
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || address.contains('/') {
            return Err(wrong());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| wrong())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            address: address.into(),
            channel,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(servers: &Servers) -> Vec<String> {
        let list = servers.list();
        list.all()
            .iter()
            .map(|server| server.address.to_string())
            .collect()
    }

    #[tokio::test]
    async fn members_come_and_go_and_what_was_named_stays() {
        let servers = Servers::new(&["a:1".into(), "b:1".into()]).unwrap();
        servers.learn(["b:1", "c:1", "c:1", "nonsense"].into_iter());
        assert_eq!(addresses(&servers), ["b:1", "c:1", "a:1"]);
        let list = servers.list();
        list.answered(1, Kind::Read, false, &MetadataMap::new());
        let mut leader = MetadataMap::new();
        leader.insert(LEADER, "b:1".parse().unwrap());
        list.answered(1, Kind::Read, false, &leader);

        servers.learn(["d:1", "c:1"].into_iter());
        assert_eq!(addresses(&servers), ["d:1", "c:1", "a:1", "b:1"]);
        let list = servers.list();
        assert_eq!((list.preferred(), list.leader()), (1, Some(3)));

        // Nobody there says so: it is not believed.
        servers.learn([].into_iter());
        assert_eq!(addresses(&servers).len(), 4);
    }

    #[tokio::test]
    async fn no_more_are_learned_than_a_cluster_has() {
        let servers = Servers::new(&["named:1".into()]).unwrap();
        let many: Vec<_> = (1..=SERVERS_MAX + 10).map(|port| format!("m:{port}")).collect();
        servers.learn(many.iter().map(String::as_str));
        assert_eq!(addresses(&servers).len(), SERVERS_MAX + 1);
        assert!(addresses(&servers).contains(&"named:1".to_owned()));
    }
}
