//! Do all servers hold the same state? It follows from the log, so it should; this looks whether it does.
//!
//! Whoever applies leaves a [`Mark`] where the index passes a multiple of 1,000: after the same entry on every server.
//! Each server asks the others for theirs about once a second ([`peers`]) and compares ([`compare`]). One that a majority
//! of the voters contradicts has gone astray and ends, before anybody reads more from it; a peer that differs is named in
//! the log and counted.

mod compare;
pub mod peers;

use std::{collections::VecDeque, fmt};

use parking_lot::Mutex;
use spine_core::{Index, State};

pub use self::compare::{Comparison, Difference};
use crate::limits;

/// A mark is left where the index passes a multiple of this.
const MARK_EVERY: u64 = 1_000;

/// What a state came to after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The newest index in it.
    pub index: Index,
    /// Its digest.
    pub digest: u128,
}

impl Mark {
    /// Which of all marks it is: servers leave those of one number after the same entry.
    fn number(&self) -> u64 {
        self.index.0 / MARK_EVERY
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "digest {:032x} at index {}", self.digest, self.index)
    }
}

/// The newest marks of this server, by index. The task that applies leaves them, others read.
#[derive(Debug, Default)]
pub struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    /// Takes note of a state to which an entry has been applied; `before` was its index until then.
    pub fn note(&self, before: Index, state: &State) {
        let index = state.index();
        if index.0 / MARK_EVERY == before.0 / MARK_EVERY {
            return;
        }
        let digest = state.digest();
        let mut marks = self.0.lock();
        // A state that came whole may stand before those that were left already.
        marks.retain(|mark| mark.index < index);
        if marks.len() == limits::DIGEST_MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back(Mark { index, digest });
    }

    /// Those of greater indexes.
    pub fn after(&self, index: Index) -> Vec<Mark> {
        let marks = self.0.lock();
        marks.iter().filter(|mark| mark.index > index).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use spine_core::{Command, Entry, Request, Time, WallTime};

    use super::*;

    fn apply(state: &mut State, marks: &Marks, requests: usize) {
        let before = state.index();
        state.apply(&Entry {
            time: Time(0),
            wall: WallTime(0),
            requests: vec![Request::internal(Command::Pulse); requests],
        });
        marks.note(before, state);
    }

    #[test]
    fn a_mark_is_left_after_the_entry_that_reaches_or_passes_a_multiple() {
        let (mut state, marks) = (State::new(), Marks::default());
        for requests in [999, 1, 1, 1_500, 0, 497, 1] {
            apply(&mut state, &marks, requests);
        }
        let indexes: Vec<_> = marks.after(Index(0)).iter().map(|mark| mark.index.0).collect();
        assert_eq!(indexes, [1_000, 2_501]);
        apply(&mut state, &marks, 1);
        assert_eq!(marks.after(Index(2_501)).len(), 1);
        assert_eq!(marks.after(Index(2_501))[0].digest, state.digest());
    }

    #[test]
    fn the_newest_are_kept() {
        let (mut state, marks) = (State::new(), Marks::default());
        for _ in 0..limits::DIGEST_MARKS_MAX + 3 {
            apply(&mut state, &marks, 1_000);
        }
        let kept = marks.after(Index(0));
        assert_eq!(kept.len(), limits::DIGEST_MARKS_MAX);
        assert_eq!(kept[0].index, Index(4_000));
    }
}
