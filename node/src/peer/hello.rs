//! Saying hello: who this server is, and what it remembers of who asks.
//!
//! [`Presence`] is what a server shows of itself from the moment its peer port is bound, before there is a Raft. It is
//! served as the service `Hello`, and it is what this server introduces itself with when it asks.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use spine_proto::internal::v1::{
    self as proto, hello_client::HelloClient, hello_server::Hello, hello_server::HelloServer,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Lane, Links};
use crate::{
    limits::HELLO_BYTES_MAX,
    raft::{
        Gate, Refusal,
        founding::{Founders, Founding, Introduction},
        recall::{Durable, Recall},
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
    name: String,
    node: u64,
    founders: Founders,
    /// The cluster, once it is durable here that this server is in it.
    founding: RwLock<Option<Founding>>,
    recall: Recall,
    home: RaftHome,
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
    /// The server `name`, which runs on the directory that `node` was made for, and was given this list.
    pub fn new(name: String, node: u64, founders: Founders, recall: Recall, home: RaftHome) -> Self {
        Self(Arc::new(Shared {
            name,
            node,
            founders,
            founding: RwLock::default(),
            recall,
            home,
        }))
    }

    /// From here on it is a member of this cluster. To be called once that is durable.
    pub fn belong(&self, founding: Founding) {
        *self.0.founding.write() = Some(founding);
    }

    /// What it says of itself.
    pub fn introduction(&self) -> Introduction {
        let Shared {
            name,
            node,
            founders,
            founding,
            ..
        } = &*self.0;
        Introduction {
            name: name.clone(),
            node: *node,
            founders: founders.clone(),
            founding: founding.read().clone(),
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
    pub async fn ask(
        &self,
        links: &Links,
        address: &str,
        durable: Durable,
        known: Option<Boot>,
    ) -> Result<Answer, String> {
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
        read_answer(answer.into_inner()).map_err(|error| error.to_string())
    }

    /// Remembers what a fellow member says of itself, and gives what was known before.
    async fn hear(
        &self,
        from: &Introduction,
        durable: Durable,
        shown: Option<Boot>,
    ) -> Result<Option<Durable>, Status> {
        let fellow = {
            let own = self.0.founding.read();
            let cluster = own.as_ref().map(|own| own.cluster);
            let theirs = from.founding.as_ref().map(|theirs| theirs.cluster);
            cluster.is_some()
                && cluster == theirs
                && own.as_ref().is_some_and(|own| is_other(own, from, self.0.node))
        };
        if !fellow {
            return Ok(None);
        }
        let (shared, node) = (self.0.clone(), from.node);
        let heard = self
            .0
            .home
            .blocking(move || shared.recall.hear(node, durable, shown));
        match heard.await {
            Ok(Ok(before)) => Ok(before),
            Ok(Err(error)) | Err(error) => {
                tracing::error!(%error, peer = from.name, "can't remember what a peer said");
                Err(Status::unavailable("this server's disk failed"))
            }
        }
    }
}

/// Whether it is another member of this founding.
fn is_other(own: &Founding, from: &Introduction, node: u64) -> bool {
    from.node != node
        && own
            .members
            .get(&from.node)
            .is_some_and(|peer| peer.name == from.name)
}

#[async_trait]
impl Hello for Presence {
    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        let malformed = |error: Malformed| Status::invalid_argument(error.to_string());
        let proto::HelloRequest { me, durable, known } = request.into_inner();
        let from = read_introduction(me).map_err(malformed)?;
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
        let founding = self.0.founding.read();
        let members = founding.as_ref().map(|founding| &founding.members);
        let Some(peer) = members.and_then(|members| members.get(&header.from)) else {
            return Err(Refusal(format!("node {:016x} is not a member", header.from)));
        };
        let known = self.0.recall.of(header.from);
        match known.map(|known| known.boot.number) {
            Some(known) if header.boot < known => Err(Refusal(format!(
                "this comes from start {} of {}, which has started {known} times",
                header.boot, peer.name
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// A node's Raft is not started before another voter has said what it knows of it.
    fn may_vote(&self) -> bool {
        true
    }
}

fn introduction_message(introduction: &Introduction) -> proto::Introduction {
    proto::Introduction {
        name: introduction.name.clone(),
        node_id: introduction.node,
        founders: introduction
            .founders
            .peers()
            .map(|peer| wire::server_message(&peer))
            .collect(),
        founding: introduction.founding.as_ref().map(wire::founding_message),
    }
}

fn read_introduction(message: Option<proto::Introduction>) -> Result<Introduction, Malformed> {
    let message = message.ok_or(Malformed("introduction"))?;
    let founders = message.founders.into_iter().map(wire::message_server);
    Ok(Introduction {
        name: message.name,
        node: message.node_id,
        founders: Founders::of(founders).map_err(|_| Malformed("list of founders"))?,
        founding: message.founding.map(wire::message_founding).transpose()?,
    })
}

fn read_answer(message: proto::HelloResponse) -> Result<Answer, Malformed> {
    Ok(Answer {
        from: read_introduction(message.me)?,
        of_me: message.of_you.map(wire::message_durable).transpose()?,
    })
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
