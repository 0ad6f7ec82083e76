//! Chooses an instance of a service for each of some requests, by weight and by what became of the requests before.
//!
//! ```sh
//! cargo run -p spine-client --example resolve -- 127.0.0.1:8502 photo 10
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use spine_client::{
    Client,
    resolver::{Pick, Report},
};
use tokio::net::TcpStream;

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

    // From here on the service is followed; a choice never waits, and needs no server.
    let resolver = client.resolver(&service).start().await?;
    for _ in 0..requests {
        match resolver.pick() {
            Ok(pick) => call(pick).await,
            Err(none) => println!("{none}"),
        }
    }
    Ok(())
}

/// A request that is no more than a connection.
async fn call(pick: Pick) {
    let address = pick.address();
    match TcpStream::connect(&address).await {
        Ok(_) => {
            println!("{address} serves");
            pick.report(Report::Success);
        }
        Err(error) => {
            println!("{address}: {error}");
            pick.report(Report::Failure);
        }
    }
}
