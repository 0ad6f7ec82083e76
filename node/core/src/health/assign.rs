//! Which server probes which check.

use std::cmp::Reverse;

use crate::id::{CheckKey, NodeName};

/// `members` in the order in which they are to probe `check`: the first one that lives does. By rendezvous hashing:
/// when a member goes, only its own checks move, and they spread over all that are left.
pub fn ranking<'a>(check: &CheckKey, members: impl IntoIterator<Item = &'a NodeName>) -> Vec<&'a NodeName> {
    let mut ranked: Vec<_> = members
        .into_iter()
        .map(|member| {
            let mut hasher = xxhash_rust::xxh3::Xxh3::new();
            for part in [member.as_str(), check.node.as_str(), check.id.as_str()] {
                // Lengths keep ("a", "bc") apart from ("ab", "c").
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            Reverse((hasher.digest(), member))
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|Reverse((_, member))| member).collect()
}
