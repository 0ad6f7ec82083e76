//! Exactly once: request sessions and the outcomes that they remember.
//!
//! A client opens a session through the log and numbers its requests. A request that comes a second time, through
//! another node or after a lost answer, is not applied again: it gets the outcome of the first time. Outcomes are
//! dropped once the client says that it has them.

use serde::{Deserialize, Serialize};

use crate::{
    codec,
    command::RequestId,
    id::{Index, SessionId},
    limits,
    outcome::{Applied, Outcome, Rejection},
    table::Table,
    time::Time,
    tree::{Stamped, Tree},
};

/// A session, but for the outcomes that it remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The client has the answers up to and with this one.
    pub answered_up_to: u64,
}

impl Stamped for Session {
    fn index(&self) -> Index {
        Index(0)
    }
}

impl Stamped for Applied {
    fn index(&self) -> Index {
        Index(0)
    }
}

/// All request sessions. `by_deadline` is derived: each use moves a session's deadline by the same length, so the one
/// that was used longest ago ends first.
///
/// Outcomes are rows of their own: a server that forwards its clients' requests keeps a thousand of them in one
/// session, and each request writes one.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    pub(crate) rows: Table<SessionId, Session>,
    /// Of requests past `answered_up_to`, by sequence number.
    pub(crate) outcomes: Table<(SessionId, u64), Applied>,
    by_deadline: Tree<(Time, SessionId), ()>,
}

impl Sessions {
    /// Opens a session.
    pub(crate) fn open(&mut self, id: SessionId) {
        self.rows.put(id, Session::default());
    }

    /// The session's deadline is this one now.
    pub(crate) fn moved(&mut self, id: SessionId, from: Option<Time>, to: Time) {
        if let Some(from) = from {
            self.by_deadline.remove(&(from, id));
        }
        self.by_deadline.insert((to, id), ());
    }

    /// The session that was used longest ago, and its deadline.
    pub(crate) fn oldest(&self) -> Option<(Time, SessionId)> {
        self.by_deadline.first().map(|(place, ())| *place)
    }

    /// What became of the request the first time; `None`: this is the first time.
    pub(crate) fn recall(&self, request: &RequestId) -> Result<Option<Applied>, Rejection> {
        let session = self
            .rows
            .get(&request.session)
            .ok_or(Rejection::UnknownSession(request.session))?;
        if request.sequence == 0 {
            return Err(Rejection::invalid("sequence numbers begin at 1"));
        }
        if request.sequence <= session.answered_up_to {
            return Err(Rejection::AnsweredBefore {
                session: request.session,
                sequence: request.sequence,
            });
        }
        if let Some(applied) = self.outcomes.get(&(request.session, request.sequence)) {
            return Ok(Some(applied.clone()));
        }
        // Those that stay: an acknowledgement makes room only where it covers an outcome that is kept.
        let unanswered =
            (request.session, request.answered().saturating_add(1))..=(request.session, u64::MAX);
        if self.outcomes.count(unanswered) >= limits::SESSION_OUTCOMES_MAX {
            return Err(Rejection::too_many(
                "unanswered requests in a session",
                limits::SESSION_OUTCOMES_MAX,
            ));
        }
        Ok(None)
    }

    /// Remembers what became of a request that [`Sessions::recall`] let pass, and forgets what the client has.
    pub(crate) fn remember(&mut self, request: &RequestId, applied: &Applied) {
        let Some(session) = self.rows.get(&request.session).copied() else {
            return;
        };
        let answered_up_to = session.answered_up_to.max(request.answered());
        if answered_up_to > session.answered_up_to {
            self.rows.put(request.session, Session { answered_up_to });
            self.forget(request.session, answered_up_to);
        }
        if let Some(brief) = brief(applied) {
            self.outcomes.put((request.session, request.sequence), brief);
        }
    }

    pub(crate) fn close(&mut self, id: SessionId, deadline: Time) {
        self.rows.remove(&id);
        self.by_deadline.remove(&(deadline, id));
        self.forget(id, u64::MAX);
    }

    fn forget(&mut self, id: SessionId, up_to: u64) {
        let known = self.outcomes.range((id, 0)..=(id, up_to));
        let known: Vec<_> = known.map(|(key, _)| *key).collect();
        for key in known {
            self.outcomes.remove(&key);
        }
    }

    pub(crate) fn digest(&self) -> u128 {
        self.rows.digest().wrapping_add(self.outcomes.digest())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes() + self.outcomes.bytes()
    }
}

impl RequestId {
    /// The client has the answers up to this one: of requests before this one, whatever it says.
    fn answered(&self) -> u64 {
        self.answered_up_to.min(self.sequence.saturating_sub(1))
    }
}

/// What is kept of an outcome. A refusal that is too large to keep is forgotten, not kept as applied: it wrote
/// nothing, so its repeat may be judged afresh.
fn brief(applied: &Applied) -> Option<Applied> {
    if codec::encoded_len(applied) <= limits::SESSION_OUTCOME_BYTES_MAX as u64 {
        return Some(applied.clone());
    }
    applied.result.as_ref().ok()?;
    Some(Applied {
        index: applied.index,
        result: Ok(Outcome::AlreadyApplied),
    })
}
