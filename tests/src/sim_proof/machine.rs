//! The state machine of one run of a node: the writes in the order in which they were applied.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{Stream, StreamExt};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, StoredMembership};

use crate::types::{LogId, Membership, Types, Write};
use spine_tests::trace::Trace;

/// Shared between openraft, which applies, and the scenario, which looks at the end.
#[derive(Clone)]
pub(crate) struct Machine {
    node: u64,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: Option<LogId>,
    membership: Membership,
    applied: Vec<Write>,
}

impl Machine {
    /// An empty machine: after a crash everything is applied again from the log, as a node without a checkpoint does.
    pub(crate) fn new(node: u64, trace: Trace) -> Self {
        Self {
            node,
            trace,
            state: Arc::default(),
        }
    }

    /// The writes applied so far, in order.
    pub(crate) fn applied(&self) -> Vec<Write> {
        self.state().applied.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("the simulation has one thread, so no holder can have panicked and gone on")
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        let state = self.state();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.trace.record(
                self.node,
                format_args!("apply {} {}", entry.log_id, entry.payload),
            );
            let mut state = self.state();
            state.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(write) => state.applied.push(write),
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            drop(state);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, _: Vec<u8>) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Vec<u8>>>, io::Error> {
        Ok(None)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Vec<u8>>, io::Error> {
        Err(no_snapshots())
    }
}

fn no_snapshots() -> io::Error {
    io::Error::other("snapshots are off: the log is kept whole")
}
