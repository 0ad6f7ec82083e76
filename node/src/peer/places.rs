//! Where the other servers are reached at this moment, which is not always where the log has them: a server that comes
//! back with another address tells the others, and the log learns of it once there is a leader. If all come back with
//! other addresses there is none before they have found each other.

use std::collections::BTreeMap;

use parking_lot::RwLock;

/// Where servers are, by their node ids. No more than there are members: see [`Places::keep`].
#[derive(Debug, Default)]
pub struct Places(RwLock<BTreeMap<u64, Place>>);

#[derive(Debug, Default)]
struct Place {
    /// Where it says that it is.
    said: Option<String>,
    /// Where another says that it is.
    rumoured: Option<String>,
}

impl Places {
    /// Where to reach a server that the log has at `logged`.
    pub fn of(&self, node: u64, logged: &str) -> String {
        self.said(node).unwrap_or_else(|| logged.to_owned())
    }

    /// Where a server says that it is.
    pub fn said(&self, node: u64) -> Option<String> {
        self.0.read().get(&node)?.said.clone()
    }

    /// Where another says that a server is.
    pub fn rumoured(&self, node: u64) -> Option<String> {
        self.0.read().get(&node)?.rumoured.clone()
    }

    /// A server has said where it is. Gives where it was, if it is elsewhere now.
    pub fn tell(&self, node: u64, address: &str) -> Option<String> {
        if address.is_empty() {
            return None;
        }
        let mut places = self.0.write();
        let place = places.entry(node).or_default();
        if place.said.as_deref() == Some(address) {
            return None;
        }
        place.said.replace(address.to_owned())
    }

    /// Another has said where a server is.
    pub fn rumour(&self, node: u64, address: &str) {
        if !address.is_empty() {
            self.0.write().entry(node).or_default().rumoured = Some(address.to_owned());
        }
    }

    /// Forgets those who are members no longer.
    pub fn keep(&self, is_member: impl Fn(u64) -> bool) {
        self.0.write().retain(|node, _| is_member(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_own_word_counts_more_than_the_log_and_rumours() {
        let places = Places::default();
        assert_eq!(places.of(1, "a:1"), "a:1");
        places.rumour(1, "a:2");
        assert_eq!(
            places.of(1, "a:1"),
            "a:1",
            "a rumour is a place to look at, no more"
        );
        assert_eq!(places.rumoured(1).as_deref(), Some("a:2"));
        assert_eq!(places.tell(1, "a:3"), None);
        assert_eq!(places.of(1, "a:1"), "a:3");
        assert_eq!(places.tell(1, "a:3"), None);
        assert_eq!(places.tell(1, "a:4").as_deref(), Some("a:3"));
        assert_eq!(places.tell(1, ""), None);
        places.keep(|node| node != 1);
        assert_eq!(places.said(1), None);
    }
}
