//! The messages of `raft.proto` and what openraft calls them.

use bytes::Bytes;
use openraft::{
    EntryPayload,
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use spine_proto::internal::v1 as proto;

use super::{
    leadership::Told,
    types::{LogEntry, LogId, Payload, RaftVote, Types},
    wire::{
        Malformed, membership_message, message_membership, message_position, message_vote, position_message,
        vote_message,
    },
};

/// The message of a request for entries, or of a heartbeat.
pub(super) fn append_message(
    request: AppendEntriesRequest<Types>,
    header: Option<proto::Header>,
    told: &Told,
) -> proto::AppendRequest {
    proto::AppendRequest {
        header,
        cluster_time_ms: told.present(request.vote.leader_id.term),
        vote: Some(vote_message(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(position_message),
        entries: request.entries.into_iter().map(entry_message).collect(),
        leader_commit: request.leader_commit.as_ref().map(position_message),
    }
}

/// The request of a message. Its entries are copies: what tonic decodes are slices of its read buffer, and an entry that
/// is kept would keep all of it.
pub(super) fn message_append(
    message: proto::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let entries = message.entries.into_iter().map(message_entry);
    Ok(AppendEntriesRequest {
        vote: required_vote(message.vote)?,
        prev_log_id: position(message.prev_log_id)?,
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: position(message.leader_commit)?,
    })
}

fn entry_message(entry: LogEntry) -> proto::Entry {
    use proto::entry::Payload as P;
    let payload = match entry.payload {
        EntryPayload::Blank => P::Blank(proto::Blank {}),
        EntryPayload::Normal(Payload(bytes)) => P::Normal(bytes),
        EntryPayload::Membership(membership) => P::Membership(membership_message(&membership)),
    };
    proto::Entry {
        log_id: Some(position_message(&entry.log_id)),
        payload: Some(payload),
    }
}

fn message_entry(message: proto::Entry) -> Result<LogEntry, Malformed> {
    use proto::entry::Payload as P;
    let payload = match message.payload.ok_or(Malformed("entry"))? {
        P::Blank(proto::Blank {}) => EntryPayload::Blank,
        P::Normal(bytes) => EntryPayload::Normal(Payload(Bytes::copy_from_slice(&bytes))),
        P::Membership(membership) => EntryPayload::Membership(message_membership(membership)?),
    };
    Ok(LogEntry {
        log_id: message_position(message.log_id.ok_or(Malformed("entry"))?)?,
        payload,
    })
}

/// The message of what became of entries or a heartbeat.
pub(super) fn appended_message(result: &StreamAppendResult<Types>) -> proto::AppendResponse {
    use proto::append_response::Result as R;
    let result = match result {
        Ok(log_id) => R::Matching(proto::Matching {
            log_id: log_id.as_ref().map(position_message),
        }),
        Err(StreamAppendError::Conflict(log_id)) => R::Conflict(position_message(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => R::HigherVote(vote_message(vote)),
    };
    proto::AppendResponse { result: Some(result) }
}

/// What became of entries or a heartbeat, by its message.
pub(super) fn message_appended(
    message: proto::AppendResponse,
) -> Result<StreamAppendResult<Types>, Malformed> {
    use proto::append_response::Result as R;
    Ok(match message.result.ok_or(Malformed("answer to entries"))? {
        R::Matching(proto::Matching { log_id }) => Ok(position(log_id)?),
        R::Conflict(log_id) => Err(StreamAppendError::Conflict(message_position(log_id)?)),
        R::HigherVote(vote) => Err(StreamAppendError::HigherVote(message_vote(&vote)?)),
    })
}

/// The message of a candidate's request.
pub(super) fn vote_request_message(
    request: &VoteRequest<Types>,
    header: proto::Header,
) -> proto::VoteRequest {
    proto::VoteRequest {
        header: Some(header),
        vote: Some(vote_message(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(position_message),
        leadership_transfer: request.leadership_transfer,
    }
}

/// A candidate's request, by its message.
pub(super) fn message_vote_request(message: &proto::VoteRequest) -> Result<VoteRequest<Types>, Malformed> {
    Ok(VoteRequest {
        vote: required_vote(message.vote)?,
        last_log_id: position(message.last_log_id)?,
        leadership_transfer: message.leadership_transfer,
    })
}

/// The message of an answer to a candidate.
pub(super) fn vote_response_message(response: &VoteResponse<Types>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote_message(&response.vote)),
        vote_granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(position_message),
    }
}

/// An answer to a candidate, by its message.
pub(super) fn message_vote_response(message: proto::VoteResponse) -> Result<VoteResponse<Types>, Malformed> {
    Ok(VoteResponse {
        vote: required_vote(message.vote)?,
        vote_granted: message.vote_granted,
        last_log_id: position(message.last_log_id)?,
    })
}

/// The message by which a leader hands over.
pub(super) fn transfer_message(
    request: &TransferLeaderRequest<Types>,
    header: proto::Header,
) -> proto::TransferLeaderRequest {
    proto::TransferLeaderRequest {
        header: Some(header),
        from_leader: Some(vote_message(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last_log_id: request.last_log_id().map(position_message),
    }
}

/// A leader's wish to hand over, by its message.
pub(super) fn message_transfer(
    message: &proto::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, Malformed> {
    Ok(TransferLeaderRequest::new(
        required_vote(message.from_leader)?,
        message.to_node_id,
        position(message.last_log_id)?,
    ))
}

/// The message of what became of it.
pub(super) fn transferred_message(response: &TransferLeaderResponse<Types>) -> proto::TransferLeaderResponse {
    use proto::transfer_leader_response::Result as R;
    let result = match response {
        Ok(()) => R::Accepted(proto::TransferAccepted {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => R::VoteChanged(vote_message(actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => R::NotFlushed(proto::TransferNotFlushed {
            last_log_id: actual.as_ref().map(position_message),
        }),
    };
    proto::TransferLeaderResponse { result: Some(result) }
}

/// What became of it, by its message, for a leader that `asked`.
pub(super) fn message_transferred(
    message: proto::TransferLeaderResponse,
    asked: &TransferLeaderRequest<Types>,
) -> Result<TransferLeaderResponse<Types>, Malformed> {
    use proto::transfer_leader_response::Result as R;
    Ok(match message.result.ok_or(Malformed("answer to a transfer"))? {
        R::Accepted(proto::TransferAccepted {}) => Ok(()),
        R::VoteChanged(vote) => Err(TransferLeaderError::VoteChanged {
            expected: *asked.from_leader(),
            actual: message_vote(&vote)?,
        }),
        R::NotFlushed(proto::TransferNotFlushed { last_log_id }) => Err(TransferLeaderError::LogNotFlushed {
            expected: asked.last_log_id().copied(),
            actual: position(last_log_id)?,
        }),
    })
}

/// The vote that a message must have.
pub(super) fn required_vote(message: Option<proto::Vote>) -> Result<RaftVote, Malformed> {
    message_vote(&message.ok_or(Malformed("vote"))?)
}

/// The position that a message may have.
pub(super) fn position(message: Option<proto::LogId>) -> Result<Option<LogId>, Malformed> {
    message.map(message_position).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::wire, storage::log::Position};

    fn log_id(term: u64, index: u64) -> LogId {
        wire::log_id(Position {
            term,
            leader: 0,
            index,
        })
    }

    #[test]
    fn entries_survive_the_wire_and_are_copied() {
        let payload = Bytes::from_static(b"\x01\0entry");
        let request = AppendEntriesRequest::<Types> {
            vote: RaftVote::new_committed(3, 7),
            prev_log_id: Some(log_id(2, 8)),
            entries: vec![
                LogEntry {
                    log_id: log_id(3, 9),
                    payload: EntryPayload::Blank,
                },
                LogEntry {
                    log_id: log_id(3, 10),
                    payload: EntryPayload::Normal(Payload(payload.clone())),
                },
            ],
            leader_commit: None,
        };
        let back = message_append(append_message(request.clone(), None, &Told::default())).unwrap();
        assert_eq!(back.vote, request.vote);
        assert_eq!(back.prev_log_id, request.prev_log_id);
        assert_eq!(back.entries, request.entries);
        let EntryPayload::Normal(Payload(bytes)) = &back.entries[1].payload else {
            panic!("the second entry has bytes");
        };
        assert_ne!(
            bytes.as_ptr(),
            payload.as_ptr(),
            "a slice of the buffer would keep all of it"
        );
    }

    #[test]
    fn answers_survive_the_wire() {
        let answers: [StreamAppendResult<Types>; 4] = [
            Ok(None),
            Ok(Some(log_id(3, 10))),
            Err(StreamAppendError::Conflict(log_id(2, 8))),
            Err(StreamAppendError::HigherVote(RaftVote::new(4, 9))),
        ];
        for answer in answers {
            assert_eq!(message_appended(appended_message(&answer)), Ok(answer));
        }
        let vote = VoteResponse::<Types>::new(RaftVote::new(4, 9), Some(log_id(2, 8)), true);
        assert_eq!(message_vote_response(vote_response_message(&vote)), Ok(vote));
        let asked = TransferLeaderRequest::<Types>::new(RaftVote::new_committed(4, 9), 7, Some(log_id(4, 9)));
        let refused: TransferLeaderResponse<Types> = Err(TransferLeaderError::LogNotFlushed {
            expected: Some(log_id(4, 9)),
            actual: None,
        });
        for answer in [Ok(()), refused] {
            assert_eq!(
                message_transferred(transferred_message(&answer), &asked),
                Ok(answer)
            );
        }
    }
}
