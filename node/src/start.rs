//! A node's start, up to where it may take part: the port for peers bound, storage opened, a cluster founded with the
//! others on a first start, and on every other the word of one other voter that this is no old disk.
//!
//! Only then does Raft begin ([`Node::start`](crate::Node::start)), so until then this node neither votes nor campaigns.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::{
    metrics_sink::NodeMetrics,
    node::{Fatal, NodeSettings, PeerPort},
    peer::{
        Links, Port, Services, Waiting,
        hello::Presence,
        meet::{Meeting, Recognized},
    },
    raft::{
        Gate, OpenGate, Peer,
        bootstrap::{self, FirstStart, Found, Opened, StartError},
        founding::{Founders, Founding, Refusal},
        recall::{Durable, Recall},
        starts::Starts,
    },
    storage::log::{Flush, LogHooks, LogObserver, LogStore},
    world::{World, clock::Clock, home::Lodging, net::Listener},
};

/// A node that may take part.
pub(crate) struct Started {
    pub(crate) opened: Opened,
    pub(crate) lodging: Lodging,
    pub(crate) links: Arc<Links>,
    pub(crate) services: Services,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) port: Option<Port>,
    /// For a member of several: what it takes to stay known to the others.
    pub(crate) recognized: Option<Recognized>,
}

/// Keeps the others told of what is durable here, and ends the node should one of them know better.
pub(crate) fn stay_known(recognized: Recognized, log: Arc<dyn LogStore>, fatal: &Fatal) -> JoinHandle<()> {
    let end = fatal.clone();
    fatal.spawn("staying known to the others", async move {
        let old = recognized.stay_known(log).await;
        end.tell(old.to_string());
    })
}

/// What a start needs besides its settings.
pub(crate) struct Start<'a> {
    pub(crate) settings: &'a NodeSettings,
    pub(crate) world: &'a World,
    pub(crate) metrics: &'a Arc<dyn NodeMetrics>,
    pub(crate) fatal: &'a Fatal,
    pub(crate) waiting: &'a Waiting,
}

impl Start<'_> {
    /// Goes all the way. Waits as long as the others let it.
    pub(crate) async fn run(self) -> Result<Started, StartError> {
        let founders = self.founders()?;
        let lodging = self
            .world
            .raft_home
            .open(self.settings.name.as_str())
            .map_err(StartError::io("starting Raft's thread"))?;
        let services = Services::default();
        // Bound first; it says hello as soon as there is something to say.
        let port = match self.listener().await? {
            Some(listener) => {
                let port = Port::serve(listener, services.routes(), lodging.handle());
                Some(port.map_err(StartError::io("listening for peers"))?)
            }
            None => None,
        };
        let links = Arc::new(Links::new(self.world.net.clone()));
        let (found, recall) = self.open(founders.len()).await?;
        let started = |opened, gate, recognized| Started {
            opened,
            lodging,
            links: links.clone(),
            services: services.clone(),
            gate,
            port,
            recognized,
        };
        if self.settings.peers.is_none() {
            return match found {
                Found::Node(opened) => match &opened.founding {
                    Some(founding) => Err(bootstrap::no_peer_port(&self.settings.data_dir, founding)),
                    None => Ok(started(*opened, Arc::new(OpenGate), None)),
                },
                Found::Empty(_) => unreachable!("without peers a first start is alone"),
            };
        }
        let node = match &found {
            Found::Node(opened) => opened.identity.node,
            Found::Empty(beginning) => beginning.node(),
        };
        let name = self.settings.name.to_string();
        let presence = Presence::new(name, node, founders.clone(), recall, self.world.raft_home);
        let meeting = Meeting::new(presence.clone(), links.clone(), self.waiting.clone());
        if let Found::Node(opened) = &found {
            presence.belong(self.membership(opened)?);
        }
        services.hello.begin(presence.service());
        let opened = match found {
            Found::Node(opened) => *opened,
            Found::Empty(beginning) => {
                let (rng, home) = (&*self.world.rng, self.world.raft_home);
                meeting.found(beginning, &founders, rng, home).await?
            }
        };
        let recognized = match &opened.founding {
            Some(founding) => {
                let own = durable(&opened.starts, &*opened.log)?;
                Some(
                    meeting
                        .be_recognized(own, opened.starts.clone(), founding.clone())
                        .await?,
                )
            }
            // A cluster of one has nobody who could know better.
            None => None,
        };
        Ok(started(opened, Arc::new(presence), recognized))
    }

    /// The list of founders; with nobody else in it, this server alone.
    fn founders(&self) -> Result<Founders, StartError> {
        let own = self.settings.this();
        let list = match &self.settings.peers {
            Some(peers) if !peers.founders.is_empty() => peers.founders.clone(),
            Some(_) | None => vec![own.clone()],
        };
        Ok(Founders::new(&own.name, list)?)
    }

    async fn listener(&self) -> Result<Option<Arc<dyn Listener>>, StartError> {
        let Some(peers) = &self.settings.peers else {
            return Ok(None);
        };
        let listener = match &peers.port {
            PeerPort::Bound(listener) => listener.clone(),
            PeerPort::At(address) => self
                .world
                .net
                .listen(*address)
                .await
                .map_err(StartError::io("listening for peers"))?,
        };
        Ok(Some(listener))
    }

    async fn open(&self, founders: usize) -> Result<(Found, Recall), StartError> {
        let failed = self.fatal.clone();
        let hooks = LogHooks {
            fatal: Arc::new(move |error| failed.tell(error.to_string())),
            observer: Arc::new(FlushTimer {
                clock: self.world.clock.clone(),
                metrics: self.metrics.clone(),
                began: Mutex::default(),
            }),
        };
        let first = if founders > 1 {
            FirstStart::Together
        } else {
            FirstStart::Alone
        };
        let (home, world) = (self.world.raft_home, self.world.clone());
        let (directory, options) = (self.settings.data_dir.clone(), self.settings.log.clone());
        let opened = home.blocking(move || {
            let found = bootstrap::open(&world, &directory, options, hooks, first)?;
            let recall = Recall::open(world.files.clone(), &directory);
            Ok((
                found,
                recall.map_err(StartError::io("reading what is known of the peers"))?,
            ))
        });
        opened.await.map_err(StartError::io("opening the storage"))?
    }

    /// The cluster that this node is in. It must still have the name that it has there.
    fn membership(&self, opened: &Opened) -> Result<Founding, StartError> {
        let own = self.settings.this();
        let Some(founding) = &opened.founding else {
            return Ok(Founding {
                cluster: opened.identity.cluster,
                members: [(opened.identity.node, own)].into(),
            });
        };
        let Peer { name, address } = &founding.members[&opened.identity.node];
        if *name != own.name {
            return Err(StartError::Refused(Refusal::Renamed {
                founded: name.clone(),
                own: own.name,
            }));
        }
        if *address != own.address {
            tracing::warn!(
                known = address,
                own = own.address,
                "the others look for this server at another address than the one that it is to be reached at"
            );
        }
        Ok(founding.clone())
    }
}

fn durable(starts: &Starts, log: &dyn LogStore) -> Result<Durable, StartError> {
    Durable::of(starts.present(), &log.durable()).map_err(|error| StartError::Raft(error.to_string()))
}

/// Times flushes with World's clock.
struct FlushTimer {
    clock: Arc<dyn Clock>,
    metrics: Arc<dyn NodeMetrics>,
    began: Mutex<Duration>,
}

impl LogObserver for FlushTimer {
    fn flush_begins(&self) {
        *self.began.lock() = self.clock.monotonic();
    }

    fn flush_ends(&self, flush: Flush) {
        let took = self.clock.monotonic().saturating_sub(*self.began.lock());
        self.metrics.flushed(took, flush.entries, flush.bytes);
    }

    fn segment_unprepared(&self) {
        self.metrics.segment_unprepared();
    }
}
