//! Meeting the others: to found a cluster with them, to be taken in by one, to be recognized by them at a start.
//!
//! What is to be done is decided elsewhere ([`founding::step`], [`crate::members`]); this asks, waits, and carries it out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{Links, hello::Presence, recognized::Recognized};
use crate::{
    members::link::{self, Joined},
    raft::{
        Peer,
        bootstrap::{Beginning, Opened, StartError},
        founding::{self, Founder, Founders, Founding, Missing, Refusal, Step, name_missing},
        identity::ClusterId,
        recall::Durable,
        recovery::Lineage,
        roster::{Roster, Rosters},
        starts::Starts,
    },
    world::{RaftHome, rng::Rng},
};

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Who is missing is said so often.
const MISSING_SAID_EVERY: Duration = Duration::from_secs(5);
/// A server that takes the place of one of the same name may ask before the cluster has noticed that the other is gone: it
/// goes on asking for so long.
const NAME_FREE_WITHIN: Duration = Duration::from_secs(5);

/// What a node waits for at its start, for those who ask meanwhile. Clones share it.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<Arc<str>>>>);

impl Waiting {
    /// What it waits for at this moment, if it does.
    pub fn now(&self) -> Option<Arc<str>> {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, what: impl Into<Arc<str>>) {
        *self.0.lock() = Some(what.into());
    }

    fn over(&self) {
        *self.0.lock() = None;
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiting").field(&self.now()).finish()
    }
}

/// One server on its way to the others.
#[derive(Debug)]
pub struct Meeting {
    presence: Presence,
    links: Arc<Links>,
    waiting: Waiting,
    said: Mutex<Option<Instant>>,
}

impl Meeting {
    /// The server that shows itself as `presence`.
    pub fn new(presence: Presence, links: Arc<Links>, waiting: Waiting) -> Self {
        Self {
            presence,
            links,
            waiting,
            said: Mutex::default(),
        }
    }

    /// Founds a cluster with the others, or finds that it has been founded; this directory is a node in it then.
    ///
    /// # Errors
    /// This directory can't be part of what is there, or the disk failed.
    pub async fn found(
        &self,
        mut beginning: Box<Beginning>,
        founders: &Founders,
        rng: &dyn Rng,
        home: RaftHome,
    ) -> Result<Opened, StartError> {
        let me = Founder {
            name: self.presence.introduction().name,
            node: beginning.node(),
            founders: founders.clone(),
            founding: beginning.founding().cloned(),
        };
        let nothing = Durable {
            boot: beginning.starts().present(),
            vote: None,
            committed: None,
        };
        let founding = self.agree(&me, founders, nothing, rng).await?;
        let blocking = home.blocking(move || {
            let done = beginning.found(founding.clone());
            done.map(|()| (beginning, founding))
        });
        let (beginning, founding) = blocking
            .await
            .map_err(StartError::io("recording the founding"))??;
        // Durable now, so that whoever asks may hear it.
        let roster = Roster::founded(&founding);
        self.begin(beginning, founding, roster, home).await
    }

    /// Asks the servers at `seeds` to take this one into their cluster, until one of them has: this directory is a node in
    /// it then.
    ///
    /// # Errors
    /// They don't take it in, or the disk failed.
    pub async fn join(
        &self,
        mut beginning: Box<Beginning>,
        seeds: &[String],
        home: RaftHome,
    ) -> Result<Opened, StartError> {
        if beginning.joined().is_none() {
            let roster = self.be_taken_in(seeds).await?;
            let recorded = home.blocking(move || beginning.join(roster).map(|()| beginning));
            beginning = recorded
                .await
                .map_err(StartError::io("recording the cluster"))??;
        }
        let roster = beginning.joined().expect("it was taken in").clone();
        let founding = roster.as_founding();
        self.begin(beginning, founding, roster, home).await
    }

    /// From here on this directory is a node.
    async fn begin(
        &self,
        beginning: Box<Beginning>,
        founding: Founding,
        roster: Roster,
        home: RaftHome,
    ) -> Result<Opened, StartError> {
        let rosters = Rosters {
            newest: roster.clone(),
            committed: roster,
        };
        self.presence.belong(founding, rosters, Lineage::default());
        let begun = home.blocking(move || beginning.begin()).await;
        let opened = begun.map_err(StartError::io("beginning the log"))??;
        self.waiting.over();
        Ok(opened)
    }

    /// Asks one after the other until one takes this server in.
    async fn be_taken_in(&self, seeds: &[String]) -> Result<Roster, StartError> {
        let node = self.presence.node();
        let until = Instant::now() + NAME_FREE_WITHIN;
        loop {
            let mut missing = Vec::new();
            for seed in seeds {
                let refused = |why| Refusal::NotTakenIn {
                    at: seed.clone(),
                    why,
                };
                let why = match link::join(&self.links, seed, self.presence.this(), node).await {
                    Ok(Joined::Member(roster)) if roster.seat(node).is_some() => return Ok(roster),
                    Ok(Joined::Member(_)) => "it answered for another server".to_owned(),
                    Ok(Joined::Refused(why)) => return Err(refused(why).into()),
                    Ok(Joined::NameInUse(why)) if Instant::now() > until => return Err(refused(why).into()),
                    Ok(Joined::NameInUse(why) | Joined::NotNow(why)) | Err(why) => why,
                };
                missing.push(format!("the server at {seed} ({why})"));
            }
            self.wait(format!("waiting to be taken in by {}", missing.join(", ")));
            sleep(ASK_AGAIN).await;
        }
    }

    /// Asks round after round until there is a founding to take.
    async fn agree(
        &self,
        me: &Founder,
        founders: &Founders,
        durable: Durable,
        rng: &dyn Rng,
    ) -> Result<Founding, StartError> {
        loop {
            let answers = self.round(founders.others(&me.name), durable).await;
            match founding::step(me, &answers) {
                Step::Take(founding) => return Ok(founding),
                Step::Decide(members) => {
                    return Ok(Founding {
                        cluster: ClusterId::draw(rng),
                        members,
                    });
                }
                Step::Refuse(refusal) => return Err(refusal.into()),
                Step::Wait(missing) => self.wait_for(&missing, "to found the cluster"),
                Step::Await(first) => {
                    self.waiting
                        .set(format!("{} is about to found the cluster", first.name));
                }
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn round(
        &self,
        others: impl Iterator<Item = Peer>,
        durable: Durable,
    ) -> BTreeMap<String, Result<founding::Introduction, String>> {
        let asked: FuturesUnordered<_> = others
            .map(|other| async move {
                let answer = self.presence.ask(&other.address, durable, None).await;
                (other.name, answer.map(|answer| answer.from))
            })
            .collect();
        asked.collect().await
    }

    /// Waits until another voter has said what it knows of this server; where nobody else votes, nobody could know
    /// better. `seeds` are places to look for the others besides those where they were.
    ///
    /// # Errors
    /// One of them knows more than there is on this disk, or that this server was removed.
    pub async fn be_recognized(
        self,
        own: Durable,
        starts: Starts,
        seeds: &[String],
    ) -> Result<Recognized, StartError> {
        let recognized = Recognized::new(self.presence.clone(), starts, seeds.to_vec());
        let node = self.presence.node();
        while self
            .presence
            .roster()
            .is_some_and(|roster| roster.has_other_voters(node))
        {
            match recognized.introduce(own).await? {
                Ok(()) => break,
                Err(missing) => self.wait_for(&missing, "to be recognized by one other voter"),
            }
            sleep(ASK_AGAIN).await;
        }
        self.waiting.over();
        Ok(recognized)
    }

    /// Notes for whom this server waits, and says it now and then.
    fn wait_for(&self, missing: &[Missing], what_for: &str) {
        self.wait(format!("waiting {what_for}: missing {}", name_missing(missing)));
    }

    /// Notes what this server waits for, and says it now and then.
    fn wait(&self, text: String) {
        let now = Instant::now();
        let mut said = self.said.lock();
        if said.is_none_or(|said| now >= said + MISSING_SAID_EVERY) {
            *said = Some(now);
            tracing::info!("{text}");
        }
        self.waiting.set(text);
    }
}
