//! Errors, by what the caller can do about them.

use std::{error::Error as StdError, fmt, sync::Arc};

use tonic::{Code, ConnectError, Status};

/// What a call gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call has no answer.
///
/// What it displays is whole, one line for people. Its [`source`](StdError::source) is for programs: where a call failed by
/// gRPC, the [`Status`] with its code and metadata, and below that what the transport says, down to the error of the operating
/// system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The cluster's rules refuse the request; nothing was written. Change the request, as the refusal says.
    Refused(Refusal),
    /// The write was proposed, and no answer came: it may have taken effect, or may yet. Read before trying again.
    Unknown(Reason),
    /// No leader was found before the deadline; nothing was written. Most likely most servers are down or apart.
    NoLeader,
    /// The server could not confirm a read before the deadline. Try again, or read stale.
    Deadline(Reason),
    /// Too much is waiting at the servers; nothing was written. Try again later.
    Overloaded(Reason),
    /// No server could be reached before the deadline; nothing was written.
    Unreachable(Reason),
    /// A stream ended before its end; nothing was written. Begin it again.
    BrokenOff(Reason),
    /// A watch can't go on: what happened behind its index is no longer kept, or the index is of another life of the
    /// cluster, as before its data were restored. Read the present state, and watch from its `applied_index`.
    Compacted {
        /// The oldest index that is kept.
        oldest: u64,
    },
    /// The lease that a lock or a leadership hangs on is lost, and they with it.
    LeaseLost,
    /// The client was built with something that can't be.
    Config(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unknown(reason) => write!(f, "outcome unknown: {reason}"),
            Self::NoLeader => f.write_str("no cluster leader"),
            Self::Unreachable(reason) => write!(f, "no server answers: {reason}"),
            Self::Deadline(reason) | Self::Overloaded(reason) | Self::BrokenOff(reason) => reason.fmt(f),
            Self::Compacted { oldest } => write!(
                f,
                "changes before index {oldest} are no longer kept, or they are another cluster's"
            ),
            Self::LeaseLost => f.write_str("the lease was lost"),
            Self::Config(what) => f.write_str(what),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unknown(reason)
            | Self::Deadline(reason)
            | Self::Overloaded(reason)
            | Self::Unreachable(reason)
            | Self::BrokenOff(reason) => reason.status().map(|status| status as _),
            Self::Refused(_)
            | Self::NoLeader
            | Self::Compacted { .. }
            | Self::LeaseLost
            | Self::Config(_) => None,
        }
    }
}

/// What went wrong, in words, and the gRPC status that says so, if there is one. Two of the same words are equal.
#[derive(Clone)]
pub struct Reason {
    words: Arc<str>,
    status: Option<Arc<Status>>,
}

impl Reason {
    fn of(status: &Status, words: impl Into<Arc<str>>) -> Self {
        Self {
            words: words.into(),
            status: Some(Arc::new(status.clone())),
        }
    }

    /// What the server said, no more.
    fn said(status: &Status) -> Self {
        Self::of(status, status.message())
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.words
    }

    /// How the call ended; `None` where nothing came back.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_deref()
    }
}

impl<T: Into<Arc<str>>> From<T> for Reason {
    fn from(words: T) -> Self {
        Self {
            words: words.into(),
            status: None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// The words alone: a status has pages to say, and is there for who asks.
impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Reason {}

/// Why the cluster's rules refuse a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Refusal {
    /// A word for programs, stable for ever, such as `unknown_node`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// What to do, for people; may be empty.
    pub remedy: String,
    /// Whether the same request may succeed later.
    pub retry: bool,
    /// Whether what is missing is the thing asked for.
    pub not_found: bool,
}

impl Error {
    /// Whether nothing was written, now or later.
    pub fn is_not_applied(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    /// What is known once a numbered write ends with this, where an earlier sending of it is in doubt.
    pub(crate) fn after(self, doubt: Option<Self>) -> Self {
        match (&self, doubt) {
            (_, None) => self,
            (Self::Refused(refusal), Some(_)) if OUTCOMES.contains(&refusal.code.as_str()) => self,
            (Self::Unknown(_), Some(doubt)) => doubt,
            (_, Some(Self::Unknown(doubt))) => Self::Unknown(Reason {
                words: format!("{doubt}; then it was refused: {self}").into(),
                ..doubt
            }),
            (_, Some(doubt)) => doubt,
        }
    }
}

/// The refusals that only a command gives as it is applied. The cluster remembers them under the number of the write, so
/// after a lost answer they are the outcome of that sending, too. Every other one may be of the last sending alone: a
/// server refuses much before it proposes anything, and what is proposed already may be applied all the same.
const OUTCOMES: [&str; 7] = [
    "unknown_node",
    "unknown_instance",
    "unknown_check",
    "unknown_lease",
    "not_ttl",
    "node_id_taken",
    "check_critical",
];

/// What a call does, as far as trying again is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing: it may be sent any number of times.
    Read,
    /// It changes something: it may be sent again only if it was not applied, or under the number that it had.
    Write,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) next: Next,
}

/// What a failed attempt leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another attempt would fare no better.
    Stop,
    /// Nothing was done: another attempt is safe, and may fare better.
    Again,
    /// It may have been done: another attempt is safe only under the number of this one.
    Doubt,
    /// The session of its number is not open, so this attempt did nothing.
    SessionGone,
}

impl Failure {
    fn stop(error: Error) -> Self {
        let next = Next::Stop;
        Self { error, next }
    }

    fn again(error: Error) -> Self {
        let next = Next::Again;
        Self { error, next }
    }

    fn doubt(reason: Reason) -> Self {
        Self {
            error: Error::Unknown(reason),
            next: Next::Doubt,
        }
    }

    fn session_gone(reason: Reason) -> Self {
        Self {
            error: Error::Unknown(reason),
            next: Next::SessionGone,
        }
    }

    /// Of two servers' failures, whether this one tells the caller more: that a write may have been applied, or "no
    /// leader", says more than "connection refused" elsewhere.
    pub(crate) fn says_more_than(&self, other: &Self) -> bool {
        let rank = |failure: &Self| match failure.next {
            Next::Doubt => 2,
            Next::Again if matches!(failure.error, Error::Unreachable(_)) => 0,
            Next::Stop | Next::Again | Next::SessionGone => 1,
        };
        rank(self) > rank(other)
    }

    /// Nothing came back in time.
    pub(crate) fn silence(kind: Kind, server: &str) -> Self {
        Self::lost(kind, format!("{server} did not answer in time").into())
    }

    /// The request may have arrived, and the answer did not.
    fn lost(kind: Kind, reason: Reason) -> Self {
        match kind {
            Kind::Read => Self::again(Error::Unreachable(reason)),
            Kind::Write => Self::doubt(reason),
        }
    }

    pub(crate) fn of(status: &Status, kind: Kind, server: &str) -> Self {
        let said = Reason::said;
        match text(status, "spine-code") {
            Some("unknown_session") => Self::session_gone(said(status)),
            Some("answered_before") => Self::stop(Error::Unknown(said(status))),
            Some(_) if text(status, "spine-outcome") == Some("unknown") => {
                let words = status.message();
                let words = words.strip_prefix("outcome unknown: ").unwrap_or(words);
                Self::doubt(Reason::of(status, words))
            }
            Some("no_leader") => Self::again(Error::NoLeader),
            Some("overloaded") => Self::again(Error::Overloaded(said(status))),
            Some("shutting_down" | "not_ready") => Self::again(Error::Unreachable(said_by(server, status))),
            // That server did not get there; another one may be further.
            Some("deadline") => Self::again(Error::Deadline(said(status))),
            Some(code) => Self::stop(refused(status, code)),
            None => Self::without_rules(status, kind, server),
        }
    }

    /// A status that the server's rules did not write: the connection broke, or the message never reached them.
    fn without_rules(status: &Status, kind: Kind, server: &str) -> Self {
        if was_not_sent(status) {
            let words = format!("{server}: {}", innermost(status));
            return Self::again(Error::Unreachable(Reason::of(status, words)));
        }
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => {
                let code = format!("{:?}", status.code()).to_lowercase();
                Self::stop(refused(status, &code))
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::lost(kind, said_by(server, status)),
        }
    }
}

fn said_by(server: &str, status: &Status) -> Reason {
    Reason::of(status, format!("{server}: {}", status.message()))
}

/// A stream that has no use before its end was cut off.
pub(crate) fn broken_off(what: &str, status: &Status) -> Error {
    Error::BrokenOff(Reason::of(status, format!("{what}: {}", status.message())))
}

fn refused(status: &Status, code: &str) -> Error {
    let oldest = text(status, "spine-oldest-index").and_then(|index| index.parse().ok());
    if let Some(oldest) = oldest {
        return Error::Compacted { oldest };
    }
    Error::Refused(Refusal {
        code: code.to_owned(),
        message: status.message().to_owned(),
        remedy: text(status, "spine-remedy").unwrap_or_default().to_owned(),
        retry: text(status, "spine-retry") == Some("true"),
        not_found: status.code() == Code::NotFound,
    })
}

fn text<'a>(status: &'a Status, key: &str) -> Option<&'a str> {
    status.metadata().get(key)?.to_str().ok()
}

fn was_not_sent(status: &Status) -> bool {
    causes(status).any(<dyn StdError>::is::<ConnectError>)
}

/// The cause that says most: that of the operating system.
fn innermost(status: &Status) -> String {
    causes(status)
        .last()
        .map_or_else(|| status.message().to_owned(), ToString::to_string)
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |cause| (*cause).source())
}
