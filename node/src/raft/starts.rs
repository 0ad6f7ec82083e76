//! The starts of a server: how many there were, and a random number that each of them drew.
//!
//! The number alone would not give an old copy of a disk away for long: started often enough, the copy would count past
//! what the peers remember. So each start draws a random number as well and writes both down, and a peer that remembers
//! start 7 with its random number can be asked about: a directory that does not know *that* start 7 is not the one that
//! the peer has met.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use prost::Message;

use super::{identity, note::Note};
use crate::world::{files::Files, rng::Rng};

const FILE: &str = "starts";
/// Starts that are remembered. A peer whose memory of this server is older is not contradicted.
const STARTS_MAX: usize = 1_024;

/// A start of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// How many starts there were on this data, this one included.
    pub number: u64,
    /// Random: tells two starts with the same number apart.
    pub start: u64,
}

/// The starts that a directory has seen, the present one last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts {
    present: Boot,
    /// Random numbers by number of the start.
    drawn: BTreeMap<u64, u64>,
}

impl Starts {
    /// Notes another start in `directory`, durably.
    pub fn another(files: &Arc<dyn Files>, directory: &Path, rng: &dyn Rng) -> io::Result<Self> {
        let number = identity::raise_boot_number(&**files, directory)?;
        let note = Note::new(files.clone(), directory, FILE);
        let mut drawn = match note.read()? {
            None => BTreeMap::new(),
            Some(bytes) => StartsMessage::decode(bytes).map_err(|_| note.damaged())?.drawn,
        };
        let start = rng.bits();
        drawn.insert(number, start);
        while drawn.len() > STARTS_MAX {
            drawn.pop_first();
        }
        note.write(&StartsMessage { drawn: drawn.clone() }.encode_to_vec())?;
        Ok(Self {
            present: Boot { number, start },
            drawn,
        })
    }

    /// These starts, the last one the present.
    #[cfg(test)]
    pub(super) fn of(boots: impl IntoIterator<Item = Boot>) -> Self {
        let boots: Vec<Boot> = boots.into_iter().collect();
        Self {
            present: *boots.last().unwrap(),
            drawn: boots.iter().map(|boot| (boot.number, boot.start)).collect(),
        }
    }

    /// The present one.
    pub fn present(&self) -> Boot {
        self.present
    }

    /// Whether this directory has seen the start that somebody remembers. A start before the first that is written down
    /// counts as seen.
    pub fn has_seen(&self, boot: Boot) -> bool {
        let first = self.drawn.first_key_value().map(|(number, _)| *number);
        first.is_some_and(|first| boot.number < first) || self.drawn.get(&boot.number) == Some(&boot.start)
    }
}

#[derive(Clone, PartialEq, Message)]
struct StartsMessage {
    #[prost(btree_map = "uint64, fixed64", tag = "1")]
    drawn: BTreeMap<u64, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{files::OsFiles, rng::OsRng};

    fn another(directory: &Path) -> Starts {
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        Starts::another(&files, directory, &OsRng).unwrap()
    }

    #[test]
    fn a_directory_knows_its_own_starts_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let first = another(directory.path()).present();
        let starts = another(directory.path());
        let second = starts.present();
        assert_eq!((first.number, second.number), (1, 2));
        assert!(starts.has_seen(first) && starts.has_seen(second));
        let elsewhere = Boot {
            start: !second.start,
            ..second
        };
        assert!(!starts.has_seen(elsewhere));
        assert!(!starts.has_seen(Boot { number: 3, start: 0 }));
    }

    #[test]
    fn an_old_copy_that_is_started_often_is_still_not_what_it_was() {
        let (own, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        another(own.path());
        for file in ["boot", FILE] {
            std::fs::copy(own.path().join(file), copy.path().join(file)).unwrap();
        }
        let remembered = another(own.path()).present();
        for _ in 0..5 {
            assert!(!another(copy.path()).has_seen(remembered));
        }
        assert!(another(own.path()).has_seen(remembered));
    }

    #[test]
    fn starts_are_forgotten_in_the_end_and_then_not_contradicted() {
        let drawn = (5..9).map(|number| (number, number)).collect();
        let starts = Starts {
            present: Boot { number: 8, start: 8 },
            drawn,
        };
        assert!(starts.has_seen(Boot { number: 4, start: 99 }));
        assert!(!starts.has_seen(Boot { number: 5, start: 99 }));
    }
}
