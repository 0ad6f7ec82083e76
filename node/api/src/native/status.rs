//! Errors as gRPC statuses, with the metadata that `proto/spine/v1/common.proto` promises.

use std::time::Duration;

use http::HeaderMap;
use spine_core::{Index, Rejection, RejectionRow, State};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    read::{Compacted, CursorError},
    registry::Error,
};

const CODE: &str = "spine-code";
const REMEDY: &str = "spine-remedy";
const RETRY: &str = "spine-retry";
const OUTCOME: &str = "spine-outcome";
const OLDEST_INDEX: &str = "spine-oldest-index";

/// Nothing was written, now or later.
pub(super) const NOT_APPLIED: &str = "not-applied";
/// The write may have taken effect, or may yet.
const UNKNOWN: &str = "unknown";

/// Says in a status's metadata what it means, and what became of the call.
pub(super) fn tell(metadata: &mut MetadataMap, row: &RejectionRow, outcome: &'static str) {
    metadata.insert(CODE, MetadataValue::from_static(row.code));
    metadata.insert(REMEDY, MetadataValue::from_static(row.remedy));
    let retry = if row.retry { "true" } else { "false" };
    metadata.insert(RETRY, MetadataValue::from_static(retry));
    metadata.insert(OUTCOME, MetadataValue::from_static(outcome));
}

/// Whether a status says what it means already.
pub(super) fn is_told(headers: &HeaderMap) -> bool {
    headers.contains_key(CODE)
}

/// The status of an error.
pub(super) fn of(error: &Error) -> Status {
    let mut status = Status::new(code(error), error.to_string());
    let outcome = if is_unknown(error) { UNKNOWN } else { NOT_APPLIED };
    tell(status.metadata_mut(), &row(error), outcome);
    status
}

/// The status of a server that does not serve yet, and says why: whoever called knows that nothing was done, and tries
/// another.
pub fn not_ready(why: &str) -> Status {
    let mut status = Status::unavailable(why);
    let row = RejectionRow {
        code: "not_ready",
        meaning: "the server starts, or has heard of no leader for some time",
        remedy: "retry, or at another server; if it lasts, see what the server says that it waits for",
        retry: true,
    };
    tell(status.metadata_mut(), &row, NOT_APPLIED);
    status
}

/// The status of a client that takes nothing of what it asked for.
pub(super) fn slow_reader(pause: Duration) -> Status {
    let mut status = Status::aborted(format!("the client took nothing for {pause:?}"));
    let row = RejectionRow {
        code: "slow_reader",
        meaning: "the client took nothing for too long",
        remedy: "begin again, and take what comes",
        retry: true,
    };
    tell(status.metadata_mut(), &row, NOT_APPLIED);
    status
}

/// Whether the command may have taken effect, now or in an earlier attempt of the same request.
fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::Unknown(_) | Error::Refused(Rejection::UnknownSession(_) | Rejection::AnsweredBefore { .. })
    )
}

/// The status that ends a watch.
pub(super) fn of_cursor(error: &CursorError) -> Status {
    match error {
        CursorError::Registry(error) => of(error),
        CursorError::Compacted(Compacted { oldest }) => compacted(error.to_string(), *oldest),
    }
}

/// The status of a watch that was to go on from a place that this cluster, whose present state this is, has never given.
pub(super) fn of_another_life(place: Index, state: &State) -> Status {
    let text = format!(
        "index {place} is of another life of the cluster, which stands at {}: its data were restored or begun anew",
        state.index()
    );
    compacted(text, state.changes().oldest())
}

/// What the client has seen can't be gone on from: it reads everything anew.
fn compacted(text: String, oldest: Index) -> Status {
    let mut status = Status::out_of_range(text);
    let row = RejectionRow {
        code: "compacted",
        meaning: "what lies behind the index is no longer kept, or the index is of another life of the cluster",
        remedy: "read the present state and watch from its applied_index",
        retry: false,
    };
    let metadata = status.metadata_mut();
    tell(metadata, &row, NOT_APPLIED);
    metadata.insert(OLDEST_INDEX, MetadataValue::from(oldest.0));
    status
}

/// What an error means to the one who gets it: refusals have the core's rows, the rest is here.
fn row(error: &Error) -> RejectionRow {
    let (code, meaning, remedy, retry) = match error {
        Error::Refused(rejection) => return rejection.row(),
        Error::NoLeader => (
            "no_leader",
            "no leader is known: nothing was proposed",
            "retry; if it lasts, look for a lost majority of servers",
            true,
        ),
        Error::Unknown(_) => (
            "outcome_unknown",
            "the command was proposed and no answer came in time",
            "read whether it took effect before trying again",
            false,
        ),
        Error::Deadline(_) => (
            "deadline",
            "the read was not answered before its deadline",
            "retry with a longer deadline, or read stale",
            true,
        ),
        Error::Overloaded { .. } => (
            "overloaded",
            "too much is waiting at this server",
            "retry later, or at another server",
            true,
        ),
        Error::ShuttingDown => (
            "shutting_down",
            "the server is stopping",
            "retry at another server",
            true,
        ),
        Error::Unsupported(_) => (
            "unsupported",
            "this release can't do that",
            "see the documentation of this release",
            false,
        ),
        Error::NoMember(_) => (
            "no_member",
            "no server has this name",
            "look at the list of members",
            false,
        ),
        Error::Unsafe(_) => (
            "unsafe",
            "the cluster could not go on",
            "do what the message says",
            false,
        ),
    };
    RejectionRow {
        code,
        meaning,
        remedy,
        retry,
    }
}

fn code(error: &Error) -> Code {
    match error {
        Error::NoLeader | Error::ShuttingDown => Code::Unavailable,
        // Not DEADLINE_EXCEEDED or UNAVAILABLE, which generic clients retry.
        Error::Unknown(_) => Code::Unknown,
        Error::Deadline(_) => Code::DeadlineExceeded,
        Error::Overloaded { .. } => Code::ResourceExhausted,
        Error::Unsupported(_) => Code::Unimplemented,
        Error::NoMember(_) => Code::NotFound,
        Error::Unsafe(_) => Code::FailedPrecondition,
        Error::Refused(rejection) => code_of_rejection(rejection),
    }
}

fn code_of_rejection(rejection: &Rejection) -> Code {
    match rejection {
        Rejection::Invalid(_) | Rejection::Name(_) | Rejection::TooLarge { .. } => Code::InvalidArgument,
        Rejection::TooMany { .. } | Rejection::QuotaExceeded { .. } => Code::ResourceExhausted,
        Rejection::UnknownNode(_)
        | Rejection::UnknownInstance(_)
        | Rejection::UnknownCheck(_)
        | Rejection::UnknownLease(_)
        | Rejection::UnknownMember { .. } => Code::NotFound,
        Rejection::NodeIdTaken { .. } | Rejection::LeaseExists(_) => Code::AlreadyExists,
        Rejection::NotTtl(_)
        | Rejection::Ambiguous { .. }
        | Rejection::StaleAssignment(_)
        | Rejection::CheckCritical(_)
        | Rejection::UnknownSession(_)
        | Rejection::AnsweredBefore { .. }
        | Rejection::RulesUnsupported { .. }
        | Rejection::RulesTooLow { .. } => Code::FailedPrecondition,
        Rejection::Compacted { .. } | Rejection::FutureRevision { .. } => Code::OutOfRange,
    }
}
