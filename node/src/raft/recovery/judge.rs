//! Whether a survivor may go on alone, and what may be lost by it; decided by what the survivors' directories say.

use std::fmt;

use super::{Place, Survivor};
use crate::raft::identity::ClusterId;

/// Why it would be unsafe, or of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// It voted for nobody, or holds nothing.
    #[error(
        "this server has {what}, so nothing says that it ever was in touch with its cluster: recover another server, or \
         restore a snapshot (`spine snapshot restore`)"
    )]
    Blank {
        /// What it lacks.
        what: &'static str,
    },
    /// It was removed.
    #[error(
        "this server was removed from its cluster, whose members are {members}: what it holds ends there; recover one of \
         these"
    )]
    Removed {
        /// The members.
        members: String,
    },
    /// It only learned.
    #[error(
        "{server} only learns: it may lack what the voters acknowledged without it; recover one of the voters, which are \
         {voters}"
    )]
    Learner {
        /// Its name.
        server: String,
        /// Those who vote.
        voters: String,
    },
    /// It is a cluster of its own.
    #[error("{server} is the only voter of its cluster: there is nothing to recover, start it")]
    OnlyVoter {
        /// Its name.
        server: String,
    },
    /// Another has more.
    #[error(
        "{other} has more: its log ends at {theirs}, and that of {server} at {own}; recover {other}, then nothing is lost that \
         one of them has"
    )]
    Behind {
        /// Its name.
        server: String,
        /// Where its log ends.
        own: Place,
        /// Who has more.
        other: String,
        /// Where that one's log ends.
        theirs: Place,
    },
    /// Another remembers more of it.
    #[error(
        "this is an old copy of {server}'s directory: {other} remembers {what}; recover {other}, or put {server}'s own newest \
         directory back"
    )]
    OldCopy {
        /// Its name.
        server: String,
        /// Who remembers.
        other: String,
        /// What it remembers, and what is here.
        what: String,
    },
    /// One of those compared is of another cluster.
    #[error("{other} is of cluster {theirs}, and {server} of {own}: compare the servers of one cluster")]
    OtherCluster {
        /// Its name.
        server: String,
        /// Its cluster.
        own: ClusterId,
        /// The other.
        other: String,
        /// That one's cluster.
        theirs: ClusterId,
    },
}

/// What may be lost, or take effect, if a survivor goes on alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Entries at the log's end that are not known here to be committed. They are kept.
    pub unconfirmed: u64,
    /// Entries that are known to be lost, and who said that it has them.
    pub missing: Option<(String, u64)>,
    /// Voters whose directories were not compared: what only they have is lost.
    pub unseen: Vec<String>,
}

/// Whether `me` may go on without the others, of which `compared` are left as well.
///
/// # Errors
/// Why not.
pub fn judge(me: &Survivor, compared: &[Survivor]) -> Result<Loss, Unsafe> {
    let blank = |what| Unsafe::Blank { what };
    let last = me.last.ok_or(blank("no entry in its log"))?;
    if me.term.is_none() {
        return Err(blank("never voted, nor followed a leader"));
    }
    take_part(me)?;
    // Copies of its own directory say nothing of the others.
    for other in compared.iter().filter(|other| other.node != me.node) {
        if other.cluster != me.cluster {
            return Err(Unsafe::OtherCluster {
                server: me.server.clone(),
                own: me.cluster,
                other: other.server.clone(),
                theirs: other.cluster,
            });
        }
        no_old_copy(me, last, other)?;
        if let Some(theirs) = other.last.filter(|theirs| *theirs > last) {
            return Err(Unsafe::Behind {
                server: me.server.clone(),
                own: last,
                other: other.server.clone(),
                theirs,
            });
        }
    }
    Ok(Loss {
        unconfirmed: last.index - me.committed.map_or(0, |committed| committed.min(last.index)),
        missing: missing(me, last),
        unseen: me
            .other_voters()
            .filter(|voter| compared.iter().all(|other| other.node != voter.node))
            .map(|voter| voter.server.clone())
            .collect(),
    })
}

/// Whether it has a vote, among others that have one.
fn take_part(me: &Survivor) -> Result<(), Unsafe> {
    let list = |votes: bool| {
        let named = me.members.iter().filter(|member| member.votes || !votes);
        let named: Vec<_> = named.map(|member| member.server.as_str()).collect();
        named.join(", ")
    };
    match me.own() {
        None => Err(Unsafe::Removed { members: list(false) }),
        Some(own) if !own.votes => Err(Unsafe::Learner {
            server: me.server.clone(),
            voters: list(true),
        }),
        Some(_) if me.other_voters().next().is_none() => Err(Unsafe::OnlyVoter {
            server: me.server.clone(),
        }),
        Some(_) => Ok(()),
    }
}

/// Refuses a directory of which `other` remembers more than there is.
fn no_old_copy(me: &Survivor, last: Place, other: &Survivor) -> Result<(), Unsafe> {
    let said = other.members.iter().find(|member| member.node == me.node);
    let Some(said) = said.and_then(|member| member.said) else {
        return Ok(());
    };
    let what = match said.committed {
        _ if said.starts > me.starts => format!("start {} of it, and here are {}", said.starts, me.starts),
        Some(committed) if committed > last.index => {
            format!(
                "entries of it up to {committed}, and here they end at {}",
                last.index
            )
        }
        Some(_) | None => return Ok(()),
    };
    Err(Unsafe::OldCopy {
        server: me.server.clone(),
        other: other.server.clone(),
        what,
    })
}

/// What another once said that it has, and is not here.
fn missing(me: &Survivor, last: Place) -> Option<(String, u64)> {
    let said = me
        .other_voters()
        .filter_map(|voter| Some((voter, voter.said?.committed?)));
    let (voter, committed) = said.max_by_key(|(_, committed)| *committed)?;
    let missing = committed.checked_sub(last.index).filter(|missing| *missing > 0)?;
    Some((voter.server.clone(), missing))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} of term {}", self.index, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::recovery::{Member, Said};

    const fn at(term: u64, index: u64) -> Place {
        Place { term, index }
    }

    fn member(node: u64, votes: bool) -> Member {
        Member {
            server: format!("n{node}"),
            node,
            peer_address: format!("n{node}:8300"),
            votes,
            said: None,
        }
    }

    /// One of three voters, whose log ends at `last`.
    fn survivor(node: u64, last: Place) -> Survivor {
        Survivor {
            server: format!("n{node}"),
            node,
            cluster: ClusterId(7),
            starts: 3,
            term: Some(last.term),
            last: Some(last),
            committed: Some(last.index.saturating_sub(2)),
            checkpoint: None,
            index: 90,
            revision: 80,
            last_write: None,
            members: (1..=3).map(|node| member(node, true)).collect(),
        }
    }

    fn said(me: &mut Survivor, of: u64, starts: u64, committed: u64) {
        let member = me.members.iter_mut().find(|member| member.node == of).unwrap();
        let committed = Some(committed);
        member.said = Some(Said { starts, committed });
    }

    #[test]
    fn the_one_that_has_most_goes_on() {
        let others = [survivor(2, at(3, 90)), survivor(3, at(2, 100))];
        let loss = judge(&survivor(1, at(3, 90)), &others).unwrap();
        assert_eq!(
            loss,
            Loss {
                unconfirmed: 2,
                ..Loss::default()
            }
        );
        // A later term outweighs a longer log.
        let behind = judge(&others[1], &[survivor(1, at(3, 90))]).unwrap_err();
        assert!(
            matches!(&behind, Unsafe::Behind { other, .. } if other == "n1"),
            "{behind}"
        );
        assert!(behind.to_string().contains("position 90 of term 3"), "{behind}");
        assert!(judge(&survivor(2, at(3, 89)), &[survivor(1, at(3, 90))]).is_err());
    }

    #[test]
    fn who_was_not_compared_and_what_others_had_is_said() {
        let mut me = survivor(1, at(3, 90));
        said(&mut me, 2, 3, 80);
        said(&mut me, 3, 3, 95);
        let loss = judge(&me, &[]).unwrap();
        assert_eq!(loss.missing, Some(("n3".to_owned(), 5)));
        assert_eq!(loss.unseen, ["n2", "n3"]);
        said(&mut me, 3, 3, 90);
        let loss = judge(&me, &[survivor(2, at(3, 80))]).unwrap();
        assert_eq!((loss.missing, loss.unseen), (None, vec!["n3".to_owned()]));
    }

    #[test]
    fn who_has_no_vote_or_no_need_is_refused() {
        let me = survivor(1, at(3, 90));
        let with = |members: Vec<Member>| {
            judge(
                &Survivor {
                    members,
                    ..me.clone()
                },
                &[],
            )
            .unwrap_err()
        };
        let removed = with(vec![member(2, true), member(3, true)]);
        assert!(matches!(removed, Unsafe::Removed { .. }), "{removed}");
        let learner = with(vec![member(1, false), member(2, true)]);
        assert!(learner.to_string().contains("which are n2"), "{learner}");
        let alone = with(vec![member(1, true), member(2, false)]);
        assert!(matches!(alone, Unsafe::OnlyVoter { .. }), "{alone}");
        let mut blank = me.clone();
        blank.term = None;
        assert!(matches!(judge(&blank, &[]), Err(Unsafe::Blank { .. })));
        blank.last = None;
        assert!(matches!(judge(&blank, &[]), Err(Unsafe::Blank { .. })));
    }

    #[test]
    fn an_old_copy_and_a_stranger_are_found_out() {
        let me = survivor(1, at(3, 90));
        for (starts, committed) in [(4, 10), (3, 91)] {
            let mut other = survivor(2, at(3, 80));
            said(&mut other, 1, starts, committed);
            let old = judge(&me, &[other]).unwrap_err();
            assert!(matches!(old, Unsafe::OldCopy { .. }), "{old}");
        }
        let mut other = survivor(2, at(3, 80));
        said(&mut other, 1, 3, 90);
        assert!(judge(&me, &[other]).is_ok());
        let stranger = Survivor {
            cluster: ClusterId(8),
            ..survivor(2, at(1, 1))
        };
        assert!(matches!(
            judge(&me, &[stranger]),
            Err(Unsafe::OtherCluster { .. })
        ));
        // A copy of its own directory.
        assert!(judge(&me, std::slice::from_ref(&me)).is_ok());
    }

    #[cfg(feature = "server")]
    #[test]
    fn what_is_printed_is_read_again() {
        let mut me = survivor(1, at(3, 90));
        said(&mut me, 2, 3, 80);
        let text = serde_json::to_string(&me).unwrap();
        assert!(text.contains("\"0000000000000001\""), "{text}");
        assert_eq!(serde_json::from_str::<Survivor>(&text).unwrap(), me);
    }
}
