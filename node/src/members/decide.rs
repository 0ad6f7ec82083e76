//! Who comes in, who votes, who goes: decided by what the leader sees. Nothing here waits or asks.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    limits,
    raft::{Change, Composition, ELECTION_TIMEOUT, Peer, Phase, Standing},
};

/// A learner gets its vote only if it was heard so lately: three heartbeats. With its vote it may be needed at once.
const LATELY: Duration = Duration::from_millis(300);

/// What becomes of a server that wants to come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is a member already.
    Member,
    /// It is to be taken in so.
    Take(Change),
    /// It can't be one: cause and remedy.
    Refused(String),
    /// A server of its name is there and is heard.
    NameInUse(String),
    /// Not at this moment.
    NotNow(String),
}

/// Whether the server `peer`, whose directory has the id `node`, comes in.
///
/// It learns first. Where a server of its name is a member and is not heard any more, it is to take that one's place: a
/// learner goes at once, a voter when the new one is given its vote.
pub fn admission(seen: &Composition, node: u64, peer: &Peer) -> Admission {
    if let Some(known) = seen.members.get(&node) {
        return if known.peer.name == peer.name {
            Admission::Member
        } else {
            Admission::Refused(format!(
                "the directory of {:?} is asked for under the name {:?} (--name)",
                known.peer.name, peer.name
            ))
        };
    }
    if seen.phase != Phase::Settled {
        return Admission::NotNow("another change of the members is under way".to_owned());
    }
    let named: Vec<_> = named(seen, &peer.name).collect();
    if let Some((_, live)) = named.iter().find(|(id, member)| seen.hears(**id, member)) {
        return Admission::NameInUse(format!(
            "a server named {:?} is a member and answers at {}; give this one another --name, or stop that one if this \
             one is to take its place",
            peer.name, live.peer.address
        ));
    }
    let at_place = |(id, member): &(&u64, &Standing)| {
        member.peer.address == peer.address && member.peer.name != peer.name && seen.hears(**id, member)
    };
    if let Some((_, other)) = seen.members.iter().find(at_place) {
        return Admission::Refused(format!(
            "{} is the address of {:?}; give this server one of its own (--peer-addr, --advertise-peer-addr)",
            peer.address, other.peer.name
        ));
    }
    // Each name comes to one vote: who has the name of another takes its place.
    let votes: BTreeSet<&str> = seen.members.values().map(|member| &*member.peer.name).collect();
    if named.is_empty() && votes.len() >= limits::VOTERS_MAX {
        return Admission::Refused(format!(
            "the cluster has {} servers that vote or are about to, and more would make it slower and not safer; remove one \
             first (`spine members remove`)",
            votes.len()
        ));
    }
    let instead_of: BTreeSet<u64> = learners(named.iter().copied());
    let learning = seen.members.values().filter(|member| !member.votes).count();
    if learning - instead_of.len() >= limits::LEARNERS_MAX {
        return Admission::NotNow(format!("{learning} servers are catching up already"));
    }
    Admission::Take(Change::Add {
        node,
        peer: peer.clone(),
        instead_of,
    })
}

/// The wish that a server be a member no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// The directories of this name that were members when it was wished. One that comes later under the name is not meant,
    /// however often the wish is repeated. Empty: whoever has the name.
    pub nodes: BTreeSet<u64>,
    /// Even if too few of those who remain answer.
    pub forced: bool,
}

impl Wish {
    fn means(&self, node: u64, member: &Standing) -> bool {
        member.peer.name == self.name && (self.nodes.is_empty() || self.nodes.contains(&node))
    }
}

/// What becomes of a wish to remove a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There is no such server.
    Unknown,
    /// It is to be taken out so. Of the servers that are meant, this is the one that counts.
    Take(Change, u64),
    /// It leads: another must first.
    HandOver,
    /// It would be unsafe: cause and remedy.
    Refused(String),
    /// Not at this moment.
    NotNow(String),
}

/// Whether a server may go, as was wished `ago`.
///
/// Those who remain must be able to go on: enough of their voters must have answered since, unless it is `forced`. One that
/// answered before may have died meanwhile, and then the removal itself could not be committed, nor anything after it. The
/// last voter never goes.
pub fn removal(seen: &Composition, wish: &Wish, ago: Duration) -> Removal {
    let name = &wish.name;
    let members = seen.members.iter();
    let meant: Vec<_> = members.filter(|(id, member)| wish.means(**id, member)).collect();
    let Some((counts, _)) = meant.iter().max_by_key(|(_, member)| member.votes) else {
        return Removal::Unknown;
    };
    if seen.phase != Phase::Settled {
        return Removal::NotNow("another change of the members is under way".to_owned());
    }
    let rest: Vec<_> = seen
        .voters()
        .filter(|(id, member)| !wish.means(**id, member))
        .collect();
    if rest.is_empty() {
        return Removal::Refused(format!(
            "{name} is the only voter, and a cluster needs one; to end the cluster, stop the server and delete its directory"
        ));
    }
    let voters: BTreeSet<u64> = meant
        .iter()
        .filter(|(_, member)| member.votes)
        .map(|(id, _)| **id)
        .collect();
    if !voters.is_empty() && !wish.forced {
        let answers = |(id, member): &&(&u64, &Standing)| seen.heard_within(ago, **id, member);
        let live = rest.iter().filter(answers).count();
        let quorum = rest.len() / 2 + 1;
        if live < quorum {
            let silent = rest.iter().filter(|member| !answers(member));
            let silent: Vec<_> = silent.map(|(_, member)| member.peer.name.as_str()).collect();
            return Removal::Refused(format!(
                "without {name} the cluster has {} voters, of which {live} answer, and {quorum} are needed: nothing could be \
                 written any more until {} is back, the removal itself included; start or replace that one first, or force \
                 it (--force)",
                rest.len(),
                silent.join(" or "),
            ));
        }
    }
    if voters.contains(&seen.leader) {
        return Removal::HandOver;
    }
    let learners = learners(meant.iter().copied());
    Removal::Take(Change::Remove { voters, learners }, **counts)
}

/// The leader's memory between two looks at its members.
#[derive(Clone, Debug, Default)]
pub struct Steward {
    /// What was committed at the last look; `None`: this is the first.
    committed: Option<u64>,
}

impl Steward {
    /// What is to be done, if anything is: one thing at a time, and nothing while a change is under way.
    ///
    /// A learner has caught up when it has by now all that was committed at the last look, however fast the log grows.
    pub fn next(&mut self, seen: &Composition) -> Option<Change> {
        let before = self.committed.replace(seen.committed);
        match seen.phase {
            Phase::Uncommitted => None,
            Phase::Halfway => Some(Change::Finish),
            Phase::Settled => moved(seen).or_else(|| promotion(seen, before?)),
        }
    }
}

/// A member that says it is elsewhere than where the log has it.
fn moved(seen: &Composition) -> Option<Change> {
    seen.members.iter().find_map(|(id, member)| {
        let address = member.said.as_ref()?;
        (*address != member.peer.address).then(|| Change::Move {
            node: *id,
            peer: Peer {
                address: address.clone(),
                ..member.peer.clone()
            },
        })
    })
}

fn promotion(seen: &Composition, committed: u64) -> Option<Change> {
    seen.members.iter().find_map(|(id, learner)| {
        let there = !learner.votes
            && seen.heard_within(LATELY, *id, learner)
            && learner.matched.is_some_and(|matched| matched >= committed);
        let others = named(seen, &learner.peer.name).filter(|(_, member)| member.votes);
        let others: Vec<_> = others.collect();
        // One that came back meanwhile keeps its place.
        let free = !others.iter().any(|(id, member)| seen.hears(**id, member));
        // Earlier releases took more in than may vote: these go on learning.
        let room = !others.is_empty() || seen.voters().count() < limits::VOTERS_MAX;
        (there && free && room).then(|| Change::Promote {
            node: *id,
            instead_of: others.iter().map(|(id, _)| **id).collect(),
        })
    })
}

impl Composition {
    fn voters(&self) -> impl Iterator<Item = (&u64, &Standing)> {
        self.members.iter().filter(|(_, member)| member.votes)
    }

    /// Whether a member is heard, as far as it must be to keep its place.
    fn hears(&self, id: u64, member: &Standing) -> bool {
        self.heard_within(ELECTION_TIMEOUT, id, member)
    }

    /// Whether a member has acknowledged what was sent within this time. The leader hears itself.
    fn heard_within(&self, time: Duration, id: u64, member: &Standing) -> bool {
        id == self.leader || member.heard.is_some_and(|heard| heard <= time)
    }
}

fn named<'a>(seen: &'a Composition, name: &str) -> impl Iterator<Item = (&'a u64, &'a Standing)> {
    seen.members
        .iter()
        .filter(move |(_, member)| member.peer.name == name)
}

fn learners<'a>(members: impl Iterator<Item = (&'a u64, &'a Standing)>) -> BTreeSet<u64> {
    members
        .filter(|(_, member)| !member.votes)
        .map(|(id, _)| *id)
        .collect()
}

#[cfg(test)]
mod tests;
