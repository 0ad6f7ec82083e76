//! Counts what comes in over the ports: a tower layer that sees each request and how it was answered.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use tower::{Layer, Service};

use super::metrics::Metrics;

/// Tells which way in a path belongs to.
pub type Dialect = fn(path: &str) -> &'static str;

/// Counts the requests of one port.
#[derive(Clone, Debug)]
pub struct Count {
    metrics: Arc<Metrics>,
    dialect: Dialect,
}

impl Count {
    /// Counts into `metrics`, by what `dialect` says of each path.
    pub fn new(metrics: Arc<Metrics>, dialect: Dialect) -> Self {
        Self { metrics, dialect }
    }
}

impl<S> Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            count: self.clone(),
        }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    count: Count,
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let counting = Counting {
            dialect: (self.count.dialect)(request.uri().path()),
            waits: waits(&request),
            began: self.count.metrics.now(),
            // What nobody waited for to the end.
            outcome: "abandoned",
            metrics: self.count.metrics.clone(),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            counting.ended(match &answer {
                Ok(response) => outcome(response.status(), response.headers()),
                Err(_) => "error",
            });
            answer
        })
    }
}

/// A request on its way; counted when it is dropped, which happens also when the client goes away.
struct Counting {
    metrics: Arc<Metrics>,
    dialect: &'static str,
    waits: bool,
    began: Duration,
    outcome: &'static str,
}

impl Counting {
    fn ended(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let took = self.metrics.now().saturating_sub(self.began);
        self.metrics
            .request(self.dialect, self.outcome, (!self.waits).then_some(took));
    }
}

/// A blocking query is as slow as the world is quiet; its time says nothing of the server.
fn waits<B>(request: &Request<B>) -> bool {
    let mut parameters = request.uri().query().unwrap_or_default().split('&');
    parameters.any(|parameter| parameter.starts_with("index=") && parameter != "index=0")
}

/// The label of an answer. gRPC says it in a header of its own, beside HTTP's 200, when there is nothing else to say.
fn outcome(status: StatusCode, headers: &HeaderMap) -> &'static str {
    if headers
        .get("x-spine-outcome")
        .is_some_and(|outcome| outcome == "unknown")
    {
        return "unknown";
    }
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => "ok",
        // Not found.
        Some(b"5") => "not_found",
        // Cancelled, invalid argument, already exists, permission denied, failed precondition, aborted, out of range,
        // unimplemented, unauthenticated: the client's doing.
        Some(b"1" | b"3" | b"6" | b"7" | b"9" | b"10" | b"11" | b"12" | b"16") => "refused",
        Some(_) => "error",
        None if status == StatusCode::NOT_FOUND => "not_found",
        None if status.is_client_error() => "refused",
        None if status.is_server_error() => "error",
        None => "ok",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::world::clock::OsClock;

    async fn counted(uri: &str, answer: Response<()>) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::new(Arc::new(OsClock)));
        let mut answer = Some(answer);
        let service = service_fn(move |_: Request<()>| {
            let answer = answer.take().expect("one request");
            async { Ok::<_, Infallible>(answer) }
        });
        let service = Count::new(metrics.clone(), |_| "consul").layer(service);
        service
            .oneshot(Request::get(uri).body(()).unwrap())
            .await
            .unwrap();
        metrics
    }

    fn shows(metrics: &Metrics, line: &str) -> bool {
        let status = crate::telemetry::metrics::tests::status();
        metrics.text(&status, 0).lines().any(|shown| shown == line)
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_what_it_says() {
        let metrics = counted("/v1/kv/a", Response::builder().status(404).body(()).unwrap()).await;
        assert!(shows(
            &metrics,
            "spine_requests_total{dialect=\"consul\",outcome=\"not_found\"} 1"
        ));
        assert!(shows(
            &metrics,
            "spine_request_duration_seconds_count{dialect=\"consul\",outcome=\"not_found\"} 1"
        ));
        let unknown = Response::builder()
            .status(500)
            .header("x-spine-outcome", "unknown")
            .body(())
            .unwrap();
        let metrics = counted("/v1/kv/a", unknown).await;
        assert!(shows(
            &metrics,
            "spine_requests_total{dialect=\"consul\",outcome=\"unknown\"} 1"
        ));
        let refused = Response::builder().header("grpc-status", "9").body(()).unwrap();
        let metrics = counted("/spine.v1.Kv/Put", refused).await;
        assert!(shows(
            &metrics,
            "spine_requests_total{dialect=\"consul\",outcome=\"refused\"} 1"
        ));
    }

    #[tokio::test]
    async fn a_blocking_query_is_counted_but_not_timed() {
        let metrics = counted("/v1/kv/a?wait=5m&index=7", Response::new(())).await;
        assert!(shows(
            &metrics,
            "spine_requests_total{dialect=\"consul\",outcome=\"ok\"} 1"
        ));
        assert!(!shows(
            &metrics,
            "spine_request_duration_seconds_count{dialect=\"consul\",outcome=\"ok\"} 1"
        ));
    }
}
