//! Request sessions: how a write that may have been applied is sent again, and applied once.
//!
//! ```text
//!              ┌────────── a write ends ──────────┐
//!              ▼                                  │
//!  Sessions ─ number ─► Number ─ `spine-request` ─┴► any server, any number of times
//!      ▲                  │
//!      └── gone ◄─────────┘  `unknown_session`: another one is opened, if nothing is in doubt
//! ```
//!
//! The cluster remembers what became of each number that this client has not said it has the answer to. So a second
//! sending, to whichever server, gets the outcome of the first. A session ends by itself when it has not been used for
//! an hour.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::MutexGuard,
    time::{Instant, timeout_at},
};
use tonic::metadata::{Ascii, MetadataValue};

use crate::{
    error::{Error, Result},
    limits::NUMBERS_OUT_MAX,
};

/// The session of a pool, once it was needed.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Held while one is opened, so that calls which begin together open one. Each waits for it within its own deadline,
    /// whatever that of the one which opens.
    current: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    /// The next number; `None` while too many are out. `open` opens a session, where there is none, and ends by itself
    /// at `until`.
    pub(crate) async fn number(
        &self,
        until: Instant,
        open: impl Future<Output = Result<u64>>,
    ) -> Result<Option<Number>> {
        let mut current = self
            .current(until)
            .await
            .ok_or_else(|| Error::Unreachable("no request session was opened in time".into()))?;
        let session = match &*current {
            Some(session) => session.clone(),
            None => current.insert(Session::new(open.await?)).clone(),
        };
        Ok(session.number())
    }

    /// The cluster doesn't know the session of this number: the next one is of another.
    pub(crate) async fn gone(&self, number: Number, until: Instant) {
        // Out of time, it leaves that to the next call, which is told the same.
        let Some(mut current) = self.current(until).await else {
            return;
        };
        if current
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, &number.session))
        {
            *current = None;
        }
    }

    async fn current(&self, until: Instant) -> Option<MutexGuard<'_, Option<Arc<Session>>>> {
        timeout_at(until, self.current.lock()).await.ok()
    }
}

/// A session and the numbers that are out.
#[derive(Debug)]
struct Session {
    id: u64,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    /// Given out and not answered; everything below the first of them is answered.
    out: BTreeSet<u64>,
}

impl Session {
    fn new(id: u64) -> Arc<Self> {
        let numbers = Numbers {
            next: 1,
            out: BTreeSet::new(),
        };
        Arc::new(Self {
            id,
            numbers: Mutex::new(numbers),
        })
    }

    fn number(self: &Arc<Self>) -> Option<Number> {
        let mut numbers = self.numbers();
        let sequence = numbers.next;
        if sequence - numbers.answered_up_to() > NUMBERS_OUT_MAX {
            return None;
        }
        numbers.next += 1;
        numbers.out.insert(sequence);
        Some(Number {
            session: self.clone(),
            sequence,
        })
    }

    /// No code panics while it holds them.
    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn answered_up_to(&self) -> u64 {
        self.out.first().unwrap_or(&self.next) - 1
    }
}

/// A write's number. It counts as answered when this is dropped: whoever called has the answer, or has given up.
#[derive(Debug)]
pub(crate) struct Number {
    session: Arc<Session>,
    sequence: u64,
}

impl Number {
    /// The value of `spine-request`.
    pub(crate) fn metadata(&self) -> MetadataValue<Ascii> {
        let answered = self.session.numbers().answered_up_to();
        let text = format!("{}:{}:{answered}", self.session.id, self.sequence);
        MetadataValue::try_from(text).expect("digits and colons can be sent")
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.session.numbers().out.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    async fn number(sessions: &Sessions, id: u64) -> Option<Number> {
        sessions.number(later(), async { Ok(id) }).await.unwrap()
    }

    fn text(number: &Number) -> String {
        number.metadata().to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn everything_below_the_first_number_that_is_out_is_answered() {
        let sessions = Sessions::default();
        let one = number(&sessions, 7).await.unwrap();
        let two = number(&sessions, 8).await.unwrap();
        let three = number(&sessions, 8).await.unwrap();
        assert_eq!(text(&three), "7:3:0");
        drop(two);
        assert_eq!(text(&three), "7:3:0");
        drop(one);
        assert_eq!(text(&three), "7:3:2");
    }

    #[tokio::test]
    async fn no_more_are_out_than_the_cluster_keeps() {
        let sessions = Sessions::default();
        let mut out = Vec::new();
        for _ in 0..NUMBERS_OUT_MAX {
            out.push(number(&sessions, 7).await.unwrap());
        }
        assert!(number(&sessions, 7).await.is_none());
        drop(out.remove(0));
        assert!(number(&sessions, 7).await.is_some());
    }

    #[tokio::test]
    async fn a_session_that_is_gone_is_followed_by_one_other() {
        let sessions = Sessions::default();
        let (one, two) = (
            number(&sessions, 7).await.unwrap(),
            number(&sessions, 7).await.unwrap(),
        );
        sessions.gone(one, later()).await;
        assert_eq!(text(&number(&sessions, 9).await.unwrap()), "9:1:0");
        sessions.gone(two, later()).await;
        let next = number(&sessions, 10).await.unwrap();
        assert!(
            text(&next).starts_with("9:"),
            "the session of another number is still open"
        );
    }
}
