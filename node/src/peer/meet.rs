//! Meeting the others: to found a cluster with them, to be recognized by them at a start, and to stay known.
//!
//! What is to be done is decided elsewhere ([`founding::step`], [`recall::judge`]); this asks, waits, and carries it out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Links,
    hello::{Answer, Presence},
};
use crate::{
    raft::{
        Peer,
        bootstrap::{Beginning, Opened, StartError},
        founding::{self, Founder, Founders, Founding, Missing, Step, name_missing},
        identity::ClusterId,
        recall::{self, Durable, OldDisk},
        starts::Starts,
    },
    storage::log::LogStore,
    world::{RaftHome, rng::Rng},
};

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Who is missing is said so often.
const MISSING_SAID_EVERY: Duration = Duration::from_secs(5);
/// Once one voter has recognized a start, the others get so long to object.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);
/// What is durable is told to each peer so often. It is what an old copy of the disk is compared with.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// And to one who did not answer.
const TELL_AGAIN: Duration = Duration::from_secs(1);

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
        self.presence.belong(founding);
        let begun = home.blocking(move || beginning.begin()).await;
        let opened = begun.map_err(StartError::io("beginning the log"))??;
        self.waiting.over();
        Ok(opened)
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
                let answer = self
                    .presence
                    .ask(&self.links, &other.address, durable, None)
                    .await;
                (other.name, answer.map(|answer| answer.from))
            })
            .collect();
        asked.collect().await
    }

    /// Waits until another voter has said what it knows of this server.
    ///
    /// # Errors
    /// One of them knows more than there is on this disk.
    pub async fn be_recognized(
        self,
        own: Durable,
        starts: Starts,
        founding: Founding,
    ) -> Result<Recognized, OldDisk> {
        let Self { presence, links, .. } = &self;
        let recognized = Recognized {
            presence: presence.clone(),
            links: links.clone(),
            starts,
            founding,
        };
        while let Err(missing) = recognized.introduce(own).await? {
            self.wait_for(&missing, "to be recognized by one other voter");
            sleep(ASK_AGAIN).await;
        }
        self.waiting.over();
        Ok(recognized)
    }

    /// Notes for whom this server waits, and says it now and then.
    fn wait_for(&self, missing: &[Missing], what_for: &str) {
        let text = format!("waiting {what_for}: missing {}", name_missing(missing));
        let now = Instant::now();
        let mut said = self.said.lock();
        if said.is_none_or(|said| now >= said + MISSING_SAID_EVERY) {
            *said = Some(now);
            tracing::info!("{text}");
        }
        self.waiting.set(text);
    }
}

/// A member of several whose disk another voter has found to be no old one, as far as it knows.
#[derive(Debug)]
pub struct Recognized {
    presence: Presence,
    links: Arc<Links>,
    starts: Starts,
    founding: Founding,
}

impl Recognized {
    fn others(&self) -> impl Iterator<Item = (u64, &Peer)> {
        let me = self.presence.introduction().node;
        let members = self.founding.members.iter();
        members
            .filter(move |(node, _)| **node != me)
            .map(|(node, peer)| (*node, peer))
    }

    /// Introduces this server to all others. Fine if one of them recognizes it and none objects.
    async fn introduce(&self, own: Durable) -> Result<Result<(), Vec<Missing>>, OldDisk> {
        let mut asked: FuturesUnordered<_> = self
            .others()
            .map(|(node, peer)| async move { (peer, self.ask(node, peer, own).await) })
            .collect();
        let mut missing = Vec::new();
        let mut end = None;
        loop {
            let next = match end {
                None => asked.next().await,
                Some(end) => timeout_at(end, asked.next()).await.unwrap_or(None),
            };
            match next {
                Some((_, Ok(Told::Objection(old)))) => return Err(old),
                Some((_, Ok(Told::Fine { .. }))) => {
                    end.get_or_insert_with(|| Instant::now() + OTHERS_WITHIN);
                }
                Some((peer, Err(why))) => missing.push(Missing {
                    founder: peer.clone(),
                    why,
                }),
                None if end.is_some() => return Ok(Ok(())),
                None => return Ok(Err(missing)),
            }
        }
    }

    /// Tells the others every few seconds what this server has durably. Ends when one of them knows more.
    pub async fn stay_known(self, log: Arc<dyn LogStore>) -> OldDisk {
        let mut telling: FuturesUnordered<_> = self
            .others()
            .map(|(node, peer)| self.tell(node, peer, &*log))
            .collect();
        match telling.next().await {
            Some(old) => old,
            // There is nobody to be known by.
            None => std::future::pending().await,
        }
    }

    async fn tell(&self, node: u64, peer: &Peer, log: &dyn LogStore) -> OldDisk {
        loop {
            let own = Durable::of(self.starts.present(), &log.durable());
            let own = own.expect("the log's vote was written by Raft");
            let again = match self.ask(node, peer, own).await {
                Ok(Told::Objection(old)) => return old,
                Ok(Told::Fine { remembers: true }) => TELL_EVERY,
                Ok(Told::Fine { remembers: false }) => TELL_AGAIN,
                Err(why) => {
                    tracing::debug!(peer = peer.name, why, "a peer does not answer");
                    TELL_AGAIN
                }
            };
            sleep(again).await;
        }
    }

    /// Asks one of the others what it knows of this server. If that is an earlier start, it is told that this is the
    /// same server, so that it remembers the present one.
    async fn ask(&self, node: u64, peer: &Peer, own: Durable) -> Result<Told, String> {
        let mut known = None;
        loop {
            let answer = self.presence.ask(&self.links, &peer.address, own, known).await?;
            let answer = fellow(answer, node, &self.founding)?;
            if let Err(what) = recall::judge(&own, &self.starts, answer.of_me.as_ref()) {
                let witness = peer.name.clone();
                return Ok(Told::Objection(OldDisk { witness, what }));
            }
            match answer.of_me.map(|of_me| of_me.boot) {
                // It remembered another start than the one shown, if any was.
                Some(boot) if boot != own.boot && known != Some(boot) => known = Some(boot),
                Some(_) | None => {
                    return Ok(Told::Fine {
                        remembers: answer.from.founding.is_some(),
                    });
                }
            }
        }
    }
}

/// What another voter says of this server.
enum Told {
    /// It knows nothing against it.
    Fine {
        /// It is a member by now, so that it has noted what it was told.
        remembers: bool,
    },
    /// It knows better.
    Objection(OldDisk),
}

/// The answer, if it comes from this member of the cluster. One that has not taken its identity yet is one, too.
fn fellow(answer: Answer, node: u64, founding: &Founding) -> Result<Answer, String> {
    let from = &answer.from;
    if from.node != node {
        return Err(format!(
            "the server there is {}, node {:016x}",
            from.name, from.node
        ));
    }
    match &from.founding {
        Some(theirs) if theirs.cluster != founding.cluster => {
            Err(format!("the server there is in cluster {}", theirs.cluster))
        }
        Some(_) | None => Ok(answer),
    }
}
