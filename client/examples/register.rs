//! Registers an instance with a TTL check and keeps it alive until it is interrupted.
//!
//! ```sh
//! cargo run -p spine-client --example register -- 127.0.0.1:8502 photo 127.0.0.1 8080
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use spine_client::{Client, Registration, proto::Status};
use tokio::signal::unix::{SignalKind, signal};

const TTL: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next()
            .ok_or(format!("{what} is missing: SERVERS SERVICE ADDRESS PORT"))
    };
    let client = Client::connect(&next("SERVERS")?)?;
    let (service, address) = (next("SERVICE")?, next("ADDRESS")?);
    let port = next("PORT")?.parse()?;

    // One for all of the time: an interrupt during a report is heard after it.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let id = format!("{service}@{address}:{port}");
    let registration = Registration::new(&service, &address, port).id(&id).ttl_check(TTL);
    let registered = client.catalog.register(registration).await?;
    println!("{id} is registered on {}", registered.node);

    let check = format!("service:{id}");
    loop {
        client.health.report(&check, Status::Passing, "alive").await?;
        tokio::select! {
            () = tokio::time::sleep(TTL / 3) => {}
            _ = interrupts.recv() => break,
        }
    }
    client.catalog.deregister(Some(&registered.node), &id).await?;
    println!("{id} is gone");
    Ok(())
}
