//! A snapshot as it comes in. It is decoded and built on the node's own runtime: Raft's thread only moves its bytes.

use std::{fmt, sync::Arc, time::Duration};

use openraft::raft::AppendEntriesRequest;
use spine_core::{State, snapshot};
use spine_proto::internal::v1::{self as proto, snapshot_answer::Answer, snapshot_part::Part};
use tokio::{
    sync::{Mutex, MutexGuard, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::{Status, Streaming};

use super::SnapshotData;
use crate::{
    metrics_sink::NodeMetrics,
    raft::{
        keeper::Received,
        rpc,
        server::{Answering, ended, malformed},
        state_machine::Applied,
        types::{RaftVote, SnapshotMeta, Types},
        wire::{Malformed, message_stored_membership},
    },
};

/// A sender that says nothing for so long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What came of a snapshot that broke off is kept so long for the next attempt.
const KEPT: Duration = Duration::from_mins(1);
/// How often the sender hears that this node is at work.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// What a node has of a snapshot, and where a whole one goes.
pub(in crate::raft) struct Intake {
    /// One at a time; who comes second waits until the first has gone or is silent.
    partial: Mutex<Option<Partial>>,
    /// Where they are written to disk.
    keeper: mpsc::Sender<Received>,
    metrics: Arc<dyn NodeMetrics>,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}

/// The part of a snapshot that has come.
struct Partial {
    meta: SnapshotMeta,
    header: snapshot::Header,
    restore: snapshot::Restore,
    chunks: u64,
    /// Bytes of them, unpacked.
    bytes: u64,
    touched: Instant,
}

/// What a sender announces.
struct Announced {
    vote: RaftVote,
    meta: SnapshotMeta,
    header: snapshot::Header,
}

type Answers = mpsc::Sender<Result<proto::SnapshotAnswer, Status>>;

impl Intake {
    pub(in crate::raft) fn new(keeper: mpsc::Sender<Received>, metrics: Arc<dyn NodeMetrics>) -> Self {
        Self {
            partial: Mutex::new(None),
            keeper,
            metrics,
        }
    }

    /// Takes a snapshot in, and says how it goes.
    pub(in crate::raft) async fn receive(
        self: Arc<Self>,
        server: Answering,
        mut parts: Streaming<proto::SnapshotPart>,
        answers: Answers,
    ) {
        let done = match Box::pin(self.try_receive(&server, &mut parts, &answers)).await {
            Ok(vote) => Ok(said(Answer::Done(vote))),
            Err(status) => {
                tracing::warn!(reason = status.message(), "a snapshot was not taken in");
                Err(status)
            }
        };
        let _ = answers.send(done).await;
    }

    async fn try_receive(
        &self,
        server: &Answering,
        parts: &mut Streaming<proto::SnapshotPart>,
        answers: &Answers,
    ) -> Result<proto::Vote, Status> {
        let Part::Start(start) = next(parts).await? else {
            return Err(malformed(Malformed("start of a snapshot")));
        };
        server.admit(start.header.as_ref())?;
        let announced = Announced::of(start)?;
        if let Some(vote) = prepare(server, &announced).await? {
            return Ok(vote);
        }
        let mut partial = timeout(SILENCE_MAX, self.partial.lock())
            .await
            .map_err(|_| Status::unavailable("another snapshot is on its way to this server"))?;
        self.metrics.install_begun();
        let (state, bytes) = collect(&mut partial, &announced, parts, answers).await?;
        // Nobody can go on with it any more, and it is large.
        drop(partial);
        let Announced { vote, meta, .. } = announced;
        self.write(&meta, &state, answers).await?;
        tracing::info!(index = %state.index(), bytes, "a snapshot has come and is durable");
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: SnapshotData(state),
        };
        let install = Box::pin(server.raft().install_full_snapshot(vote, snapshot));
        let installed = server.scoped(install).await;
        let response = installed.map_err(ended)?;
        Ok(crate::raft::wire::vote_message(&response.vote))
    }

    /// Has it written to disk, and says meanwhile that this node is at work.
    async fn write(&self, meta: &SnapshotMeta, state: &State, answers: &Answers) -> Result<(), Status> {
        let (tell, mut written) = oneshot::channel();
        let received = Received {
            applied: Applied {
                position: meta.last_log_id,
                membership: Arc::new(meta.last_membership.clone()),
                state: state.clone(),
            },
            tell,
        };
        let gone = || Status::unavailable("this server is stopping");
        self.keeper.send(received).await.map_err(|_| gone())?;
        let mut say = interval(SAY_EVERY);
        say.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                result = &mut written => {
                    let result = result.map_err(|_| gone())?;
                    return result.map_err(|reason| Status::internal(&*reason));
                }
                _ = say.tick() => {
                    let _ = answers.try_send(Ok(said(Answer::Received(0))));
                }
            }
        }
    }

    /// Lets go of what nobody has gone on with for long. To be called now and then.
    pub(in crate::raft) fn let_go(&self) {
        // Somebody goes on with it while it is locked.
        if let Ok(mut partial) = self.partial.try_lock() {
            partial.take_if(|partial| partial.touched.elapsed() >= KEPT);
        }
    }
}

impl Announced {
    fn of(start: proto::SnapshotStart) -> Result<Self, Status> {
        let position = rpc::position(start.last_log_id).map_err(malformed)?;
        let position = position.ok_or_else(|| malformed(Malformed("position of a snapshot")))?;
        let membership = start.last_membership.unwrap_or_default();
        let header = snapshot::Header::decode(&start.state_header);
        Ok(Self {
            vote: rpc::required_vote(start.vote).map_err(malformed)?,
            meta: SnapshotMeta {
                last_log_id: Some(position),
                last_membership: message_stored_membership(membership).map_err(malformed)?,
            },
            header: header.map_err(|error| Status::invalid_argument(error.to_string()))?,
        })
    }
}

/// Hears the leader before its snapshot: its vote is durable then, and entries that differ from its at the snapshot's
/// position are gone, so that a crash after the checkpoint is written finds nothing that contradicts it. `Some` with this
/// node's vote if the snapshot is not wanted: the leader is none any more, or the log reaches that far.
async fn prepare(server: &Answering, announced: &Announced) -> Result<Option<proto::Vote>, Status> {
    use openraft::raft::AppendEntriesResponse as R;
    let request = AppendEntriesRequest::<Types> {
        vote: announced.vote,
        prev_log_id: announced.meta.last_log_id,
        entries: Vec::new(),
        leader_commit: None,
    };
    let answer = server
        .scoped(server.raft().append_entries(request))
        .await
        .map_err(ended)?;
    Ok(match answer {
        R::Conflict | R::PartialSuccess(_) => None,
        R::Success => Some(crate::raft::wire::vote_message(&announced.vote)),
        R::HigherVote(vote) => Some(crate::raft::wire::vote_message(&vote)),
    })
}

/// Collects the chunks, going on with what is there of the same snapshot. Gives the state, and bytes of the chunks.
async fn collect(
    partial: &mut MutexGuard<'_, Option<Partial>>,
    announced: &Announced,
    parts: &mut Streaming<proto::SnapshotPart>,
    answers: &Answers,
) -> Result<(State, u64), Status> {
    let same = |partial: &Partial| partial.meta == announced.meta && partial.header == announced.header;
    if !partial.as_ref().is_some_and(same) {
        **partial = Some(Partial::begin(announced)?);
    }
    let begun = partial.as_mut().expect("it is there now");
    say(answers, begun.chunks).await?;
    let mut said_at = Instant::now();
    loop {
        match next(parts).await? {
            Part::Start(_) => return Err(malformed(Malformed("second start of a snapshot"))),
            Part::Chunk(chunk) => {
                if let Err(error) = begun.restore.push(&chunk) {
                    **partial = None;
                    return Err(Status::data_loss(error.to_string()));
                }
                begun.chunks += u64::from(!chunk.is_empty());
                begun.bytes += chunk.len() as u64;
                begun.touched = Instant::now();
                if said_at.elapsed() >= SAY_EVERY {
                    said_at = Instant::now();
                    say(answers, begun.chunks).await?;
                }
            }
            Part::End(chunks) => {
                let whole = partial.take().expect("it was there until now");
                if chunks != whole.chunks {
                    return Err(malformed(Malformed("number of chunks")));
                }
                let bytes = whole.bytes;
                let state = whole.restore.finish();
                return state
                    .map(|state| (state, bytes))
                    .map_err(|error| Status::data_loss(error.to_string()));
            }
        }
    }
}

impl Partial {
    fn begin(announced: &Announced) -> Result<Self, Status> {
        let restore = snapshot::Restore::new(announced.header);
        Ok(Self {
            meta: announced.meta.clone(),
            header: announced.header,
            restore: restore.map_err(|error| Status::failed_precondition(error.to_string()))?,
            chunks: 0,
            bytes: 0,
            touched: Instant::now(),
        })
    }
}

async fn next(parts: &mut Streaming<proto::SnapshotPart>) -> Result<Part, Status> {
    let part = timeout(SILENCE_MAX, parts.message());
    let part = part
        .await
        .map_err(|_| Status::deadline_exceeded("the sender of a snapshot fell silent"))??;
    part.and_then(|part| part.part)
        .ok_or_else(|| Status::data_loss("a snapshot broke off"))
}

async fn say(answers: &Answers, chunks: u64) -> Result<(), Status> {
    let sent = answers.send(Ok(said(Answer::Received(chunks)))).await;
    sent.map_err(|_| Status::cancelled("the sender of a snapshot has gone"))
}

fn said(answer: Answer) -> proto::SnapshotAnswer {
    proto::SnapshotAnswer { answer: Some(answer) }
}
