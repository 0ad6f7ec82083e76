//! A node on a disk in memory whose power fails at any step: what was acknowledged is there, and the node starts.
//!
//! `SPINE_CRASH_SEEDS=FROM..TO` runs other seeds than the few of every run.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{ops::Range, sync::Arc, time::Duration};

use spine_api::{AdminCommand, Context, Error, Registry};
use spine_core::{Command, Dialect, GetKey, Guard, Put, Query, Repeat};
use spine_node::{Node, metrics_sink::Uncounted};
use spine_tests::{
    crash::{Known, Remains, Wrong, key},
    disk::{Faults, Rng},
};

const WRITERS: usize = 8;
const LIVES: u64 = 4;

fn cx() -> Context {
    Context::new(Dialect::Internal)
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(range) = std::env::var("SPINE_CRASH_SEEDS") else {
        return usual;
    };
    let (from, to) = range.split_once("..").expect("SPINE_CRASH_SEEDS=FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

async fn start(remains: &Remains) -> Result<Node, String> {
    let node = Node::start(Remains::settings(), remains.world(), Arc::new(Uncounted))
        .await
        .map_err(|error| error.to_string())?;
    let ready = tokio::time::timeout(Duration::from_secs(20), node.ready())
        .await
        .expect("ready or fatal in time");
    match ready {
        Ok(()) => Ok(node),
        Err(reason) => {
            let _ = node.halt().await;
            Err(reason.to_string())
        }
    }
}

/// Raises the writer's number until the node can't go on.
async fn write_on(registry: Arc<dyn Registry>, writer: usize, mut known: Known) -> Known {
    loop {
        known.attempted += 1;
        let put = Command::Put(Put {
            key: key(writer).into(),
            value: known.attempted.to_string().into(),
            flags: 0,
            lease: None,
            guard: Guard::Always,
            repeat: Repeat::Skip,
        });
        match registry.propose(&cx(), put).await {
            Ok(applied) => {
                applied.result.expect("a put without a guard is applied");
                known.acknowledged = known.attempted;
            }
            Err(_) => return known,
        }
    }
}

/// Compares what the writers know with what is there; `false` if the power failed before that could be asked.
async fn meet(node: &Node, known: &mut [Known; WRITERS]) -> Result<bool, Vec<Wrong>> {
    let Ok(state) = node.registry().view(&cx()).await else {
        return Ok(false);
    };
    let mut wrong = Vec::new();
    for (writer, known) in known.iter_mut().enumerate() {
        let row = GetKey(key(writer).into()).ask(&state).value;
        let found = row.map_or(0, |row| std::str::from_utf8(&row.value).unwrap().parse().unwrap());
        wrong.extend(known.meet(writer, found).err());
    }
    if wrong.is_empty() { Ok(true) } else { Err(wrong) }
}

/// One life: starts, meets what is there, writes until the power fails.
async fn live(remains: &Remains, known: &mut [Known; WRITERS], rng: &mut Rng) -> Result<(), Vec<Wrong>> {
    // Sometimes the power fails during the start already.
    let crash_at = if rng.one_in(4) {
        rng.below(40)
    } else {
        40 + rng.below(600)
    };
    remains.disk.crash_at(crash_at);
    let Ok(node) = start(remains).await else {
        return Ok(());
    };
    let met = meet(&node, known).await;
    if !matches!(met, Ok(true)) {
        let _ = node.halt().await;
        return met.map(|_| ());
    }
    let writers: Vec<_> = known
        .iter()
        .enumerate()
        .map(|(writer, known)| tokio::spawn(write_on(node.registry(), writer, *known)))
        .collect();
    if rng.one_in(2) {
        remains.engine.interrupt_after(rng.below(6));
    }
    let checkpoints = tokio::spawn(checkpoint_on(node.registry()));
    let reason = tokio::time::timeout(Duration::from_secs(30), node.fatal()).await;
    assert!(reason.is_ok(), "a disk without power ends the node");
    checkpoints.abort();
    // The close fails, as everything does.
    let _ = node.halt().await;
    for (known, writer) in known.iter_mut().zip(writers) {
        *known = writer.await.unwrap();
    }
    Ok(())
}

async fn checkpoint_on(registry: Arc<dyn Registry>) {
    while let Ok(_) | Err(Error::Unsupported(_)) = registry.admin(&cx(), AdminCommand::Checkpoint).await {
        tokio::task::yield_now().await;
    }
}

/// Several lives, and a last start without a power failure. Gives how many writes were acknowledged.
async fn run(seed: u64, faults: Faults) -> Result<u64, Vec<Wrong>> {
    let mut rng = Rng::new(seed);
    let mut remains = Remains::default();
    let mut known = [Known::default(); WRITERS];
    for _ in 0..LIVES {
        remains.disk.set_faults(faults);
        live(&remains, &mut known, &mut rng).await?;
        remains = remains.after_crash(&mut rng);
    }
    let node = start(&remains)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: does not start: {error}"));
    let met = meet(&node, &mut known).await;
    node.stop().await.expect("a sound disk closes");
    assert!(met?, "a sound node answers");
    Ok(known.iter().map(|known| known.acknowledged).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let mut writes = 0;
    for seed in seeds(0..12) {
        match run(seed, Faults::default()).await {
            Ok(acknowledged) => writes += acknowledged,
            Err(wrong) => {
                let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
                panic!("seed {seed}: {}", wrong.join("; "));
            }
        }
    }
    assert!(
        writes > 100,
        "only {writes} writes were acknowledged: nothing was tested"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_finds_a_disk_that_does_not_flush() {
    let lying = Faults {
        skip_sync: true,
        ..Faults::default()
    };
    for seed in 0..20 {
        // A node that refuses to start has noticed, too.
        let run = tokio::spawn(run(seed, lying));
        if !matches!(run.await, Ok(Ok(_))) {
            return;
        }
    }
    panic!("20 seeds on a disk that flushes nothing, and nothing was missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_ends_the_node_and_acknowledges_nothing() {
    let remains = Remains::default();
    let node = start(&remains).await.unwrap();
    remains.disk.set_faults(Faults {
        fail_sync: true,
        ..Faults::default()
    });
    let writer = tokio::spawn(write_on(node.registry(), 0, Known::default()));
    let reason = tokio::time::timeout(Duration::from_secs(10), node.fatal())
        .await
        .expect("the node ends");
    assert!(
        reason.contains("disk failed") || reason.contains("raft has ended"),
        "{reason}"
    );
    let _ = node.halt().await;
    assert_eq!(writer.await.unwrap().acknowledged, 0);
}
