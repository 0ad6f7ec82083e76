//! How servers do, between them.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use spine_proto::internal::v1::{
    self as proto,
    condition_client::ConditionClient,
    condition_server::{Condition as Answering, ConditionServer},
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{Answer, Condition, Pace};
use crate::{
    limits,
    peer::{Lane, Links},
    raft::{Consensus, Gate, Peer, admit, header, identity::Identity},
};

/// A peer gets so long to answer; if it doesn't it is asked again in the next round.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Tells peers how this server does.
#[derive(Clone, Debug)]
pub struct Telling {
    identity: Identity,
    gate: Arc<dyn Gate>,
    condition: Arc<Condition>,
}

/// The service for a node's port.
pub fn service(
    identity: Identity,
    gate: Arc<dyn Gate>,
    condition: Arc<Condition>,
) -> ConditionServer<Telling> {
    let telling = Telling {
        identity,
        gate,
        condition,
    };
    ConditionServer::new(telling).max_decoding_message_size(limits::CONDITION_BYTES_MAX)
}

#[tonic::async_trait]
impl Answering for Telling {
    async fn ask(&self, request: Request<proto::AskRequest>) -> Result<Response<proto::AskResponse>, Status> {
        admit(self.identity, &*self.gate, request.into_inner().header.as_ref())?;
        let condition = &*self.condition;
        Ok(Response::new(proto::AskResponse {
            wall_ms: condition.clock.wall().0,
            log: Some(pace_message(condition.pace())),
            stepped_aside_ms: condition.stepped_aside_ago().map(millis),
        }))
    }
}

/// Asks peers.
pub(super) struct Asking {
    links: Arc<Links>,
    identity: Identity,
    boot_number: u64,
    consensus: Arc<Consensus>,
    condition: Arc<Condition>,
}

impl Asking {
    /// A server that asks over `links` as the one that it is, and keeps what it hears in `condition`.
    pub(super) fn new(
        links: Arc<Links>,
        (identity, boot_number): (Identity, u64),
        consensus: Arc<Consensus>,
        condition: Arc<Condition>,
    ) -> Self {
        Self {
            links,
            identity,
            boot_number,
            consensus,
            condition,
        }
    }

    /// Asks everybody once. Whoever is a member no longer is forgotten.
    pub(super) async fn round(&self) {
        let Some(roster) = self.consensus.roster(self.identity.cluster) else {
            return;
        };
        self.condition
            .peers
            .lock()
            .retain(|id, _| roster.seat(*id).is_some());
        let mut answers: FuturesUnordered<_> = roster
            .others(self.identity.node)
            .map(|(id, seat)| {
                let peer = seat.peer.clone();
                async move { (id, self.ask(id, &peer).await, peer) }
            })
            .collect();
        while let Some((id, answer, peer)) = answers.next().await {
            let mut peers = self.condition.peers.lock();
            let seen = peers.entry(id).or_default();
            seen.address = self.links.places().of(id, &peer.address);
            seen.name = peer.name;
            seen.failure = answer.as_ref().err().cloned();
            if let Ok(answer) = answer {
                seen.answer = Some(answer);
            }
        }
    }

    async fn ask(&self, id: u64, peer: &Peer) -> Result<Answer, String> {
        let address = self.links.places().of(id, &peer.address);
        let link = self.links.get(Lane::Hello, &address);
        let mut client =
            ConditionClient::new(link.channel.clone()).max_decoding_message_size(limits::CONDITION_BYTES_MAX);
        let request = proto::AskRequest {
            header: Some(header(self.identity, self.boot_number, id)),
        };
        let clock = &*self.condition.clock;
        let began = clock.monotonic();
        match timeout(ANSWER_WITHIN, client.ask(request)).await {
            Ok(Ok(answer)) => Ok(heard(
                &answer.into_inner(),
                began,
                clock.monotonic(),
                clock.wall().0,
            )),
            Ok(Err(status)) => Err(format!("{}: {}", status.code(), status.message())),
            Err(_) => {
                self.links.discard(&link);
                Err(format!("no answer within {ANSWER_WITHIN:?}"))
            }
        }
    }
}

/// What an answer says, that was asked for and came at these times of the monotonic clock; `wall_ms` is the wall clock now.
fn heard(answer: &proto::AskResponse, began: Duration, at: Duration, wall_ms: u64) -> Answer {
    let round_trip = at.saturating_sub(began);
    // It was said about half of the round trip ago.
    let then =
        i64::try_from(wall_ms).unwrap_or(i64::MAX) - i64::try_from(millis(round_trip / 2)).unwrap_or(0);
    Answer {
        at,
        round_trip,
        ahead_ms: i64::try_from(answer.wall_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(then),
        pace: answer.log.as_ref().map(message_pace).unwrap_or_default(),
        stepped_aside: answer
            .stepped_aside_ms
            .map(|ago| at.saturating_sub(Duration::from_millis(ago))),
    }
}

fn pace_message(pace: Pace) -> proto::Pace {
    proto::Pace {
        writes: pace.writes,
        median_us: micros(pace.median),
        p99_us: micros(pace.p99),
        longest_us: micros(pace.longest),
        waiting_us: micros(pace.waiting),
    }
}

fn message_pace(message: &proto::Pace) -> Pace {
    Pace {
        writes: message.writes,
        median: Duration::from_micros(message.median_us),
        p99: Duration::from_micros(message.p99_us),
        longest: Duration::from_micros(message.longest_us),
        waiting: Duration::from_micros(message.waiting_us),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_half_of_the_way_in_mind() {
        let answer = proto::AskResponse {
            wall_ms: 10_500,
            log: Some(pace_message(Pace {
                writes: 3,
                median: Duration::from_millis(2),
                ..Pace::default()
            })),
            stepped_aside_ms: Some(1_000),
        };
        let heard = heard(&answer, Duration::from_secs(7), Duration::from_secs(8), 10_000);
        // It said 10,500 when it was about 9,500 here.
        assert_eq!(
            (heard.round_trip, heard.ahead_ms),
            (Duration::from_secs(1), 1_000)
        );
        assert_eq!(heard.stepped_aside, Some(Duration::from_secs(7)));
        assert_eq!(
            (heard.pace.writes, heard.pace.median),
            (3, Duration::from_millis(2))
        );
    }

    #[test]
    fn a_release_that_tells_less_is_understood() {
        let heard = heard(
            &proto::AskResponse::default(),
            Duration::ZERO,
            Duration::from_millis(2),
            1,
        );
        assert_eq!(
            (heard.pace, heard.stepped_aside, heard.ahead_ms),
            (Pace::default(), None, 0)
        );
    }

    #[test]
    fn a_message_fits_its_bound() {
        use prost::Message;
        let longest = proto::AskResponse {
            wall_ms: u64::MAX,
            log: Some(pace_message(Pace {
                writes: u32::MAX,
                median: Duration::MAX,
                p99: Duration::MAX,
                longest: Duration::MAX,
                waiting: Duration::MAX,
            })),
            stepped_aside_ms: Some(u64::MAX),
        };
        assert!(longest.encoded_len() < limits::CONDITION_BYTES_MAX);
    }
}
