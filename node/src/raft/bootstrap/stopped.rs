//! What a server has left in its directory, looked at while it does not run.

use std::{path::Path, sync::Arc};

use super::{StartError, agree, find_checkpoint, own_record, refuse_lost_log, say_passed_over, take};
use crate::{
    raft::{
        checkpoint::{Checkpoints, Loaded},
        founding::Record,
        identity::Identity,
        roster::Roster,
    },
    storage::{
        log::{LogEngine, LogHooks, LogOptions, LogStore},
        place::LogHome,
    },
    world::{World, lock::DirLock},
};

/// A server that does not run, as its directory has it.
pub(in crate::raft) struct Stopped {
    /// Held as long as it is looked at.
    pub(in crate::raft) lock: Arc<dyn DirLock>,
    /// Who it is.
    pub(in crate::raft) identity: Identity,
    /// The members of its cluster when it came into that.
    pub(in crate::raft) base: Option<Roster>,
    /// The log; to be closed.
    pub(in crate::raft) log: Arc<dyn LogStore>,
    /// What keeps it.
    pub(in crate::raft) engine: LogEngine,
    /// The checkpoint that its state comes from.
    pub(in crate::raft) loaded: Loaded,
}

/// Opens what a server has left in `directory`, which is no start of it: nothing is promised to anybody, and nothing is
/// changed but what each opening settles. `None`: no server has been there.
pub(in crate::raft) fn open_stopped(
    world: &World,
    directory: &Path,
    options: LogOptions,
) -> Result<Option<Stopped>, StartError> {
    let lock = take(world, directory)?;
    let record = Record::read(&world.files, directory)
        .map_err(StartError::io("reading the record of the founding"))?;
    let checkpoints = Checkpoints::new((world.engine)(&directory.join("checkpoint"))?);
    let place = LogHome::of_either(world, directory, options, LogHooks::fatal(|_| {}))?;
    let has_log = place.exists()?;
    let found = find_checkpoint(&checkpoints, directory, has_log)?;
    let (Some(loaded), true) = (&found, has_log) else {
        refuse_lost_log(found.as_ref(), record.as_ref(), directory)?;
        return Ok(None);
    };
    let engine = place.engine();
    let log = place.open(world)?;
    agree(loaded, &*log, directory)?;
    say_passed_over(loaded);
    let record = own_record(record, loaded.identity, directory)?;
    let base = record.and_then(|record| {
        let founded = record.founding.as_ref().map(Roster::founded);
        record.joined.or(founded)
    });
    Ok(Some(Stopped {
        lock,
        identity: loaded.identity,
        base,
        log,
        engine,
        loaded: found.expect("it is there"),
    }))
}
