//! What a port answers with: at first that this server is not ready and whom it waits for, then everything.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use spine_api::native;

use crate::peer::Waiting;

/// What a port answers with. Clones share it.
#[derive(Clone)]
pub(super) struct Door(Arc<Inner>);

struct Inner {
    meanwhile: Router,
    open: OnceLock<Router>,
}

impl Door {
    /// A door of which `meanwhile` says that it is closed.
    pub(super) fn new(meanwhile: Router) -> Self {
        Self(Arc::new(Inner {
            meanwhile,
            open: OnceLock::new(),
        }))
    }

    /// From now on `router` answers.
    pub(super) fn open(&self, router: Router) {
        let opened = self.0.open.set(router);
        debug_assert!(opened.is_ok(), "a door is opened once");
    }

    /// What answers at this moment.
    pub(super) fn router(&self) -> Router {
        self.0.open.get().unwrap_or(&self.0.meanwhile).clone()
    }
}

/// What a server waits for before it serves, in a few words.
#[derive(Clone, Debug)]
pub(super) struct NotReady(pub(super) Waiting);

impl NotReady {
    fn text(&self) -> String {
        match self.0.now() {
            Some(what) => format!("not ready: {what}"),
            None => "not ready: this server is starting".to_owned(),
        }
    }

    /// For the HTTP port: alive, and not ready. Consul's API answers as without a leader, so that its clients try again.
    pub(super) fn http(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .fallback(async |State(this): State<Self>, request: Request| -> Response {
                if request.uri().path().starts_with("/v1/") {
                    return (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response();
                }
                let text = format!("{}\n", this.text());
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            })
            .with_state(self)
    }

    /// For the gRPC port: unavailable.
    pub(super) fn grpc(self) -> Router {
        Router::new()
            .fallback(async |State(this): State<Self>| -> Response {
                native::not_ready(&this.text()).into_http()
            })
            .with_state(self)
    }
}
