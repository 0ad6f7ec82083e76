//! Adds to an account, one program at a time: takes a lock, works under its fencing number, gives it back.
//!
//! ```sh
//! cargo run -p spine-client --example lock -- 127.0.0.1:8502 accounts/7 25
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, time::Duration};

use spine_client::{Client, Guard, proto::PutOutcome};

/// Should this program die, the lock is free after so long.
const TTL: Duration = Duration::from_secs(10);
/// Should others hold it for longer, this program gives up.
const WAIT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next()
            .ok_or(format!("{what} is missing: SERVERS ACCOUNT AMOUNT"))
    };
    // An addition whose answer is lost is sent again, and takes effect once.
    let client = Client::builder(&next("SERVERS")?).exactly_once(true).build()?;
    let name = next("ACCOUNT")?;
    let amount: i64 = next("AMOUNT")?.parse()?;

    let lock = client.lock(format!("locks/{name}")).ttl(TTL).wait(WAIT);
    let guard = lock.acquire().await?;
    println!("our turn, with number {}", guard.fence());
    let account = Account { client, name };
    let worked = tokio::select! {
        worked = account.add(guard.fence(), amount) => worked,
        // Somebody else may be at it by now: whatever we were doing, we stop.
        lost = guard.lost() => Err(format!("the lock was lost: {lost:?}").into()),
    };
    // However the work went, the next one need not wait for the lease to end.
    let released = guard.release().await;
    println!("the balance is {}", worked?);
    Ok(released?)
}

/// What the lock guards. It remembers the greatest number that it has been worked on under, and refuses a lower one: no
/// lock can stop a program that was paused, lost the lock meanwhile, and goes on where it was.
struct Account {
    client: Client,
    name: String,
}

impl Account {
    /// Adds to the balance, and gives the new one.
    async fn add(&self, fence: u64, amount: i64) -> Result<i64, Box<dyn Error>> {
        let row = self.client.kv.get(self.name.clone()).await?;
        let (last, balance, unchanged) = match &row {
            Some(row) => {
                let (last, balance) = parse(&row.value)?;
                (last, balance, Guard::ModifyIndex(row.modify_index))
            }
            None => (0, 0, Guard::Absent),
        };
        if fence < last {
            return Err(format!("number {last} was here after our {fence}: the lock is another's").into());
        }
        let balance = balance + amount;
        let value = format!("{fence} {balance}");
        // Only on what was read: whoever came in between had the lock after us, or doesn't keep to it.
        let put = self.client.kv.put_if(self.name.clone(), value, unchanged).await?;
        match put.outcome() {
            PutOutcome::GuardFailed => Err(format!("{} was changed meanwhile", self.name).into()),
            _ => Ok(balance),
        }
    }
}

/// An account's row: the greatest fencing number, and the balance.
fn parse(value: &[u8]) -> Result<(u64, i64), Box<dyn Error>> {
    let text = std::str::from_utf8(value)?;
    let (fence, balance) = text.split_once(' ').ok_or("this is no account")?;
    Ok((fence.parse()?, balance.parse()?))
}
