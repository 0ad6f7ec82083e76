//! What followers bring: asked as the clients' requests of this node are, and answered in words that travel.

use std::time::Duration;

use serde::de::DeserializeOwned;
use spine_api::Error;
use spine_core::{Applied, Rejection, RenewalRequest, Request, codec};
use spine_proto::internal::v1::{self as proto, answer::Result as Answered};
use tokio::time::Instant;

use super::{NodeRegistry, Submitted};
use crate::{limits, raft::ReadError};

impl NodeRegistry {
    /// Puts all of them on their way, in order, and answers each.
    pub(crate) async fn propose_forwarded(&self, requests: Vec<proto::Forwarded>) -> Vec<proto::Answer> {
        let submit = |forwarded| {
            let (request, bytes, deadline) = decode::<Request>(forwarded)?;
            self.submit::<_, Applied>(Box::new(request), bytes, deadline, true)
        };
        let submitted: Vec<_> = requests.into_iter().map(submit).collect();
        self.answers(submitted).await
    }

    /// The same with renewals.
    pub(crate) async fn renew_forwarded(&self, renewals: Vec<proto::Forwarded>) -> Vec<proto::Answer> {
        let submit = |forwarded| {
            let (renewal, bytes, deadline) = decode::<RenewalRequest>(forwarded)?;
            self.submit(renewal, bytes, deadline, true)
        };
        let submitted: Vec<_> = renewals.into_iter().map(submit).collect();
        self.answers(submitted).await
    }

    /// The read index, if this node leads: followers' rounds are not passed on.
    pub(crate) async fn own_read_index(&self) -> Result<u64, ReadError> {
        self.consensus.read_index().await
    }

    /// Who leads, as far as this node knows; 0: nobody.
    pub(crate) fn leader_id(&self) -> u64 {
        self.consensus
            .leader()
            .borrow()
            .as_ref()
            .map_or(0, |leader| leader.id)
    }

    async fn answers<A: serde::Serialize>(
        &self,
        submitted: Vec<Result<Submitted<A>, Error>>,
    ) -> Vec<proto::Answer> {
        let mut answers = Vec::with_capacity(submitted.len());
        for submitted in submitted {
            let answer = match submitted {
                Ok(submitted) => submitted.answer().await,
                Err(error) => Err(error),
            };
            answers.push(proto::Answer {
                result: Some(match answer {
                    Ok(applied) => Answered::Applied(codec::encode_row(&applied).into()),
                    Err(error) => self.refusal(error),
                }),
            });
        }
        answers
    }

    fn refusal(&self, error: Error) -> Answered {
        match error {
            Error::Refused(rejection) => Answered::Refused(codec::encode_row(&rejection).into()),
            Error::NoLeader | Error::ShuttingDown => Answered::NotLeader(proto::NotLeader {
                leader_id: self.leader_id(),
            }),
            Error::Overloaded { what, limit } => Answered::Overloaded(proto::Overloaded {
                what: what.to_string(),
                limit,
            }),
            error @ (Error::Unknown(_)
            | Error::Deadline(_)
            | Error::Unsupported(_)
            | Error::NoMember(_)
            | Error::Unsafe(_)) => Answered::Unknown(proto::Unknown {
                reason: error.to_string(),
            }),
        }
    }
}

/// What was forwarded, how long it is, and when its client no longer waits.
fn decode<T: DeserializeOwned>(forwarded: proto::Forwarded) -> Result<(T, u64, Instant), Error> {
    let proto::Forwarded {
        content,
        remaining_ms,
    } = forwarded;
    let request = codec::decode_row(&content)
        .map_err(|error| Rejection::Invalid(format!("a forwarded request is {error}").into()))?;
    let remaining = Duration::from_millis(remaining_ms).min(limits::FORWARDED_WAIT_MAX);
    Ok((request, content.len() as u64, Instant::now() + remaining))
}

#[cfg(test)]
mod tests {
    use spine_core::Command;

    use super::*;

    #[test]
    fn no_sender_makes_a_request_wait_for_longer_than_it_may() {
        let forwarded = |remaining_ms| proto::Forwarded {
            content: codec::encode_row(&Request::internal(Command::Pulse)).into(),
            remaining_ms,
        };
        let wait = |remaining_ms| {
            let began = Instant::now();
            let (_, _, deadline) = decode::<Request>(forwarded(remaining_ms)).unwrap();
            deadline - began
        };
        assert!(wait(u64::MAX) <= limits::FORWARDED_WAIT_MAX + Duration::from_secs(1));
        assert!(wait(1_000) <= Duration::from_secs(2));
        let longest = u64::try_from(limits::FORWARDED_WAIT_MAX.as_millis()).unwrap();
        assert!(wait(longest) >= limits::FORWARDED_WAIT_MAX);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let forwarded = proto::Forwarded {
            content: "nonsense".into(),
            remaining_ms: 1,
        };
        assert!(matches!(
            decode::<Request>(forwarded),
            Err(Error::Refused(Rejection::Invalid(_)))
        ));
    }
}
