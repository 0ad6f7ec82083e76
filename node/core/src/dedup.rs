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
        if request.sequence == 0 {
            return Err(Rejection::invalid("sequence numbers begin at 1"));
        }
        if request.sequence <= session.answered_up_to {
            return Err(Rejection::AnsweredBefore {
                session: request.session,
                sequence: request.sequence,
            });
        }
        if let Some(applied) = session.outcomes.get(&request.sequence) {
            return Ok(Some(applied.clone()));
        }
        // Those that stay: an acknowledgement makes room only where it covers an outcome that is kept.
        let unanswered = session.outcomes.range(request.answered().saturating_add(1)..);
        if unanswered.count() >= limits::SESSION_OUTCOMES_MAX {
            return Err(Rejection::too_many(
                "unanswered requests in a session",
                limits::SESSION_OUTCOMES_MAX,
            ));
        }
        Ok(None)
    }

    /// Remembers what became of a request that [`Sessions::recall`] let pass, and forgets what the client has.
    pub(crate) fn remember(&mut self, request: &RequestId, applied: &Applied) {
        let Some(mut session) = self.rows.get(&request.session).cloned() else {
            return;
        };
        session.answered_up_to = session.answered_up_to.max(request.answered());
        session.outcomes = session
            .outcomes
            .split_off(&session.answered_up_to.saturating_add(1));
        if let Some(brief) = brief(applied) {
            session.outcomes.insert(request.sequence, brief);
        }
        self.rows.put(request.session, session);
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        self.rows.remove(&id);
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
