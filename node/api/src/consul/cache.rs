//! `?cached`: reads that may be answered without asking the leader.
//!
//! Every server holds the whole state and is fed with each change, so there is nothing to keep but whether the
//! same has been asked before: the first time is a miss and reads through the leader, the next are hits and read
//! here. An answer is as old as the last contact with the leader.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use spine_core::{Index, Query};

use super::{blocking::Found, call::Call, error::Failure};
use crate::{
    limits,
    registry::{Consistency, Error},
};

/// What has been asked `cached`.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Bounded: when it is full it begins anew, which costs each reader one miss.
    asked: Mutex<HashSet<u64>>,
}

impl Cache {
    /// Notes a read; says whether it was asked before.
    fn note(&self, read: u64) -> bool {
        let mut asked = self.asked.lock();
        if asked.len() >= limits::CACHED_READS_MAX && !asked.contains(&read) {
            asked.clear();
        }
        !asked.insert(read)
    }
}

/// How old an answer may be: the request's `Cache-Control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ages {
    /// Beyond this the leader is asked.
    max: Option<Duration>,
    /// Beyond `max`, but good enough if the leader can't be asked.
    if_error: Option<Duration>,
}

impl Ages {
    fn of(headers: &HeaderMap) -> Self {
        let lines = headers
            .get_all(header::CACHE_CONTROL)
            .into_iter()
            .filter_map(|line| line.to_str().ok());
        let mut ages = Self::default();
        for (name, value) in lines
            .flat_map(|line| line.split(','))
            .filter_map(|part| part.trim().split_once('='))
        {
            let seconds = value.parse().ok().map(Duration::from_secs);
            match name {
                "max-age" => ages.max = seconds,
                "stale-if-error" => ages.if_error = seconds,
                _ => {}
            }
        }
        ages
    }
}

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

impl Call {
    pub(crate) async fn ask_cached<Q: Query>(
        &self,
        query: &Q,
        wait: Option<(Index, Duration)>,
    ) -> Result<Found<Q::Value>, Failure> {
        let asked_before = self.dialect.cache.note(self.cache_key());
        let ages = Ages::of(&self.headers);
        let age = self.registry().status().last_contact;
        let within = |limit: Option<Duration>| age.is_some_and(|age| limit.is_none_or(|limit| age <= limit));
        if asked_before && within(ages.max) {
            return self.hit(query, wait).await;
        }
        match self.ask_at(query, Consistency::Linearizable, wait).await {
            Err(Failure::Registry(Error::NoLeader)) if ages.if_error.is_some() && within(ages.if_error) => {
                self.hit(query, wait).await
            }
            found => found.map(|found| found.with(X_CACHE, HeaderValue::from_static("MISS"))),
        }
    }

    async fn hit<Q: Query>(
        &self,
        query: &Q,
        wait: Option<(Index, Duration)>,
    ) -> Result<Found<Q::Value>, Failure> {
        let found = self.ask_at(query, Consistency::Stale, wait).await?;
        let age = self.registry().status().last_contact.unwrap_or_default();
        let found = found.with(X_CACHE, HeaderValue::from_static("HIT"));
        Ok(found.with(header::AGE, HeaderValue::from(age.as_secs())))
    }

    /// The hash of what is asked, but for the parameters that say how.
    fn cache_key(&self) -> u64 {
        let how = ["index", "wait", "token", "pretty", "stale", "consistent"];
        let what = self.params.iter().filter(|(name, _)| !how.contains(name));
        let mut hasher = DefaultHasher::new();
        self.path.hash(&mut hasher);
        what.for_each(|parameter| parameter.hash(&mut hasher));
        hasher.finish()
    }
}

impl<T> Found<T> {
    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_a_bounded_number_of_reads() {
        let cache = Cache::default();
        assert!(!cache.note(1) && cache.note(1));
        for n in 2..2 + limits::CACHED_READS_MAX as u64 {
            cache.note(n);
        }
        assert!(cache.asked.lock().len() <= limits::CACHED_READS_MAX);
        assert!(!cache.note(1), "forgotten, so a miss");
    }

    #[test]
    fn ages_come_from_cache_control() {
        let line = HeaderValue::from_static("max-age=30, stale-if-error=3600,junk,max-stale=x");
        let ages = Ages::of(&HeaderMap::from_iter([(header::CACHE_CONTROL, line)]));
        assert_eq!(ages.max, Some(Duration::from_secs(30)));
        assert_eq!(ages.if_error, Some(Duration::from_hours(1)));
        assert_eq!(Ages::of(&HeaderMap::new()), Ages::default());
    }
}
