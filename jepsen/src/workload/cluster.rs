//! Always on: samples of what each node knows of itself, and in the end of what it holds.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use spine_client::{Client, KeyRange, proto};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::Context;
use crate::{
    checker::cluster::SAMPLE_EVERY,
    client::NodeClient,
    history::{Sight, Workload},
};

/// A sample that takes longer is none: it would say what was long past.
const SAMPLE_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) {
    for node in context.clients() {
        workers.spawn(sample(context.clone(), node));
    }
}

async fn sample(context: Context, node: NodeClient) {
    loop {
        if let Some(status) = status(&node).await {
            let proto::ServerStatusResponse {
                term,
                index,
                leader,
                ready,
                ..
            } = status;
            let sight = Sight::Status {
                term,
                index,
                leader,
                ready,
            };
            context.recorder.saw(Workload::Cluster, &node.node, sight);
        }
        if !context.rest(SAMPLE_EVERY).await {
            return;
        }
    }
}

async fn status(node: &NodeClient) -> Option<proto::ServerStatusResponse> {
    let status = node.native.stale().members.server_status();
    timeout(SAMPLE_WITHIN, status).await.ok()?.ok()
}

/// Waits until every node has applied what the cluster has acknowledged by now. Gives up at the deadline: the checkers
/// see what is missing.
pub async fn await_caught_up(context: &Context, deadline: Duration) {
    let until = Instant::now() + deadline;
    let nodes = context.clients();
    let mut newest = None;
    let mut behind: Vec<&NodeClient> = nodes.iter().collect();
    while !behind.is_empty() && Instant::now() < until {
        if newest.is_none() {
            newest = newest_index(&nodes).await;
        }
        if let Some(newest) = newest {
            let mut left = Vec::new();
            for node in behind {
                let index = status(node).await.map(|status| status.index);
                if index.is_none_or(|index| index < newest) {
                    left.push(node);
                }
            }
            behind = left;
        }
        sleep(PAUSE).await;
    }
}

/// The index of a linearizable read, of any node.
async fn newest_index(nodes: &[NodeClient]) -> Option<u64> {
    for node in nodes {
        if let Ok(answer) = node.native.client().kv.get_at("nothing", None).await {
            return answer.header.map(|header| header.applied_index);
        }
    }
    None
}

/// Waits until all nodes hold the same, and writes down what each holds. Gives up at the deadline, and writes down what
/// they hold then.
pub async fn await_same_content(context: &Context, deadline: Duration) {
    let until = Instant::now() + deadline;
    let nodes = context.clients();
    loop {
        let mut contents = Vec::new();
        for node in &nodes {
            contents.push(content(node).await);
        }
        let different: BTreeSet<Option<u64>> = contents
            .iter()
            .map(|content| content.map(|(_, checksum)| checksum))
            .collect();
        let is_same = different.len() == 1 && !different.contains(&None);
        if is_same || Instant::now() > until {
            for (node, content) in nodes.iter().zip(contents) {
                let Some((index, checksum)) = content else {
                    continue;
                };
                let checksum = format!("{checksum:016x}");
                let sight = Sight::Content { index, checksum };
                context.recorder.saw(Workload::Cluster, &node.node, sight);
            }
            return;
        }
        sleep(PAUSE).await;
    }
}

/// A checksum over all keys and all registered instances that a node has, and the index that it had reached before.
async fn content(node: &NodeClient) -> Option<(u64, u64)> {
    let index = status(node).await?.index;
    let client: &Client = node.native.stale();
    let mut hasher = DefaultHasher::new();
    for row in client.kv.list(KeyRange::Prefix(Vec::new().into())).await.ok()? {
        (&row.key[..], &row.value[..]).hash(&mut hasher);
        [row.create_index, row.modify_index, row.flags, row.version].hash(&mut hasher);
    }
    for service in client.catalog.services().await.ok()? {
        for endpoint in client.catalog.instances(&service.name).await.ok()? {
            let instance = endpoint.instance.unwrap_or_default();
            let registered = instance.service.unwrap_or_default();
            (
                &instance.node,
                &registered.id,
                &registered.address,
                registered.port,
            )
                .hash(&mut hasher);
            [instance.create_index, instance.modify_index].hash(&mut hasher);
        }
    }
    Some((index, hasher.finish()))
}
