//! A server that came to take another's place under a name of its own: once it votes, it has the other removed.
//!
//! So at no moment are there fewer voters than before, and the leader's own rules say whether the removal is safe. Whom it
//! replaces is the directory that had the name when this server was taken in: one that comes later under the same name is
//! left alone, however often this server starts with the same command line.

use std::{sync::Arc, time::Duration};

use spine_api::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::changes::Members;
use crate::raft::{Consensus, identity::Identity, roster::Roster};

/// How often it is looked whether this server votes, and the removal tried.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A removal takes an entry or two, and an election if the one that goes leads.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);

/// The member that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    name: String,
    node: u64,
}

impl Replaced {
    /// The member `name` among those who were there when this server was taken in; `None` if there was none.
    pub fn of(joined: Option<&Roster>, name: &str) -> Option<Self> {
        let seats = joined.into_iter().flat_map(|roster| &roster.seats);
        let node = seats
            .filter(|(_, seat)| seat.peer.name == name)
            .map(|(node, _)| *node);
        node.max().map(|node| Self {
            name: name.to_owned(),
            node,
        })
    }

    /// Whether it is time to remove it, by who is in the cluster now.
    fn next(&self, roster: &Roster, own: u64) -> Next {
        let namesakes = roster.seats.values().filter(|seat| seat.peer.name == self.name);
        if roster.seat(self.node).is_none() || namesakes.count() > 1 {
            return Next::Over;
        }
        match roster.seat(own) {
            Some(seat) if seat.votes => Next::Remove,
            Some(_) | None => Next::Wait,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// This server does not vote yet.
    Wait,
    /// It does.
    Remove,
    /// The other is gone, or another takes its place.
    Over,
}

/// Waits until this server votes, and then has the other removed.
pub async fn run(consensus: Arc<Consensus>, members: Arc<Members>, identity: Identity, replaced: Replaced) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = String::new();
    loop {
        looks.tick().await;
        let Some(roster) = consensus.roster(identity.cluster) else {
            continue;
        };
        match replaced.next(&roster, identity.node) {
            Next::Wait => continue,
            Next::Over => return,
            Next::Remove => {}
        }
        let deadline = Instant::now() + REMOVED_WITHIN;
        match members.remove_one(&replaced.name, replaced.node, deadline).await {
            Ok(_) => {
                tracing::info!(server = replaced.name, "this server has taken its place");
                return;
            }
            Err(Error::NoMember(_) | Error::ShuttingDown) => return,
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::warn!(
                        server = replaced.name,
                        why,
                        "it is not removed yet; this is tried again"
                    );
                    said = why;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raft::{Peer, identity::ClusterId, roster::Seat};

    const OWN: u64 = 9;

    /// Members by node id, name, and whether they vote.
    fn roster(members: &[(u64, &str, bool)]) -> Roster {
        let seat = |(node, name, votes): &(u64, &str, bool)| {
            let peer = Peer {
                name: (*name).to_owned(),
                address: format!("{name}:8300"),
            };
            (*node, Seat { peer, votes: *votes })
        };
        Roster {
            cluster: ClusterId(7),
            at: None,
            seats: members.iter().map(seat).collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn the_one_that_was_there_is_removed_once_this_server_votes() {
        let joined = roster(&[(1, "n1", true), (2, "n2", true), (OWN, "n4", false)]);
        assert_eq!(Replaced::of(Some(&joined), "n3"), None);
        assert_eq!(Replaced::of(None, "n2"), None);
        let replaced = Replaced::of(Some(&joined), "n2").unwrap();
        assert_eq!(replaced.next(&joined, OWN), Next::Wait);
        let votes = roster(&[(1, "n1", true), (2, "n2", true), (OWN, "n4", true)]);
        assert_eq!(replaced.next(&votes, OWN), Next::Remove);
    }

    #[test]
    fn who_comes_later_under_the_name_stays() {
        let joined = roster(&[(2, "n2", true), (OWN, "n4", false)]);
        let replaced = Replaced::of(Some(&joined), "n2").unwrap();
        let gone = roster(&[(OWN, "n4", true)]);
        let again = roster(&[(3, "n2", true), (OWN, "n4", true)]);
        let coming = roster(&[(2, "n2", true), (3, "n2", false), (OWN, "n4", true)]);
        for members in [gone, again, coming] {
            assert_eq!(replaced.next(&members, OWN), Next::Over, "{members:?}");
        }
    }
}
