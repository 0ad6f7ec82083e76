//! `spine kv`.

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::json;
use spine_client::{
    Client, Guard, KeyRange,
    proto::{self as v1, PutOutcome},
};

use super::{
    Connection, Format, Printing, Streams,
    exit::Failure,
    print,
    rows::{KeyName, KeyRow},
};

/// More than the cluster stores under a key: read no further from a pipe that has no end.
const VALUE_BYTES_MAX: u64 = 16 << 20;

/// Read and write keys.
#[derive(Args, Debug)]
pub struct Kv {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a key's value, byte for byte (a terminal gets a line feed behind it)
    Get {
        /// The key
        key: String,
        /// As it was at this revision
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Store a value
    Put {
        /// The key
        key: String,
        /// The value; - reads it from the standard input
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// A number to keep with it
        #[arg(long, default_value_t = 0)]
        flags: u64,
        #[command(flatten)]
        condition: Condition,
    },
    /// Delete a key, or all keys with a prefix
    Delete {
        /// The key
        key: String,
        /// Delete all keys that begin with it
        #[arg(long, conflicts_with_all = ["index", "revision"])]
        prefix: bool,
        #[command(flatten)]
        condition: DeleteCondition,
    },
    /// Forget what keys were before a revision. Old history goes by itself; this is for who wants it gone at once
    Compact {
        /// The oldest revision that can still be read
        revision: u64,
    },
    /// List keys with their values
    List {
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: String,
        /// Leave the values out
        #[arg(long)]
        keys_only: bool,
    },
}

/// When to write (check-and-set).
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Condition {
    /// Only if there is no such key
    #[arg(long = "if-absent")]
    absent: bool,
    /// Only if it was last changed at this index
    #[arg(long = "if-index", value_name = "INDEX")]
    index: Option<u64>,
    /// Only if it was last changed at this revision
    #[arg(long = "if-revision", value_name = "REVISION")]
    revision: Option<u64>,
}

/// When to delete (check-and-set).
#[derive(Args, Debug)]
#[group(multiple = false)]
struct DeleteCondition {
    /// Only if it was last changed at this index
    #[arg(long = "if-index", value_name = "INDEX")]
    index: Option<u64>,
    /// Only if it was last changed at this revision
    #[arg(long = "if-revision", value_name = "REVISION")]
    revision: Option<u64>,
}

fn guard(index: Option<u64>, revision: Option<u64>) -> Option<Guard> {
    index.map(Guard::ModifyIndex).or(revision.map(Guard::ModRevision))
}

impl Kv {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let format = self.printing.output;
        match self.command {
            Command::Get { key, revision } => get(&client, streams, format, &key, revision).await,
            Command::Put {
                key,
                value,
                flags,
                condition,
            } => {
                let value = if value == "-" {
                    read_input(streams)?
                } else {
                    value.into_bytes()
                };
                let guard = if condition.absent {
                    Some(Guard::Absent)
                } else {
                    guard(condition.index, condition.revision)
                };
                let request = v1::PutRequest {
                    key: key.into(),
                    value: value.into(),
                    flags,
                    guard: guard.map(Into::into),
                    write_unchanged: false,
                    ..v1::PutRequest::default()
                };
                put(&client, streams, format, request).await
            }
            Command::Delete {
                key, prefix: true, ..
            } => delete_prefix(&client, streams, format, key).await,
            Command::Delete {
                key,
                prefix: false,
                condition,
            } => {
                let guard = guard(condition.index, condition.revision);
                delete(&client, streams, format, key, guard).await
            }
            Command::Compact { revision } => compact(&client, streams, format, revision).await,
            Command::List { prefix, keys_only } => list(&client, streams, format, prefix, keys_only).await,
        }
    }
}

fn read_input(streams: &mut Streams<'_>) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    streams.input.take(VALUE_BYTES_MAX).read_to_end(&mut value)?;
    Ok(value)
}

async fn get(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    key: &str,
    revision: Option<u64>,
) -> Result<(), Failure> {
    let answer = client.kv.get_at(key.to_owned(), revision).await?;
    let Some(kv) = answer.kv else {
        return Err(Failure::NotFound(format!(
            "there is no key {key:?}; store it with spine kv put"
        )));
    };
    match format {
        Format::Json => print::json(streams, &KeyRow::from(kv))?,
        Format::Table => {
            streams.out.write_all(&kv.value)?;
            if streams.terminal {
                writeln!(streams.out)?;
            }
        }
    }
    Ok(())
}

async fn put(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    request: v1::PutRequest,
) -> Result<(), Failure> {
    let answer = client.kv.put_with(request).await?;
    let outcome = match answer.outcome() {
        PutOutcome::Written => "written",
        PutOutcome::Unchanged => "unchanged",
        PutOutcome::GuardFailed => return Err(guard_failed()),
        PutOutcome::Unspecified => return Err(Failure::Other("the server's answer says nothing".into())),
    };
    let v1::PutResponse { index, revision, .. } = answer;
    match format {
        Format::Json => {
            print::json(
                streams,
                &json!({ "outcome": outcome, "index": index, "revision": revision }),
            )?;
        }
        Format::Table => writeln!(streams.out, "{outcome} at index {index}")?,
    }
    Ok(())
}

fn guard_failed() -> Failure {
    Failure::GuardFailed("the condition does not hold, nothing was written; read the key again".into())
}

async fn delete(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    key: String,
    guard: Option<Guard>,
) -> Result<(), Failure> {
    let answer = match guard {
        Some(guard) => client.kv.delete_if(key.clone(), guard).await?,
        None => client.kv.delete(KeyRange::Key(key.clone().into())).await?,
    };
    if answer.guard_failed {
        return Err(guard_failed());
    }
    if answer.deleted == 0 {
        return Err(Failure::NotFound(format!(
            "there is no key {key:?}; nothing was deleted"
        )));
    }
    deleted(streams, format, &answer)
}

async fn delete_prefix(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    prefix: String,
) -> Result<(), Failure> {
    let answer = client.kv.delete(KeyRange::Prefix(prefix.into())).await?;
    deleted(streams, format, &answer)
}

fn deleted(streams: &mut Streams<'_>, format: Format, answer: &v1::DeleteResponse) -> Result<(), Failure> {
    let v1::DeleteResponse {
        index,
        deleted,
        revision,
        ..
    } = answer;
    match format {
        Format::Json => {
            print::json(
                streams,
                &json!({ "deleted": deleted, "index": index, "revision": revision }),
            )?;
        }
        Format::Table => writeln!(streams.out, "{deleted} deleted at index {index}")?,
    }
    Ok(())
}

async fn compact(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    revision: u64,
) -> Result<(), Failure> {
    let index = client.kv.compact(revision).await?;
    match format {
        Format::Json => print::json(streams, &json!({ "revision": revision, "index": index }))?,
        Format::Table => writeln!(streams.out, "history begins at revision {revision}")?,
    }
    Ok(())
}

async fn list(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    prefix: String,
    keys_only: bool,
) -> Result<(), Failure> {
    let range = KeyRange::Prefix(prefix.into());
    if keys_only {
        let names = client.kv.keys(range).await?;
        let rows: Vec<_> = names.into_iter().map(KeyName::from).collect();
        return Ok(print::rows(streams, format, &rows)?);
    }
    let rows: Vec<_> = client
        .kv
        .list(range)
        .await?
        .into_iter()
        .map(KeyRow::from)
        .collect();
    Ok(print::rows(streams, format, &rows)?)
}
