//! A server whose disk was lost joins a cluster that holds a million keys, while others write.

use std::time::{Duration, Instant};

use spine_client::{Client, proto::Role};
use spine_tests::{cluster::SERVERS, wait};

use super::{
    Ground,
    callers::{Call, Callers, Pace, figures},
    keys,
    said::Said,
};
use crate::Done;

/// How long a server may take to catch up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(3);
/// A server that starts doesn't answer yet; it is asked again.
const ASK_WITHIN: Duration = Duration::from_millis(500);
/// So long a log may take to begin behind a checkpoint.
const CUT_WITHIN: Duration = Duration::from_mins(2);

pub(super) fn measure(ground: &mut Ground<'_>) -> Done {
    let filled = keys::fill(ground)?;
    ground.table.add("load keys, s", filled.time.as_secs_f64());
    if ground.plan.checkpoint_bytes > 0 {
        cut_log(ground)?;
    }
    let plan = ground.plan;
    join(ground, "steady", Pace::PerSecond(plan.steady_rate))?;
    join(ground, "flat out", Pace::FlatOut)
}

/// Writes on until each server has a log that begins behind a checkpoint, so that an empty server needs a snapshot.
fn cut_log(ground: &Ground<'_>) -> Done {
    let plan = ground.plan;
    let keys = plan.keys;
    let writers = ground.writers(Pace::FlatOut, plan.value_bytes, move |number| {
        keys::any_key(number, keys)
    });
    // The log goes up to the older of two checkpoints.
    let is_cut = |said: &Said| said.checkpoints.len() >= 2;
    if ground.said().iter().all(is_cut) {
        return Ok(());
    }
    let calling = writers.start(ground.runtime.handle())?;
    wait::until_true("each server has two checkpoints", CUT_WITHIN, || {
        ground.said().iter().all(is_cut)
    });
    calling.stop().map(drop)
}

/// Takes a follower's disk away and has it join, under a load on the others.
fn join(ground: &mut Ground<'_>, load: &str, pace: Pace) -> Done {
    let plan = ground.plan;
    let (keys, leader, lost) = (plan.keys, ground.cluster.leader(), ground.follower());
    let others = (0..SERVERS).filter(|at| *at != lost);
    let others = others.map(|at| ground.cluster.grpc(at)).collect();
    let writers = Callers::writers(others, plan.writers, pace, plan.value_bytes, move |number| {
        keys::any_key(number, keys)
    });
    let installed_before = installed(ground).len();
    let calling = writers.start(ground.runtime.handle())?;
    std::thread::sleep(plan.phase);
    let began = Instant::now();
    ground.cluster.kill(lost);
    ground.cluster.wipe(lost);
    ground.cluster.spawn(lost);
    let client = impatient_client(ground, lost)?;
    wait::until_true("the server has caught up", CAUGHT_UP_WITHIN, || {
        ground.runtime.block_on(votes(&client))
    });
    let caught_up = Instant::now();
    std::thread::sleep(plan.phase);
    let puts = calling.stop()?;
    let phase_of = |put: &&Call| match put.due {
        due if due < began => "before",
        due if due < caught_up => "during",
        _ => "after",
    };
    for when in ["before", "during", "after"] {
        let figures = figures(puts.made.iter().filter(|put| phase_of(put) == when));
        for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
            ground.table.add(
                format!("{load}: put {name} {when}, ms"),
                figures.percentile_ms(percent),
            );
        }
    }
    let took = (caught_up - began).as_secs_f64();
    ground.table.add(format!("{load}: join to caught up, s"), took);
    let installed = installed(ground).split_off(installed_before);
    ground.table.add(
        format!("{load}: snapshots installed"),
        keys::count(installed.len()),
    );
    for (at, bytes) in installed {
        let after = at.saturating_duration_since(began).as_secs_f64();
        ground
            .table
            .add(format!("{load}: join to snapshot durable, s"), after);
        ground
            .table
            .add(format!("{load}: snapshot, MiB"), bytes / 1_048_576.0);
    }
    for (who, at) in [("leader", leader), ("server that joined", lost)] {
        let peak = ground.usages()?.swap_remove(at).peak_mib;
        ground
            .table
            .add(format!("{load}: greatest memory of the {who}, MiB"), peak);
    }
    Ok(())
}

/// Snapshots that came up to now: when, and how many bytes.
fn installed(ground: &Ground<'_>) -> Vec<(Instant, f64)> {
    let said = ground.said();
    let installed = said.iter().flat_map(|said| &said.installed);
    let mut installed: Vec<_> = installed
        .map(|it| {
            (
                it.at,
                keys::count(usize::try_from(it.bytes).unwrap_or(usize::MAX)),
            )
        })
        .collect();
    installed.sort_by_key(|(at, _)| *at);
    installed
}

/// A client that gives up soon.
fn impatient_client(ground: &Ground<'_>, at: usize) -> Done<Client> {
    let _entered = ground.runtime.enter();
    let builder = Client::builder(&ground.cluster.grpc(at).to_string());
    Ok(builder.deadline(ASK_WITHIN).wait_for_server(false).build()?)
}

/// Whether a server has a vote, which it gets once it has caught up, and serves.
async fn votes(client: &Client) -> bool {
    let Ok(status) = client.members.server_status().await else {
        return false;
    };
    status.ready && matches!(status.role(), Role::Follower | Role::Leader)
}
