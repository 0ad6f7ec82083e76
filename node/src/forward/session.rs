//! The node's own request session: it numbers what its clients ask, so that what is sent a second time is applied once.
//!
//! A session is opened through the log, once in a node's life unless it is lost. The replicated state keeps at most
//! [`SESSION_OUTCOMES_MAX`] outcomes that the node hasn't said it has, so no more numbers are out at once. What comes on
//! top waits while another node leads, as it would for a place in a message; while this one does, it goes without a number.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use spine_core::{RequestId, SessionId, limits::SESSION_OUTCOMES_MAX};

/// A session and the numbers that are out.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    /// The state knows it no longer.
    over: AtomicBool,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    /// Given out and not answered; everything below the first of them is answered.
    out: BTreeSet<u64>,
}

impl Numbers {
    fn answered_up_to(&self) -> u64 {
        self.out.first().unwrap_or(&self.next) - 1
    }
}

impl Session {
    /// The session that was opened as `id`.
    pub fn new(id: SessionId) -> Arc<Self> {
        let numbers = Mutex::new(Numbers {
            next: 1,
            out: BTreeSet::new(),
        });
        let over = AtomicBool::new(false);
        Arc::new(Self { id, over, numbers })
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Notes that the state knows it no longer; whether that is news.
    pub fn end(&self) -> bool {
        !self.over.swap(true, Ordering::Relaxed)
    }

    /// Whether the state is known to know it no longer.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The next number; `None` while too many are out.
    pub fn number(self: &Arc<Self>) -> Option<Number> {
        let mut numbers = self.numbers.lock();
        let sequence = numbers.next;
        if sequence - numbers.answered_up_to() > SESSION_OUTCOMES_MAX as u64 {
            return None;
        }
        numbers.next += 1;
        numbers.out.insert(sequence);
        Some(Number {
            session: self.clone(),
            sequence,
        })
    }
}

/// A request's number. It counts as answered when this is dropped: the client has its answer, or has given up. A copy that
/// is still on its way may be applied until the state learns of that, and not afterwards.
#[derive(Debug)]
pub struct Number {
    session: Arc<Session>,
    sequence: u64,
}

impl Number {
    /// The id to send along.
    pub fn id(&self) -> RequestId {
        RequestId {
            session: self.session.id,
            sequence: self.sequence,
            answered_up_to: self.session.numbers.lock().answered_up_to(),
        }
    }

    /// The session that it belongs to.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.session.numbers.lock().out.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(number: &Number) -> (u64, u64) {
        (number.id().sequence, number.id().answered_up_to)
    }

    #[test]
    fn everything_below_the_first_number_that_is_out_is_answered() {
        let session = Session::new(SessionId(7));
        let [one, two, three] = [(); 3].map(|()| session.number().unwrap());
        assert_eq!([ids(&one), ids(&two), ids(&three)], [(1, 0), (2, 0), (3, 0)]);
        drop(two);
        assert_eq!(ids(&three), (3, 0));
        drop(one);
        assert_eq!(ids(&three), (3, 2));
        drop(three);
        assert_eq!(ids(&session.number().unwrap()), (4, 3));
    }

    #[test]
    fn no_more_are_out_than_outcomes_are_kept() {
        let session = Session::new(SessionId(7));
        let mut out: Vec<_> = (0..SESSION_OUTCOMES_MAX)
            .map(|_| session.number().unwrap())
            .collect();
        assert!(session.number().is_none());
        // The oldest one counts: as long as it is out, the state keeps all that came after it.
        drop(out.pop());
        assert!(session.number().is_none());
        drop(out.remove(0));
        assert_eq!(
            session.number().unwrap().id().sequence,
            SESSION_OUTCOMES_MAX as u64 + 1
        );
    }
}
