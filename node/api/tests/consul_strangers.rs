//! Whatever a stranger sends to Consul's HTTP API is answered: nothing panics, and only what the contract names is
//! a server error.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use proptest::{collection::vec, option, prelude::*, sample::select};
use spine_api::{
    Context, Registry,
    consul::{Host, Settings, router},
    local::Local,
};
use spine_core::{Command, Dialect, Member, NodeName, Ttl, WallTime};
use tokio::runtime::Runtime;
use tower::ServiceExt;

struct Around;

impl Host for Around {
    fn metrics(&self) -> String {
        "up 1\n".into()
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

/// A server and a runtime whose time passes by itself, so that waits end at once.
struct Server {
    runtime: Runtime,
    router: Router,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let node = NodeName::parse("n1").expect("a name");
        let local = Arc::new(Local::new(node.clone()));
        let member = Member {
            name: node.clone(),
            id: 1,
            node_uuid: "00000000-0000-4000-8000-000000000001".into(),
            host: "n1".into(),
            peer_address: "n1:8300".into(),
            http_address: "n1:8500".into(),
            grpc_address: "".into(),
            version: "0".into(),
            rules: 1,
        };
        let cx = Context::new(Dialect::Internal);
        let up = runtime.block_on(local.propose(&cx, Command::MemberUp(member)));
        up.expect("an answer").result.expect("a member");
        let settings = Settings {
            datacenter: "dc1".into(),
            node,
            default_service_ttl: Some(Ttl::seconds(30)),
            version: "0".into(),
            host: Arc::new(Around),
        };
        Self {
            runtime,
            router: router(local, settings),
        }
    }

    fn send(&self, request: Request<Body>) -> (StatusCode, Bytes) {
        self.runtime.block_on(async {
            let answer: Result<Response<Body>, Infallible> = self.router.clone().oneshot(request).await;
            let Ok(response) = answer;
            let status = response.status();
            let body = response.into_body().collect().await;
            (status, body.expect("a body in memory").to_bytes())
        })
    }

    /// A server error must be one that the contract names.
    fn survives(&self, request: Request<Body>) -> Result<(), TestCaseError> {
        let line = format!("{} {}", request.method(), request.uri());
        let (status, body) = self.send(request);
        let text = String::from_utf8_lossy(&body);
        let named = match status {
            StatusCode::NOT_IMPLEMENTED => {
                line.starts_with("HEAD ") || text.starts_with("not supported by this Spine release: ")
            }
            StatusCode::INTERNAL_SERVER_ERROR => SERVER_ERRORS.iter().any(|begins| text.starts_with(begins)),
            // The health of an instance, as a code.
            StatusCode::SERVICE_UNAVAILABLE => line.contains("/v1/agent/health/"),
            status => !status.is_server_error(),
        };
        prop_assert!(named, "{line}: {status} {text}");
        Ok(())
    }
}

/// How the texts begin that Consul has for 500.
const SERVER_ERRORS: [&str; 8] = [
    "No path to datacenter",
    "Connect must be enabled in order to use this endpoint",
    "invalid session \"",
    "Missing node registration",
    "Missing check '",
    "Check '",
    "Invalid Session TTL '",
    "Invalid Behavior setting '",
];

const PATHS: &[&str] = &[
    "/",
    "/v1/kv/",
    "/hex/v1/kv/",
    "/v1/catalog/register",
    "/v1/catalog/deregister",
    "/v1/catalog/nodes",
    "/v1/catalog/services",
    "/v1/catalog/service/",
    "/v1/catalog/node/",
    "/v1/catalog/node-services/",
    "/v1/health/node/",
    "/v1/health/checks/",
    "/v1/health/state/",
    "/v1/health/service/",
    "/v1/health/connect/",
    "/v1/agent/service/register",
    "/v1/agent/service/deregister/",
    "/v1/agent/service/maintenance/",
    "/v1/agent/service/",
    "/v1/agent/services",
    "/v1/agent/health/service/id/",
    "/v1/agent/health/service/name/",
    "/v1/agent/maintenance",
    "/v1/agent/checks",
    "/v1/agent/check/register",
    "/v1/agent/check/deregister/",
    "/v1/agent/check/pass/",
    "/v1/agent/check/warn/",
    "/v1/agent/check/fail/",
    "/v1/agent/check/update/",
    "/v1/agent/self",
    "/v1/agent/members",
    "/v1/agent/metrics",
    "/v1/connect/ca/roots",
    "/v1/status/leader",
    "/v1/status/peers",
    "/v1/session/create",
    "/v1/session/destroy/",
    "/v1/session/renew/",
    "/v1/session/info/",
    "/v1/session/node/",
    "/v1/session/list",
    "/v1/txn",
    "/v1/acl/tokens",
    "/v1/",
];

const PARAMETERS: &[&str] = &[
    "acquire",
    "cached",
    "cas",
    "consistent",
    "dc",
    "enable",
    "filter",
    "flags",
    "format",
    "hash",
    "index",
    "keys",
    "max_stale",
    "near",
    "node-meta",
    "note",
    "ns",
    "passing",
    "pem",
    "pretty",
    "raw",
    "reason",
    "recurse",
    "release",
    "replace-existing-checks",
    "separator",
    "stale",
    "tag",
    "token",
    "wait",
];

const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "18446744073709551615",
    "99999999999999999999",
    "true",
    "maybe",
    "dc1",
    "default",
    "10s",
    "1h",
    "-1s",
    "1ns",
    "9223372036854775807ns",
    "a:b",
    ":",
    "%00",
    "%ff",
    "%",
    "+",
    "Node == a",
    "a",
    "web",
];

/// Words that make up filters, so that some of what comes out is nearly one.
const WORDS: &[&str] = &[
    "Node",
    "Service",
    "Service.Port",
    "Service.Tags",
    "ServiceTags",
    "Meta",
    "Checks.Status",
    "Name",
    "==",
    "!=",
    "is",
    "not",
    "empty",
    "in",
    "contains",
    "matches",
    "and",
    "or",
    "(",
    ")",
    "[",
    "]",
    "\"a\"",
    "`^(a*)*$`",
    "80",
    "\"",
    "`",
    "\"/Node/Meta\"",
    ".",
    "\"\\",
    "é",
    "\0",
];

fn filter() -> impl Strategy<Value = String> {
    let words = vec(select(WORDS), 0..20).prop_map(|words| words.join(" "));
    prop_oneof![3 => words, 1 => any::<String>()]
}

fn escape(text: &str) -> String {
    percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string()
}

fn query() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        4 => select(VALUES).prop_map(str::to_owned),
        2 => filter().prop_map(|text| escape(&text)),
    ];
    let pair = (select(PARAMETERS), option::of(value))
        .prop_map(|(name, value)| value.map_or(name.to_owned(), |value| format!("{name}={value}")));
    vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

/// Names of fields that some body has, as clients spell them.
const FIELDS: &[&str] = &[
    "Name",
    "name",
    "ID",
    "service_id",
    "ServiceID",
    "Service",
    "Node",
    "Address",
    "Port",
    "Tags",
    "Meta",
    "NodeMeta",
    "TaggedAddresses",
    "Weights",
    "Check",
    "Checks",
    "TTL",
    "HTTP",
    "TCP",
    "GRPC",
    "Interval",
    "Timeout",
    "Header",
    "Status",
    "Output",
    "Value",
    "CheckID",
    "Datacenter",
    "SkipNodeUpdate",
    "DeregisterCriticalServiceAfter",
    "FailuresBeforeCritical",
    "Kind",
    "Proxy",
    "Connect",
    "__",
    "",
];

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (0u16..10).prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        select(VALUES).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let field = (select(FIELDS).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            3 => vec(field, 0..8).prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            1 => vec(inner, 0..4).prop_map(Into::into),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
    ]
}

fn request() -> impl Strategy<Value = Request<Body>> {
    let method = select(&["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD"][..]);
    let rest = prop_oneof![
        select(
            &[
                "", "a", "web", "any", "%00", "%ff", "a/b", "/", "%25", "n1", "consul"
            ][..]
        )
        .prop_map(str::to_owned),
        "[ -~]{0,20}".prop_map(|text| escape(&text)),
    ];
    (method, select(PATHS), rest, query(), body()).prop_filter_map(
        "a URI",
        |(method, path, rest, query, body)| {
            let rest = if path.ends_with('/') { rest } else { String::new() };
            Request::builder()
                .method(method)
                .uri(format!("{path}{rest}?{query}"))
                .body(Body::from(body))
                .ok()
        },
    )
}

/// `PROPTEST_CASES` asks for more than the usual number.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(4_000),
        failure_persistence: None,
        ..usual
    }
}

#[test]
fn every_request_is_answered() {
    // One server for all of them: what was registered by one is met by the next.
    let server = Server::start();
    let config = config();
    proptest!(config, |(request in request())| server.survives(request)?);
}

#[test]
fn every_filter_is_answered() {
    let server = Server::start();
    let config = config();
    proptest!(config, |(filter in filter(), path in select(PATHS))| {
        let filter = escape(&filter);
        let request = Request::builder().uri(format!("{path}?filter={filter}"));
        server.survives(request.body(Body::empty()).expect("a request"))?;
    });
}
