//! Names and numbers of the registry, each its own type so that none can be taken for another.

use std::{borrow::Borrow, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// The core's own counter: raised by 1 for each request applied, stamped on every row that the request
    /// changed. Consul's index; what blocking queries and watches wait for. Not a Raft log position.
    Index
}
counter! {
    /// etcd's counter, on key rows only: raised by 1 for each request that changes at least one key.
    /// A fresh store is at revision 1.
    Revision
}
counter! {
    /// A request session, see [`crate::dedup`]. Its number is the `Index` that opened it.
    SessionId
}

/// An invalid name, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what} {problem}")]
pub struct NameError {
    /// Which kind of name it is.
    pub what: Arc<str>,
    /// What is wrong with it.
    pub problem: Arc<str>,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name that a stranger gave.
            ///
            /// # Errors
            /// Empty, longer than [`crate::limits::NAME_BYTES_MAX`], or with a control character.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_name($what, text).map(|()| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Sorts before every name: where a range begins.
            pub fn least() -> Self {
                Self(Arc::from(""))
            }

            /// Says why this name, which may have come from the log unparsed, is not one.
            pub(crate) fn check(&self) -> Result<(), NameError> {
                check_name($what, &self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// As the text would be: errors quote names by it.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// The name of a catalog node: a machine, or a Spine server.
    NodeName, "node name"
}
name! {
    /// The name of a service; its instances share it.
    ServiceName, "service name"
}
name! {
    /// The id of a service instance, unique on its node.
    InstanceId, "service ID"
}
name! {
    /// The id of a check, unique on its node.
    CheckId, "check ID"
}

fn check_name(what: &str, text: &str) -> Result<(), NameError> {
    let refuse = |problem: String| {
        Err(NameError {
            what: what.into(),
            problem: problem.into(),
        })
    };
    if text.is_empty() {
        return refuse("must not be empty".into());
    }
    if text.len() > crate::limits::NAME_BYTES_MAX {
        return refuse(format!(
            "is {} bytes long, at most {} are allowed",
            text.len(),
            crate::limits::NAME_BYTES_MAX
        ));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => refuse(format!("holds the control character {c:?}")),
        None => Ok(()),
    }
}

/// The key of a key/value row: raw bytes in byte order, a slash has no meaning.
pub type Key = Bytes;

/// A lease: what a row that must not outlive its owner hangs on. etcd's lease numbers are its lower 64 bits,
/// a Consul session's UUID is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u128);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An instance's identity: two servers may hold the same id for two instances, so the node belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The node that it is registered under.
    pub node: NodeName,
    /// Its id there.
    pub id: InstanceId,
}

/// A check's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckKey {
    /// The node that it is registered under.
    pub node: NodeName,
    /// Its id there.
    pub id: CheckId,
}
