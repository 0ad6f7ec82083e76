//! One of several programs leads, and all know which: campaigns, leads until it is interrupted or loses the leadership,
//! resigns. Start it several times, each with its own address.
//!
//! ```sh
//! cargo run -p spine-client --example election -- 127.0.0.1:8502 scheduler 10.0.0.7:9000
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{future::Future, io, pin::pin, time::Duration};

use spine_client::{Client, Election, Error};

/// Should the leader die, another leads after so long.
const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next()
            .ok_or(format!("{what} is missing: SERVERS NAME ADDRESS"))
    };
    let client = Client::connect(&next("SERVERS")?)?;
    let (name, address) = (next("NAME")?, next("ADDRESS")?);

    let election = client.election(name);
    tokio::select! {
        told = observe(&election) => told?,
        over = take_part(&client, &election, &address, tokio::signal::ctrl_c()) => over?,
    }
    Ok(())
}

/// Tells who leads, as it changes.
async fn observe(election: &Election) -> Result<(), Error> {
    let mut observer = election.observe();
    loop {
        match observer.next().await? {
            Some(place) => println!("{} leads", String::from_utf8_lossy(&place.value)),
            None => println!("nobody leads"),
        }
    }
}

/// Campaigns and leads, again and again until it is interrupted.
async fn take_part(
    client: &Client,
    election: &Election,
    address: &str,
    interrupt: impl Future<Output = io::Result<()>>,
) -> Result<(), Error> {
    let mut interrupt = pin!(interrupt);
    loop {
        // What we have in the election, a place or the leadership, hangs on this lease.
        let lease = client.lease.grant(TTL).await?;
        let campaign = election.clone().lease(&lease).campaign(address.to_owned());
        let leadership = tokio::select! {
            elected = campaign => match elected {
                // No server could be reached for as long as the lease lives. Once one can, we queue up anew.
                Err(Error::LeaseLost) => continue,
                elected => elected?,
            },
            // Those behind us need not wait until the lease ends by itself.
            _ = &mut interrupt => return lease.revoke().await,
        };
        println!("we lead, with number {}", leadership.fence());
        tokio::select! {
            () = lead(leadership.fence()) => {}
            lost = leadership.lost() => println!("we lead no more: {lost:?}"),
            _ = &mut interrupt => {
                leadership.resign().await?;
                println!("we have resigned");
                return lease.revoke().await;
            }
        }
    }
}

/// What only the leader does. It shows its number to whatever it works on, which refuses a lower one than it has seen, as in
/// the example `lock`: a leader that was paused doesn't know yet that another leads.
async fn lead(_fence: u64) {
    std::future::pending::<()>().await;
}
