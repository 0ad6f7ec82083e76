//! Saying hello: who this server is, and what it remembers of who asks.
//!
//! [`Presence`] is what a server shows of itself from the moment its peer port is bound, before there is a Raft. It is
//! served as the service `Hello`, and it is what this server introduces itself with when it asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use spine_proto::internal::v1::{
    self as proto, hello_client::HelloClient, hello_server::Hello, hello_server::HelloServer,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Lane, Links};
use crate::{
    limits::HELLO_BYTES_MAX,
    raft::{
        Gate, Peer, Refusal,
        founding::{self, Founders, Founding, Introduction},
        identity::ClusterId,
        recall::{Durable, Recall},
        recovery::Lineage,
        release::Release,
        roster::{Roster, Rosters, Seat},
        starts::Boot,
        wire::{self, Malformed},
    },
    world::RaftHome,
};

/// An answer takes a round trip and at most one small flush.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// What a server shows of itself, and what it remembers of others. Clones share it.
#[derive(Clone, Debug)]
pub struct Presence(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Its name, and where it is reached now.
    this: Peer,
    node: u64,
    founders: Founders,
    /// The cluster, once it is durable here that this server is in it.
    cluster: RwLock<Option<Belonging>>,
    recall: Recall,
    /// The rules in force, as far as they are known here.
    rules: AtomicU32,
    links: Arc<Links>,
    home: RaftHome,
}

/// The cluster that a server is in.
#[derive(Clone, Debug)]
struct Belonging {
    /// How it began, or who was in it when it took this server in.
    founding: Founding,
    /// Who is in it.
    rosters: Rosters,
    /// The clusters that it goes on from.
    lineage: Lineage,
}

/// What a peer answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who it is.
    pub from: Introduction,
    /// What it remembered of this server.
    pub of_me: Option<Durable>,
}

impl Presence {
    /// The server `this`, which runs on the directory that `node` was made for, and was given this list.
    pub fn new(
        this: Peer,
        node: u64,
        founders: Founders,
        recall: Recall,
        links: Arc<Links>,
        home: RaftHome,
    ) -> Self {
        links.found_at(node, &this.address);
        Self(Arc::new(Shared {
            this,
            node,
            founders,
            cluster: RwLock::default(),
            recall,
            rules: AtomicU32::new(0),
            links,
            home,
        }))
    }

    /// From here on it is a member of this cluster. To be called once that is durable.
    pub fn belong(&self, founding: Founding, rosters: Rosters, lineage: Lineage) {
        *self.0.cluster.write() = Some(Belonging {
            founding,
            rosters,
            lineage,
        });
    }

    /// Its node id.
    pub fn node(&self) -> u64 {
        self.0.node
    }

    /// Its name, and where it is reached.
    pub fn this(&self) -> &Peer {
        &self.0.this
    }

    /// The members of its cluster, as far as it knows; `None` before it is in one.
    pub fn roster(&self) -> Option<Roster> {
        let cluster = self.0.cluster.read();
        cluster.as_ref().map(|own| own.rosters.latest().clone())
    }

    /// Why it is a member no longer, if a majority has decided so.
    pub fn removed(&self) -> Option<founding::Refusal> {
        let cluster = self.0.cluster.read();
        let committed = &cluster.as_ref()?.rosters.committed;
        committed
            .seat(self.0.node)
            .is_none()
            .then(|| founding::Refusal::Removed {
                name: self.0.this.name.clone(),
                cluster: committed.cluster,
                members: committed.list(),
            })
    }

    /// Where a member may be found: where it said that it is, where the log has it, where it was said to be, and where
    /// this server was told that it would be.
    pub fn places(&self, node: u64, seat: &Seat) -> Vec<String> {
        let places = self.0.links.places();
        let listed = self.0.founders.address(&seat.peer.name).map(ToOwned::to_owned);
        let mut all = vec![places.of(node, &seat.peer.address)];
        for place in [Some(seat.peer.address.clone()), places.rumoured(node), listed]
            .into_iter()
            .flatten()
        {
            if !all.contains(&place) {
                all.push(place);
            }
        }
        all
    }

    /// What it says of itself.
    pub fn introduction(&self) -> Introduction {
        let cluster = self.0.cluster.read().clone();
        let places = self.0.links.places();
        let (founding, roster, lineage) = cluster.map_or_else(Default::default, |own| {
            let mut committed = own.rosters.committed;
            for (node, seat) in &mut committed.seats {
                seat.peer.address = places.of(*node, &seat.peer.address);
            }
            (Some(own.founding), Some(committed), own.lineage)
        });
        Introduction {
            name: self.0.this.name.clone(),
            node: self.0.node,
            address: self.0.this.address.clone(),
            founders: self.0.founders.clone(),
            founding,
            roster,
            lineage,
        }
    }

    /// The service that answers who asks.
    pub fn service(&self) -> HelloServer<Self> {
        HelloServer::new(self.clone()).max_decoding_message_size(HELLO_BYTES_MAX)
    }

    /// Asks the server at `address` who it is, and tells it what this one has durably; `known` is the start that it said it
    /// remembers of this one.
    ///
    /// # Errors
    /// Why there is no answer, in a few words.
    pub async fn ask(&self, address: &str, durable: Durable, known: Option<Boot>) -> Result<Answer, String> {
        let links = &self.0.links;
        let link = links.get(Lane::Hello, address);
        let mut client = HelloClient::new(link.channel.clone()).max_decoding_message_size(HELLO_BYTES_MAX);
        let request = proto::HelloRequest {
            me: Some(introduction_message(&self.introduction())),
            durable: Some(wire::durable_message(&durable)),
            known: known.map(wire::boot_message),
        };
        let answer = tokio::time::timeout(ASK_WITHIN, client.hello(request)).await;
        let failed = |why: String| {
            links.discard(&link);
            why
        };
        let answer = answer
            .map_err(|_| failed(format!("no answer within {ASK_WITHIN:?}")))?
            .map_err(|status| failed(in_short(&status)))?;
        let answer = read_answer(answer.into_inner()).map_err(|error| error.to_string())?;
        if self.learn(&answer.from) {
            self.0.links.found_at(answer.from.node, &answer.from.address);
        }
        Ok(answer)
    }

    /// Learns from another server who is in the cluster and where; whether that server is another member.
    fn learn(&self, from: &Introduction) -> bool {
        let mut cluster = self.0.cluster.write();
        let Some(own) = cluster.as_mut() else { return false };
        let Some(roster) = &from.roster else { return false };
        let committed = &own.rosters.committed;
        if roster.cluster != committed.cluster {
            return false;
        }
        // Who was taken in has it from those who were there.
        if own.lineage.is_empty() {
            own.lineage = from.lineage.clone();
        }
        let places = self.0.links.places();
        for (node, seat) in roster.others(self.0.node) {
            places.rumour(node, &seat.peer.address);
        }
        if roster.is_newer_than(committed) {
            own.rosters.committed = roster.clone();
        }
        places.keep(|node| own.rosters.has(node));
        let seat = own.rosters.latest().seat(from.node);
        from.node != self.0.node && seat.is_some_and(|seat| seat.peer.name == from.name)
    }

    /// Remembers what a fellow member says of itself, and gives what was known before.
    async fn hear(
        &self,
        from: &Introduction,
        durable: Durable,
        shown: Option<Boot>,
    ) -> Result<Option<Durable>, Status> {
        if !self.learn(from) {
            return Ok(None);
        }
        let (shared, node) = (self.0.clone(), from.node);
        let heard = self.0.home.blocking(move || {
            let cluster = shared.cluster.read().clone();
            shared
                .recall
                .keep(|node| cluster.as_ref().is_none_or(|own| own.rosters.has(node)));
            shared.recall.hear(node, durable, shown)
        });
        match heard.await {
            Ok(Ok(before)) => {
                // Only where the one who is remembered is.
                if self
                    .0
                    .recall
                    .of(node)
                    .is_some_and(|known| known.boot == durable.boot)
                {
                    self.0.links.found_at(node, &from.address);
                }
                Ok(before)
            }
            Ok(Err(error)) | Err(error) => {
                tracing::error!(%error, peer = from.name, "can't remember what a peer said");
                Err(Status::unavailable("this server's disk failed"))
            }
        }
    }
}

#[async_trait]
impl Hello for Presence {
    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        let malformed = |error: Malformed| Status::invalid_argument(error.to_string());
        let proto::HelloRequest { me, durable, known } = request.into_inner();
        let release = me.as_ref().map(|me| Release::said(me.version.clone(), me.rules));
        let from = read_introduction(me).map_err(malformed)?;
        // One that was in the cluster and comes back with an older release must not take part.
        let in_force = self.0.rules.load(Ordering::Relaxed);
        if let Some(Err(why)) = release.map(|release| release.fits(&from.name, in_force)) {
            return Err(Status::failed_precondition(why));
        }
        let durable = durable.ok_or(Malformed("durable")).map_err(malformed)?;
        let durable = wire::message_durable(durable).map_err(malformed)?;
        let before = self.hear(&from, durable, known.map(wire::message_boot)).await?;
        Ok(Response::new(proto::HelloResponse {
            me: Some(introduction_message(&self.introduction())),
            of_you: before.as_ref().map(wire::durable_message),
        }))
    }
}

/// Hears the members of the cluster, unless they have started since.
impl Gate for Presence {
    fn admit(&self, header: &proto::Header) -> Result<(), Refusal> {
        let cluster = self.0.cluster.read();
        if !cluster.as_ref().is_some_and(|own| own.rosters.has(header.from)) {
            return Err(Refusal(format!("node {:016x} is not a member", header.from)));
        }
        let known = self.0.recall.of(header.from);
        match known.map(|known| known.boot.number) {
            Some(known) if header.boot < known => Err(Refusal(format!(
                "this comes from start {} of node {:016x}, which has started {known} times",
                header.boot, header.from
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// A node's Raft is not started before another voter has said what it knows of it.
    fn may_vote(&self) -> bool {
        true
    }

    fn members_are(&self, rosters: Rosters) {
        if let Some(own) = &mut *self.0.cluster.write() {
            own.rosters.newest = rosters.newest;
            // Others may have told of a later one.
            if rosters.committed.is_newer_than(&own.rosters.committed) {
                own.rosters.committed = rosters.committed;
            }
        }
    }

    fn rules_are(&self, rules: u32) {
        self.0.rules.fetch_max(rules, Ordering::Relaxed);
    }
}

fn introduction_message(introduction: &Introduction) -> proto::Introduction {
    let own = Release::own();
    proto::Introduction {
        name: introduction.name.clone(),
        node_id: introduction.node,
        founders: introduction
            .founders
            .peers()
            .map(|peer| wire::server_message(&peer))
            .collect(),
        founding: introduction.founding.as_ref().map(wire::founding_message),
        peer_address: introduction.address.clone(),
        roster: introduction.roster.as_ref().map(wire::roster_message),
        rules: own.rules,
        version: own.version,
        lineage: introduction.lineage.clusters().map(ClusterId::to_bytes).collect(),
    }
}

fn read_introduction(message: Option<proto::Introduction>) -> Result<Introduction, Malformed> {
    let message = message.ok_or(Malformed("introduction"))?;
    let founders = message.founders.into_iter().map(wire::message_server);
    let lineage = message.lineage.iter().map(|id| ClusterId::of_bytes(id));
    let lineage: Option<Vec<_>> = lineage.collect();
    Ok(Introduction {
        name: message.name,
        node: message.node_id,
        founders: Founders::of(founders).map_err(|_| Malformed("list of founders"))?,
        founding: message.founding.map(wire::message_founding).transpose()?,
        address: message.peer_address,
        roster: message.roster.map(wire::message_roster).transpose()?,
        lineage: Lineage::of(lineage.ok_or(Malformed("lineage"))?),
    })
}

fn read_answer(message: proto::HelloResponse) -> Result<Answer, Malformed> {
    Ok(Answer {
        from: read_introduction(message.me)?,
        of_me: message.of_you.map(wire::message_durable).transpose()?,
    })
}

/// Asks the server at `address` who it is, as somebody who is nobody to it.
///
/// # Errors
/// Why there is no answer, in a few words.
pub async fn who_is_at(links: &Links, address: &str) -> Result<Introduction, String> {
    let link = links.get(Lane::Hello, address);
    let mut client = HelloClient::new(link.channel.clone()).max_decoding_message_size(HELLO_BYTES_MAX);
    let own = Release::own();
    let request = proto::HelloRequest {
        me: Some(proto::Introduction {
            rules: own.rules,
            version: own.version,
            ..proto::Introduction::default()
        }),
        durable: Some(proto::Durable {
            boot: Some(proto::Boot::default()),
            ..proto::Durable::default()
        }),
        known: None,
    };
    let answer = tokio::time::timeout(ASK_WITHIN, client.hello(request)).await;
    let answer = answer.map_err(|_| format!("no answer within {ASK_WITHIN:?}"))?;
    let answer = answer.map_err(|status| in_short(&status))?.into_inner();
    read_introduction(answer.me).map_err(|error| error.to_string())
}

/// What a call failed with, as one would say it: the innermost error is the one that tells something.
fn in_short(status: &Status) -> String {
    let mut innermost: &dyn std::error::Error = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if std::ptr::addr_eq(innermost, std::ptr::from_ref(status)) {
        return status.message().to_owned();
    }
    innermost.to_string()
}
