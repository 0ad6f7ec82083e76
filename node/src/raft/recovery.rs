//! When most voters are lost for good: the data of one that is left goes on, as a cluster of its own.
//!
//! ```text
//!  survey ──► Survivor: who it is, how far its log goes, what it knows of the others
//!  judge  ──► refused, or what may be lost by it        (touches nothing)
//!  go_on  ──► the same directory, as the first server of a new cluster with this one's state
//! ```
//!
//! All entries of the survivor's log are applied, those that are not known here to be committed as well: an entry that was
//! acknowledged may be among them, for a follower learns of it a moment later. One that was not acknowledged may take effect
//! by that, which its client was told: the outcome of what was proposed is unknown until it is answered. Of several survivors
//! the one with the greatest (term, index) of its last entry has all committed entries that any of them has, by the rule that
//! elects Raft's leaders; so [`judge()`] refuses the others.
//!
//! The cluster is a new one, with an id of its own, so no server of the old one is ever counted in it, and what it may lack is
//! made visible by [`State::resumed`](spine_core::State::resumed). The directory becomes it at one moment ([`mod@switch`]); its servers
//! tell those of the old one that they were given up ([`Lineage`]).

mod judge;
mod lineage;
pub(super) mod switch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use spine_core::{State, WallTime};

pub use self::{
    judge::{Loss, Unsafe, judge},
    lineage::Lineage,
};
use super::{
    bootstrap::{self, StartError, Stopped},
    checkpoint::{Checkpoints, Loaded},
    identity::{self, ClusterId, Identity},
    recall::Recall,
    roster::{Roster, Rosters, Seat},
    state_machine::{Applied, understood},
    types::{Membership, Peer, StoredMembership},
    wire,
};
use crate::{
    storage::{
        log::{LogHooks, LogOptions, LogState, LogStore, Position, Write},
        place::LogHome,
    },
    world::World,
};

/// Indexes and revisions that a recovered cluster leaves out, and a restored one: at 20,000 writes a second, those of 14 hours
/// that the survivor, or the snapshot, may lack.
pub const NUMBERS_SKIPPED: u64 = 1_000_000_000;

/// Bytes of the log that are applied at a time.
const APPLIED_BYTES: usize = 4 << 20;

/// A server that is left, as its directory has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its name; empty if no membership says it.
    pub server: String,
    /// Its node id.
    #[serde(with = "node_id")]
    pub node: u64,
    /// Its cluster.
    pub cluster: ClusterId,
    /// How often it was started.
    pub starts: u64,
    /// The last term in which it voted, or followed a leader; `None`: it never has.
    pub term: Option<u64>,
    /// The last entry of its log; `None`: it has none.
    pub last: Option<Place>,
    /// Up to here its log is known to be committed.
    pub committed: Option<u64>,
    /// Its newest checkpoint ends here.
    pub checkpoint: Option<u64>,
    /// Index of its state, with all of its log applied.
    pub index: u64,
    /// Revision of that state.
    pub revision: u64,
    /// Wall time of the newest entry in its log that has one, for people.
    pub last_write: Option<String>,
    /// The members, itself among them, by the newest list that it has.
    pub members: Vec<Member>,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Raft's term.
    pub term: u64,
    /// The position.
    pub index: u64,
}

/// A member of the survivor's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub server: String,
    /// Its node id.
    #[serde(with = "node_id")]
    pub node: u64,
    /// Its address for peers.
    pub peer_address: String,
    /// Whether it votes.
    pub votes: bool,
    /// What it once said of itself; `None` of the survivor itself, and of one that was never heard.
    pub said: Option<Said>,
}

/// What a server said that it has durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// How often it had been started.
    pub starts: u64,
    /// Up to here its log was committed.
    pub committed: Option<u64>,
}

impl Survivor {
    /// The survivor's own entry among the members; `None`: it is none any more.
    pub fn own(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.node == self.node)
    }

    /// All members but itself that vote.
    pub fn other_voters(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.votes && member.node != self.node)
    }
}

/// A survivor whose directory is held, and whose state is there.
pub struct Surveyed {
    stopped: Stopped,
    survivor: Survivor,
    state: State,
}

/// What became of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who it is now.
    pub identity: Identity,
    /// Index that it goes on from.
    pub index: u64,
    /// Revision that it goes on from.
    pub revision: u64,
    /// What was there before, as the name of a directory in it.
    pub aside: String,
}

/// Looks at what a server has left in `directory`, and holds it. `None`: no server has been there. Waits for the disk.
///
/// # Errors
/// A server runs on it, or what is there is damaged or doesn't fit together.
pub fn survey(world: &World, directory: &Path, options: LogOptions) -> Result<Option<Surveyed>, StartError> {
    let Some(stopped) = bootstrap::open_stopped(world, directory, options)? else {
        return Ok(None);
    };
    let base = stopped
        .base
        .clone()
        .unwrap_or_else(|| Roster::alone(stopped.identity, Peer::default()));
    let rosters = Rosters::on_disk(base, &stopped.loaded.applied, &*stopped.log)?;
    let recall = Recall::open(world.files.clone(), directory)
        .map_err(StartError::io("reading what is known of the peers"))?;
    let starts =
        identity::boot_number(&*world.files, directory).map_err(StartError::io("reading the boot number"))?;
    let (state, wall) = replay(&stopped.loaded, &*stopped.log)?;
    let roster = rosters.latest();
    let own = roster.seat(stopped.identity.node);
    let survivor = Survivor {
        server: own.map_or_else(String::new, |seat| seat.peer.name.clone()),
        starts,
        index: state.index().0,
        revision: state.revision().0,
        last_write: wall.map(|wall| wall.to_string()),
        members: members(roster, &recall, stopped.identity.node),
        ..described(&stopped)?
    };
    Ok(Some(Surveyed {
        stopped,
        survivor,
        state,
    }))
}

/// What log and checkpoint say at once.
fn described(stopped: &Stopped) -> Result<Survivor, StartError> {
    let LogState {
        vote,
        committed,
        last,
        purged,
        ..
    } = stopped.log.state();
    let vote = vote.as_deref().map(wire::decode_vote).transpose();
    let vote = vote.map_err(|error| StartError::Raft(error.to_string()))?;
    let Identity { cluster, node } = stopped.identity;
    let checkpoint = stopped.loaded.applied.position.map(|position| position.index);
    let index = |position: Option<Position>| position.map(|position| position.index);
    Ok(Survivor {
        server: String::new(),
        node,
        cluster,
        starts: 0,
        term: vote.map(|vote| vote.leader_id.term),
        last: last.max(purged).map(|last| Place {
            term: last.term,
            index: last.index,
        }),
        // What is in a checkpoint was applied, and what is gone was in one.
        committed: index(committed).max(index(purged)).max(checkpoint),
        checkpoint,
        index: 0,
        revision: 0,
        last_write: None,
        members: Vec::new(),
    })
}

fn members(roster: &Roster, recall: &Recall, own: u64) -> Vec<Member> {
    let member = |(node, seat): (&u64, &Seat)| Member {
        server: seat.peer.name.clone(),
        node: *node,
        peer_address: seat.peer.address.clone(),
        votes: seat.votes,
        said: recall.of(*node).filter(|_| *node != own).map(|durable| Said {
            starts: durable.boot.number,
            committed: durable.committed.map(|position| position.index),
        }),
    };
    let mut members: Vec<_> = roster.seats.iter().map(member).collect();
    members.sort_by(|one, other| one.server.cmp(&other.server));
    members
}

/// The state with every entry of the log applied, and the wall time of the newest that has one.
fn replay(loaded: &Loaded, log: &dyn LogStore) -> Result<(State, Option<WallTime>), StartError> {
    let Applied { position, state, .. } = &loaded.applied;
    let mut state = state.clone();
    let mut wall = None;
    let mut next = position.map_or(0, |position| position.index + 1);
    while let Some(end) = log
        .state()
        .last
        .map(|last| last.index + 1)
        .filter(|end| next < *end)
    {
        let entries = log.read(next..end, APPLIED_BYTES)?;
        let Some(read) = entries.last().map(|entry| entry.position.index) else {
            break;
        };
        next = read + 1;
        for entry in entries {
            let Some(payload) = wire::commands_in(&entry) else {
                continue;
            };
            let entry = understood(payload, entry.position.index).map_err(StartError::Entry)?;
            wall = Some(entry.wall);
            state.apply(&entry);
        }
    }
    Ok((state, wall))
}

impl Surveyed {
    /// What was found.
    pub fn survivor(&self) -> &Survivor {
        &self.survivor
    }

    /// Makes the directory that of the only server of a new cluster, which goes on from this state. What was there before is
    /// kept in a directory within. Waits for the disk.
    ///
    /// # Errors
    /// The disk's. The directory is then as it was, or the next start finishes this.
    pub fn go_on(
        self,
        world: &World,
        directory: &Path,
        options: &LogOptions,
    ) -> Result<Recovered, StartError> {
        let Self {
            stopped,
            state,
            survivor,
        } = self;
        let old = stopped.identity.cluster;
        stopped.log.close()?;
        let identity = Identity::found(&*world.rng);
        let begins = Beginning::of(&survivor, identity)?;
        let state = state.resumed(NUMBERS_SKIPPED);
        let draft = directory.join(switch::DRAFT);
        world
            .files
            .remove_all(&draft)
            .map_err(StartError::io("removing what an attempt before left"))?;
        world
            .files
            .create_dir(&draft)
            .map_err(StartError::io("making a directory"))?;
        let checkpoints = Checkpoints::new((world.engine)(&draft.join("checkpoint"))?);
        let applied = Applied {
            position: Some(wire::log_id(begins.behind)),
            membership: begins.membership,
            state: state.clone(),
        };
        checkpoints.write(&identity, &applied, 0)?;
        drop(checkpoints);
        let options = LogOptions {
            engine: stopped.engine,
            ..options.clone()
        };
        let place = LogHome::new(world, &draft, options, LogHooks::fatal(|_| {}));
        let log = place.create(&identity.encode(), world)?;
        let up_to = begins.behind;
        log.submit(Write::Purge { up_to }, Box::new(|_| {}));
        log.close()?;
        let lineage = Lineage::read(&world.files, directory)
            .map_err(StartError::io("reading the clusters before this one"))?;
        lineage
            .and(old)
            .write(&world.files, &draft)
            .and_then(|()| world.files.sync_dir(&draft))
            .map_err(StartError::io("writing down the cluster before this one"))?;
        let aside = aside(old);
        switch::make(&world.files, directory, aside.clone()).map_err(StartError::io(
            "putting the recovered data in its place, which the next start goes on with",
        ))?;
        // It is empty now; one that stays is in nobody's way.
        let _ = world.files.remove_all(&draft);
        drop(stopped.lock);
        Ok(Recovered {
            identity,
            index: state.index().0,
            revision: state.revision().0,
            aside,
        })
    }
}

/// Where the new cluster's log begins, and with whom.
///
/// It begins behind entries that nobody has, so that a server that joins is sent the state and doesn't take the log for all
/// that there is.
struct Beginning {
    behind: Position,
    membership: Arc<StoredMembership>,
}

impl Beginning {
    fn of(survivor: &Survivor, identity: Identity) -> Result<Self, StartError> {
        let own = survivor.own();
        let own = own.ok_or_else(|| StartError::Raft("the server is no member of its cluster".to_owned()))?;
        let peer = Peer {
            name: own.server.clone(),
            address: own.peer_address.clone(),
        };
        // Before the first term, so that every leader's entries come later.
        let behind = Position {
            term: 0,
            leader: 0,
            index: survivor.last.map_or(1, |last| last.index.max(1)),
        };
        let voters = vec![BTreeSet::from([identity.node])];
        let membership = Membership::new(voters, BTreeMap::from([(identity.node, peer)]));
        let membership = membership.map_err(|error| StartError::Raft(error.to_string()))?;
        let stored = StoredMembership::new(Some(wire::log_id(behind)), membership);
        Ok(Self {
            behind,
            membership: Arc::new(stored),
        })
    }
}

/// Where the data of a server of this cluster are kept.
fn aside(cluster: ClusterId) -> String {
    let id = cluster.to_string();
    format!("before-recovery-{}", id.split('-').next().unwrap_or(&id))
}

/// A node id as text: it has more digits than a number in JSON may count on.
mod node_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(node: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{node:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
