//! The gRPC probe: asks the target's standard health service.

use http::Uri;
use hyper_util::rt::TokioIo;
use spine_core::{GrpcProbe, Status};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    Finding,
    net::{DialError, NetProber},
    tls::Handshake,
};
use crate::limits::PROBE_ANSWER_BYTES_MAX;
use crate::world::net::{Stream, host_and_port};

pub(super) async fn run(prober: &NetProber, probe: &GrpcProbe) -> Finding {
    let title = format!("gRPC check {}", probe.address);
    match ask(prober, probe).await {
        Ok(ServingStatus::Serving) => Finding::new(Status::Passing, format!("{title}: success")),
        Ok(other) => Finding::critical(format!("{title}: {}", other.as_str_name())),
        Err(error) => Finding::critical(format!("{title}: {error}")),
    }
}

async fn ask(prober: &NetProber, probe: &GrpcProbe) -> Result<ServingStatus, String> {
    let channel = connect(prober, probe).await?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(PROBE_ANSWER_BYTES_MAX);
    let request = HealthCheckRequest {
        service: probe.service.to_string(),
    };
    let answer = client
        .check(request)
        .await
        .map_err(|status| format!("{}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().status())
}

async fn connect(prober: &NetProber, probe: &GrpcProbe) -> Result<Channel, String> {
    let address = &probe.address;
    let (host, port) = host_and_port(address).ok_or("not HOST:PORT")?;
    let scheme = if probe.tls { "https" } else { "http" };
    let origin: Uri = format!("{scheme}://{address}")
        .parse()
        .map_err(|_| "not HOST:PORT")?;
    let stream = dial(prober, host, port, probe.tls)
        .await
        .map_err(|error| error.to_string())?;
    // The connector is asked once: there is one stream, and with it the probe ends.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("the connection was lost"));
        async { stream }
    });
    let endpoint = Endpoint::from(Uri::from_static("http://target")).origin(origin);
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())
}

async fn dial(prober: &NetProber, host: &str, port: u16, tls: bool) -> Result<Box<dyn Stream>, DialError> {
    let stream = prober.dial(host, port).await?;
    if !tls {
        return Ok(stream);
    }
    let handshake = Handshake {
        name: host,
        protocol: b"h2",
        verify: true,
    };
    Ok(Box::new(prober.tls.handshake(stream, handshake).await?))
}
