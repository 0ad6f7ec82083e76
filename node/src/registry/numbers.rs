//! The numbers that this node's own requests have in its request session, so that what loses its leader may be sent again,
//! whoever leads then, and is applied once.
//!
//! Requests that another server brings have numbers of that one's session, and clients may number theirs themselves: those
//! are left alone.

use std::sync::Arc;

use spine_core::{Applied, Outcome, Rejection, SessionId};

use super::ask::{CommandAsk, lost};
use crate::forward::session::{Number, Session};

/// The session of a node, once it was needed. Kept while others lead and while this node does.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    session: Option<Arc<Session>>,
}

impl Numbering {
    /// The session; `None`: one has to be opened.
    pub(super) fn session(&mut self) -> Option<Arc<Session>> {
        if self.session.as_ref().is_some_and(|session| session.is_over()) {
            self.session = None;
        }
        self.session.clone()
    }

    /// The session that was asked for is open.
    pub(super) fn opened(&mut self, id: SessionId) {
        tracing::debug!(%id, "requests are numbered in this session");
        self.session = Some(Session::new(id));
    }
}

/// What an attempt to open a session came to; `None`: nothing that is known.
pub(super) fn opened(applied: Applied) -> Option<Result<SessionId, Rejection>> {
    match applied.result {
        Ok(Outcome::SessionOpened(id)) => Some(Ok(id)),
        Ok(_) => None,
        Err(rejection) => Some(Err(rejection)),
    }
}

/// Gives numbers to those that need one, in their order; how many have what they need, before the first for which there is
/// none left.
pub(super) fn number<'a>(asks: impl Iterator<Item = &'a mut CommandAsk>, session: &Arc<Session>) -> usize {
    let mut numbered = 0;
    for ask in asks {
        let needs = !ask.client.forwarded && ask.client.number.is_none() && ask.content.id.is_none();
        if needs {
            match session.number() {
                Some(number) => ask.client.number = Some(number),
                None => break,
            }
        }
        numbered += 1;
    }
    numbered
}

/// Gives a command the id under which it is sent now.
pub(super) fn stamp_id(ask: &mut CommandAsk) {
    if let Some(number) = &ask.client.number {
        ask.content.id = Some(number.id());
    }
}

/// What becomes of a command whose answer is there.
pub(super) enum Fate {
    /// The answer is its own.
    Settled(CommandAsk, Applied),
    /// It was not applied, and is to be sent again.
    Again(CommandAsk),
    /// Its client was told what there is to tell.
    Over,
}

/// Whether what was applied is the command, or only the end of this node's session.
pub(super) fn fate(mut ask: CommandAsk, applied: Applied) -> Fate {
    let session = ask.client.number.as_ref().map(Number::session);
    match applied.result {
        Err(Rejection::UnknownSession(id)) if session.is_some_and(|session| session.id() == id) => {
            if session.is_some_and(Session::end) {
                tracing::info!(%id, "the session of this node's requests has ended; another one is opened");
            }
            if ask.client.is_doubtful() {
                // What the session knew of the first sending is gone with it.
                ask.client.answer(Err(lost()));
                return Fate::Over;
            }
            ask.client.number = None;
            ask.content.id = None;
            ask.client.not_proposed();
            Fate::Again(ask)
        }
        Err(Rejection::AnsweredBefore { .. }) if session.is_some() => {
            ask.client.answer(Err(lost()));
            Fate::Over
        }
        _ => Fate::Settled(ask, applied),
    }
}
