//! Reading as Consul's clients ask for it: how fresh, whether to wait, and what the header says about the answer.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use spine_core::{Answer, Index, Query};
use tokio::time::Instant;

use super::{call::Call, error::Failure};
use crate::{
    limits,
    read::{Blocking, Read},
    registry::{Consistency, Error, NodeStatus},
};

/// What was read, with the header lines that describe it.
#[derive(Debug)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) headers: HeaderMap,
}

/// How the client wants to read.
#[derive(Clone, Copy, Debug)]
struct Wish {
    consistency: Consistency,
    /// Its index, and how long to wait for a greater one.
    wait: Option<(Index, Duration)>,
}

impl Call {
    /// Asks as the client wants it: with the consistency asked for, and waiting if it has seen the present answer.
    pub(crate) async fn ask<Q: Query>(&self, query: &Q) -> Result<Found<Q::Value>, Failure> {
        let wish = self.wish()?;
        if self.params.has("cached") {
            return self.ask_cached(query, wish.wait).await;
        }
        self.ask_at(query, wish.consistency, wish.wait).await
    }

    /// Asks with this consistency.
    pub(crate) async fn ask_at<Q: Query>(
        &self,
        query: &Q,
        consistency: Consistency,
        wait: Option<(Index, Duration)>,
    ) -> Result<Found<Q::Value>, Failure> {
        let blocking = wait.map(|(floor, wait)| Blocking {
            floor,
            until: Instant::now() + self.spread(wait),
        });
        let answer = self.read(query, consistency, blocking).await?;
        let headers = describe(answer.index, consistency, &self.registry().status());
        Ok(Found {
            value: answer.value,
            headers,
        })
    }

    /// Reads, and waits if asked to. Who waits when the node stops gets what there is, not a broken connection; who waits at
    /// one that has lost its leader is told that, unless what is stale will do.
    pub(crate) async fn read<Q: Query>(
        &self,
        query: &Q,
        consistency: Consistency,
        blocking: Option<Blocking>,
    ) -> Result<Answer<Q::Value>, Failure> {
        match self
            .registry()
            .read(&self.context(consistency), query, blocking)
            .await
        {
            Err(Error::ShuttingDown) if blocking.is_some() => Ok(query.ask(&self.registry().hub().newest())),
            answer => Ok(answer?),
        }
    }

    fn wish(&self) -> Result<Wish, Failure> {
        let params = &self.params;
        let stale = params.has("stale");
        if stale && params.has("consistent") {
            return Err(Failure::ConflictingConsistency);
        }
        let fresh_enough = match params.duration("max_stale") {
            None => true,
            Some(Ok(limit)) => self
                .registry()
                .status()
                .last_contact
                .is_some_and(|age| age <= limit),
            Some(Err(())) => {
                let text = params.text("max_stale").unwrap_or_default();
                return Err(Failure::InvalidMaxStale(text.to_owned()));
            }
        };
        let consistency = if stale && fresh_enough {
            Consistency::Stale
        } else {
            Consistency::Linearizable
        };
        Ok(Wish {
            consistency,
            wait: self.wait()?,
        })
    }

    fn wait(&self) -> Result<Option<(Index, Duration)>, Failure> {
        let index = match self.params.text("index") {
            Some(text) => text.parse().map_err(|_| Failure::InvalidIndex)?,
            None => 0,
        };
        let wait = self.wait_asked()?;
        Ok((index > 0).then_some((Index(index), wait)))
    }

    /// `?wait`, within its bounds.
    pub(crate) fn wait_asked(&self) -> Result<Duration, Failure> {
        match self.params.duration("wait") {
            None | Some(Ok(Duration::ZERO)) => Ok(limits::WAIT_DEFAULT),
            Some(Ok(wait)) => Ok(wait.min(limits::WAIT_MAX)),
            Some(Err(())) => Err(Failure::InvalidWait),
        }
    }

    /// A wait and up to a sixteenth more, so that those who began together don't end together.
    pub(crate) fn spread(&self, wait: Duration) -> Duration {
        let sixteenth = u64::try_from((wait / 16).as_millis()).expect("waits are bounded");
        wait + Duration::from_millis(self.dialect.draw() % (sixteenth + 1))
    }
}

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const EFFECTIVE_CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");

fn describe(index: Index, consistency: Consistency, status: &NodeStatus) -> HeaderMap {
    let age = match consistency {
        // The leader has just confirmed it.
        Consistency::Linearizable => Duration::ZERO,
        Consistency::Stale => status.last_contact.unwrap_or(Duration::MAX),
    };
    let effective = match consistency {
        Consistency::Linearizable => "consistent",
        Consistency::Stale => "stale",
    };
    // Clients read a signed number of milliseconds and turn it into nanoseconds.
    let age_ms = u64::try_from(age.as_millis())
        .unwrap_or(u64::MAX)
        .min(i64::MAX as u64 / 1_000_000);
    HeaderMap::from_iter([
        (INDEX, HeaderValue::from(index.0.max(1))),
        (
            KNOWN_LEADER,
            HeaderValue::from_static(if status.leader.is_some() { "true" } else { "false" }),
        ),
        (LAST_CONTACT, HeaderValue::from(age_ms)),
        (EFFECTIVE_CONSISTENCY, HeaderValue::from_static(effective)),
    ])
}
