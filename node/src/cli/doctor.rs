//! `spine doctor`: what is wrong with a cluster, or about to be, and what to do.
//!
//! Every member is asked, each for itself, and every address that it gives is tried from here; so what differs between the
//! servers' views, or between theirs and that of a client, is seen. Gathering is here; what follows from the facts is decided
//! by [`mod@judge`], which touches nothing. [`local`] looks at a directory without any server.

mod finding;
mod judge;
mod local;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures::future::join_all;
use spine_client::{Client, Error, proto as v1};
use tokio::time::timeout;

pub(super) use self::judge::{Facts, Server, judge};
use self::{
    finding::Verdict,
    judge::{Port, Reached},
};
use super::{Connection, Printing, Streams, exit::Failure, print};
use crate::world::{
    clock::{Clock, OsClock},
    net::{Net, OsNet, host_and_port},
};

/// A port that takes longer to be reached is taken for closed.
const REACHED_WITHIN: Duration = Duration::from_secs(2);

/// Find out what is wrong with a cluster, or about to be, and what to do. Exit code 1 if anything is.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Look at this data directory and its disk instead, without any server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
}

impl Doctor {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let findings = match &self.data_dir {
            Some(directory) => local::judge(&local::look(directory).await),
            None => judge(&gather(&self.connection).await?),
        };
        print::rows(streams, self.printing.output, &findings)?;
        let failed = findings
            .iter()
            .filter(|finding| finding.result == Verdict::Fail)
            .count();
        match failed {
            0 => Ok(()),
            1 => Err(Failure::Other("1 check failed: see above".to_owned())),
            _ => Err(Failure::Other(format!("{failed} checks failed: see above"))),
        }
    }
}

/// What every member says, and what is seen from here.
pub(super) async fn gather(connection: &Connection) -> Result<Facts, Failure> {
    let v1::ListMembersResponse { members, voters, .. } = members(&connection.client()?).await?;
    let servers = members.into_iter().map(|member| server(connection, member));
    Ok(Facts {
        servers: join_all(servers).await,
        voters: voters.map(|voters| voters as usize),
    })
}

/// The members, by whoever answers; while there is no leader, as far as that one knows.
async fn members(client: &Client) -> Result<v1::ListMembersResponse, Error> {
    match client.members.overview().await {
        Err(Error::NoLeader | Error::Deadline(_)) => client.stale().members.overview().await,
        listed => listed,
    }
}

async fn server(connection: &Connection, member: v1::Member) -> Server {
    let addresses = [
        ("grpc", &member.grpc_address),
        ("http", &member.http_address),
        ("peer", &member.peer_address),
    ];
    let given = addresses.into_iter().filter(|(_, address)| !address.is_empty());
    let tried = given.map(|(name, address)| async move {
        Port {
            name,
            address: address.clone(),
            problem: reach(address).await.err(),
        }
    });
    let (ports, said) = tokio::join!(join_all(tried), ask(connection, &member.grpc_address));
    Server { member, said, ports }
}

/// What a member says of itself, and when.
async fn ask(connection: &Connection, address: &str) -> Result<Reached, Error> {
    if address.is_empty() {
        return Err(Error::Unreachable(
            "it has no address for clients (--grpc-addr off)".into(),
        ));
    }
    let client = connection.client_of(address)?;
    // The first call makes the connection; the way is measured by the second.
    client.members.server_status().await?;
    let began = OsClock.monotonic();
    let said = client.admin.diagnose().await?;
    let took = OsClock.monotonic().saturating_sub(began);
    let way = took.saturating_sub(Duration::from_micros(said.took_us));
    let now = i64::try_from(OsClock.wall().0).unwrap_or(i64::MAX);
    // It looked at its clock when half of the way back lay before the answer.
    let then = now - i64::try_from((way / 2).as_millis()).unwrap_or(0);
    Ok(Reached {
        ahead_ms: i64::try_from(said.wall_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(then),
        round_trip: way,
        said,
    })
}

/// Whether something listens there.
async fn reach(address: &str) -> Result<(), String> {
    let (host, port) = host_and_port(address).ok_or_else(|| "is not HOST:PORT".to_owned())?;
    let connecting = async {
        let found = OsNet.resolve(host, port).await?;
        let mut refused = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in found {
            match OsNet.connect(address).await {
                Ok(_) => return Ok(()),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    };
    match timeout(REACHED_WITHIN, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {REACHED_WITHIN:?}")),
    }
}
