//! Errors as gRPC statuses, with the metadata that `proto/spine/v1/common.proto` promises.

use spine_core::{Rejection, RejectionRow};
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    read::{Compacted, CursorError},
    registry::Error,
};

const CODE: &str = "spine-code";
const REMEDY: &str = "spine-remedy";
const RETRY: &str = "spine-retry";
const OUTCOME: &str = "spine-outcome";
const OLDEST_INDEX: &str = "spine-oldest-index";

/// The status of an error.
pub(super) fn of(error: &Error) -> Status {
    let (code, row) = (code(error), row(error));
    let mut status = Status::new(code, error.to_string());
    let metadata = status.metadata_mut();
    metadata.insert(CODE, MetadataValue::from_static(row.code));
    metadata.insert(REMEDY, MetadataValue::from_static(row.remedy));
    metadata.insert(
        RETRY,
        MetadataValue::from_static(if row.retry { "true" } else { "false" }),
    );
    let outcome = if is_unknown(error) {
        "unknown"
    } else {
        "not-applied"
    };
    metadata.insert(OUTCOME, MetadataValue::from_static(outcome));
    status
}

/// The status of a server that does not serve yet, and says why: whoever called knows that nothing was done, and tries
/// another.
pub fn not_ready(why: &str) -> Status {
    let mut status = Status::unavailable(why);
    let metadata = status.metadata_mut();
    metadata.insert(CODE, MetadataValue::from_static("not_ready"));
    let remedy = "retry, or at another server; if it lasts, see what the server says that it waits for";
    metadata.insert(REMEDY, MetadataValue::from_static(remedy));
    metadata.insert(RETRY, MetadataValue::from_static("true"));
    metadata.insert(OUTCOME, MetadataValue::from_static("not-applied"));
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
        CursorError::Compacted(Compacted { oldest }) => {
            let mut status = Status::out_of_range(error.to_string());
            let metadata = status.metadata_mut();
            metadata.insert(CODE, MetadataValue::from_static("compacted"));
            let remedy = "read the present state and watch from its applied_index";
            metadata.insert(REMEDY, MetadataValue::from_static(remedy));
            metadata.insert(RETRY, MetadataValue::from_static("false"));
            metadata.insert(OUTCOME, MetadataValue::from_static("not-applied"));
            metadata.insert(OLDEST_INDEX, MetadataValue::from(oldest.0));
            status
        }
    }
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
