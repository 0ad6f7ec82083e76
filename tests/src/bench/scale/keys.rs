//! A million keys: written flat out, with the checkpoints that come of it; a checkpoint of all of them under a steady load;
//! restarts; and the one entry that deletes them all.

use std::time::{Duration, Instant};

use spine_client::KeyRange;
use spine_tests::{cluster::SERVERS, wait};

use super::{
    Ground,
    callers::{Call, Callers, Calls, Pace, figures},
    said::{Checkpoint, Said},
};
use crate::Done;

const PREFIX: &str = "keys/";
/// So long a checkpoint is waited for that a steady load makes due.
const CHECKPOINT_WITHIN: Duration = Duration::from_mins(3);
/// Writers that show how long others wait meanwhile.
const PROBES: usize = 64;
const PROBES_PER_SECOND: u32 = 100;

pub(super) fn measure(ground: &mut Ground<'_>) -> Done {
    flat_out(ground)?;
    if ground.plan.checkpoint_bytes > 0 {
        steady(ground)?;
    }
    restart(ground)?;
    delete(ground)
}

/// Puts every key once, then some of them again.
pub(super) fn fill(ground: &Ground<'_>) -> Done<Calls> {
    let keys = ground.plan.keys;
    let writers = ground.writers(Pace::FlatOut, ground.plan.value_bytes, move |number| {
        key(if number < keys {
            number
        } else {
            scattered(number, keys)
        })
    });
    writers.make(ground.runtime.handle(), keys + ground.plan.overwritten)
}

/// The key of this number.
fn key(number: usize) -> String {
    format!("{PREFIX}{number:09}")
}

/// A key here and there among those that are there.
pub(super) fn any_key(number: usize, keys: usize) -> String {
    key(scattered(number, keys))
}

fn scattered(number: usize, keys: usize) -> usize {
    number.wrapping_mul(7_368_787) % keys
}

fn flat_out(ground: &mut Ground<'_>) -> Done {
    let before = ground.cpu_seconds()?;
    let puts = fill(ground)?;
    let cpu_seconds = ground.cpu_seconds()? - before;
    let all = puts.figures();
    let table = &mut ground.table;
    table.add("flat out: puts/s", all.rate());
    table.add("flat out: put p50, ms", all.percentile_ms(50));
    table.add("flat out: put p99, ms", all.percentile_ms(99));
    table.add("flat out: longest put, ms", all.percentile_ms(100));
    table.add(
        "flat out: CPU of all servers a put, us",
        cpu_seconds * 1e6 / all.count(),
    );
    ground.add_memory("with all keys")?;
    let said = ground.said();
    for said in &said {
        ground
            .table
            .add("checkpoints of a server", count(said.checkpoints.len()));
    }
    let installed = said.iter().map(|said| said.installed.len()).sum();
    ground.table.add("snapshots installed", count(installed));
    beside_checkpoints(ground, "flat out", &puts, &checkpoints(&said));
    Ok(())
}

/// A load that leaves room, until every server has written a checkpoint of all keys under it.
fn steady(ground: &mut Ground<'_>) -> Done {
    let (keys, rate) = (ground.plan.keys, ground.plan.steady_rate);
    let writers = ground.writers(
        Pace::PerSecond(rate),
        ground.plan.checkpoint_bytes,
        move |number| any_key(number, keys),
    );
    let (began, calling) = (Instant::now(), writers.start(ground.runtime.handle())?);
    let of_now = |checkpoint: &&Checkpoint| checkpoint.began > began;
    wait::until_true("each server writes a checkpoint", CHECKPOINT_WITHIN, || {
        let said = ground.said();
        said.iter()
            .all(|said| said.checkpoints.iter().any(|it| of_now(&it)))
    });
    std::thread::sleep(ground.plan.phase);
    let puts = calling.stop()?;
    let checkpoints = checkpoints(&ground.said());
    let checkpoints: Vec<_> = checkpoints.iter().filter(of_now).copied().collect();
    for checkpoint in &checkpoints {
        ground
            .table
            .add("checkpoint of all keys, s", checkpoint.took.as_secs_f64());
    }
    beside_checkpoints(ground, "steady", &puts, &checkpoints);
    Ok(())
}

fn checkpoints(said: &[Said]) -> Vec<Checkpoint> {
    said.iter().flat_map(|said| said.checkpoints.clone()).collect()
}

/// Puts that were under way while a server wrote a checkpoint, and those that were not.
fn beside_checkpoints(ground: &mut Ground<'_>, what: &str, puts: &Calls, checkpoints: &[Checkpoint]) {
    let beside = |put: &&Call| {
        let mut checkpoints = checkpoints.iter();
        checkpoints.any(|checkpoint| put.meets(checkpoint.began, checkpoint.ended()))
    };
    let (beside, otherwise): (Vec<_>, Vec<_>) = puts.made.iter().partition(beside);
    for (when, puts) in [
        ("while a checkpoint is written", beside),
        ("otherwise", otherwise),
    ] {
        let figures = figures(puts);
        if figures.is_empty() {
            continue;
        }
        for percent in [50, 99] {
            ground.table.add(
                format!("{what}: put p{percent} {when}, ms"),
                figures.percentile_ms(percent),
            );
        }
    }
}

fn restart(ground: &mut Ground<'_>) -> Done {
    let at = ground.follower();
    let began = Instant::now();
    ground.cluster.ask_to_stop(at);
    ground.cluster.await_stopped(at);
    ground.table.add("orderly stop, s", began.elapsed().as_secs_f64());
    let again = |ground: &mut Ground<'_>| {
        let began = Instant::now();
        ground.cluster.spawn(at);
        ground.cluster.await_ready(at);
        began.elapsed().as_secs_f64()
    };
    let ready = again(ground);
    ground.table.add("restart after SIGTERM to ready, s", ready);
    ground.cluster.kill(at);
    let ready = again(ground);
    ground.table.add("restart after kill -9 to ready, s", ready);
    let usage = ground.usages()?.swap_remove(at);
    ground.table.add("memory after restart, MiB", usage.rss_mib);
    Ok(())
}

/// One entry deletes all; others' puts wait behind it.
fn delete(ground: &mut Ground<'_>) -> Done {
    let client = ground.client(ground.cluster.leader())?;
    let all = || KeyRange::Prefix(PREFIX.into());
    let found = ground.runtime.block_on(client.kv.count(all()))?;
    if found != ground.plan.keys as u64 {
        return Err(format!("{found} keys of {}", ground.plan.keys).into());
    }
    let took = beside_probes(ground, "range delete", async {
        client.kv.delete(all()).await.map(drop)
    })?;
    ground
        .table
        .add("range delete of all keys, s", took.as_secs_f64());
    let left = ground.runtime.block_on(client.kv.count(all()))?;
    if left != 0 {
        return Err(format!("{left} keys are left").into());
    }
    Ok(())
}

/// Does something while others put, and shows how long the longest of their puts took.
pub(super) fn beside_probes(
    ground: &mut Ground<'_>,
    what: &str,
    work: impl Future<Output = spine_client::Result<()>>,
) -> Done<Duration> {
    let pace = Pace::PerSecond(PROBES_PER_SECOND);
    let probes = Callers::writers(ground.servers(), PROBES, pace, 100, |number| {
        format!("probe/{}", number % SERVERS)
    });
    let probing = probes.start(ground.runtime.handle())?;
    std::thread::sleep(ground.plan.phase / 2);
    let began = Instant::now();
    ground.runtime.block_on(work)?;
    let took = began.elapsed();
    std::thread::sleep(ground.plan.phase / 2);
    let longest = probing.stop()?.figures().percentile_ms(100);
    ground
        .table
        .add(format!("{what}: longest put beside it, ms"), longest);
    Ok(took)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn count(number: usize) -> f64 {
    number as f64
}
