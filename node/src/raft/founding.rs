//! How several empty servers become one cluster, decided; [`step`] is all of it, and touches nothing.
//!
//! Each server is told the same list of founders. Before it says anything to anybody it makes a random node id durable
//! in its directory. Then it asks the others who they are, round after round:
//!
//! ```text
//!          somebody is missing ──► wait, and say for whom
//!  empty ─ all answer "empty", one list ─┬─ first by name ──► decide: cluster id and node ids, durable, then initialize
//!                                        └─ the others ─────► wait for the first
//!        ─ somebody has a cluster ─┬─ my node id founded it ─► take that identity, durable, and go on
//!                                  ├─ only my name did ──────► refuse: this directory was wiped
//!                                  └─ neither did ───────────► refuse
//! ```
//!
//! So there is never a second cluster: it takes all founders to found one, and a founder that has forgotten the first
//! gets a new node id with its new directory, by which the others know it. And nobody votes twice: an identity is only
//! taken by the directory that its node id was made for. A crash at any moment is followed by the same again: the node
//! id, the decision and the identity taken are each durable before anybody is told.

mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub(super) use self::record::Record;
use super::{
    identity::{ClusterId, Identity},
    recovery::Lineage,
    roster::Roster,
    types::Peer,
};

/// Founders at most: a cluster of more voters is slower and not safer.
pub const FOUNDERS_MAX: usize = 9;

/// The servers that are to found the cluster, by name. Each has an address of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founders(BTreeMap<String, String>);

/// What is wrong with a list of founders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A name stands there twice.
    #[error("{0:?} stands there twice; each server has a name of its own")]
    NameTwice(String),
    /// An address stands there twice.
    #[error("the address {address} is that of {first:?} and of {second:?}; each server has one of its own")]
    AddressTwice {
        /// The address.
        address: String,
        /// Who has it.
        first: String,
        /// Who has it too.
        second: String,
    },
    /// The server itself is not in it.
    #[error("names {names}, but this server is {own:?} (--name)")]
    OwnNameMissing {
        /// The names in the list.
        names: String,
        /// This server's.
        own: String,
    },
    /// It is too long.
    #[error("names {0} servers; at most {FOUNDERS_MAX} found a cluster")]
    TooMany(usize),
}

impl Founders {
    /// The list that the server `own` was given.
    ///
    /// # Errors
    /// [`ListError`] says what is wrong with it.
    pub fn new(own: &str, list: impl IntoIterator<Item = Peer>) -> Result<Self, ListError> {
        let founders = Self::of(list)?;
        if founders.0.contains_key(own) {
            return Ok(founders);
        }
        let names: Vec<_> = founders.0.keys().map(|name| format!("{name:?}")).collect();
        Err(ListError::OwnNameMissing {
            names: names.join(", "),
            own: own.to_owned(),
        })
    }

    /// A list that somebody else was given.
    pub(crate) fn of(list: impl IntoIterator<Item = Peer>) -> Result<Self, ListError> {
        let mut founders = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for Peer { name, address } in list {
            if let Some(first) = addresses.insert(address.clone(), name.clone())
                && first != name
            {
                return Err(ListError::AddressTwice {
                    address,
                    first,
                    second: name,
                });
            }
            if founders.insert(name.clone(), address).is_some() {
                return Err(ListError::NameTwice(name));
            }
        }
        if founders.len() > FOUNDERS_MAX {
            return Err(ListError::TooMany(founders.len()));
        }
        Ok(Self(founders))
    }

    /// The address of a founder.
    pub fn address(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, in the order of their names.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.0.iter().map(|(name, address)| Peer {
            name: name.clone(),
            address: address.clone(),
        })
    }

    /// All but the server `own`.
    pub fn others(&self, own: &str) -> impl Iterator<Item = Peer> + '_ {
        let own = own.to_owned();
        self.peers().filter(move |peer| peer.name != own)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Founders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, address)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}={address}")?;
        }
        Ok(())
    }
}

/// The founding of a cluster, as one server decided it and all others take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// The first voters.
    pub members: BTreeMap<u64, Peer>,
}

impl Founding {
    /// Who the directory of this node id is in the cluster, if it is in it.
    pub fn identity(&self, node: u64) -> Option<Identity> {
        self.members.contains_key(&node).then_some(Identity {
            cluster: self.cluster,
            node,
        })
    }

    /// Whether this node begins the cluster's log: the first by name does.
    pub fn is_begun_by(&self, node: u64) -> bool {
        let first = self.members.iter().min_by_key(|(_, peer)| &peer.name);
        first.is_some_and(|(id, _)| *id == node)
    }

    /// The list that it followed.
    pub(super) fn founders(&self) -> Founders {
        Founders(
            self.members
                .values()
                .map(|peer| (peer.name.clone(), peer.address.clone()))
                .collect(),
        )
    }
}

/// An empty server: what it has on disk, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Its node id, which is durable.
    pub node: u64,
    /// The list that it was given.
    pub founders: Founders,
    /// What it has made durable already, before a crash: as the one who decides, or as one who takes.
    pub founding: Option<Founding>,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: u64,
    /// Where the others reach it.
    pub address: String,
    /// The list that it was given.
    pub founders: Founders,
    /// Its cluster; `None`: its directory is empty.
    pub founding: Option<Founding>,
    /// Who is in its cluster, as far as it is sure.
    pub roster: Option<Roster>,
    /// The clusters that its cluster goes on from.
    pub lineage: Lineage,
}

/// Somebody who does not answer, or not as the one who was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Who.
    pub founder: Peer,
    /// Why.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { name, address } = &self.founder;
        write!(f, "{name} at {address} ({})", self.why)
    }
}

/// What an empty server does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again; these are missing.
    Wait(Vec<Missing>),
    /// Ask again: all are there, and the first by name is about to decide.
    Await(Peer),
    /// Draw a cluster id, make it and these members durable, and then take the identity.
    Decide(BTreeMap<u64, Peer>),
    /// Make this founding durable if it isn't, and take the identity in it.
    Take(Founding),
    /// End: this directory can't be part of what is there.
    Refuse(Refusal),
}

/// Why a server can't found, or take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two servers were given different lists.
    #[error(
        "the lists of founders differ: this server was given --initial-cluster {own}, and {other} was given {theirs}; \
         give all of them the same list, and start those again that have ended"
    )]
    ListsDiffer {
        /// The list here.
        own: Founders,
        /// Who has the other list.
        other: String,
        /// The other list.
        theirs: Founders,
    },
    /// This directory was to found with other servers before.
    #[error(
        "this directory has agreed to found cluster {cluster} with {agreed}, and is now given --initial-cluster {own}; \
         start it with the list that was agreed on"
    )]
    AgreedOtherwise {
        /// The cluster.
        cluster: ClusterId,
        /// The list agreed on.
        agreed: Founders,
        /// The list here.
        own: Founders,
    },
    /// Somebody of this name founded the cluster, on another directory.
    #[error(
        "{name} is a member of cluster {cluster}, but not with this directory: it is node {founded:016x} there, and this \
         directory is new (node {own:016x}); what {name} had acknowledged and voted is not here, so it must not take part: \
         {REJOIN}"
    )]
    Wiped {
        /// The name.
        name: String,
        /// The cluster.
        cluster: ClusterId,
        /// The node id that founded.
        founded: u64,
        /// The node id here.
        own: u64,
    },
    /// The cluster was founded without this server.
    #[error(
        "{other} is a member of cluster {cluster}, which was founded by {members}, without this server; give this server \
         a list of its own cluster's founders, or let it join that cluster: `spine join` with the peer address of {other}"
    )]
    FoundedWithout {
        /// Who said so.
        other: String,
        /// The cluster.
        cluster: ClusterId,
        /// Its founders.
        members: Founders,
    },
    /// The founders are in two clusters.
    #[error(
        "the founders listed are in two clusters: {first} in {cluster}, {second} in {other}; list the servers of one \
         cluster alone"
    )]
    TwoClusters {
        /// Who is in the one.
        first: String,
        /// The one.
        cluster: ClusterId,
        /// Who is in the other.
        second: String,
        /// The other.
        other: ClusterId,
    },
    /// Two servers run on copies of one directory.
    #[error(
        "{first} and {second} have the same node id {node:016x}: one directory was copied; give one of them an empty \
         directory"
    )]
    SameDirectory {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// The id.
        node: u64,
    },
    /// A majority has decided that it is a member no longer.
    #[error(
        "{name} was removed from cluster {cluster}, whose members are {members}: what this directory holds is not part of \
         it any more; to bring this server back, move the directory away and let an empty one join: `spine join` with the \
         peer address of one of them"
    )]
    Removed {
        /// The name.
        name: String,
        /// The cluster.
        cluster: ClusterId,
        /// Its members now.
        members: String,
    },
    /// The cluster that was asked does not take it in.
    #[error("this server can't join: {why} (said by the server at {at})")]
    NotTakenIn {
        /// Who was asked.
        at: String,
        /// Cause and remedy.
        why: String,
    },
    /// It was sent to another cluster than its own.
    #[error(
        "this directory is of cluster {cluster}, and the server at {at}, where it was told to look for its cluster, is of \
         {other}; give --join addresses of its own cluster, or an empty directory to join the other"
    )]
    OtherCluster {
        /// Its own.
        cluster: ClusterId,
        /// Who is of another.
        at: String,
        /// The other.
        other: ClusterId,
    },
    /// Its cluster was given up for lost, and goes on as another.
    #[error(
        "cluster {cluster}, which this directory is of, was given up and goes on as cluster {successor}, as {other} at {at} \
         says: what this directory holds is not part of that; move the directory away and let an empty one join: \
         `spine join` with the peer address of {other}"
    )]
    GivenUp {
        /// Its own.
        cluster: ClusterId,
        /// The cluster that goes on.
        successor: ClusterId,
        /// Who said so.
        other: String,
        /// Where that one is.
        at: String,
    },
    /// The directory is another server's.
    #[error("this directory is that of the server {founded:?}, and this server is {own:?} (--name)")]
    Renamed {
        /// Its name when the cluster was founded.
        founded: String,
        /// The name given now.
        own: String,
    },
}

/// What a member does whose directory is gone or old.
pub(super) const REJOIN: &str = "put this server's own newest directory back if it still exists; if it is lost, let an \
                                 empty directory take its place in the cluster: `spine join` with the peer address of a \
                                 server that runs";

/// What the empty server `me` does after a round in which each other founder gave one answer, or a reason for none.
pub fn step(me: &Founder, answers: &BTreeMap<String, Result<Introduction, String>>) -> Step {
    let mut missing = Vec::new();
    let mut present = Vec::new();
    for founder in me.founders.others(&me.name) {
        let unanswered = || Err("not asked yet".to_owned());
        match answers.get(&founder.name).cloned().unwrap_or_else(unanswered) {
            Ok(other) if other.name != founder.name => missing.push(Missing {
                why: format!("the server there is {}", other.name),
                founder,
            }),
            Ok(other) => present.push(other),
            Err(why) => missing.push(Missing { founder, why }),
        }
    }
    match decide(me, &present) {
        Err(refusal) => Step::Refuse(refusal),
        Ok(Some(founding)) => Step::Take(founding),
        Ok(None) if !missing.is_empty() => Step::Wait(missing),
        Ok(None) => match me.founders.peers().next() {
            Some(first) if first.name != me.name => Step::Await(first),
            Some(_) | None => Step::Decide(members(me, &present)),
        },
    }
}

/// The founding that `me` is to take, if there is one yet.
fn decide(me: &Founder, present: &[Introduction]) -> Result<Option<Founding>, Refusal> {
    one_cluster(me, present)?;
    if let Some(founding) = &me.founding {
        if founding.founders() != me.founders {
            return Err(Refusal::AgreedOtherwise {
                cluster: founding.cluster,
                agreed: founding.founders(),
                own: me.founders.clone(),
            });
        }
        return Ok(Some(founding.clone()));
    }
    if let Some((other, founding)) = present
        .iter()
        .find_map(|other| Some((other, other.founding.as_ref()?)))
    {
        return place_in(me, other, founding).map(Some);
    }
    own_directories(me, present)?;
    match present.iter().find(|other| other.founders != me.founders) {
        Some(other) => Err(Refusal::ListsDiffer {
            own: me.founders.clone(),
            other: other.name.clone(),
            theirs: other.founders.clone(),
        }),
        None => Ok(None),
    }
}

/// Whether all who have a cluster have the same.
fn one_cluster(me: &Founder, present: &[Introduction]) -> Result<(), Refusal> {
    let own = me.founding.as_ref().map(|founding| (&me.name, founding));
    let others = present
        .iter()
        .filter_map(|other| Some((&other.name, other.founding.as_ref()?)));
    let mut members = own.into_iter().chain(others);
    let Some((first, founding)) = members.next() else {
        return Ok(());
    };
    match members.find(|(_, other)| other.cluster != founding.cluster) {
        None => Ok(()),
        Some((second, other)) => Err(Refusal::TwoClusters {
            first: first.clone(),
            cluster: founding.cluster,
            second: second.clone(),
            other: other.cluster,
        }),
    }
}

/// What the cluster that `other` is in means to `me`.
fn place_in(me: &Founder, other: &Introduction, founding: &Founding) -> Result<Founding, Refusal> {
    if let Some(peer) = founding.members.get(&me.node) {
        if peer.name != me.name {
            return Err(Refusal::Renamed {
                founded: peer.name.clone(),
                own: me.name.clone(),
            });
        }
        return Ok(founding.clone());
    }
    match founding.members.iter().find(|(_, peer)| peer.name == me.name) {
        Some((founded, _)) => Err(Refusal::Wiped {
            name: me.name.clone(),
            cluster: founding.cluster,
            founded: *founded,
            own: me.node,
        }),
        None => Err(Refusal::FoundedWithout {
            other: other.name.clone(),
            cluster: founding.cluster,
            members: founding.founders(),
        }),
    }
}

/// Whether each has a directory of its own.
fn own_directories(me: &Founder, present: &[Introduction]) -> Result<(), Refusal> {
    let mut names = BTreeMap::from([(me.node, &me.name)]);
    for other in present {
        if let Some(first) = names.insert(other.node, &other.name) {
            return Err(Refusal::SameDirectory {
                first: first.clone(),
                second: other.name.clone(),
                node: other.node,
            });
        }
    }
    Ok(())
}

/// The cluster's first voters, once all are there.
fn members(me: &Founder, present: &[Introduction]) -> BTreeMap<u64, Peer> {
    let others = present.iter().map(|other| (other.node, &other.name));
    let all = others.chain([(me.node, &me.name)]);
    all.map(|(node, name)| {
        let address = me
            .founders
            .address(name)
            .expect("each answered as one of the list");
        let peer = Peer {
            name: name.clone(),
            address: address.to_owned(),
        };
        (node, peer)
    })
    .collect()
}

/// Those who are missing, in one line.
pub fn name_missing(missing: &[Missing]) -> String {
    let missing: BTreeSet<_> = missing.iter().map(ToString::to_string).collect();
    missing.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
