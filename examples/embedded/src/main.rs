//! A program that carries its own registry: three nodes in this process, without the binary `spine` and without a port
//! for clients.
//!
//! ```sh
//! cargo run -- DIRECTORY
//! ```
//!
//! Its nodes find each other on the loopback here; in a fleet each process would run one of them and the others would be
//! elsewhere. It registers a service, watches it, loses the leader and goes on.

use std::{error::Error, net::Ipv4Addr, path::Path, sync::Arc, time::Instant};

use spine_node::{
    Node, NodeSettings, World,
    metrics_sink::Uncounted,
    node::{PeerPort, PeerSettings},
    raft::Peer,
    spine_api::{Context, Read, Registry},
    spine_core::{
        Command, Dialect, ExistingChecks, Guard, InstanceId, NodeName, Put, Register, Repeat, Service,
        ServiceHealth, ServiceName, Topic, Weights,
    },
};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = std::env::args().nth(1).ok_or("DIRECTORY is missing")?;
    let mut nodes = found(Path::new(&directory)).await?;
    println!("{} nodes have founded a cluster", nodes.len());

    // Any node takes any request; what one has answered, all know.
    let registry = nodes[0].registry();
    let index = registry
        .propose(&request(), registration("photo", 8080)?)
        .await?
        .index;
    for node in &nodes {
        let passing = resolve(&*node.registry(), "photo").await?;
        println!(
            "{}: photo is at {}",
            node.registry().status().name,
            passing.join(", ")
        );
    }

    // A watch is a place in the log of changes; nothing is lost in between.
    let watched = nodes[1].registry();
    let mut changes = watched.watch(vec![Topic::Service(ServiceName::parse("photo")?)], index);
    registry.propose(&request(), registration("photo", 8081)?).await?;
    let batch = changes.next(None).await?;
    println!("{} change of photo was told", batch.events.len());
    drop(changes);

    // The leader goes, in order; the others go on.
    let leads = leader(&nodes);
    let lost = nodes.remove(leads);
    let name = lost.registry().status().name;
    lost.stop().await?;
    let began = Instant::now();
    nodes[0]
        .registry()
        .propose(&request(), put("after", "the leader"))
        .await?;
    println!(
        "{name}, the leader, has gone; the next write took {:?}",
        began.elapsed()
    );
    let passing = resolve(&*nodes[1].registry(), "photo").await?;
    println!("photo is at {}", passing.join(", "));

    for node in nodes {
        node.stop().await?;
    }
    println!("all nodes have ended");
    Ok(())
}

/// Three nodes that found a cluster, each in a directory of its own, once they serve.
async fn found(directory: &Path) -> Result<Vec<Node>, Failure> {
    let world = World::real();
    let mut ports = Vec::new();
    for number in 0..3 {
        let listener = world.net.listen((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = listener.address()?.to_string();
        ports.push((
            Peer {
                name: format!("n{number}"),
                address,
            },
            listener,
        ));
    }
    let founders: Vec<Peer> = ports.iter().map(|(peer, _)| peer.clone()).collect();
    let mut starts = Vec::new();
    for (peer, listener) in ports {
        let settings = NodeSettings {
            peer_address: peer.address.as_str().into(),
            peers: Some(PeerSettings {
                port: PeerPort::Bound(listener),
                founders: founders.clone(),
                join: Vec::new(),
                replace: None,
            }),
            ..NodeSettings::new(NodeName::parse(&peer.name)?, directory.join(&peer.name))
        };
        // Together: on a first start each waits for the others.
        starts.push(tokio::spawn(Node::start(
            settings,
            world.clone(),
            Arc::new(Uncounted),
        )));
    }
    let mut nodes = Vec::new();
    for start in starts {
        let node = start.await??;
        node.ready().await.map_err(|why| why.to_string())?;
        nodes.push(node);
    }
    Ok(nodes)
}

/// A request of this program itself, with the usual deadline.
fn request() -> Context {
    Context::new(Dialect::Internal)
}

/// An instance of a service on the first node, without checks: it passes until it is deregistered.
fn registration(service: &str, port: u16) -> Result<Command, Failure> {
    let instance = Service {
        id: InstanceId::parse(&format!("{service}-{port}"))?,
        name: ServiceName::parse(service)?,
        kind: "".into(),
        tags: Vec::new(),
        address: "10.0.0.7".into(),
        tagged_addresses: Default::default(),
        port,
        socket_path: "".into(),
        meta: Default::default(),
        weights: Weights::default(),
        enable_tag_override: false,
    };
    Ok(Command::Register(Box::new(Register {
        node: NodeName::parse("n0")?,
        node_update: None,
        service: Some(instance),
        checks: Vec::new(),
        existing: ExistingChecks::Replace,
        heartbeat: None,
    })))
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command::Put(Put {
        key: key.into(),
        value: value.into(),
        flags: 0,
        lease: None,
        guard: Guard::Always,
        repeat: Repeat::Skip,
    })
}

/// Where a service's passing instances are.
async fn resolve(registry: &dyn Registry, service: &str) -> Result<Vec<String>, Failure> {
    let query = ServiceHealth(ServiceName::parse(service)?);
    let endpoints = registry.read(&request(), &query, None).await?.value;
    let places = endpoints.iter().map(|endpoint| {
        let service = &endpoint.instance.service;
        format!("{}:{}", endpoint.address(), service.port)
    });
    Ok(places.collect())
}

/// Which of the nodes leads, as the first of them says.
fn leader(nodes: &[Node]) -> usize {
    let name = nodes[0].registry().status().leader;
    let leads = nodes
        .iter()
        .position(|node| Some(node.registry().status().name) == name);
    leads.unwrap_or_default()
}
