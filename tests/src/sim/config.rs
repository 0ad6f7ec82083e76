//! Who votes, as an entry of the log says: read from its bytes, apart from the node's own code, and held to Raft's rules.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use spine_node::storage::log::{LogEntry, LogStore};
use spine_proto::internal::v1 as proto;

/// What an entry's bytes begin with that says who the members are.
const MEMBERSHIP: [u8; 2] = [0xff, 0xff];
/// Payload bytes read from a log at once.
const READ_BYTES: usize = 8 << 20;

/// The members by one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The set of those who vote; two while they change.
    pub(crate) sets: Vec<BTreeSet<u64>>,
    /// All of them, with their names and addresses.
    pub(crate) servers: BTreeMap<u64, proto::Server>,
}

impl Config {
    /// What an entry says; `None` if it says something else.
    pub(crate) fn of(entry: &LogEntry) -> Result<Option<Self>, String> {
        let Some(bytes) = entry.payload.strip_prefix(&MEMBERSHIP[..]) else {
            return Ok(None);
        };
        let message = proto::Membership::decode(bytes)
            .map_err(|error| format!("members that can't be read at {}: {error}", entry.position.index))?;
        let set = |set: proto::NodeIdSet| set.node_ids.into_iter().collect();
        Ok(Some(Self {
            sets: message.configs.into_iter().map(set).collect(),
            servers: message.servers.into_iter().collect(),
        }))
    }

    /// The newest that a log has behind `committed`, if it has one there.
    pub(crate) fn uncommitted(log: &dyn LogStore, committed: u64) -> Result<Option<Self>, String> {
        let last = log.state().last.map_or(0, |last| last.index);
        if last <= committed {
            return Ok(None);
        }
        let entries = log
            .read(committed + 1..last + 1, READ_BYTES)
            .map_err(|error| format!("its log can't be read: {error}"))?;
        let mut newest = None;
        for entry in entries {
            newest = Self::of(&entry)?.or(newest);
        }
        Ok(newest)
    }

    /// Whether a majority of each set is among those for whom it holds.
    pub(crate) fn has_quorum(&self, holds: impl Fn(u64) -> bool) -> bool {
        self.sets.iter().all(|set| {
            let count = set.iter().filter(|id| holds(**id)).count();
            count > set.len() / 2
        })
    }

    /// Whether a server votes.
    pub(crate) fn votes(&self, id: u64) -> bool {
        self.sets.iter().any(|set| set.contains(&id))
    }

    /// Whether no change of those who vote is half done.
    pub(crate) fn is_settled(&self) -> bool {
        self.sets.len() == 1
    }

    /// Whether it may be the next after `before`: the voters are the same, or change by way of both sets, one out and one in
    /// at most.
    pub(crate) fn may_follow(&self, before: &Self) -> Result<(), String> {
        let right = match (&before.sets[..], &self.sets[..]) {
            ([old], [new]) => old == new,
            ([old], [first, second]) => {
                old == first && first.difference(second).count() <= 1 && second.difference(first).count() <= 1
            }
            ([_, second], [new]) => second == new,
            (old, new) => old == new,
        };
        let everybody = self.sets.iter().flatten();
        let known = everybody.clone().all(|id| self.servers.contains_key(id));
        if right && known && everybody.count() > 0 {
            Ok(())
        } else {
            Err(format!("the members go from {before:?} to {self:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sets: &[&[u64]]) -> Config {
        let sets: Vec<BTreeSet<u64>> = sets.iter().map(|set| set.iter().copied().collect()).collect();
        let ids: BTreeSet<u64> = sets.iter().flatten().copied().collect();
        Config {
            servers: ids.into_iter().map(|id| (id, proto::Server::default())).collect(),
            sets,
        }
    }

    #[test]
    fn voters_change_by_way_of_both_sets_and_one_at_a_time() {
        let may = |from: &[&[u64]], to: &[&[u64]]| config(to).may_follow(&config(from)).is_ok();
        assert!(may(&[&[1, 2]], &[&[1, 2]]));
        assert!(may(&[&[1, 2]], &[&[1, 2], &[1, 2, 3]]));
        assert!(may(&[&[1, 2, 3]], &[&[1, 2, 3], &[1, 2, 4]]));
        assert!(may(&[&[1, 2], &[1, 2, 3]], &[&[1, 2, 3]]));
        assert!(!may(&[&[1, 2]], &[&[1, 2, 3]]));
        assert!(!may(&[&[1, 2, 3]], &[&[1, 2, 3], &[1]]));
        assert!(!may(&[&[1, 2], &[1, 2, 3]], &[&[1, 2]]));
        assert!(!may(&[&[1]], &[&[]]));
        let stranger = Config {
            servers: BTreeMap::new(),
            ..config(&[&[1]])
        };
        assert!(stranger.may_follow(&config(&[&[1]])).is_err());
    }

    #[test]
    fn a_majority_is_needed_of_each_set() {
        let joint = config(&[&[1, 2, 3], &[1, 4, 5]]);
        assert!(joint.has_quorum(|id| [1, 2, 4].contains(&id)));
        assert!(!joint.has_quorum(|id| [1, 2, 3].contains(&id)));
        assert!(joint.votes(5) && !joint.votes(6));
    }
}
