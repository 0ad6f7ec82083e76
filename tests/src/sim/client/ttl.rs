//! An instance that lives by its TTL check: reported in time, or not, and looked at in between.

use std::time::Duration;

use spine_proto::v1::{self, catalog_client::CatalogClient, health_client::HealthClient};

use super::Client;
use crate::history::{Action, Outcome};
use crate::world;

/// The check's time to live.
pub(crate) const TTL: Duration = Duration::from_secs(3);
/// The node of all these instances: none of the servers.
const NODE: &str = "machine";

impl Client {
    /// Keeps an instance alive until the simulation ends, but for some rests that are longer than its TTL.
    pub(super) async fn keep_alive(mut self) -> turmoil::Result {
        let mut registered = false;
        loop {
            if registered {
                self.report().await;
            } else {
                registered = self.register().await;
            }
            // One rest in eight is too long.
            let rest_ms = if self.rng.one_in(8) {
                2_500 + self.rng.below(9_000)
            } else {
                200 + self.rng.below(2_000)
            };
            let until = world::now() + Duration::from_millis(rest_ms);
            while world::now() < until {
                let rest = Duration::from_millis(50 + self.rng.below(500));
                self.sleep(rest).await;
                self.judge().await;
            }
        }
    }

    fn service(&self) -> String {
        format!("t{}", self.number)
    }

    /// Whether it is registered now.
    async fn register(&mut self) -> bool {
        let id = self.invoke(Action::Register);
        let service = self.service();
        let check = v1::CheckDefinition {
            id: format!("{service}:ttl"),
            name: "ttl".to_owned(),
            instance: service.clone(),
            status: v1::Status::Passing.into(),
            kind: Some(v1::check_definition::Kind::TtlMs(
                u64::try_from(TTL.as_millis()).expect("some seconds"),
            )),
            ..v1::CheckDefinition::default()
        };
        let request = self.request(v1::RegisterRequest {
            node: NODE.to_owned(),
            node_definition: Some(v1::NodeDefinition {
                address: "192.0.2.1".to_owned(),
                ..v1::NodeDefinition::default()
            }),
            service: Some(v1::Service {
                name: service,
                port: 80,
                ..v1::Service::default()
            }),
            checks: vec![check],
            existing_checks: v1::ExistingChecks::Overwrite.into(),
            ..v1::RegisterRequest::default()
        });
        let mut catalog = CatalogClient::new(self.channel.clone());
        let outcome = match self.answer(catalog.register(request)).await {
            Ok(response) => Outcome::Written {
                index: response.index,
            },
            Err(outcome) => outcome,
        };
        let done = matches!(outcome, Outcome::Written { .. });
        self.finish(id, outcome);
        done
    }

    async fn report(&mut self) {
        let id = self.invoke(Action::Report);
        let request = self.request(v1::UpdateCheckRequest {
            node: NODE.to_owned(),
            check: format!("{}:ttl", self.service()),
            status: v1::Status::Passing.into(),
            output: String::new(),
        });
        let mut health = HealthClient::new(self.channel.clone());
        let outcome = match self.answer(health.update_check(request)).await {
            Ok(response) => Outcome::Written {
                index: response.index,
            },
            Err(outcome) => outcome,
        };
        self.finish(id, outcome);
    }

    async fn judge(&mut self) {
        let id = self.invoke(Action::Judge);
        let request = self.request(v1::ServiceInstancesRequest {
            service: self.service(),
            ..v1::ServiceInstancesRequest::default()
        });
        let mut catalog = CatalogClient::new(self.channel.clone());
        let outcome = match self.answer(catalog.service_instances(request)).await {
            Ok(response) => Outcome::Judged {
                at: response.header.map_or(0, |header| header.applied_index),
                passes: response
                    .endpoints
                    .first()
                    .map(|endpoint| endpoint.status() == v1::Status::Passing),
            },
            Err(outcome) => outcome,
        };
        self.finish(id, outcome);
    }
}
