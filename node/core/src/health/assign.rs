//! Which server probes which check.

use crate::id::{CheckKey, NodeName};

/// The one of `members` that is to probe `check`, by rendezvous hashing: when a member goes, only its own checks
/// move, and they spread over all that are left.
pub fn assignee<'a>(
    check: &CheckKey,
    members: impl IntoIterator<Item = &'a NodeName>,
) -> Option<&'a NodeName> {
    members.into_iter().max_by_key(|member| {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for part in [member.as_str(), check.node.as_str(), check.id.as_str()] {
            // Lengths keep ("a", "bc") apart from ("ab", "c").
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        (hasher.digest(), *member)
    })
}
