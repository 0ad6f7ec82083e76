//! Errors planted in what was shown of services and of the nodes themselves.

#![expect(
    clippy::unnecessary_wraps,
    reason = "all planters have one type, and some always find a place"
)]

use std::ops::Range;

use rand::{RngExt, rngs::StdRng};

use crate::history::{Call, History, Out, Outcome, Sight};

/// The views in a span of seconds: the ids that they show.
fn views(history: &mut History, seconds: Range<u64>, fresh: bool) -> Vec<&mut Vec<String>> {
    let span = seconds.start * 1_000_000..seconds.end * 1_000_000;
    let operations = history.operations.iter_mut();
    let views = operations.filter_map(|operation| match (&operation.call, &mut operation.outcome) {
        (Call::Passing { stale, .. }, Outcome::Ok(Out::Passing { ids })) if !(*stale && fresh) => {
            span.contains(&operation.start.0).then_some(ids)
        }
        _ => None,
    });
    views.collect()
}

fn one<'a>(rng: &mut StdRng, views: &'a mut [&mut Vec<String>]) -> Option<&'a mut Vec<String>> {
    if views.is_empty() {
        return None;
    }
    let at = rng.random_range(0..views.len());
    Some(views[at])
}

pub(crate) fn dead_stays(history: &mut History, rng: &mut StdRng) -> Option<()> {
    one(rng, &mut views(history, 28..39, false))?.push("mortal".to_owned());
    Some(())
}

pub(crate) fn living_leaves(history: &mut History, rng: &mut StdRng) -> Option<()> {
    one(rng, &mut views(history, 10..65, true))?.retain(|id| id != "alive");
    Some(())
}

pub(crate) fn living_leaves_one_node(history: &mut History, rng: &mut StdRng) -> Option<()> {
    one(rng, &mut views(history, 10..65, false))?.retain(|id| id != "alive");
    Some(())
}

pub(crate) fn living_never_comes(history: &mut History, _: &mut StdRng) -> Option<()> {
    for view in views(history, 0..70, false) {
        view.retain(|id| id != "alive");
    }
    Some(())
}

pub(crate) fn revived_never_comes_back(history: &mut History, _: &mut StdRng) -> Option<()> {
    for view in views(history, 40..70, false) {
        view.retain(|id| id != "mortal");
    }
    Some(())
}

pub(crate) fn leaves_too_early(history: &mut History, _: &mut StdRng) -> Option<()> {
    for view in views(history, 18..20, false) {
        view.retain(|id| id != "mortal");
    }
    Some(())
}

pub(crate) fn deregistered_and_shown(history: &mut History, rng: &mut StdRng) -> Option<()> {
    one(rng, &mut views(history, 51..70, true))?.push("leaver".to_owned());
    Some(())
}

pub(crate) fn ghost(history: &mut History, rng: &mut StdRng) -> Option<()> {
    one(rng, &mut views(history, 0..70, false))?.push("ghost".to_owned());
    Some(())
}

/// A sample of a node, but for the first rounds.
fn sample(history: &mut History, rng: &mut StdRng) -> usize {
    rng.random_range(history.sightings.len() / 2..history.sightings.len() - 10)
}

pub(crate) fn term_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = sample(history, rng);
    match &mut history.sightings[at].sight {
        Sight::Status { term, .. } => *term = term.checked_sub(1)?,
        _ => return None,
    }
    let Sight::Status { term, .. } = history.sightings[at].sight else {
        return None;
    };
    let node = history.sightings[at].node.clone();
    // Only a fall if the node had said so much before.
    let before = history.sightings[..at].iter();
    before
        .filter(|one| one.node == node)
        .any(|one| matches!(one.sight, Sight::Status { term: before, .. } if before > term))
        .then_some(())
}

pub(crate) fn index_falls(history: &mut History, rng: &mut StdRng) -> Option<()> {
    let at = sample(history, rng);
    match &mut history.sightings[at].sight {
        Sight::Status { index, .. } => *index = 1,
        _ => return None,
    }
    Some(())
}

pub(crate) fn nodes_differ(history: &mut History, _: &mut StdRng) -> Option<()> {
    let content = history
        .sightings
        .iter_mut()
        .rev()
        .find_map(|one| match &mut one.sight {
            Sight::Content { checksum, .. } => Some(checksum),
            _ => None,
        })?;
    "0ther".clone_into(content);
    Some(())
}

pub(crate) fn node_without_content(history: &mut History, _: &mut StdRng) -> Option<()> {
    history.sightings.pop()?;
    Some(())
}

pub(crate) fn nobody_leads(history: &mut History, _: &mut StdRng) -> Option<()> {
    for sighting in &mut history.sightings {
        if let Sight::Status { leader, .. } = &mut sighting.sight
            && (30_000_000..37_000_000).contains(&sighting.at.0)
        {
            leader.clear();
        }
    }
    Some(())
}

pub(crate) fn nobody_writes(history: &mut History, _: &mut StdRng) -> Option<()> {
    for operation in &mut history.operations {
        if (30_000_000..45_000_000).contains(&operation.start.0) {
            operation.outcome = Outcome::Fail("No cluster leader".to_owned());
        }
    }
    Some(())
}
