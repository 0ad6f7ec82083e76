//! The TCP probe: passes when a connection is made.

use spine_core::{Status, TcpProbe};

use super::{Finding, net::NetProber, tls::Handshake};
use crate::world::net::host_and_port;

pub(super) async fn run(prober: &NetProber, probe: &TcpProbe) -> Finding {
    let address = &probe.address;
    let Some((host, port)) = host_and_port(address) else {
        return Finding::critical(format!("TCP connect {address}: not HOST:PORT"));
    };
    let connected = async {
        let stream = prober.dial(host, port).await?;
        if probe.tls {
            let handshake = Handshake {
                name: host,
                protocol: b"http/1.1",
                verify: true,
            };
            prober.tls.handshake(stream, handshake).await?;
        }
        Ok::<_, super::net::DialError>(())
    };
    match connected.await {
        Ok(()) => Finding::new(Status::Passing, format!("TCP connect {address}: Success")),
        Err(error) => Finding::critical(format!("TCP connect {address}: {error}")),
    }
}
