//! Which handler answers which path, and what all requests have in common.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use axum::{
    body::{Body, HttpBody},
    extract::{ConnectInfo, Request},
};
use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;

use super::{
    Dialect, agent,
    call::{Call, Handled},
    catalog, connect,
    error::Failure,
    health, kv, metrics,
    params::Params,
    reply::Reply,
    session, status, txn, unsupported,
    wire::Encoding,
};
use crate::limits;

/// A path with its handlers. One that ends with a slash takes all that lies behind it.
struct Route {
    path: &'static str,
    methods: &'static [(&'static str, Handler)],
}

type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Handled> + Send>>;

macro_rules! routes {
    ($($path:literal $($method:ident $handler:path),+;)+) => {
        &[$(Route { path: $path, methods: &[$((stringify!($method), |call| Box::pin($handler(call)))),+] }),+]
    };
}

#[rustfmt::skip]
static ROUTES: &[Route] = routes! {
    "/" GET to_ui;
    "/v1/kv/" GET kv::get, PUT kv::put, DELETE kv::delete;

    "/v1/catalog/register" PUT catalog::register;
    "/v1/catalog/deregister" PUT catalog::deregister;
    "/v1/catalog/datacenters" GET catalog::datacenters;
    "/v1/catalog/nodes" GET catalog::nodes;
    "/v1/catalog/services" GET catalog::services;
    "/v1/catalog/service/" GET catalog::service;
    "/v1/catalog/node/" GET catalog::node;
    "/v1/catalog/node-services/" GET catalog::node_services;
    "/v1/catalog/connect/" GET health::none;

    "/v1/health/node/" GET health::node;
    "/v1/health/checks/" GET health::checks;
    "/v1/health/state/" GET health::state;
    "/v1/health/service/" GET health::service;
    "/v1/health/connect/" GET health::none;
    "/v1/health/ingress/" GET health::none;

    // Consul takes PUT alone; the first tutorial's heartbeat sends POST.
    "/v1/agent/service/register" PUT agent::service::register, POST agent::service::register;
    "/v1/agent/service/deregister/" PUT agent::service::deregister;
    "/v1/agent/service/maintenance/" PUT agent::maintenance::service;
    "/v1/agent/service/" GET agent::service::one;
    "/v1/agent/services" GET agent::service::all;
    "/v1/agent/health/service/id/" GET agent::health::by_id;
    "/v1/agent/health/service/name/" GET agent::health::by_name;
    "/v1/agent/maintenance" PUT agent::maintenance::node;
    "/v1/agent/checks" GET agent::check::all;
    "/v1/agent/check/register" PUT agent::check::register;
    "/v1/agent/check/deregister/" PUT agent::check::deregister;
    "/v1/agent/check/pass/" PUT agent::check::pass;
    "/v1/agent/check/warn/" PUT agent::check::warn;
    "/v1/agent/check/fail/" PUT agent::check::fail;
    "/v1/agent/check/update/" PUT agent::check::update;
    "/v1/agent/self" GET agent::server::itself;
    "/v1/agent/members" GET agent::server::members;
    "/v1/agent/version" GET agent::server::version;
    "/v1/agent/metrics" GET metrics::all;

    "/v1/agent/connect/ca/roots" GET connect::roots;
    "/v1/connect/ca/roots" GET connect::roots;

    "/v1/session/create" PUT session::create;
    "/v1/session/destroy/" PUT session::destroy;
    "/v1/session/renew/" PUT session::renew;
    "/v1/session/info/" GET session::info;
    "/v1/session/node/" GET session::node;
    "/v1/session/list" GET session::list;
    "/v1/txn" PUT txn::apply;

    "/v1/status/leader" GET status::leader;
    "/v1/status/peers" GET status::peers;
};

/// The mount at which values are written in hex: the same keys, another representation.
const HEX_MOUNT: &str = "/hex";

/// Answers a request.
pub(crate) async fn answer(dialect: Arc<Dialect>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let reply = match handle(dialect, &parts, body).await {
        Ok(reply) => reply,
        Err(failure) => failure.reply(),
    };
    // Until there is access control everything is allowed, and clients are told so.
    let reply = reply.with(DEFAULT_ACL_POLICY, HeaderValue::from_static("allow"));
    reply.packed(&parts.headers).into_response()
}

const DEFAULT_ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");

async fn handle(dialect: Arc<Dialect>, parts: &Parts, body: Body) -> Handled {
    let whole = parts.uri.path();
    let (path, encoding) = match whole.strip_prefix(HEX_MOUNT) {
        Some(path) if path.starts_with("/v1/kv/") || path == "/v1/kv" => (path, Encoding::Hex),
        _ => (whole, dialect.root_encoding),
    };
    let Some((route, rest)) = find(path) else {
        return unsupported::answer(path);
    };
    if parts.method == http::Method::OPTIONS {
        let allow = HeaderValue::from_str(&route.allow()).expect("names of methods");
        return Ok(Reply::empty(StatusCode::OK).with(header::ALLOW, allow));
    }
    let handler = route
        .methods
        .iter()
        .find(|(method, _)| *method == parts.method.as_str());
    let Some((_, handler)) = handler else {
        return Err(Failure::MethodNotAllowed {
            method: parts.method.clone(),
            allow: route.allow(),
        });
    };
    let params = Params::parse(parts.uri.query().unwrap_or_default());
    check_realm(&dialect, &params)?;
    let limit = match encoding {
        Encoding::Base64 => limits::BODY_BYTES_MAX,
        Encoding::Hex => limits::HEX_BODY_BYTES_MAX,
    };
    let call = Call {
        dialect,
        path: whole.to_owned(),
        rest: rest.to_owned(),
        params,
        headers: parts.headers.clone(),
        body: read_body(body, limit, parts.headers.contains_key(header::EXPECT)).await?,
        encoding,
        peer: peer(&parts.extensions),
    };
    handler(call).await
}

fn peer(extensions: &Extensions) -> Option<Arc<str>> {
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return Some(address.to_string().into());
    }
    let ConnectInfo(name) = extensions.get::<ConnectInfo<&'static str>>()?;
    Some((*name).into())
}

/// The route of a path, the longest that fits, and what lies behind it.
fn find(path: &str) -> Option<(&'static Route, &str)> {
    let fits = ROUTES
        .iter()
        .filter_map(|route| route.rest(path).map(|rest| (route, rest)));
    fits.max_by_key(|(route, _)| route.path.len())
}

impl Route {
    fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix('/') {
            // The root alone, not everything.
            Some("") => (path == "/").then_some(""),
            Some(parent) if path == parent => Some(""),
            Some(_) => path.strip_prefix(self.path),
            None => (path == self.path).then_some(""),
        }
    }

    fn allow(&self) -> String {
        let methods = self.methods.iter().map(|(method, _)| *method);
        std::iter::once("OPTIONS")
            .chain(methods)
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// Datacenter, namespace and partition: there is one of each.
fn check_realm(dialect: &Dialect, params: &Params) -> Result<(), Failure> {
    dialect.check_datacenter(params.text("dc").unwrap_or_default())?;
    for (name, feature) in [("ns", "Namespaces"), ("partition", "Partitions")] {
        if params
            .text(name)
            .is_some_and(|value| !value.eq_ignore_ascii_case("default"))
        {
            return Err(Failure::Enterprise { name, feature });
        }
    }
    Ok(())
}

/// Reads a body within its bound. What is somewhat too large is read to its end and dropped, so that the client,
/// which is still sending, gets to read the refusal.
///
/// A client that asks before it sends is refused before it sends, and so is one that says that it has far too much.
async fn read_body(mut body: Body, limit: usize, asks: bool) -> Result<Bytes, Failure> {
    let too_large = |size: u64| Failure::BodyTooLarge {
        size,
        limit: limit as u64,
    };
    let said = body.size_hint().exact().unwrap_or(0);
    if said > limit as u64 && (asks || said > (limit * limits::BODY_DRAINED_TIMES) as u64) {
        return Err(too_large(said));
    }
    let mut kept = BytesMut::new();
    let mut size = 0;
    let until = tokio::time::Instant::now() + limits::BODY_TIME_MAX;
    loop {
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Failure::BodyBroken(error.to_string())),
            Ok(None) => break,
            Err(_) => return Err(Failure::BodyBroken("it took too long".into())),
        };
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= limit {
            kept.extend_from_slice(&data);
        } else if size > limit * limits::BODY_DRAINED_TIMES {
            break;
        }
    }
    if size > limit {
        return Err(too_large(size as u64));
    }
    Ok(kept.freeze())
}

async fn to_ui(_call: Call) -> Handled {
    let ui = HeaderValue::from_static("/ui/");
    Ok(Reply::empty(StatusCode::MOVED_PERMANENTLY).with(header::LOCATION, ui))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(path: &str) -> Option<(&'static str, &str)> {
        find(path).map(|(route, rest)| (route.path, rest))
    }

    #[test]
    fn the_longest_route_wins() {
        assert_eq!(
            path_of("/v1/agent/service/register"),
            Some(("/v1/agent/service/register", ""))
        );
        assert_eq!(
            path_of("/v1/agent/service/web"),
            Some(("/v1/agent/service/", "web"))
        );
        assert_eq!(
            path_of("/v1/agent/service/deregister/a/b"),
            Some(("/v1/agent/service/deregister/", "a/b"))
        );
        assert_eq!(path_of("/v1/kv/a//b%2Fc"), Some(("/v1/kv/", "a//b%2Fc")));
        assert_eq!(path_of("/v1/kv"), Some(("/v1/kv/", "")));
        assert_eq!(path_of("/"), Some(("/", "")));
        assert_eq!(path_of("/v1/kvx"), None);
        assert_eq!(path_of("/v2/kv/a"), None);
        assert_eq!(path_of(""), None);
    }

    #[test]
    fn a_peer_is_an_address_or_a_name() {
        let mut extensions = Extensions::new();
        assert_eq!(peer(&extensions), None);
        extensions.insert(ConnectInfo("unix"));
        assert_eq!(peer(&extensions).as_deref(), Some("unix"));
        extensions.insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 80))));
        assert_eq!(peer(&extensions).as_deref(), Some("10.0.0.1:80"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let failure = read_body(body, 10, false).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "Request body could not be read: it took too long"
        );
    }

    #[tokio::test]
    async fn a_body_without_end_is_not_read_to_its_end() {
        let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(b"1234567"));
        let body = Body::from_stream(futures::stream::repeat_with(chunk));
        let failure = read_body(body, 10, false).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "Request body(84 bytes) too large, max size: 10 bytes"
        );
    }

    #[tokio::test]
    async fn who_asks_before_sending_is_refused_before_sending() {
        let failure = read_body(Body::from("12345678901"), 10, true).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "Request body(11 bytes) too large, max size: 10 bytes"
        );
        assert_eq!(
            read_body(Body::from("1234567890"), 10, true).await.unwrap(),
            "1234567890"
        );
    }

    #[test]
    fn no_path_stands_twice() {
        for (n, route) in ROUTES.iter().enumerate() {
            assert!(
                ROUTES[..n].iter().all(|other| other.path != route.path),
                "{}",
                route.path
            );
        }
    }
}
