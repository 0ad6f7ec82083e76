//! Says where to send traffic for a service.
//!
//! ```sh
//! cargo run -p spine-client --example lookup -- 127.0.0.1:8502 photo
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use spine_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or(format!("{what} is missing: SERVERS SERVICE"));
    let client = Client::connect(&next("SERVERS")?)?;
    let service = next("SERVICE")?;

    let answer = client.catalog.resolve(&service).await?;
    for target in &answer.targets {
        println!("{}:{} with weight {}", target.address, target.port, target.weight);
    }
    match (answer.targets.len(), answer.registered) {
        (0, 0) => println!("{service} is not registered"),
        (0, registered) => println!("{service} has {registered} instances, and none passes"),
        _ => {}
    }
    Ok(())
}
