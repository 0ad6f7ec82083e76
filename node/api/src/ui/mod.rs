//! The web UI under `/ui/`: one plain page of services, their instances and their health.
//!
//! The page is rendered here and complete without JavaScript. A small script listens to `/ui/events` and fetches
//! `/ui/services`, the page's inner part, whenever something changed. An event carries no content, only the index up
//! to which the catalog was seen: a browser that reconnects says the last one and misses nothing.
//!
//! All that it reads comes from what this server has applied, so it also works while the cluster has no leader; the
//! page says so then.

mod overview;

use std::{convert::Infallible, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response, Sse, sse},
    routing::get,
};
use futures::Stream;
use serde::Deserialize;
use spine_core::{AllEndpoints, Dialect, Index, Topic};

use self::overview::Overview;
use crate::{Consistency, Context, Error, Read, Registry, read::CursorError};

/// Between two events to one browser: more often than this nobody can read.
const EVENT_GAP: Duration = Duration::from_millis(500);
/// A line is sent at least this often, so that proxies keep the connection and a dead one is found.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// No script, style or connection but our own, and no frame around us.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

type Door = Arc<dyn Registry>;

/// The routes of the UI, which all begin with `/ui`.
pub fn router(registry: Arc<dyn Registry>) -> Router {
    Router::new()
        .route("/ui", get(|| async { Redirect::permanent("/ui/") }))
        .route("/ui/", get(page))
        .route("/ui/services", get(services))
        .route("/ui/events", get(events))
        .route(
            "/ui/assets/app.js",
            get(async |headers: HeaderMap| asset(&headers, "text/javascript", include_str!("assets/app.js"))),
        )
        .route(
            "/ui/assets/style.css",
            get(async |headers: HeaderMap| asset(&headers, "text/css", include_str!("assets/style.css"))),
        )
        .route(
            "/ui/assets/icon.svg",
            get(async |headers: HeaderMap| asset(&headers, "image/svg+xml", include_str!("assets/icon.svg"))),
        )
        .route("/ui/{*other}", get(not_found))
        .layer(middleware::from_fn(harden))
        .with_state(registry)
}

/// What the page is to show.
#[derive(Debug, Default, Deserialize)]
struct Search {
    /// Services whose name holds this.
    #[serde(default)]
    q: String,
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    overview: Overview,
    datacenter: Arc<str>,
    server: String,
    version: &'static str,
}

#[derive(Template)]
#[template(path = "services.html")]
struct Services {
    overview: Overview,
}

#[derive(Template)]
#[template(path = "not_found.html")]
struct NotFound;

async fn page(State(door): State<Door>, Query(search): Query<Search>) -> Response {
    let status = door.status();
    let render = |overview| Page {
        overview,
        datacenter: status.datacenter.clone(),
        server: status.name.to_string(),
        version: env!("CARGO_PKG_VERSION"),
    };
    html(overview(&door, search).await.map(render))
}

async fn services(State(door): State<Door>, Query(search): Query<Search>) -> Response {
    html(
        overview(&door, search)
            .await
            .map(|overview| Services { overview }),
    )
}

async fn not_found() -> Response {
    let page = html(Ok::<_, Error>(NotFound));
    (StatusCode::NOT_FOUND, page).into_response()
}

async fn overview(door: &Door, search: Search) -> Result<Overview, Error> {
    let cx = Context {
        consistency: Consistency::Stale,
        ..Context::new(Dialect::Internal)
    };
    let answer = door.read(&cx, &AllEndpoints, None).await?;
    let leader = door.status().leader;
    Ok(Overview::new(&answer.value, search.q, leader, answer.index))
}

fn html<T: Template>(page: Result<T, Error>) -> Response {
    match page.map(|page| page.render()) {
        Ok(Ok(text)) => Html(text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// Where an event stream begins when the browser has not seen an event yet: at what the page was made from.
#[derive(Debug, Default, Deserialize)]
struct From {
    #[serde(default)]
    from: u64,
}

async fn events(
    State(door): State<Door>,
    Query(From { from }): Query<From>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let begin = (door, Index(last_seen.unwrap_or(from)), Duration::ZERO);
    let changes = futures::stream::unfold(begin, |(door, from, gap)| async move {
        tokio::time::sleep(gap).await;
        let through = next_change(&door, from).await.ok()?;
        let event = sse::Event::default()
            .event("changed")
            .id(through.to_string())
            .data(through.to_string());
        Some((Ok(event), (door, through, EVENT_GAP)))
    });
    Sse::new(changes).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE))
}

/// Waits for something on the page to change after `from`; gives the index up to which nothing more has.
async fn next_change(door: &Door, from: Index) -> Result<Index, CursorError> {
    let newest = door.hub().newest().index();
    if from > newest {
        // The browser was at another server, or in another life of this one: what it shows is not what is here.
        return Ok(newest);
    }
    let interest = vec![Topic::Services, Topic::Instances, Topic::Nodes, Topic::Checks];
    match door.watch(interest, from).next(None).await {
        Ok(batch) => Ok(batch.through),
        // The browser reads the present anyway: what lies between is of no use to it.
        Err(CursorError::Compacted(_)) => Ok(door.hub().newest().index()),
        Err(error @ CursorError::Registry(_)) => Err(error),
    }
}

/// An embedded file. The browser keeps it and asks whether it is still the same, so an upgrade shows at once.
fn asset(headers: &HeaderMap, media_type: &'static str, text: &'static str) -> Response {
    let tag = format!(
        "\"{}-{}\"",
        env!("CARGO_PKG_VERSION"),
        spine_core::codec::content_hash(&text)
    );
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let caching = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let media_type = [(header::CONTENT_TYPE, format!("{media_type}; charset=utf-8"))];
    (caching, media_type, text).into_response()
}

async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let mut set = |name: HeaderName, value| {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value))
    };
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    response
}

#[cfg(test)]
mod tests;
