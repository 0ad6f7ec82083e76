//! The standard health service, `grpc.health.v1`: how this server is. (How what is registered is, `spine.v1.Health`
//! tells.) It asks the registry each time, so it can't be out of date.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::Door;

/// A watcher learns of a change this much later at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What may be asked for: the server as a whole, and each service.
const SERVICES: [&str; 11] = [
    "",
    "spine.v1.KV",
    "spine.v1.Catalog",
    "spine.v1.Health",
    "spine.v1.Lease",
    "spine.v1.Lock",
    "spine.v1.Election",
    "spine.v1.Members",
    "spine.v1.Sessions",
    "spine.v1.Watch",
    "spine.v1.Admin",
];

pub(super) fn service(door: Door) -> HealthServer<Readiness> {
    HealthServer::new(Readiness(door))
}

/// Whether this server serves: as the registry says.
#[derive(Clone)]
pub(super) struct Readiness(Door);

impl Readiness {
    fn look(&self, service: &str) -> ServingStatus {
        if !SERVICES.contains(&service) {
            ServingStatus::ServiceUnknown
        } else if self.0.registry.status().ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Readiness {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.look(&service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("unknown service {service:?}"))),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let this = self.clone();
        let changes = stream::unfold(None, move |told| {
            let (this, service) = (this.clone(), service.clone());
            async move {
                loop {
                    let now = this.look(&service);
                    if told != Some(now) {
                        return Some((Ok(response(now)), Some(now)));
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
