//! What Consul's clients read when something is refused: one table of texts and status codes.
//!
//! Errors are plain text. Clients print them, and some look for a part of one, so where Consul has a text for the
//! case it is that text. Lock, semaphore and watch helpers retry on 500 and on broken connections only: so what
//! may be retried without harm, above all a missing leader, is 500, and what may not is something else.

use http::{HeaderName, HeaderValue, StatusCode, header};
use spine_core::{NameError, NodeName, Rejection};

use super::{filter::FilterError, reply::Reply};
use crate::registry;

/// Why a request is not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The endpoint doesn't take this method.
    #[error("method {method} not allowed")]
    MethodNotAllowed {
        /// The method.
        method: http::Method,
        /// Those that it takes.
        allow: String,
    },
    /// There is no such endpoint.
    #[error("Invalid URL path {0:?}: not a recognized HTTP API endpoint")]
    NoSuchPath(String),
    /// A name in the path is not UTF-8.
    #[error("Invalid URL path: not UTF-8 behind the percent signs")]
    PathEncoding,
    /// The body is larger than allowed.
    #[error("Request body({size} bytes) too large, max size: {limit} bytes")]
    BodyTooLarge {
        /// Its size, or what was read of it.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The body broke off.
    #[error("Request body could not be read: {0}")]
    BodyBroken(String),
    /// The body is not what the endpoint takes.
    #[error("Request decode failed: {0}")]
    Decode(String),
    /// A field or parameter is missing, or has a value that it can't have: the text says which.
    #[error("{0}")]
    BadRequest(String),
    /// A parameter has a value that it can't have.
    #[error("Invalid value for ?{name}")]
    InvalidParameter {
        /// The parameter.
        name: &'static str,
    },
    /// `?index` is not a number.
    #[error("Invalid index")]
    InvalidIndex,
    /// `?wait` is not a duration.
    #[error("Invalid wait time")]
    InvalidWait,
    /// `?max_stale` is not a duration.
    #[error("Invalid max_stale value {0:?}")]
    InvalidMaxStale(String),
    /// Both consistency modes.
    #[error("Cannot specify ?stale with ?consistent, conflicting semantics.")]
    ConflictingConsistency,
    /// Parameters that exclude each other.
    #[error("Conflicting flags: {0}")]
    ConflictingFlags(String),
    /// A parameter of the Enterprise edition.
    #[error("Invalid query parameter: {name:?} - {feature} are a Consul Enterprise feature")]
    Enterprise {
        /// The parameter.
        name: &'static str,
        /// What it would choose.
        feature: &'static str,
    },
    /// `?filter` is not an expression over what is listed.
    #[error("Failed to create boolean expression evaluator: {0}")]
    Filter(#[from] FilterError),
    /// Another datacenter is named.
    #[error("No path to datacenter")]
    NoDatacenter,
    /// A key is needed.
    #[error("Missing key name")]
    MissingKey,
    /// A service's name is needed.
    #[error("Missing service name")]
    MissingServiceName,
    /// A service's ID is needed.
    #[error("Missing service ID")]
    MissingServiceId,
    /// A check's name is needed.
    #[error("Missing check name")]
    MissingCheckName,
    /// A check's state is needed.
    #[error("Missing check state")]
    MissingCheckState,
    /// A node's name is needed.
    #[error("Missing node name")]
    MissingNodeName,
    /// A catalog registration without a node or its address.
    #[error("Must provide node and address")]
    MissingNodeAndAddress,
    /// A catalog deregistration without a node.
    #[error("Must provide node")]
    MissingNode,
    /// Maintenance without saying whether on or off.
    #[error("Missing value for enable")]
    MissingEnable,
    /// Not a status.
    #[error("Invalid check status: '{0}'")]
    InvalidStatus(String),
    /// A check's definition doesn't hold together.
    #[error("Invalid check: {0}")]
    InvalidCheck(&'static str),
    /// A check that would run a program.
    #[error("Scripts are disabled on this agent")]
    ScriptsDisabled,
    /// No such instance on this agent.
    #[error("Unknown service ID {0:?}. Ensure that the service ID is passed, not the service name.")]
    UnknownServiceId(String),
    /// No such instance: the text of the reading endpoint.
    #[error("unknown service ID: {0}")]
    NoService(String),
    /// A check names an instance that is not there.
    #[error("ServiceID {0:?} does not exist")]
    NoServiceForCheck(String),
    /// No such check on this agent.
    #[error("Unknown check ID {0:?}. Ensure that the check ID is passed, not the check name.")]
    UnknownCheckId(String),
    /// Only TTL checks are reported to.
    #[error("CheckID {0:?} does not have associated TTL")]
    NotTtl(String),
    /// An ID alone names several things.
    #[error("ID {id:?} is registered under several nodes: {}", .nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// The ID.
        id: String,
        /// The nodes that have it.
        nodes: Vec<NodeName>,
    },
    /// A session can't be made, or be done with what was asked: 500, as Consul has it, with the reason.
    #[error("{0}")]
    Session(String),
    /// No such session.
    #[error("Session id '{0}' not found")]
    NoSession(String),
    /// A session's ID is needed.
    #[error("Missing session")]
    MissingSession,
    /// A transaction with more operations than allowed.
    #[error("Transaction contains too many operations ({0} > {max})", max = spine_core::limits::TXN_OPS_MAX)]
    TooManyOps(usize),
    /// Access control is off.
    #[error("ACL support disabled")]
    AclDisabled,
    /// Network coordinates are off.
    #[error("Coordinate support disabled")]
    CoordinatesDisabled,
    /// There is no mesh CA.
    #[error("Connect must be enabled in order to use this endpoint")]
    ConnectDisabled,
    /// Not in this release.
    #[error("not supported by this Spine release: {0}")]
    Unsupported(String),
    /// The cluster's rules refuse it.
    #[error("{}", capital(.0))]
    Refused(Rejection),
    /// The registry doesn't answer.
    #[error("{}", registry_text(.0))]
    Registry(registry::Error),
}

/// What became of a write that nobody answered for (contract: "outcome unknown").
const X_SPINE_OUTCOME: HeaderName = HeaderName::from_static("x-spine-outcome");

impl Failure {
    /// A failure with a text of its own.
    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// The status code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoSuchPath(_)
            | Self::UnknownServiceId(_)
            | Self::NoService(_)
            | Self::NoSession(_)
            | Self::UnknownCheckId(_)
            | Self::Ambiguous { .. } => StatusCode::NOT_FOUND,
            Self::BodyTooLarge { .. } | Self::TooManyOps(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::PathEncoding
            | Self::BodyBroken(_)
            | Self::Decode(_)
            | Self::BadRequest(_)
            | Self::InvalidParameter { .. }
            | Self::InvalidIndex
            | Self::InvalidWait
            | Self::InvalidMaxStale(_)
            | Self::ConflictingConsistency
            | Self::ConflictingFlags(_)
            | Self::Enterprise { .. }
            | Self::Filter(_)
            | Self::MissingKey
            | Self::MissingServiceName
            | Self::MissingServiceId
            | Self::MissingCheckName
            | Self::MissingCheckState
            | Self::MissingNodeName
            | Self::MissingNodeAndAddress
            | Self::MissingNode
            | Self::MissingEnable
            | Self::MissingSession
            | Self::InvalidStatus(_)
            | Self::InvalidCheck(_)
            | Self::ScriptsDisabled
            | Self::NoServiceForCheck(_)
            | Self::NotTtl(_) => StatusCode::BAD_REQUEST,
            Self::AclDisabled | Self::CoordinatesDisabled => StatusCode::UNAUTHORIZED,
            Self::NoDatacenter | Self::ConnectDisabled | Self::Session(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Refused(rejection) => rejection_status(rejection),
            Self::Registry(error) => registry_status(error),
        }
    }

    /// The reply.
    pub(crate) fn reply(&self) -> Reply {
        let reply = Reply::text(self.status(), self.to_string());
        match self {
            Self::MethodNotAllowed { allow, .. } => match HeaderValue::from_str(allow) {
                Ok(allow) => reply.with(header::ALLOW, allow),
                Err(_) => reply,
            },
            Self::Registry(registry::Error::Unknown(_)) => {
                reply.with(X_SPINE_OUTCOME, HeaderValue::from_static("unknown"))
            }
            _ => reply,
        }
    }
}

impl From<Rejection> for Failure {
    /// Refusals for which Consul has words of its own get them; the others speak for themselves.
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::UnknownInstance(id) => Self::UnknownServiceId(id.to_string()),
            Rejection::UnknownCheck(id) => Self::UnknownCheckId(id.to_string()),
            Rejection::NotTtl(id) => Self::NotTtl(id.to_string()),
            Rejection::Ambiguous { id, nodes } => Self::Ambiguous {
                id: id.to_string(),
                nodes,
            },
            other => Self::Refused(other),
        }
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<registry::Error> for Failure {
    fn from(error: registry::Error) -> Self {
        match error {
            registry::Error::Refused(rejection) => rejection.into(),
            registry::Error::Unsupported(what) => Self::Unsupported(what.to_string()),
            error => Self::Registry(error),
        }
    }
}

/// Consul's texts begin with a capital letter, and clients look for some of them.
fn capital(rejection: &Rejection) -> String {
    let mut text = rejection.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

fn rejection_status(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        // The cluster is full: nothing is wrong with the request, and waiting may help.
        Rejection::TooMany { .. } | Rejection::QuotaExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
        // Not until every server can do it.
        Rejection::RulesTooLow { .. } => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn registry_status(error: &registry::Error) -> StatusCode {
    match error {
        registry::Error::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
        registry::Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
        registry::Error::Refused(rejection) => rejection_status(rejection),
        registry::Error::NoMember(_) => StatusCode::NOT_FOUND,
        registry::Error::Unsafe(_) => StatusCode::BAD_REQUEST,
        registry::Error::NoLeader
        | registry::Error::Unknown(_)
        | registry::Error::Deadline(_)
        | registry::Error::ShuttingDown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn registry_text(error: &registry::Error) -> String {
    match error {
        // The text that clients look for.
        registry::Error::NoLeader => "No cluster leader".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use spine_core::{CheckId, InstanceId};

    use super::*;

    /// What the registry says, and what a client reads of it.
    #[test]
    fn what_the_registry_says_is_told_in_consuls_words() {
        let instance = InstanceId::parse("web").unwrap();
        let check = CheckId::parse("web").unwrap();
        let cases: Vec<(Failure, u16, &str)> = vec![
            (registry::Error::NoLeader.into(), 500, "No cluster leader"),
            (
                registry::Error::Unknown("no answer in 5s".into()).into(),
                500,
                "outcome unknown: no answer in 5s",
            ),
            (
                registry::Error::Deadline("reading".into()).into(),
                500,
                "deadline exceeded while reading",
            ),
            (
                registry::Error::ShuttingDown.into(),
                500,
                "the node is shutting down",
            ),
            (
                registry::Error::Overloaded {
                    what: "waiting requests".into(),
                    limit: 7,
                }
                .into(),
                429,
                "too many waiting requests: at most 7 at once",
            ),
            (
                registry::Error::Unsupported("x".into()).into(),
                501,
                "not supported by this Spine release: x",
            ),
            (
                registry::Error::Refused(Rejection::UnknownInstance(instance)).into(),
                404,
                "Unknown service ID \"web\". Ensure that the service ID is passed, not the service name.",
            ),
            (
                Rejection::NotTtl(check).into(),
                400,
                "CheckID \"web\" does not have associated TTL",
            ),
            (
                Rejection::Invalid("invalid service address".into()).into(),
                400,
                "Invalid service address",
            ),
            (
                Rejection::TooLarge {
                    what: "key".into(),
                    size: 9,
                    limit: 8,
                }
                .into(),
                413,
                "Key is 9 bytes long, at most 8 are allowed",
            ),
            (
                Rejection::TooMany {
                    what: "nodes".into(),
                    limit: 8,
                }
                .into(),
                429,
                "Too many nodes: at most 8 are allowed",
            ),
        ];
        for (failure, status, text) in cases {
            assert_eq!((failure.status().as_u16(), &*failure.to_string()), (status, text));
        }
    }

    #[test]
    fn an_unknown_outcome_is_marked() {
        let reply = Failure::from(registry::Error::Unknown("x".into()))
            .reply()
            .into_response();
        assert_eq!(reply.headers()["x-spine-outcome"], "unknown");
        let reply = Failure::from(registry::Error::NoLeader).reply().into_response();
        assert!(reply.headers().get("x-spine-outcome").is_none());
    }
}
