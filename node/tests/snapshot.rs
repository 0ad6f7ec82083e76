//! A node that is too far behind for entries gets the state itself.

mod support;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use spine_api::AdminCommand;
use spine_node::{
    World,
    raft::bootstrap::StartError,
    world::net::{Listener, Net, Stream},
};
use support::{cluster::Cluster, cx, stall::Stall, write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

/// One node is away while the log goes on and is purged behind checkpoints. It comes back over connections that break
/// after one megabyte each, while writes and checkpoints go on: it gets the state in pieces, once, and then entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_too_far_behind_gets_the_state() {
    const STATE: u64 = 15 << 20;
    let mut cluster = Cluster::start_with(|settings| settings.log_kept_for_members = 8 << 20).await;
    let (leader, away) = leave_behind(&mut cluster).await;

    let registry = cluster.registry(leader);
    let load = tokio::spawn(async move {
        for number in 0.. {
            write(&*registry, &format!("load{}", number % 50), number.to_string()).await;
            if number % 20 == 0 {
                // On a busy machine it takes longer than a request may; it is written all the same.
                let _ = registry.admin(&cx(), AdminCommand::Checkpoint).await;
            }
        }
    });
    cluster.revive_in(away, brittle_world(1 << 20)).await;
    cluster.until_state(away, STATE).await;
    load.abort();
    cluster.until_equal(&[0, 1, 2]).await;
    assert_eq!(cluster.installed(away), 1, "it was sent a state once");

    // What it got is on its disk.
    cluster.halt(away).await;
    cluster.revive(away).await;
    let there = cluster.node(away).applied().borrow().state.bytes();
    assert!(there > STATE, "it starts with {there} bytes of state");
    write(&*cluster.registry(leader), "after", "all are there again").await;
    cluster.until_equal(&[0, 1, 2]).await;
    assert_eq!(cluster.installed(away), 1);
    cluster.stop().await;
}

/// Writes and checkpoints without one of the followers, until the leader's log begins behind what that one has. Gives the
/// leader, and the one that is away.
async fn leave_behind(cluster: &mut Cluster) -> (usize, usize) {
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    write(&*cluster.registry(leader), "before", "all are there").await;
    cluster.until_equal(&[0, 1, 2]).await;
    let position = cluster.node(away).applied().borrow().position;
    let known = position.expect("it has applied something").index;
    cluster.halt(away).await;
    for round in 0..3 {
        for number in 0..12 {
            let key = format!("large{round}/{number}");
            write(&*cluster.registry(leader), &key, noise(500 << 10)).await;
        }
        cluster.checkpoint(leader).await;
        cluster.checkpoint(3 - leader - away).await;
    }
    // Whichever of the two leads from here on.
    for number in [leader, 3 - leader - away] {
        cluster.until_purged(number, known).await;
    }
    (leader, away)
}

/// Bytes that don't compress.
fn noise(length: usize) -> Vec<u8> {
    let rng = World::real().rng;
    (0..length / 16)
        .flat_map(|_| rng.wide_bits().to_le_bytes())
        .collect()
}

/// A world whose connections break once so many bytes have come in over them.
fn brittle_world(bytes: usize) -> World {
    let world = World::real();
    World {
        net: Arc::new(Brittle {
            net: world.net.clone(),
            bytes,
        }),
        ..world
    }
}

#[derive(Debug)]
struct Brittle {
    net: Arc<dyn Net>,
    bytes: usize,
}

#[async_trait]
impl Net for Brittle {
    async fn listen(&self, address: SocketAddr) -> io::Result<Arc<dyn Listener>> {
        Ok(Arc::new(BrittleListener {
            listener: self.net.listen(address).await?,
            bytes: self.bytes,
        }))
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        self.net.connect(address).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.net.resolve(host, port).await
    }
}

#[derive(Debug)]
struct BrittleListener {
    listener: Arc<dyn Listener>,
    bytes: usize,
}

#[async_trait]
impl Listener for BrittleListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, from) = self.listener.accept().await?;
        let stream = BrittleStream {
            stream,
            left: self.bytes,
        };
        Ok((Box::new(stream), from))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.address()
    }
}

struct BrittleStream {
    stream: Box<dyn Stream>,
    left: usize,
}

impl AsyncRead for BrittleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BrittleStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A follower's power fails when the state that it was sent is on its disk as a checkpoint, and nothing of it in its log
/// or in memory: it goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_durable_and_not_installed_is_begun_with() {
    let mut cluster = Cluster::start_with(|settings| settings.log_kept_for_members = 0).await;
    let (leader, away) = leave_behind(&mut cluster).await;

    let stall = Arc::new(Stall::default());
    cluster.revive_in(away, stall.world()).await;
    let reached = timeout(Duration::from_secs(30), stall.reached()).await;
    reached.expect("it is sent a state, and writes it");
    let before = cluster.node(away).applied().borrow().state.bytes();
    assert!(before < 1 << 20, "it was not installed");
    cluster.halt(away).await;
    assert_eq!(cluster.installed(away), 0);
    stall.end();

    cluster.revive(away).await;
    let there = cluster.node(away).applied().borrow().state.bytes();
    assert!(there > 15 << 20, "it starts with {there} bytes of state");
    write(&*cluster.registry(leader), "after", "all are there again").await;
    cluster.until_equal(&[0, 1, 2]).await;
    assert_eq!(cluster.installed(away), 0, "entries were enough");
    cluster.stop().await;
}

/// The log before a state that was sent has been let go, so the checkpoint before that can't be gone on from. Without the
/// newest one the server is refused: what it lacks is with the others.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_only_checkpoint_is_damaged_is_refused_and_gets_the_state_anew() {
    let mut cluster = Cluster::start_with(|settings| settings.log_kept_for_members = 0).await;
    let (_, away) = leave_behind(&mut cluster).await;
    cluster.revive(away).await;
    cluster.until_state(away, 15 << 20).await;
    cluster.until_equal(&[0, 1, 2]).await;
    assert_eq!(cluster.installed(away), 1);
    cluster.halt(away).await;
    rot(&newest_checkpoint(cluster.directory(away)));

    let refused = cluster.try_revive(away).await.unwrap_err();
    assert!(matches!(refused, StartError::Gap { .. }), "{refused}");
    assert!(refused.is_refusal());
    let said = refused.to_string();
    for part in ["is damaged", "what lies between is gone", "spine join"] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    cluster.wipe(away);
    cluster.revive(away).await;
    cluster.until_state(away, 15 << 20).await;
    let names: Vec<_> = (0..3).map(|number| format!("n{number}")).collect();
    cluster.until_voters(&names).await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.stop().await;
}

/// Where a node has its newest checkpoint.
fn newest_checkpoint(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory.join("checkpoint")).expect("it has checkpoints");
    let generations = entries
        .map(|entry| entry.expect("a directory can be read").path())
        .filter(|path| path.is_dir());
    generations.max().expect("there is one")
}

/// Flips a bit in each block of what is below.
fn rot(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            rot(&path);
            continue;
        }
        let mut bytes = fs::read(&path).expect("a file");
        bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 0x20);
        fs::write(&path, bytes).expect("it can be written");
    }
}
