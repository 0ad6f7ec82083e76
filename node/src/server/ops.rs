//! What operators ask of a server: is it alive, is it ready, how does it do.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use spine_api::{NodeStatus, Registry, consul};
use spine_core::WallTime;

use crate::{telemetry::metrics::Metrics, world::clock::Clock};

/// What the answers are made of.
#[derive(Clone)]
pub(super) struct Ops {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Ops {
    /// `/livez`, `/readyz`, `/metrics`.
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    fn text(&self) -> String {
        self.metrics
            .text(&self.registry.status(), self.registry.hub().waiting())
    }
}

/// What the Consul dialect asks of the node around it.
impl consul::Host for Ops {
    fn metrics(&self) -> String {
        self.text()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let status = ops.registry.status();
    if status.ready {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready: {}\n", missing(&status)),
    )
        .into_response()
}

/// What a node that is not ready waits for.
pub(super) fn missing(status: &NodeStatus) -> String {
    match &status.leader {
        None => "no leader is known".to_owned(),
        Some(leader) => {
            format!(
                "{leader} leads; applied {} of {} that are committed",
                status.applied, status.committed
            )
        }
    }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], ops.text()).into_response()
}
