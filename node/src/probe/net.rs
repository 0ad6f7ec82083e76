//! Probes over the network.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_core::{CheckKind, Pace};
use tokio::time::timeout;

use super::{Finding, Guard, Prober, grpc, http, tcp, tls::Tls};
use crate::limits::PROBE_TIME_MAX;
use crate::world::net::{Net, Stream};

/// A run without a stated time takes no longer than this, as in Consul.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Runs probes over the network of the world that the node lives in.
#[derive(Clone, Debug)]
pub struct NetProber {
    net: Arc<dyn Net>,
    guard: Guard,
    pub(super) tls: Tls,
}

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("can't resolve {0:?}: {1}")]
    Unresolved(String, io::Error),
    #[error("{0:?} has no address")]
    NoAddress(String),
    #[error(transparent)]
    Denied(#[from] super::Denied),
    #[error("{0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
}

impl NetProber {
    /// Probes through `net`, to where `guard` lets them.
    pub fn new(net: Arc<dyn Net>, guard: Guard) -> Self {
        Self {
            net,
            guard,
            tls: Tls::default(),
        }
    }

    /// Connects to a host. Its name is resolved once, what is found is judged, and to that address it connects: a
    /// name that resolves to something else the next moment gains nothing.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, DialError> {
        let mut refused = None;
        let found = self.net.resolve(host, port).await;
        for address in found.map_err(|error| DialError::Unresolved(host.to_owned(), error))? {
            if let Err(denied) = self.guard.check(address) {
                refused.get_or_insert(DialError::Denied(denied));
                continue;
            }
            match self.net.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = Some(DialError::Connect(address, error)),
            }
        }
        Err(refused.unwrap_or_else(|| DialError::NoAddress(host.to_owned())))
    }
}

#[async_trait]
impl Prober for NetProber {
    async fn run(&self, kind: &CheckKind) -> Finding {
        match kind {
            CheckKind::Http(probe) => {
                let what = http::title(probe);
                within(probe.pace, &what, http::run(self, probe)).await
            }
            CheckKind::Tcp(probe) => {
                let what = format!("TCP connect {}", probe.address);
                within(probe.pace, &what, tcp::run(self, probe)).await
            }
            CheckKind::Grpc(probe) => {
                let what = format!("gRPC check {}", probe.address);
                within(probe.pace, &what, grpc::run(self, probe)).await
            }
            CheckKind::External | CheckKind::Ttl(_) => Finding::critical("no node probes such a check"),
        }
    }
}

async fn within(pace: Pace, what: &str, run: impl Future<Output = Finding>) -> Finding {
    let limit = match pace.timeout.duration() {
        Duration::ZERO => TIMEOUT_DEFAULT,
        limit => limit.min(PROBE_TIME_MAX),
    };
    timeout(limit, run)
        .await
        .unwrap_or_else(|_| Finding::critical(format!("{what}: no answer within {limit:?}")))
}

#[cfg(test)]
mod tests {
    use spine_core::Ttl;

    use super::*;
    use crate::limits::PROBE_TIME_MAX;

    #[tokio::test(start_paused = true)]
    async fn no_run_takes_longer_than_the_bound_whatever_its_check_says() {
        let pace = Pace {
            interval: Ttl::seconds(1),
            timeout: Ttl::seconds(86_400),
        };
        let began = tokio::time::Instant::now();
        let found = within(pace, "TCP", std::future::pending()).await;
        assert_eq!(began.elapsed(), PROBE_TIME_MAX);
        assert_eq!(&*found.output, "TCP: no answer within 60s");
    }
}
