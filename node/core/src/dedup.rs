//! Exactly once: request sessions and the outcomes that they remember.
//!
//! A client opens a session through the log and numbers its requests. A request that comes a second time, through
//! another node or after a lost answer, is not applied again: it gets the outcome of the first time. Outcomes are
//! dropped once the client says that it has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    codec,
    command::RequestId,
    id::{Index, SessionId},
    limits,
    outcome::{Applied, Outcome, Rejection},
    table::Table,
    tree::Stamped,
};

/// A session's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The client has the answers up to and with this one.
    pub answered_up_to: u64,
    /// The outcomes of later requests, by sequence number.
    pub outcomes: BTreeMap<u64, Applied>,
}

impl Stamped for Session {
    fn index(&self) -> Index {
        Index(0)
    }
}

/// All request sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    pub(crate) rows: Table<SessionId, Session>,
}

impl Sessions {
    /// Opens a session.
    pub(crate) fn open(&mut self, id: SessionId) -> Result<Outcome, Rejection> {
        if self.rows.len() >= limits::SESSIONS_MAX {
            return Err(Rejection::too_many("request sessions", limits::SESSIONS_MAX));
        }
        self.rows.put(id, Session::default());
        Ok(Outcome::SessionOpened(id))
    }

    /// What became of the request the first time; `None`: this is the first time.
    pub(crate) fn recall(&self, request: &RequestId) -> Result<Option<Applied>, Rejection> {
        let session = self
            .rows
            .get(&request.session)
            .ok_or(Rejection::UnknownSession(request.session))?;
        if request.sequence <= session.answered_up_to {
            return Err(Rejection::AnsweredBefore {
                session: request.session,
                sequence: request.sequence,
            });
        }
        if let Some(applied) = session.outcomes.get(&request.sequence) {
            return Ok(Some(applied.clone()));
        }
        if session.outcomes.len() >= limits::SESSION_OUTCOMES_MAX
            && request.answered_up_to <= session.answered_up_to
        {
            return Err(Rejection::too_many(
                "unanswered requests in a session",
                limits::SESSION_OUTCOMES_MAX,
            ));
        }
        Ok(None)
    }

    /// Remembers what became of a request, and forgets what the client has.
    pub(crate) fn remember(&mut self, request: &RequestId, applied: &Applied) {
        let Some(mut session) = self.rows.get(&request.session).cloned() else {
            return;
        };
        session.answered_up_to = session
            .answered_up_to
            .max(request.answered_up_to.min(request.sequence - 1));
        session.outcomes = session.outcomes.split_off(&(session.answered_up_to + 1));
        session.outcomes.insert(request.sequence, brief(applied));
        self.rows.put(request.session, session);
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        self.rows.remove(&id);
    }
}

fn brief(applied: &Applied) -> Applied {
    if codec::encoded_len(applied) <= limits::SESSION_OUTCOME_BYTES_MAX as u64 {
        return applied.clone();
    }
    Applied {
        index: applied.index,
        result: Ok(Outcome::AlreadyApplied),
    }
}
