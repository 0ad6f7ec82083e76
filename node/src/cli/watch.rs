//! `spine watch`.

use std::io;

use clap::Args;
use serde::Serialize;
use spine_client::{
    Topic,
    proto::{self as v1, event::Change},
};

use super::{
    Connection, Streams,
    exit::Failure,
    rows::{CheckRow, InstanceRow, Key, KeyRow, MemberRow, NodeRow},
};

/// Print what happens, one JSON event a line, until interrupted. Without a topic: everything.
#[derive(Args, Debug)]
pub struct Watch {
    #[command(flatten)]
    connection: Connection,
    /// This key; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Keys that begin with this; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// The instances of this service and their checks; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// This node and its own checks; may be repeated
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// The servers of the cluster
    #[arg(long)]
    members: bool,
    /// Begin behind this index, as an event or an answer told it; from now on unless given
    #[arg(long, alias = "from-rev", value_name = "INDEX")]
    from: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Watch {
    fn topics(&self) -> Vec<Topic> {
        let mut topics: Vec<_> = self.keys.iter().cloned().map(Topic::key).collect();
        topics.extend(self.prefixes.iter().cloned().map(Topic::prefix));
        topics.extend(self.services.iter().cloned().map(Topic::Service));
        topics.extend(self.nodes.iter().cloned().map(Topic::Node));
        if self.members {
            topics.push(Topic::Servers);
        }
        if topics.is_empty() {
            topics.push(Topic::Everything);
        }
        topics
    }

    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let mut request = client.watch.topics(self.topics());
        if let Some(index) = self.from {
            request = request.after(index);
        }
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut watch = request.start().await?;
        while left > 0 {
            for event in watch
                .next()
                .await?
                .events
                .into_iter()
                .take(usize::try_from(left).unwrap_or(usize::MAX))
            {
                left -= 1;
                line(streams, event)?;
            }
            streams.out.flush()?;
        }
        Ok(())
    }
}

fn line(streams: &mut Streams<'_>, event: v1::Event) -> io::Result<()> {
    let Some(change) = event.change else { return Ok(()) };
    let line = Line {
        index: event.index,
        what: change.into(),
    };
    serde_json::to_writer(&mut *streams.out, &line)?;
    writeln!(streams.out)
}

/// One event. `gone` is set where the row is no more, else `row` is how it is now.
#[derive(Serialize)]
struct Line {
    index: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum What {
    Key {
        #[serde(flatten)]
        key: Key,
        #[serde(flatten)]
        after: After<KeyRow>,
    },
    Node {
        name: String,
        #[serde(flatten)]
        after: After<NodeRow>,
    },
    Instance {
        node: String,
        id: String,
        service: String,
        #[serde(flatten)]
        after: After<InstanceRow>,
    },
    Check {
        node: String,
        id: String,
        service: String,
        #[serde(flatten)]
        after: After<CheckRow>,
    },
    Member {
        name: String,
        #[serde(flatten)]
        after: After<MemberRow>,
    },
    Lease {
        id: String,
        began: bool,
    },
    CaRoots {
        active_root: String,
    },
}

/// What is there after a change.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum After<R> {
    Row(R),
    Gone(bool),
}

impl<R> After<R> {
    fn of<T: Into<R>>(row: Option<T>) -> Self {
        row.map_or(Self::Gone(true), |row| Self::Row(row.into()))
    }
}

impl From<Change> for What {
    fn from(change: Change) -> Self {
        match change {
            Change::Key(change) => Self::Key {
                key: Key::from(&change.key[..]),
                after: After::of(change.after),
            },
            Change::Node(change) => Self::Node {
                name: change.name,
                after: After::of(change.after),
            },
            Change::Instance(change) => Self::Instance {
                node: change.node,
                id: change.id,
                service: change.service,
                after: After::of(change.after),
            },
            Change::Check(change) => Self::Check {
                node: change.node,
                id: change.id,
                service: change.service,
                after: After::of(change.after),
            },
            Change::Member(change) => Self::Member {
                name: change.name,
                after: After::of(change.after.map(MemberRow::of_event)),
            },
            Change::Lease(change) => Self::Lease {
                id: hex::encode(&change.id),
                began: change.began,
            },
            Change::CaRoots(change) => Self::CaRoots {
                active_root: change.active_root,
            },
        }
    }
}
