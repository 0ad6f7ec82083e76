//! `spine lease`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use spine_client::{LeaseId, proto as v1};

use super::{
    Connection, Format, Printing, Streams, duration,
    exit::Failure,
    print::{self, Row},
    rows::Key,
};

/// Make, renew and end leases, and see what hangs on them.
#[derive(Args, Debug)]
pub struct Lease {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a lease. It ends unless it is renewed
    Grant {
        /// How long it lives after each renewal, as 10s or 2m
        #[arg(value_parser = duration)]
        ttl: Duration,
        /// A name, for people
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Renew a lease: its time to live begins anew
    Renew {
        /// The lease, in hexadecimal
        #[arg(value_parser = id)]
        id: LeaseId,
    },
    /// Show a lease, and what hangs on it
    Get {
        /// The lease, in hexadecimal
        #[arg(value_parser = id)]
        id: LeaseId,
    },
    /// List the leases
    List,
    /// End a lease, and what hangs on it
    Revoke {
        /// The lease, in hexadecimal
        #[arg(value_parser = id)]
        id: LeaseId,
    },
}

impl Lease {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let leases = self.connection.client()?.lease;
        let format = self.printing.output;
        match self.command {
            Command::Grant { ttl, name } => {
                let granted = leases
                    .grant_with(v1::LeaseGrantRequest {
                        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                        name,
                        ..v1::LeaseGrantRequest::default()
                    })
                    .await?;
                done(streams, format, &Granted::from(granted), |granted| {
                    format!(
                        "lease {} lives {} ms after each renewal",
                        granted.id, granted.ttl_ms
                    )
                })
            }
            Command::Renew { id } => {
                let v1::LeaseRenewResponse { ttl_ms } = leases.renew(id).await?;
                let id = id.to_string();
                done(streams, format, &Granted { id, ttl_ms }, |renewed| {
                    format!("lease {} lives {} ms more", renewed.id, renewed.ttl_ms)
                })
            }
            Command::Get { id } => {
                let found = leases.get(id).await?;
                let lease = found
                    .lease
                    .ok_or_else(|| Failure::NotFound(format!("no lease {id}")))?;
                let held = Held {
                    lease: LeaseRow::from(lease),
                    remaining_ms: found.remaining_ms,
                    keys: found.keys.iter().map(|key| Key::from(&key[..])).collect(),
                    locks: found.locks.iter().map(|key| Key::from(&key[..])).collect(),
                };
                match format {
                    Format::Json => print::json(streams, &held)?,
                    Format::Table => held.print(streams)?,
                }
                Ok(())
            }
            Command::List => {
                let rows: Vec<_> = leases.list().await?.into_iter().map(LeaseRow::from).collect();
                Ok(print::rows(streams, format, &rows)?)
            }
            Command::Revoke { id } => {
                let revoked = leases.revoke(id).await?;
                let revoked = Revoked {
                    id: id.to_string(),
                    deleted: revoked.deleted,
                    index: revoked.index,
                };
                done(streams, format, &revoked, |revoked| {
                    format!("lease {} ended, {} keys with it", revoked.id, revoked.deleted)
                })
            }
        }
    }
}

fn done<T: Serialize>(
    streams: &mut Streams<'_>,
    format: Format,
    value: &T,
    line: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    match format {
        Format::Json => print::json(streams, value)?,
        Format::Table => writeln!(streams.out, "{}", line(value))?,
    }
    Ok(())
}

/// Reads a lease's id, as it is printed or as a UUID.
fn id(text: &str) -> Result<LeaseId, String> {
    let digits = text.replace('-', "");
    let id = u128::from_str_radix(&digits, 16);
    let id = id.map_err(|_| format!("{text:?} is not a lease's ID in hexadecimal"))?;
    LeaseId::from_bytes(&id.to_be_bytes()).ok_or_else(|| "an ID has 16 bytes".to_owned())
}

fn shown(id: &[u8]) -> String {
    LeaseId::from_bytes(id).map_or_else(String::new, |id| id.to_string())
}

#[derive(Debug, Serialize)]
struct Granted {
    id: String,
    ttl_ms: u64,
}

impl From<v1::LeaseGrantResponse> for Granted {
    fn from(granted: v1::LeaseGrantResponse) -> Self {
        Self {
            id: shown(&granted.id),
            ttl_ms: granted.ttl_ms,
        }
    }
}

#[derive(Debug, Serialize)]
struct Revoked {
    id: String,
    deleted: u64,
    index: u64,
}

/// A lease.
#[derive(Debug, Serialize)]
struct LeaseRow {
    id: String,
    name: String,
    /// `None`: it ends with what it hangs on.
    ttl_ms: Option<u64>,
    node: String,
    checks: Vec<String>,
    create_index: u64,
}

impl From<v1::LeaseInfo> for LeaseRow {
    fn from(info: v1::LeaseInfo) -> Self {
        Self {
            id: shown(&info.id),
            name: info.name,
            ttl_ms: (info.ttl_ms > 0).then_some(info.ttl_ms),
            node: info.node,
            checks: info.node_checks.into_iter().chain(info.service_checks).collect(),
            create_index: info.create_index,
        }
    }
}

impl Row for LeaseRow {
    const HEADER: &'static [&'static str] = &["ID", "NAME", "TTL MS", "NODE", "CHECKS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.ttl_ms.map(|ttl| ttl.to_string()).unwrap_or_default(),
            self.node.clone(),
            self.checks.join(","),
        ]
    }
}

/// A lease and what hangs on it: of keys and locks the first page.
#[derive(Debug, Serialize)]
struct Held {
    #[serde(flatten)]
    lease: LeaseRow,
    remaining_ms: Option<u64>,
    keys: Vec<Key>,
    locks: Vec<Key>,
}

impl Held {
    fn print(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        print::rows(streams, Format::Table, std::slice::from_ref(&self.lease))?;
        if let Some(remaining) = self.remaining_ms {
            writeln!(streams.out, "ends in {remaining} ms unless it is renewed")?;
        }
        for (what, keys) in [("ends with it", &self.keys), ("is locked by it", &self.locks)] {
            for key in keys {
                let (Key::Text(key) | Key::Bytes(key)) = key;
                writeln!(streams.out, "{key:?} {what}")?;
            }
        }
        Ok(())
    }
}
