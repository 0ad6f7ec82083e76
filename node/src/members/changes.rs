//! The members, changed: by this node while it leads, and otherwise by the leader, on its word.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use spine_api::Error;
use spine_proto::internal::v1 as proto;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tonic::Status;

use super::{
    decide::{self, Admission, Removal, Wish},
    link::{self, Joined, Removed},
};
use crate::{
    peer::Links,
    raft::{
        Change, ChangeError, Composition, Consensus, ELECTION_TIMEOUT, Peer, identity::Identity,
        release::Release, wire,
    },
};

/// After "not now" it is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// While answers are awaited they are looked for so often.
const LISTEN_AGAIN: Duration = Duration::from_millis(20);
/// What would be unsafe is asked again for so long: a new leader has not heard everybody yet.
const HEARD_WITHIN: Duration = ELECTION_TIMEOUT.saturating_mul(2);

/// The members of this node's cluster, to be changed.
pub struct Members {
    consensus: Arc<Consensus>,
    links: Arc<Links>,
    identity: Identity,
    boot_number: u64,
    departure: Arc<Departure>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Members").field(&self.identity).finish()
    }
}

/// How far this server has come on its way out of the cluster, by its own wish.
#[derive(Debug)]
pub struct Departure {
    asked: AtomicBool,
    left: watch::Sender<bool>,
}

impl Default for Departure {
    fn default() -> Self {
        Self {
            asked: AtomicBool::new(false),
            left: watch::Sender::new(false),
        }
    }
}

impl Departure {
    /// Notes that the cluster has let this server go; whether it had asked for that.
    pub fn is_over(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked {
            self.left.send_replace(true);
        }
        asked
    }

    /// Waits until this server has left.
    pub async fn left(&self) {
        let mut left = self.left.subscribe();
        left.wait_for(|left| *left).await.expect("the sender is here");
    }
}

impl Members {
    /// Those whom `consensus` is about; this server is in this start.
    pub fn new(consensus: Arc<Consensus>, links: Arc<Links>, identity: Identity, boot_number: u64) -> Self {
        Self {
            consensus,
            links,
            identity,
            boot_number,
            departure: Arc::default(),
        }
    }

    /// This server's own way out.
    pub fn departure(&self) -> Arc<Departure> {
        self.departure.clone()
    }

    /// Takes a server in, or has the leader do so.
    pub(super) async fn join(&self, request: proto::JoinRequest) -> Result<Joined, Status> {
        let me = request.me.clone();
        let peer = wire::message_server(me.ok_or_else(|| Status::invalid_argument("malformed server"))?);
        if peer.name.is_empty() || peer.address.is_empty() || request.node_id == 0 {
            return Err(Status::invalid_argument(
                "a server has a name, an address and an id",
            ));
        }
        if self.consensus.leads() {
            let release = Release::said(request.version, request.rules);
            return Ok(self.take_in(request.node_id, peer, &release).await);
        }
        let leader = self.consensus.leader().borrow().clone();
        Ok(match leader {
            Some(leader) if leader.id != self.identity.node && !request.forwarded => {
                let request = proto::JoinRequest {
                    forwarded: true,
                    ..request
                };
                let answer = link::ask_join(&self.links, &leader.peer_address, request).await;
                answer.unwrap_or_else(|why| Joined::NotNow(format!("the leader, {}: {why}", leader.name)))
            }
            Some(_) => Joined::NotNow("another server leads by now".to_owned()),
            None => Joined::NotNow("no leader is known".to_owned()),
        })
    }

    /// Takes a server in as the leader.
    async fn take_in(&self, node: u64, peer: Peer, release: &Release) -> Joined {
        let in_force = self.consensus.applied().borrow().state.rules();
        if let Err(why) = release.fits(&peer.name, in_force) {
            return Joined::Refused(why);
        }
        let admission = |seen: &Composition| match decide::admission(seen, node, &peer) {
            Admission::Take(change) => Ok(change),
            decided => Err(decided),
        };
        match self.consensus.change_members(admission).await {
            Ok(Ok(()) | Err(Admission::Member)) => {
                // What is committed is known a moment later.
                let roster = self.consensus.roster(self.identity.cluster);
                match roster.filter(|roster| roster.seat(node).is_some()) {
                    Some(roster) => Joined::Member(roster),
                    None => Joined::NotNow("it is being taken in".to_owned()),
                }
            }
            Ok(Err(Admission::Refused(why))) | Err(ChangeError::Impossible(why)) => Joined::Refused(why),
            Ok(Err(Admission::NameInUse(why))) => Joined::NameInUse(why),
            Ok(Err(Admission::NotNow(why))) => Joined::NotNow(why),
            Ok(Err(Admission::Take(_))) => unreachable!("what is to be taken is a change"),
            Err(error) => Joined::NotNow(error.to_string()),
        }
    }

    /// Removes a server, and gives its node id. Meant are those who have the name now.
    ///
    /// # Errors
    /// There is none of this name, it would be unsafe, or it was not done before the deadline.
    pub async fn remove(&self, name: &str, forced: bool, deadline: Instant) -> Result<u64, Error> {
        let roster = self.consensus.roster(self.identity.cluster);
        let seats = roster.map(|roster| roster.seats).unwrap_or_default();
        let named = seats.iter().filter(|(_, seat)| seat.peer.name == name);
        let counts = named.clone().max_by_key(|(_, seat)| seat.votes);
        let wish = Wish {
            name: name.to_owned(),
            nodes: named.map(|(id, _)| *id).collect(),
            forced,
        };
        self.carry_out(&wish, counts.map(|(id, _)| *id), deadline).await
    }

    /// Removes the server whose directory has the id `node`, and no other of its name.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub(super) async fn remove_one(&self, name: &str, node: u64, deadline: Instant) -> Result<u64, Error> {
        let wish = Wish {
            name: name.to_owned(),
            nodes: BTreeSet::from([node]),
            forced: false,
        };
        self.carry_out(&wish, Some(node), deadline).await
    }

    /// Has the leader fulfil a wish, on which `counts` is known to have been a member.
    async fn carry_out(&self, wish: &Wish, counts: Option<u64>, deadline: Instant) -> Result<u64, Error> {
        let (began, mut may_be_done) = (Instant::now(), false);
        loop {
            let leader = self.consensus.leader().borrow().clone();
            let removed = match &leader {
                None => Ok(Removed::NotNow("no leader is known".to_owned())),
                Some(leader) if leader.id == self.identity.node => {
                    let removed = timeout_at(deadline, self.remove_here(wish)).await;
                    removed.unwrap_or_else(|_| Err("it was not committed in time".to_owned()))
                }
                Some(leader) => {
                    let me = (self.identity, self.boot_number);
                    link::remove(&self.links, me, leader, wish).await
                }
            };
            let why = match (removed, counts) {
                (Ok(Removed::Done(id)), _) => return Ok(id),
                (Ok(Removed::Unknown), Some(id)) if may_be_done => return Ok(id),
                (Ok(Removed::Unknown), _) => return Err(Error::NoMember(wish.name.as_str().into())),
                (Ok(Removed::Refused(why)), _) if began.elapsed() >= HEARD_WITHIN => {
                    return Err(Error::Unsafe(why.into()));
                }
                (Ok(Removed::Refused(why) | Removed::NotNow(why)), _) => why,
                (Err(why), _) => {
                    may_be_done = true;
                    why
                }
            };
            // Whoever has the name by then may be another than the one that was meant.
            let may_repeat = !may_be_done || !wish.nodes.is_empty();
            if !may_repeat || Instant::now() + AGAIN >= deadline {
                return Err(match leader {
                    None if !may_be_done => Error::NoLeader,
                    _ => Error::Unknown(why.into()),
                });
            }
            sleep(AGAIN).await;
        }
    }

    /// Removes a server as the leader. Those who are to remain get an election timeout to answer.
    ///
    /// # Errors
    /// Why it is not known whether that was done.
    pub(super) async fn remove_here(&self, wish: &Wish) -> Result<Removed, String> {
        let wished = Instant::now();
        loop {
            let removed = self.try_remove(wish, wished).await?;
            if !matches!(removed, Removed::Refused(_)) || wished.elapsed() > ELECTION_TIMEOUT {
                return Ok(removed);
            }
            sleep(LISTEN_AGAIN).await;
        }
    }

    async fn try_remove(&self, wish: &Wish, wished: Instant) -> Result<Removed, String> {
        let mut going = 0;
        let removal = |seen: &Composition| match decide::removal(seen, wish, wished.elapsed()) {
            Removal::Take(change, id) => {
                going = id;
                Ok::<Change, _>(change)
            }
            decided => Err(decided),
        };
        Ok(match self.consensus.change_members(removal).await {
            Ok(Ok(())) => Removed::Done(going),
            Ok(Err(Removal::Unknown)) => Removed::Unknown,
            Ok(Err(Removal::Refused(why))) | Err(ChangeError::Impossible(why)) => Removed::Refused(why),
            Ok(Err(Removal::NotNow(why))) => Removed::NotNow(why),
            Ok(Err(Removal::HandOver)) => Removed::NotNow(match self.consensus.transfer().await {
                Ok(leader) => format!("{} leads now", leader.name),
                Err(error) => error.to_string(),
            }),
            Ok(Err(Removal::Take(..))) => unreachable!("what is to be taken is a change"),
            Err(error @ ChangeError::Busy) => Removed::NotNow(error.to_string()),
            Err(error @ (ChangeError::NotLeader | ChangeError::Unknown | ChangeError::Ended)) => {
                return Err(error.to_string());
            }
        })
    }

    /// Has this server leave; it is to end then.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub async fn leave(&self, name: &str, deadline: Instant) -> Result<(), Error> {
        self.departure.asked.store(true, Ordering::Relaxed);
        // Whichever comes first: the leader's answer, or that the others have let it go.
        let left = tokio::select! {
            biased;
            removed = self.remove_one(name, self.identity.node, deadline) => removed.map(drop),
            () = self.departure.left() => Ok(()),
        };
        match &left {
            Ok(()) => drop(self.departure.is_over()),
            Err(Error::Unknown(_)) => {}
            Err(_) => self.departure.asked.store(false, Ordering::Relaxed),
        }
        left
    }
}
