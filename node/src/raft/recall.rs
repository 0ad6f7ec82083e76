//! What a server remembers of the others, and what they remember of it.
//!
//! A server that runs on an old copy of its disk has forgotten votes that it gave and entries that it acknowledged;
//! counted among the voters it could undo what the cluster promised. On its own it can't know. So each server tells the
//! others what it has durably ([`Durable`]): at its start, and from then on every few seconds. They keep the greatest,
//! each in a small file, and give it back to whoever starts. Who has less than it once had is refused ([`judge`]).
//!
//! What is told is only what no crash can take back: the start, the vote after its flush, the *committed*
//! part of the log (what is not committed may be replaced by another leader's entries).

use std::{
    collections::BTreeMap,
    fmt, io,
    path::Path,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use prost::Message;
use spine_proto::internal::v1 as proto;

use super::{
    founding::REJOIN,
    note::Note,
    starts::{Boot, Starts},
    wire,
};
use crate::{
    storage::log::{LogState, Position},
    world::{files::Files, lock::DirLock},
};

const FILE: &str = "peers";

/// A vote, as far as it binds: for one candidate in each term, and then for the leader that the term got, which may be
/// another. A candidate votes for itself and follows whoever won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// Whether the node voted for leads the term.
    pub won: bool,
    /// The node voted for.
    pub node: u64,
}

impl Ballot {
    /// What only rises.
    fn rank(self) -> (u64, bool) {
        (self.term, self.won)
    }
}

/// What a server has durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its last start.
    pub boot: Boot,
    /// Its last vote.
    pub vote: Option<Ballot>,
    /// Its log holds everything up to here, and it is committed.
    pub committed: Option<Position>,
}

impl Durable {
    /// What a log in this state, all of it flushed, has durably.
    pub fn of(boot: Boot, log: &LogState) -> Result<Self, wire::Malformed> {
        let vote = log.vote.as_deref().map(wire::decode_vote).transpose()?;
        Ok(Self {
            boot,
            vote: vote.map(|vote| Ballot {
                term: vote.leader_id.term,
                won: vote.committed,
                node: vote.leader_id.voted_for,
            }),
            committed: log.committed.max(log.purged),
        })
    }

    /// The greater of each; the start is `self`'s.
    fn and(self, before: Self) -> Self {
        let vote = match (self.vote, before.vote) {
            (Some(now), Some(then)) if then.rank() > now.rank() => Some(then),
            (now, then) => now.or(then),
        };
        Self {
            boot: self.boot,
            vote,
            committed: self.committed.max(before.committed),
        }
    }
}

/// A server that has less than it once had: it runs on an old copy of its disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this server runs on an old copy of its disk: {witness} remembers {what}. What it acknowledged and voted since is \
     not here, so it must not take part: {REJOIN}"
)]
pub struct OldDisk {
    /// Who remembers more.
    pub witness: String,
    /// What is missing here.
    pub what: Less,
}

/// What a server has less of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Less {
    /// It had a start that this directory has not seen.
    Start {
        /// The number of the present start here.
        own: u64,
        /// The number of the start remembered.
        known: u64,
    },
    /// It voted since, or for another.
    Vote {
        /// The vote here.
        own: Option<Ballot>,
        /// The vote remembered.
        known: Ballot,
    },
    /// Its log was longer.
    Log {
        /// The position here.
        own: Option<u64>,
        /// The position remembered.
        known: u64,
    },
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { own, known } if own < known => {
                write!(f, "start {known} of it, and this is start {own}")
            }
            Self::Start { known, .. } => {
                write!(f, "a start {known} of it that this directory knows nothing of")
            }
            Self::Vote { own: None, known } => write!(f, "a vote in term {}, and here is none", known.term),
            Self::Vote {
                own: Some(own),
                known,
            } => {
                let (term, node) = (known.term, known.node);
                write!(
                    f,
                    "a vote in term {term} for node {node:016x}, and here the last one is "
                )?;
                write!(f, "in term {} for node {:016x}", own.term, own.node)
            }
            Self::Log { own, known } => {
                write!(f, "committed entries up to position {known}, and here they end ")?;
                match own {
                    Some(own) => write!(f, "at {own}"),
                    None => f.write_str("before the first"),
                }
            }
        }
    }
}

/// Whether a server that has `own` and had these starts may take part, when a peer knew `known` of it.
pub fn judge(own: &Durable, starts: &Starts, known: Option<&Durable>) -> Result<(), Less> {
    let Some(known) = known else {
        return Ok(());
    };
    if !starts.has_seen(known.boot) {
        return Err(Less::Start {
            own: own.boot.number,
            known: known.boot.number,
        });
    }
    if let Some(vote) = known.vote {
        let fell = own
            .vote
            .is_none_or(|own| own.rank() < vote.rank() || own.rank() == vote.rank() && own.node != vote.node);
        if fell {
            return Err(Less::Vote {
                own: own.vote,
                known: vote,
            });
        }
    }
    let index = |position: Option<Position>| position.map(|position| position.index);
    match (index(own.committed), index(known.committed)) {
        (own, Some(known)) if own.is_none_or(|own| own < known) => Err(Less::Log { own, known }),
        (_, _) => Ok(()),
    }
}

/// What a server remembers of the others, durably.
#[derive(Debug)]
pub struct Recall {
    note: Note,
    known: Mutex<BTreeMap<u64, Durable>>,
    /// Held while the file is written, so that an older one never replaces a newer one.
    writing: Mutex<()>,
    /// The data directory's lock, where there is one, held while the file is written, and not by this itself: it may be kept
    /// longer than the node.
    lock: Option<Weak<dyn DirLock>>,
}

impl Recall {
    /// What is remembered in `directory`.
    pub fn open(files: Arc<dyn Files>, directory: &Path) -> io::Result<Self> {
        let note = Note::new(files, directory, FILE);
        let known = match note.read()? {
            None => BTreeMap::new(),
            Some(bytes) => decode(&bytes).ok_or_else(|| note.damaged())?,
        };
        Ok(Self {
            note,
            known: Mutex::new(known),
            writing: Mutex::default(),
            lock: None,
        })
    }

    /// The same; nothing is written any more once nobody holds this lock.
    #[must_use]
    pub fn under(self, lock: &Arc<dyn DirLock>) -> Self {
        Self {
            lock: Some(Arc::downgrade(lock)),
            ..self
        }
    }

    fn hold(&self) -> io::Result<Option<Arc<dyn DirLock>>> {
        let Some(lock) = &self.lock else { return Ok(None) };
        let held = lock.upgrade().map(Some);
        held.ok_or_else(|| io::Error::other("this node has ended"))
    }

    /// What is known of a node.
    pub fn of(&self, node: u64) -> Option<Durable> {
        self.known.lock().get(&node).copied()
    }

    /// Forgets those who are members no longer; the file does with the next change.
    pub fn keep(&self, is_member: impl Fn(u64) -> bool) {
        self.known.lock().retain(|node, _| is_member(*node));
    }

    /// Whether a message from this start of a node is to be refused: the node has started since.
    pub fn is_outdated(&self, node: u64, boot_number: u64) -> bool {
        self.of(node).is_some_and(|known| boot_number < known.boot.number)
    }

    /// Remembers what a node says of itself, and gives what was known before. Durable when this returns. Waits for the
    /// disk.
    ///
    /// A new start is taken only from a node that has `shown` that it had the start which is known here. Otherwise an old
    /// copy of its disk would be remembered in its place, and be believed when it starts once more.
    pub fn hear(&self, node: u64, told: Durable, shown: Option<Boot>) -> io::Result<Option<Durable>> {
        let _writing = self.writing.lock();
        let mut known = self.known.lock().clone();
        let before = known.get(&node).copied();
        let now = match before {
            Some(before) if told.boot != before.boot && !succeeds(told.boot, before.boot, shown) => {
                return Ok(Some(before));
            }
            Some(before) => told.and(before),
            None => told,
        };
        if before != Some(now) {
            known.insert(node, now);
            let _held = self.hold()?;
            self.note.write(&encode(&known))?;
            *self.known.lock() = known;
        }
        Ok(before)
    }
}

/// Whether `boot` is a later start of a server that has shown to have had the start `known`.
fn succeeds(boot: Boot, known: Boot, shown: Option<Boot>) -> bool {
    shown == Some(known) && boot.number > known.number
}

#[derive(Clone, PartialEq, Message)]
struct RecallMessage {
    #[prost(btree_map = "uint64, message", tag = "1")]
    known: BTreeMap<u64, proto::Durable>,
}

fn encode(known: &BTreeMap<u64, Durable>) -> Vec<u8> {
    let known = known
        .iter()
        .map(|(node, durable)| (*node, wire::durable_message(durable)));
    RecallMessage {
        known: known.collect(),
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<u64, Durable>> {
    let message = RecallMessage::decode(bytes).ok()?;
    let known = message.known.into_iter();
    known
        .map(|(node, durable)| Some((node, wire::message_durable(durable).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{
        files::OsFiles,
        lock::{DirLocks, OsDirLocks},
    };

    fn durable(number: u64, term: u64, index: u64) -> Durable {
        Durable {
            boot: Boot {
                number,
                start: number,
            },
            vote: Some(Ballot {
                term,
                won: false,
                node: 1,
            }),
            committed: Some(Position {
                term,
                leader: 0,
                index,
            }),
        }
    }

    /// A fifth start on a disk that has a vote in term 3 and ten entries.
    fn judge_fifth(own: &Durable, known: &Durable) -> Result<(), Less> {
        let starts = Starts::of((1..=5).map(|number| Boot {
            number,
            start: number,
        }));
        judge(own, &starts, Some(known))
    }

    #[test]
    fn who_has_all_that_is_known_of_it_may_take_part() {
        let own = durable(5, 3, 10);
        let starts = Starts::of([own.boot]);
        assert_eq!(judge(&own, &starts, None), Ok(()));
        let nothing = Durable {
            vote: None,
            committed: None,
            ..durable(4, 0, 0)
        };
        for known in [own, durable(4, 3, 10), durable(1, 1, 1), nothing] {
            assert_eq!(judge_fifth(&own, &known), Ok(()));
        }
    }

    #[test]
    fn who_has_less_is_on_an_old_disk() {
        let own = durable(5, 3, 10);
        let start = |known| Err(Less::Start { own: 5, known });
        assert_eq!(judge_fifth(&own, &durable(6, 3, 10)), start(6));
        // Two directories had a fifth start, or an earlier one.
        for number in [5, 3] {
            let mut twin = durable(number, 3, 10);
            twin.boot.start = 99;
            assert_eq!(judge_fifth(&own, &twin), start(number));
        }
        let vote = |known| judge_fifth(&own, &known);
        assert!(matches!(vote(durable(4, 4, 10)), Err(Less::Vote { .. })));
        let mut other = durable(4, 3, 10);
        other.vote = Some(Ballot {
            term: 3,
            won: false,
            node: 2,
        });
        assert!(matches!(vote(other), Err(Less::Vote { .. })));
        let log = Err(Less::Log {
            own: Some(10),
            known: 11,
        });
        assert_eq!(judge_fifth(&own, &durable(4, 3, 11)), log);
        let fresh = Durable {
            vote: None,
            committed: None,
            ..own
        };
        assert!(matches!(
            judge_fifth(&fresh, &durable(4, 3, 0)),
            Err(Less::Vote { .. })
        ));
    }

    #[test]
    fn the_greatest_is_remembered_of_a_server_that_is_the_one_known() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Recall::open(Arc::new(OsFiles), directory.path()).unwrap();
        let recall = open();
        assert_eq!(recall.hear(7, durable(2, 3, 10), None).unwrap(), None);
        assert!(recall.is_outdated(7, 1) && !recall.is_outdated(7, 2) && !recall.is_outdated(8, 0));
        // A later start has to know the earlier one.
        let recall = open();
        for shown in [None, Some(durable(1, 0, 0).boot)] {
            assert_eq!(
                recall.hear(7, durable(3, 9, 99), shown).unwrap(),
                Some(durable(2, 3, 10))
            );
        }
        assert_eq!(open().of(7), Some(durable(2, 3, 10)));
        // One that says less is not believed to have less.
        let shown = Some(durable(2, 0, 0).boot);
        assert_eq!(
            recall.hear(7, durable(3, 2, 5), shown).unwrap(),
            Some(durable(2, 3, 10))
        );
        let merged = Durable {
            boot: durable(3, 0, 0).boot,
            ..durable(2, 3, 10)
        };
        assert_eq!(open().of(7), Some(merged));
        let mut twin = durable(3, 9, 99);
        twin.boot.start = 77;
        for older in [durable(2, 9, 99), twin] {
            assert_eq!(recall.hear(7, older, Some(merged.boot)).unwrap(), Some(merged));
        }
        assert_eq!(open().of(7), Some(merged));
        // Within a start nothing has to be shown.
        recall.hear(7, durable(3, 4, 11), None).unwrap();
        assert_eq!(open().of(7), Some(durable(3, 4, 11)));
    }

    #[test]
    fn nothing_is_written_for_a_server_that_has_let_its_directory_go() {
        let directory = tempfile::tempdir().unwrap();
        let lock: Arc<dyn DirLock> = OsDirLocks.lock(directory.path()).unwrap().into();
        let open = || Recall::open(Arc::new(OsFiles), directory.path()).unwrap();
        let recall = open().under(&lock);
        recall.hear(7, durable(2, 3, 10), None).unwrap();
        drop(lock);
        recall.hear(7, durable(2, 3, 11), None).unwrap_err();
        assert_eq!(open().of(7), Some(durable(2, 3, 10)));
    }

    /// In one term a node may vote for itself and then follow another that won; never the other way round.
    #[test]
    fn a_candidate_that_lost_follows_the_winner_of_its_term() {
        let voted = |won, node| Durable {
            vote: Some(Ballot { term: 3, won, node }),
            ..durable(5, 3, 10)
        };
        let earlier = |won, node| Durable {
            boot: durable(4, 3, 10).boot,
            ..voted(won, node)
        };
        assert_eq!(judge_fifth(&voted(true, 2), &earlier(false, 1)), Ok(()));
        let fell = judge_fifth(&voted(false, 1), &earlier(true, 2));
        assert!(matches!(fell, Err(Less::Vote { .. })));
        assert_eq!(voted(false, 1).and(earlier(true, 2)).vote, voted(true, 2).vote);
    }

    #[test]
    fn every_lack_is_said_in_words() {
        let ballot = |term| Ballot {
            term,
            won: false,
            node: 1,
        };
        for (what, words) in [
            (
                Less::Start { own: 5, known: 6 },
                "start 6 of it, and this is start 5",
            ),
            (
                Less::Start { own: 5, known: 5 },
                "a start 5 of it that this directory",
            ),
            (
                Less::Vote {
                    own: Some(ballot(2)),
                    known: ballot(3),
                },
                "term 3",
            ),
            (
                Less::Vote {
                    own: None,
                    known: ballot(3),
                },
                "here is none",
            ),
            (
                Less::Log {
                    own: Some(4),
                    known: 9,
                },
                "at 4",
            ),
            (Less::Log { own: None, known: 9 }, "before the first"),
        ] {
            let witness = "b".to_owned();
            let text = OldDisk { witness, what }.to_string();
            assert!(text.contains(words) && text.contains("spine join"), "{text}");
        }
    }
}
