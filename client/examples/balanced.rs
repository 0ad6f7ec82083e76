//! Asks the instances of a gRPC service how they are, each request at the instance that the resolver picks, with a time
//! limit and a limit of requests at once from tower.
//!
//! ```sh
//! cargo run -p spine-client --example balanced -- 127.0.0.1:8502 photo 10
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use spine_client::Client;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next()
            .ok_or(format!("{what} is missing: SERVERS SERVICE REQUESTS"))
    };
    let client = Client::connect(&next("SERVERS")?)?;
    let service = next("SERVICE")?;
    let requests: u32 = next("REQUESTS")?.parse()?;

    let balanced = client.resolver(&service).start().await?.balanced();
    // Layers go around it as around any service.
    let limited = ServiceBuilder::new()
        .concurrency_limit(100)
        .timeout(Duration::from_secs(5))
        .service(balanced);
    let mut health = HealthClient::new(limited);
    for _ in 0..requests {
        match health.check(HealthCheckRequest::default()).await {
            Ok(answer) => println!("{:?}", answer.into_inner().status()),
            Err(status) => println!("{:?}: {}", status.code(), status.message()),
        }
    }
    Ok(())
}
