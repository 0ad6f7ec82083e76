//! Registrations, said shortly.

use std::time::Duration;

use spine_proto::v1::{self, check_definition::Kind};

/// An instance of a service to register, with what most need said about it. All that can be said is in
/// [`proto::RegisterRequest`](crate::proto::RegisterRequest).
#[derive(Clone, Debug)]
#[must_use]
pub struct Registration {
    node: String,
    service: v1::Service,
    checks: Vec<v1::CheckDefinition>,
}

impl Registration {
    /// The instance of `service` at `address`, a name or an IP address, and `port`. Its id is made of all three, so
    /// another address is another instance.
    pub fn new(service: &str, address: &str, port: u16) -> Self {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let service = v1::Service {
            id: format!("{service}@{host}:{port}"),
            name: service.to_owned(),
            address: address.to_owned(),
            port: port.into(),
            ..v1::Service::default()
        };
        Self {
            node: String::new(),
            service,
            checks: Vec::new(),
        }
    }

    /// Another id, unique on its node.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.service.id);
        self
    }

    /// The node that it is on; the asked server's own unless told.
    pub fn node(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// Its version, by which it can be resolved: metadata for filters and a tag for DNS.
    pub fn version(self, version: &str) -> Self {
        self.meta("version", version).tag(version)
    }

    /// Its share of the traffic while it passes; 0: none. 1 unless told.
    pub fn weight(mut self, weight: u16) -> Self {
        self.service.weights = Some(v1::Weights {
            passing: weight.into(),
            warning: weight.min(1).into(),
        });
        self
    }

    /// A label more.
    pub fn tag(mut self, tag: &str) -> Self {
        self.service.tags.push(tag.to_owned());
        self
    }

    /// A pair of metadata more.
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.service.meta.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A check to which the service reports, with [`Health::report`](crate::Health::report) and the check's id,
    /// `service:ID`: silence for this long makes it critical.
    pub fn ttl_check(self, ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.check(v1::CheckDefinition {
            kind: Some(Kind::TtlMs(ttl_ms)),
            ..v1::CheckDefinition::default()
        })
    }

    /// A check by an HTTP request, every `interval`.
    pub fn http_check(self, url: &str, interval: Duration) -> Self {
        let probe = v1::HttpProbe {
            url: url.to_owned(),
            pace: Some(every(interval)),
            ..v1::HttpProbe::default()
        };
        self.check(v1::CheckDefinition {
            kind: Some(Kind::Http(probe)),
            ..v1::CheckDefinition::default()
        })
    }

    /// A check by a TCP connection to `HOST:PORT`, every `interval`.
    pub fn tcp_check(self, address: &str, interval: Duration) -> Self {
        let probe = v1::TcpProbe {
            address: address.to_owned(),
            tls: false,
            pace: Some(every(interval)),
        };
        self.check(v1::CheckDefinition {
            kind: Some(Kind::Tcp(probe)),
            ..v1::CheckDefinition::default()
        })
    }

    /// A check by gRPC's standard health service at `HOST:PORT`, every `interval`.
    pub fn grpc_check(self, address: &str, interval: Duration) -> Self {
        let probe = v1::GrpcProbe {
            address: address.to_owned(),
            pace: Some(every(interval)),
            ..v1::GrpcProbe::default()
        };
        self.check(v1::CheckDefinition {
            kind: Some(Kind::Grpc(probe)),
            ..v1::CheckDefinition::default()
        })
    }

    /// A check more, with all that can be said about it.
    pub fn check(mut self, check: v1::CheckDefinition) -> Self {
        self.checks.push(check);
        self
    }
}

fn every(interval: Duration) -> v1::Pace {
    v1::Pace {
        interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        timeout_ms: 0,
    }
}

impl From<Registration> for v1::RegisterRequest {
    fn from(registration: Registration) -> Self {
        let Registration {
            node,
            service,
            checks,
        } = registration;
        Self {
            node,
            service: Some(service),
            checks,
            ..Self::default()
        }
    }
}
