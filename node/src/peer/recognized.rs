//! Staying known: a member tells the others what it has durably, at its start and from then on, and they say what they
//! remember of it, who is in the cluster, and where.
//!
//! What their answers mean is decided by [`recall::judge`] and by the rosters that come with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::hello::{Answer, Presence};
use crate::{
    raft::{
        Leader,
        bootstrap::StartError,
        founding::{Missing, Refusal},
        identity::ClusterId,
        recall::{self, Durable, OldDisk},
        roster::{Roster, Seat},
        starts::Starts,
    },
    storage::log::LogStore,
};

/// Once one voter has recognized a start, the others get so long to object.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);
/// What is durable is told to each peer so often. It is what an old copy of the disk is compared with.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// And to one who did not answer. Whom to tell is looked at so often.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// A member whose disk is no old one, as far as the other voters know.
#[derive(Debug)]
pub struct Recognized {
    presence: Presence,
    starts: Starts,
    /// Where the others may be besides where they were.
    seeds: Vec<String>,
}

/// What another member says of this server.
enum Told {
    /// It knows nothing against it.
    Fine {
        /// It is a member by now, so that it has noted what it was told.
        remembers: bool,
    },
    /// It knows better.
    Objection(OldDisk),
    /// The cluster was given up, and goes on as another.
    GivenUp(Refusal),
}

impl Recognized {
    /// The server that shows itself as `presence`, had these starts, and was told of others at `seeds`.
    pub(super) fn new(presence: Presence, starts: Starts, seeds: Vec<String>) -> Self {
        Self {
            presence,
            starts,
            seeds,
        }
    }

    fn roster(&self) -> Roster {
        self.presence.roster().expect("a member has a cluster")
    }

    /// Introduces this server to all others, at every place where they may be. Fine if one other voter recognizes it and none
    /// objects.
    pub(super) async fn introduce(&self, own: Durable) -> Result<Result<(), Vec<Missing>>, StartError> {
        let roster = self.roster();
        let others: Vec<_> = roster.others(self.presence.node()).collect();
        let places = others
            .iter()
            .flat_map(|(id, seat)| self.presence.places(*id, seat));
        let places: BTreeSet<String> = places.chain(self.seeds.iter().cloned()).collect();
        let mut asked: FuturesUnordered<_> = places
            .into_iter()
            .map(|place| async move {
                let told = self.ask(&place, own).await;
                (place, told)
            })
            .collect();
        let mut silent = BTreeMap::new();
        let mut end = None;
        loop {
            let next = match end {
                None => asked.next().await,
                Some(end) => timeout_at(end, asked.next()).await.unwrap_or(None),
            };
            // Whoever answered may have told.
            if let Some(removed) = self.presence.removed() {
                return Err(removed.into());
            }
            match next {
                Some((_, Ok((_, Told::Objection(old))))) => return Err(old.into()),
                Some((_, Ok((_, Told::GivenUp(refusal))))) => return Err(refusal.into()),
                Some((_, Ok((node, Told::Fine { .. })))) => {
                    if self.roster().seat(node).is_some_and(|seat| seat.votes) {
                        end.get_or_insert_with(|| Instant::now() + OTHERS_WITHIN);
                    }
                }
                Some((place, Err(NotHeard::Elsewhere(other)))) if self.seeds.contains(&place) => {
                    return Err(self.sent_elsewhere(place, other).into());
                }
                Some((place, Err(why))) => {
                    silent.insert(place, why.to_string());
                }
                None if end.is_some() => return Ok(Ok(())),
                None => return Ok(Err(self.missing(&roster, &silent))),
            }
        }
    }

    fn sent_elsewhere(&self, at: String, other: ClusterId) -> Refusal {
        Refusal::OtherCluster {
            cluster: self.roster().cluster,
            at,
            other,
        }
    }

    /// The other voters, and why each of them was not heard.
    fn missing(&self, roster: &Roster, silent: &BTreeMap<String, String>) -> Vec<Missing> {
        let voters = roster.others(self.presence.node()).filter(|(_, seat)| seat.votes);
        let missing = |(id, seat): (u64, &Seat)| {
            let places = self.presence.places(id, seat);
            let why = places.iter().find_map(|place| silent.get(place)).cloned();
            let mut founder = seat.peer.clone();
            if let Some(place) = places.into_iter().next() {
                founder.address = place;
            }
            Missing {
                founder,
                why: why.unwrap_or_else(|| "no answer".to_owned()),
            }
        };
        voters.map(missing).collect()
    }

    /// Tells the others every few seconds what this server has durably, and sooner while no leader is heard: then this
    /// server may have been removed, which the leader tells nobody who is a member no longer. Ends when one of them knows
    /// more, or that it was, and says so.
    ///
    /// While one of them is not where it was, the seeds are told as well: where all have moved, some may have found each other
    /// before the rest was there, and none of the log knows where that is.
    pub async fn stay_known(
        self,
        log: Arc<dyn LogStore>,
        mut leads: watch::Receiver<Option<Leader>>,
    ) -> StartError {
        let mut next: BTreeMap<u64, Instant> = BTreeMap::new();
        loop {
            let led = leads.borrow_and_update().is_some();
            if !led {
                next.clear();
            }
            let roster = self.roster();
            let now = Instant::now();
            next.retain(|node, _| roster.seat(*node).is_some());
            let others = roster.others(self.presence.node());
            let due = others.filter(|(node, _)| next.get(node).is_none_or(|next| *next <= now));
            let mut telling: FuturesUnordered<_> =
                due.map(|(node, seat)| self.tell(node, seat, &*log)).collect();
            let mut is_one_missing = false;
            while let Some((node, told)) = telling.next().await {
                is_one_missing |= told.is_none();
                let again = match told {
                    Some(Told::Objection(old)) => return old.into(),
                    Some(Told::GivenUp(refusal)) => return refusal.into(),
                    Some(Told::Fine { remembers: true }) => TELL_EVERY,
                    Some(Told::Fine { remembers: false }) | None => TELL_AGAIN,
                };
                next.insert(node, now + again);
            }
            if is_one_missing && let Some(end) = self.seek(&*log).await {
                return end;
            }
            if let Some(removed) = self.presence.removed() {
                return removed.into();
            }
            tokio::select! {
                biased;
                Ok(_) = leads.wait_for(Option::is_none), if led => {}
                () = sleep(TELL_AGAIN) => {}
            }
        }
    }

    /// Tells whoever is at the seeds, so that both know from then on where the other is. Gives why this server ends, if one of
    /// them says so.
    async fn seek(&self, log: &dyn LogStore) -> Option<StartError> {
        let own = self.durable(log);
        let mut told: FuturesUnordered<_> = self.seeds.iter().map(|seed| self.ask(seed, own)).collect();
        while let Some(told) = told.next().await {
            match told {
                Ok((_, Told::Objection(old))) => return Some(old.into()),
                Ok((_, Told::GivenUp(refusal))) => return Some(refusal.into()),
                Ok((_, Told::Fine { .. })) | Err(_) => {}
            }
        }
        None
    }

    fn durable(&self, log: &dyn LogStore) -> Durable {
        let own = Durable::of(self.starts.present(), &log.durable());
        own.expect("the log's vote was written by Raft")
    }

    /// Tells one of the others, wherever it may be; `None` if it does not answer.
    async fn tell(&self, node: u64, seat: &Seat, log: &dyn LogStore) -> (u64, Option<Told>) {
        let own = self.durable(log);
        for place in self.presence.places(node, seat) {
            match self.ask(&place, own).await {
                Ok((_, told @ Told::GivenUp(_))) => return (node, Some(told)),
                Ok((answered, told)) if answered == node => return (node, Some(told)),
                Ok(_) => {}
                Err(why) => {
                    tracing::debug!(peer = seat.peer.name, %why, "a peer does not answer");
                }
            }
        }
        (node, None)
    }

    /// Asks the server at `place` what it knows of this one, and who it is. If it knows an earlier start, it is told that
    /// this is the same server, so that it remembers the present one.
    async fn ask(&self, place: &str, own: Durable) -> Result<(u64, Told), NotHeard> {
        let mut known = None;
        loop {
            let answer = self.presence.ask(place, own, known).await;
            let answer = answer.map_err(NotHeard::Silent)?;
            if let Some(refusal) = self.given_up(&answer) {
                return Ok((answer.from.node, Told::GivenUp(refusal)));
            }
            let answer = self.fellow(answer)?;
            let node = answer.from.node;
            if let Err(what) = recall::judge(&own, &self.starts, answer.of_me.as_ref()) {
                let witness = answer.from.name;
                return Ok((node, Told::Objection(OldDisk { witness, what })));
            }
            match answer.of_me.map(|of_me| of_me.boot) {
                // It remembered another start than the one shown, if any was.
                Some(boot) if boot != own.boot && known != Some(boot) => known = Some(boot),
                Some(_) | None => {
                    let roster = answer.from.roster.as_ref();
                    let remembers = roster.is_some_and(|roster| roster.seat(self.presence.node()).is_some());
                    return Ok((node, Told::Fine { remembers }));
                }
            }
        }
    }

    /// Why this server's cluster is no more, if the answer comes from one that goes on from it.
    fn given_up(&self, answer: &Answer) -> Option<Refusal> {
        let (from, cluster) = (&answer.from, self.roster().cluster);
        let successor = from.founding.as_ref()?.cluster;
        from.lineage.has(cluster).then(|| Refusal::GivenUp {
            cluster,
            successor,
            other: from.name.clone(),
            at: from.address.clone(),
        })
    }

    /// The answer, if it comes from another member of the cluster. One that has not taken its identity yet is one, too.
    fn fellow(&self, answer: Answer) -> Result<Answer, NotHeard> {
        let (from, roster) = (&answer.from, self.roster());
        if let Some(founding) = &from.founding
            && founding.cluster != roster.cluster
        {
            return Err(NotHeard::Elsewhere(founding.cluster));
        }
        if from.node == self.presence.node() {
            return Err(NotHeard::Silent("the server there is this one".to_owned()));
        }
        if roster.seat(from.node).is_none() {
            return Err(NotHeard::Silent(format!(
                "the server there is {}, node {:016x}",
                from.name, from.node
            )));
        }
        Ok(answer)
    }
}

/// Why nobody was heard at a place.
#[derive(Debug, thiserror::Error)]
enum NotHeard {
    /// Nobody is there, or not whom one would hear.
    #[error("{0}")]
    Silent(String),
    /// A server of another cluster is.
    #[error("the server there is in cluster {0}")]
    Elsewhere(ClusterId),
}
