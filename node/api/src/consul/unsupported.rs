//! What this release does not do, and how it says so: one table.
//!
//! Where Consul itself can be without a feature, the answer is Consul's own, and clients know it. The rest is 501
//! with a text: not 500, on which the helpers of clients would retry for ever, and not 404, which reads as
//! "there is no such thing".

use super::{call::Handled, error::Failure};

/// How an endpoint is absent.
enum Absence {
    /// As in a Consul without access control.
    Acl,
    /// As in a Consul without network coordinates.
    Coordinates,
    /// A later release has it; the text says what.
    Later(&'static str),
}

/// Paths, with all that lies behind them.
const TABLE: &[(&str, Absence)] = &[
    ("/v1/acl", Absence::Acl),
    ("/v1/coordinate", Absence::Coordinates),
    ("/v1/event", Absence::Later("events")),
    ("/v1/query", Absence::Later("prepared queries")),
    ("/v1/config", Absence::Later("config entries")),
    ("/v1/discovery-chain", Absence::Later("config entries")),
    ("/v1/snapshot", Absence::Later("snapshots over HTTP")),
    ("/v1/operator/raft", Absence::Later("operator endpoints")),
    ("/v1/operator/autopilot", Absence::Later("operator endpoints")),
    ("/v1/operator/usage", Absence::Later("operator endpoints")),
    ("/v1/connect", Absence::Later("the service mesh")),
    ("/v1/agent/connect", Absence::Later("the service mesh")),
    ("/v1/catalog/gateway-services", Absence::Later("the service mesh")),
    ("/v1/agent/host", Absence::Later("figures of the host")),
    ("/v1/agent/monitor", Absence::Later("log streaming")),
    ("/v1/agent/metrics/stream", Absence::Later("metric streaming")),
    ("/v1/agent/reload", Absence::Later("agent control")),
    ("/v1/agent/leave", Absence::Later("agent control")),
    ("/v1/agent/join", Absence::Later("agent control")),
    ("/v1/agent/force-leave", Absence::Later("agent control")),
    ("/v1/agent/token", Absence::Later("agent tokens")),
];

/// Answers a path for which there is no route.
pub(crate) fn answer(path: &str) -> Handled {
    let inside = |parent: &str| {
        path.strip_prefix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    Err(match TABLE.iter().find(|(parent, _)| inside(parent)) {
        Some((_, Absence::Acl)) => Failure::AclDisabled,
        Some((_, Absence::Coordinates)) => Failure::CoordinatesDisabled,
        Some((_, Absence::Later(what))) => later(*what),
        None => Failure::NoSuchPath(path.to_owned()),
    })
}

/// A part of a request that this release can't do.
pub(crate) fn later(what: impl Into<String>) -> Failure {
    Failure::Unsupported(what.into())
}
