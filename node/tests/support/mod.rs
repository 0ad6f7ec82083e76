//! A node in a directory, and a few words to speak with it.

#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that can't go on fails"
)]

pub mod clock;
pub mod cluster;
pub mod stall;

use std::{path::Path, sync::Arc, time::Duration};

use spine_api::{Context, Read, Registry};
use spine_core::{Applied, Command, Dialect, GetKey, Guard, NodeName, Outcome, Put, Repeat};
use spine_node::{
    Node, NodeSettings, World, metrics_sink::Uncounted, raft::bootstrap::StartError,
    storage::segment::LogOptions,
};

pub fn settings(directory: &Path) -> NodeSettings {
    let mut settings = NodeSettings::new(NodeName::parse("n1").unwrap(), directory.to_owned());
    // Small segments: zeroing large ones would be most of a test's time.
    settings.log = LogOptions {
        segment_bytes: 4 << 20,
        spares: 1,
        ..LogOptions::default()
    };
    settings
}

pub async fn try_start(directory: &Path) -> Result<Node, StartError> {
    Node::start(settings(directory), World::real(), Arc::new(Uncounted)).await
}

pub async fn start(directory: &Path) -> Node {
    let node = try_start(directory).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), node.ready())
        .await
        .expect("ready in time")
        .unwrap();
    node
}

pub fn cx() -> Context {
    Context::new(Dialect::Internal)
}

pub fn put(key: &str, value: impl Into<Vec<u8>>) -> Command {
    Command::Put(Put {
        key: key.to_owned().into(),
        value: value.into().into(),
        flags: 0,
        lease: None,
        guard: Guard::Always,
        repeat: Repeat::Skip,
    })
}

pub async fn write(registry: &dyn Registry, key: &str, value: impl Into<Vec<u8>>) -> Applied {
    let applied = registry.propose(&cx(), put(key, value)).await.unwrap();
    assert!(
        matches!(applied.result, Ok(Outcome::Put { written: true, .. })),
        "{applied:?}"
    );
    applied
}

pub async fn read(registry: &dyn Registry, key: &str) -> Option<String> {
    let answer = registry
        .read(&cx(), &GetKey(key.to_owned().into()), None)
        .await
        .unwrap();
    answer
        .value
        .map(|row| String::from_utf8(row.value.to_vec()).unwrap())
}
