//! What many checks make of one thing: the worst of them.

use crate::command::Status;

/// The worst of these statuses; passing if there are none.
pub fn worst(statuses: impl IntoIterator<Item = Status>) -> Status {
    statuses.into_iter().max().unwrap_or(Status::Passing)
}
