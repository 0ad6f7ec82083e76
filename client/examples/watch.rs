//! Tells what happens to a service, and goes on at another server if the one it reads from goes away.
//!
//! ```sh
//! cargo run -p spine-client --example watch -- 127.0.0.1:8502 photo
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use spine_client::{Client, Topic, proto::event::Change};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or(format!("{what} is missing: SERVERS SERVICE"));
    let client = Client::connect(&next("SERVERS")?)?;
    let service = next("SERVICE")?;

    // What is there first, then what changes from there on: nothing is missed in between.
    let now = client.catalog.resolve(&service).await?;
    println!("{} of {} instances pass", now.targets.len(), now.registered);
    let from = now.header.unwrap_or_default().applied_index;
    let mut changes = client
        .watch
        .topics([Topic::service(&service)])
        .after(from)
        .start()
        .await?;
    loop {
        for event in changes.next().await?.events {
            match event.change {
                Some(Change::Instance(change)) if change.after.is_none() => println!("{} is gone", change.id),
                Some(Change::Instance(change)) => println!("{} is registered", change.id),
                Some(Change::Check(change)) => {
                    let status = change.after.map(|check| check.status());
                    println!("check {} says {status:?}", change.id);
                }
                _ => {}
            }
        }
    }
}
