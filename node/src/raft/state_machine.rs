//! From committed entries to the published state.
//!
//! openraft hands over runs of committed entries on its own runtime; [`StateMachine`] passes them on to the
//! [`Applier`], a task of the node, and waits for it without holding anything up. The applier decodes, applies,
//! publishes the new state with its events to the hub, and only then answers, so that whoever has an answer finds the
//! state that belongs to it.

use std::{fmt, io, mem, sync::Arc};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
    type_config::alias::SnapshotOf,
};
use spine_api::hub::Hub;
use spine_core::{Entry, Event, RULES_KNOWN, State, codec};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    snapshot::{Offers, Ready, SnapshotData},
    types::{LogEntry, LogId, Response, SnapshotMeta, StoredMembership, Types},
};
use crate::{digests::Marks, metrics_sink::NodeMetrics, storage::log::LogStore};

/// Entries, and requests in them, applied between two publications: an answer waits for no more than those, and for
/// the rest of the last entry.
const BATCH_ENTRIES: usize = 64;
const BATCH_REQUESTS: usize = 1_024;
/// Batches on their way to the applier, and states that came whole.
const BATCHES: usize = 2;

/// The state and where in the log it stands.
#[derive(Clone)]
pub struct Applied {
    /// The last entry in it.
    pub position: Option<LogId>,
    /// The newest membership among the entries in it; shared, because this is cloned with each publication.
    pub membership: Arc<StoredMembership>,
    /// The state.
    pub state: State,
}

impl Applied {
    /// Whether the entry at `index` is in it.
    pub fn reaches(&self, index: u64) -> bool {
        self.position.is_some_and(|position| position.index >= index)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.position,
            last_membership: (*self.membership).clone(),
        }
    }
}

/// The state machine as openraft sees it.
pub(super) struct StateMachine {
    work: mpsc::Sender<Work>,
    applied: watch::Receiver<Applied>,
    checkpointed: watch::Receiver<Option<SnapshotMeta>>,
    offers: Arc<Offers>,
    log: Arc<dyn LogStore>,
}

/// Something to do, and who is told when it is done.
struct Work {
    what: What,
    done: oneshot::Sender<io::Result<()>>,
}

enum What {
    /// Entries to apply.
    Entries(Vec<EntryResponder<Types>>),
    /// A state that came from another node and takes the place of this one's.
    Whole(Box<Applied>),
}

/// Applies, publishes, answers.
pub(super) struct Applier {
    work: mpsc::Receiver<Work>,
    applied: watch::Sender<Applied>,
    hub: Arc<Hub>,
    marks: Arc<Marks>,
    metrics: Arc<dyn NodeMetrics>,
}

/// A state machine that begins with `applied`, and its other half. `checkpointed` names the newest checkpoint.
pub(super) fn pair(
    applied: Applied,
    marks: Arc<Marks>,
    hub: Arc<Hub>,
    checkpointed: watch::Receiver<Option<SnapshotMeta>>,
    offers: Arc<Offers>,
    log: Arc<dyn LogStore>,
    metrics: Arc<dyn NodeMetrics>,
) -> (StateMachine, Applier) {
    let (to_do, work) = mpsc::channel(BATCHES);
    let (publish, published) = watch::channel(applied);
    let machine = StateMachine {
        work: to_do,
        applied: published,
        checkpointed,
        offers,
        log,
    };
    (
        machine,
        Applier {
            work,
            applied: publish,
            hub,
            marks,
            metrics,
        },
    )
}

impl StateMachine {
    /// What is applied, as it changes.
    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    async fn work(&self, what: What) -> io::Result<()> {
        let ended = |()| io::Error::other("the state machine has ended");
        let (done, finished) = oneshot::channel();
        let work = Work { what, done };
        self.work.send(work).await.map_err(|_| ended(()))?;
        finished.await.map_err(|_| ended(()))?
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Ready;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.applied.borrow();
        Ok((applied.position, (*applied.membership).clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            self.work(What::Entries(batch.into_iter().collect::<io::Result<_>>()?))
                .await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Ready> {
        let checkpointed = self.checkpointed.borrow().clone();
        match checkpointed {
            Some(meta) => Some(Ready {
                meta,
                data: SnapshotData(self.applied.borrow().state.clone()),
            }),
            None if force => Some(self.get_snapshot_builder().await),
            None => None,
        }
    }

    async fn get_snapshot_builder(&mut self) -> Ready {
        let applied = self.applied.borrow();
        Ready {
            meta: applied.meta(),
            data: SnapshotData(applied.state.clone()),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        // It is on the disk already: see `snapshot::Intake`.
        self.work(What::Whole(Box::new(Applied {
            position: meta.last_log_id,
            membership: Arc::new(meta.last_membership.clone()),
            state: snapshot.0,
        })))
        .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, SnapshotData>>> {
        let newest = self.applied.borrow().clone();
        if newest.position.is_none() {
            return Ok(None);
        }
        let purged = self.log.state().purged.map(|purged| purged.index);
        let applied = self.offers.offer(&newest, purged);
        Ok(Some(openraft::Snapshot {
            meta: applied.meta(),
            snapshot: SnapshotData(applied.state),
        }))
    }
}

impl Applier {
    /// Applies until openraft has let go of the state machine, or an entry can't be applied.
    pub(super) async fn run(mut self) {
        let mut next = self.applied.borrow().clone();
        while let Some(Work { what, done }) = self.work.recv().await {
            let result = match what {
                What::Entries(entries) => self.apply_batch(&mut next, entries).await,
                What::Whole(applied) => {
                    next = *applied;
                    self.hub.replace(next.state.clone());
                    self.applied.send_replace(next.clone());
                    self.metrics.installed();
                    Ok(())
                }
            };
            let failed = result.is_err();
            let _ = done.send(result);
            if failed {
                return;
            }
        }
    }

    async fn apply_batch(&self, next: &mut Applied, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut unpublished = Unpublished::default();
        for (entry, responder) in entries {
            let before = next.state.index();
            let response = apply(next, entry, &mut unpublished.events)?;
            self.marks.note(before, &next.state);
            self.metrics.applied(response.0.len());
            unpublished.requests += response.0.len();
            unpublished
                .answers
                .extend(responder.map(|responder| (responder, response)));
            if unpublished.requests >= BATCH_REQUESTS {
                self.publish(next, mem::take(&mut unpublished));
                // Others must have the thread now and then.
                tokio::task::yield_now().await;
            }
        }
        self.publish(next, unpublished);
        Ok(())
    }

    fn publish(&self, next: &Applied, Unpublished { events, answers, .. }: Unpublished) {
        // The hub first: what a reader is told to wait for must be there when it looks.
        self.hub.publish(next.state.clone(), &events);
        self.applied.send_replace(next.clone());
        for (responder, response) in answers {
            responder.send(response);
        }
    }
}

/// What was applied since the last publication.
#[derive(Default)]
struct Unpublished {
    requests: usize,
    events: Vec<Event>,
    answers: Vec<(ApplyResponder<Types>, Response)>,
}

fn apply(next: &mut Applied, entry: LogEntry, events: &mut Vec<Event>) -> io::Result<Response> {
    next.position = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Ok(Response::default()),
        EntryPayload::Membership(membership) => {
            next.membership = Arc::new(StoredMembership::new(Some(entry.log_id), membership));
            Ok(Response::default())
        }
        EntryPayload::Normal(payload) => {
            let entry = understood(&payload.0, entry.log_id).map_err(io::Error::other)?;
            let batch = next.state.apply(&entry);
            events.extend(batch.events);
            Ok(Response(batch.applied))
        }
    }
}

/// The entry of these bytes, which stands at `position` of the log. Whoever applies entries asks here first: one that this
/// release doesn't know would lead its state another way than that of the others.
///
/// # Errors
/// Why it can't be applied, and what to do.
pub(super) fn understood(payload: &[u8], position: impl fmt::Display) -> Result<Entry, String> {
    let impossible = |why: String| format!("the log entry at {position} can't be applied: {why}");
    let entry = codec::decode_entry(payload).map_err(|error| {
        impossible(format!(
            "{error}; if this server ran a newer release before, take that again"
        ))
    })?;
    match entry.unknown_rules() {
        Some(rules) => Err(impossible(format!(
            "it raises the rules to {rules}, and this release knows up to {RULES_KNOWN}: take the release that the servers of \
             this cluster run"
        ))),
        None => Ok(entry),
    }
}
