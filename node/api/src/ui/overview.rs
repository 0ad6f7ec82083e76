//! What the page shows, made from what the registry answered; pure.

use std::{collections::BTreeMap, sync::Arc};

use spine_core::{Endpoint, Index, NodeName, Status};

use crate::limits;

/// The page's content.
#[derive(Debug, PartialEq)]
pub(super) struct Overview {
    /// What was searched for.
    pub(super) search: String,
    /// How many services fit the search.
    pub(super) found: usize,
    /// How many services there are.
    pub(super) total: usize,
    /// How many instances of the services found are in which health.
    pub(super) tally: Tally,
    /// The services, by name.
    pub(super) services: Vec<Service>,
    /// Whether a leader is known.
    pub(super) leader: Option<NodeName>,
    /// The index that all this was read at.
    pub(super) index: Index,
}

/// Instances by health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passing: usize,
    pub(super) warning: usize,
    pub(super) critical: usize,
}

/// A service.
#[derive(Debug, PartialEq)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    pub(super) status: Status,
    pub(super) tally: Tally,
    pub(super) tags: Vec<Arc<str>>,
    pub(super) instances: Vec<Instance>,
    /// Instances that are not shown.
    pub(super) left_out: usize,
}

/// An instance.
#[derive(Debug, PartialEq)]
pub(super) struct Instance {
    pub(super) id: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) address: String,
    pub(super) status: Status,
    pub(super) weight: u16,
    pub(super) version: Option<Arc<str>>,
    pub(super) tags: Vec<Arc<str>>,
    pub(super) checks: Vec<Check>,
}

/// A check of an instance or its node.
#[derive(Debug, PartialEq)]
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) status: Status,
    pub(super) output: String,
}

impl Overview {
    /// The services among `endpoints` whose names hold `search`.
    pub(super) fn new(
        endpoints: &[Endpoint],
        search: String,
        leader: Option<NodeName>,
        index: Index,
    ) -> Self {
        let mut by_service: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in endpoints {
            by_service
                .entry(endpoint.instance.service.name.as_str())
                .or_default()
                .push(endpoint);
        }
        let total = by_service.len();
        let wanted = search.to_lowercase();
        by_service.retain(|name, _| name.to_lowercase().contains(&wanted));
        let tally = Tally::of(by_service.values().flatten().map(|endpoint| endpoint.status()));
        let mut room = limits::UI_INSTANCES_MAX;
        let services = by_service
            .iter()
            .take(limits::UI_SERVICES_MAX)
            .map(|(name, endpoints)| {
                let service = Service::new(name, endpoints, room.min(limits::UI_SERVICE_INSTANCES_MAX));
                room -= service.instances.len();
                service
            })
            .collect();
        Self {
            search,
            found: by_service.len(),
            total,
            tally,
            services,
            leader,
            index,
        }
    }

    /// Services found that are not shown.
    pub(super) fn left_out(&self) -> usize {
        self.found - self.services.len()
    }
}

impl Tally {
    fn of(statuses: impl Iterator<Item = Status>) -> Self {
        statuses.fold(Self::default(), |mut tally, status| {
            match status {
                Status::Passing => tally.passing += 1,
                Status::Warning => tally.warning += 1,
                Status::Critical => tally.critical += 1,
            }
            tally
        })
    }

    /// All of them.
    pub(super) fn all(self) -> usize {
        self.passing + self.warning + self.critical
    }

    /// As words, leaving out what there is none of.
    pub(super) fn words(self) -> String {
        let parts = [
            (self.passing, "passing"),
            (self.warning, "warning"),
            (self.critical, "critical"),
        ];
        let said: Vec<_> = parts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, word)| format!("{n} {word}"))
            .collect();
        said.join(", ")
    }

    /// A service is as well as its best instance lets callers be: critical when nobody can be called, warning when
    /// somebody can't.
    fn status(self) -> Status {
        if self.passing + self.warning == 0 {
            Status::Critical
        } else if self.passing == self.all() {
            Status::Passing
        } else {
            Status::Warning
        }
    }
}

impl Service {
    fn new(name: &str, endpoints: &[&Endpoint], shown: usize) -> Self {
        let tally = Tally::of(endpoints.iter().map(|endpoint| endpoint.status()));
        let mut tags: Vec<_> = endpoints
            .iter()
            .flat_map(|endpoint| endpoint.instance.service.tags.iter().cloned())
            .collect();
        tags.sort_unstable();
        tags.dedup();
        let mut worst_first = endpoints.to_vec();
        worst_first.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.status()));
        let instances: Vec<_> = worst_first
            .iter()
            .take(shown)
            .map(|endpoint| Instance::new(endpoint))
            .collect();
        Self {
            name: name.into(),
            status: tally.status(),
            tally,
            tags,
            left_out: endpoints.len() - instances.len(),
            instances,
        }
    }
}

impl Instance {
    fn new(endpoint: &Endpoint) -> Self {
        let service = &endpoint.instance.service;
        let address = match (endpoint.address(), service.port) {
            (host, 0) => host.to_owned(),
            (host, port) if host.contains(':') => format!("[{host}]:{port}"),
            (host, port) => format!("{host}:{port}"),
        };
        Self {
            id: service.id.as_str().into(),
            node: endpoint.node.name.as_str().into(),
            address,
            status: endpoint.status(),
            weight: endpoint.weight(),
            version: service.meta.get("version").cloned(),
            tags: service.tags.clone(),
            checks: endpoint.checks.iter().map(|check| Check::new(check)).collect(),
        }
    }
}

impl Check {
    fn new(check: &spine_core::Check) -> Self {
        let output = check.output.trim();
        let end = output.floor_char_boundary(limits::UI_OUTPUT_BYTES_MAX);
        let cut = if end < output.len() { "…" } else { "" };
        Self {
            name: check.definition.name.clone(),
            status: check.status,
            output: format!("{}{cut}", &output[..end]),
        }
    }
}

/// The mark that stands beside the word, so that neither colour nor reading is needed to see it.
pub(super) fn mark(status: Status) -> &'static str {
    match status {
        Status::Passing => "✓",
        Status::Warning => "!",
        Status::Critical => "✕",
    }
}
