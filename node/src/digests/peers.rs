//! Marks between servers.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use spine_core::Index;
use spine_proto::internal::v1::{
    self as proto,
    digests_client::DigestsClient,
    digests_server::{Digests, DigestsServer},
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Request, Response, Status};

use super::{Comparison, Difference, Mark, Marks};
use crate::{
    limits::DIGESTS_BYTES_MAX,
    metrics_sink::NodeMetrics,
    peer::{Lane, Links},
    raft::{Consensus, Gate, Peer, admit, header, identity::Identity},
};

/// How often the others are asked, if there is anything to compare.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// A peer gets so long to answer; if it doesn't it is asked again in the next round.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Tells peers this server's marks.
#[derive(Clone, Debug)]
pub struct Telling {
    identity: Identity,
    gate: Arc<dyn Gate>,
    marks: Arc<Marks>,
}

/// The service for a node's port.
pub fn service(identity: Identity, gate: Arc<dyn Gate>, marks: Arc<Marks>) -> DigestsServer<Telling> {
    let telling = Telling {
        identity,
        gate,
        marks,
    };
    DigestsServer::new(telling).max_decoding_message_size(DIGESTS_BYTES_MAX)
}

#[tonic::async_trait]
impl Digests for Telling {
    async fn marks(
        &self,
        request: Request<proto::MarksRequest>,
    ) -> Result<Response<proto::MarksResponse>, Status> {
        let proto::MarksRequest { header, after } = request.into_inner();
        admit(self.identity, &*self.gate, header.as_ref())?;
        let marks = self.marks.after(Index(after)).into_iter();
        let marks = marks.map(|mark| proto::DigestMark {
            index: mark.index.0,
            digest: Bytes::copy_from_slice(&mark.digest.to_be_bytes()),
        });
        Ok(Response::new(proto::MarksResponse {
            marks: marks.collect(),
        }))
    }
}

/// Asks peers for their marks.
#[derive(Debug)]
pub struct Asking {
    links: Arc<Links>,
    identity: Identity,
    boot_number: u64,
}

impl Asking {
    /// A server that asks over `links` as the one that it is.
    pub fn new(links: Arc<Links>, identity: Identity, boot_number: u64) -> Self {
        Self {
            links,
            identity,
            boot_number,
        }
    }

    /// A peer's marks, none if it doesn't answer.
    async fn ask(&self, id: u64, peer: &Peer, after: Index) -> Vec<Mark> {
        let address = self.links.places().of(id, &peer.address);
        let link = self.links.get(Lane::Hello, &address);
        let mut client =
            DigestsClient::new(link.channel.clone()).max_decoding_message_size(DIGESTS_BYTES_MAX);
        let request = proto::MarksRequest {
            header: Some(header(self.identity, self.boot_number, id)),
            after: after.0,
        };
        match timeout(ANSWER_WITHIN, client.marks(request)).await {
            Ok(Ok(answer)) => answer.into_inner().marks.iter().filter_map(mark).collect(),
            Ok(Err(status)) => {
                tracing::debug!(peer = %peer.name, %status, "a peer doesn't tell its digests");
                Vec::new()
            }
            Err(_) => {
                self.links.discard(&link);
                Vec::new()
            }
        }
    }
}

/// Compares this server's marks with the others'.
pub struct Comparing {
    asking: Asking,
    consensus: Arc<Consensus>,
    marks: Arc<Marks>,
    metrics: Arc<dyn NodeMetrics>,
}

impl fmt::Debug for Comparing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Comparing").field(&self.asking).finish()
    }
}

impl Comparing {
    /// Compares `marks` with those of the voters that `consensus` knows.
    pub fn new(
        asking: Asking,
        consensus: Arc<Consensus>,
        marks: Arc<Marks>,
        metrics: Arc<dyn NodeMetrics>,
    ) -> Self {
        Self {
            asking,
            consensus,
            marks,
            metrics,
        }
    }

    /// Compares until most voters contradict this server; says so then.
    pub async fn run(self) -> String {
        let mut comparison = Comparison::default();
        let mut rounds = interval(COMPARE_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if let Some(difference) = self.round(&mut comparison).await {
                return format!(
                    "a majority of the servers contradicts this one's state: {difference}. What it answers can't be \
                     trusted. Start it again, so that it applies its log anew; if it ends like this again, keep its \
                     directory for whoever looks into it"
                );
            }
        }
    }

    /// Asks everybody once. Gives where a majority contradicts this server, if it does.
    async fn round(&self, comparison: &mut Comparison) -> Option<Difference> {
        let voters = self.consensus.voters();
        let own = self.marks.after(Index(0));
        let newest = own.last()?.index;
        let others: BTreeSet<u64> = voters
            .keys()
            .copied()
            .filter(|id| *id != self.asking.identity.node)
            .collect();
        let asked = voters.iter().filter(|(id, _)| others.contains(id));
        let asked = asked.filter(|(id, _)| comparison.compared(**id) < newest);
        let mut answers: FuturesUnordered<_> = asked
            .map(|(id, peer)| {
                let after = comparison.compared(*id);
                async move { (*id, peer, self.asking.ask(*id, peer, after).await) }
            })
            .collect();
        while let Some((id, peer, marks)) = answers.next().await {
            for difference in comparison.take(id, &own, &marks) {
                self.metrics.digest_differs();
                tracing::error!(peer = %peer.name, "a peer's state is another: {difference}");
            }
        }
        comparison.contradicted(&others, voters.len())
    }
}

fn mark(message: &proto::DigestMark) -> Option<Mark> {
    Some(Mark {
        index: Index(message.index),
        digest: u128::from_be_bytes((*message.digest).try_into().ok()?),
    })
}
