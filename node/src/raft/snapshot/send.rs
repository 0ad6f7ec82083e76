//! A snapshot on its way to a follower. It is encoded and compressed on the node's own runtime: Raft's thread only waits.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::SinkExt;
use futures::channel::mpsc;
use spine_core::{State, snapshot};
use spine_proto::internal::v1::{self as proto, snapshot_answer::Answer, snapshot_part::Part};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::codec::CompressionEncoding;

use super::Offers;
use crate::{
    peer::Lane,
    raft::{
        network::{Failure, Way},
        rpc,
        types::{RaftVote, SnapshotMeta},
        wire::{position_message, stored_membership_message, vote_message},
    },
};

/// There must be some progress in this time; in all it may take as long as it takes.
const PROGRESS_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether there was.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Parts that are encoded and not yet taken by the connection.
const PARTS_AHEAD: usize = 4;

type Parts = mpsc::Sender<proto::SnapshotPart>;

/// Sends `state` and waits until it is installed; gives the follower's vote.
pub(in crate::raft) async fn send(
    way: Way,
    vote: RaftVote,
    meta: SnapshotMeta,
    state: State,
    offers: Arc<Offers>,
) -> Result<RaftVote, Failure> {
    let (link, client) = way.client(Lane::Snapshot);
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let start = proto::SnapshotStart {
        header: Some(way.header()),
        vote: Some(vote_message(&vote)),
        last_log_id: meta.last_log_id.as_ref().map(position_message),
        last_membership: Some(stored_membership_message(&meta.last_membership)),
        state_header: snapshot::Header::of(&state).encode().into(),
    };
    let (mut parts, sent) = mpsc::channel(PARTS_AHEAD);
    let _ = parts.send(part(Part::Start(start))).await;
    let result = async {
        let silence = |_| Failure::Silence(PROGRESS_WITHIN);
        let answers = timeout(PROGRESS_WITHIN, client.install_snapshot(sent));
        let mut answers = answers.await.map_err(silence)??.into_inner();
        let first = timeout(PROGRESS_WITHIN, answers.message())
            .await
            .map_err(silence)??;
        match answer(first)? {
            Answer::Done(vote) => rpc::required_vote(Some(vote)).map_err(Failure::from),
            Answer::Received(chunks) => {
                tracing::info!(to = way.peer.name, index = %state.index(), chunks, "a snapshot is sent");
                exchange(&state, chunks, parts, answers, &offers).await
            }
        }
    }
    .await;
    if result.is_err() {
        way.network.links.discard(&link);
    }
    result
}

/// Sends the chunks from `begin` on while it hears how far the follower is.
async fn exchange(
    state: &State,
    begin: u64,
    parts: Parts,
    mut answers: tonic::Streaming<proto::SnapshotAnswer>,
    offers: &Offers,
) -> Result<RaftVote, Failure> {
    let mut sending = pin!(send_chunks(state, begin, parts));
    let mut sent = false;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            biased;
            said = answers.message() => match answer(said?)? {
                Answer::Received(_) => {
                    heard = Instant::now();
                    offers.in_use();
                }
                Answer::Done(vote) => return Ok(rpc::required_vote(Some(vote))?),
            },
            // It ends early if the connection breaks, of which the answers say why.
            () = &mut sending, if !sent => sent = true,
            _ = look.tick() => {
                if heard.elapsed() > PROGRESS_WITHIN {
                    return Err(Failure::Silence(PROGRESS_WITHIN));
                }
            }
        }
    }
}

async fn send_chunks(state: &State, begin: u64, mut parts: Parts) {
    let mut number = 0;
    let mut said = Instant::now();
    for chunk in snapshot::chunks(state) {
        number += 1;
        let chunk = if number > begin {
            chunk
        } else if said.elapsed() >= LOOK_EVERY {
            // Those that are there already take their time too, and silence would look like the end.
            Vec::new()
        } else {
            tokio::task::yield_now().await;
            continue;
        };
        said = Instant::now();
        if parts.send(part(Part::Chunk(chunk.into()))).await.is_err() {
            return;
        }
    }
    let _ = parts.send(part(Part::End(number))).await;
}

fn part(part: Part) -> proto::SnapshotPart {
    proto::SnapshotPart { part: Some(part) }
}

fn answer(message: Option<proto::SnapshotAnswer>) -> Result<Answer, Failure> {
    message
        .and_then(|message| message.answer)
        .ok_or(Failure::Malformed(crate::raft::wire::Malformed(
            "answer to a snapshot",
        )))
}
