//! A node's start, up to where it may take part: the port for peers bound, storage opened, a cluster founded with the
//! others on a first start, and on every other the word of one other voter that this is no old disk.
//!
//! Only then does Raft begin ([`Node::start`](crate::Node::start)), so until then this node neither votes nor campaigns.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    condition::{Condition, FlushTimer},
    members::changes::Members,
    metrics_sink::NodeMetrics,
    node::{NodeSettings, PeerPort},
    peer::{Links, Port, Services, Waiting, hello::Presence, meet::Meeting, recognized::Recognized},
    raft::{
        Gate, Leader, OpenGate,
        bootstrap::{self, Beginning, FirstStart, Found, Opened, StartError},
        founding::{Founders, Refusal},
        recall::{Durable, Recall},
        roster::{Roster, Rosters},
        starts::Starts,
    },
    storage::log::{LogHooks, LogStore},
    tasks::{Fatal, Task},
    world::{World, home::Lodging, net::Listener},
};

/// A directory that is in use is waited for so long: a node that was dropped or halted may still be writing there.
const IN_USE_MAX: Duration = Duration::from_secs(5);
/// And looked at so often.
const IN_USE_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A node that may take part.
pub(crate) struct Started {
    pub(crate) opened: Opened,
    pub(crate) lodging: Lodging,
    pub(crate) links: Arc<Links>,
    pub(crate) services: Services,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) port: Option<Port>,
    /// Where there may be others: what it takes to stay known to them.
    pub(crate) recognized: Option<Recognized>,
}

/// Keeps the others told of what is durable here, and ends the node should one of them know better, or that it was removed.
pub(crate) fn stay_known(
    recognized: Recognized,
    log: Arc<dyn LogStore>,
    leads: watch::Receiver<Option<Leader>>,
    members: &Members,
    fatal: &Fatal,
) -> Task {
    let (end, departure) = (fatal.clone(), members.departure());
    fatal.spawn("staying known to the others", async move {
        let why = recognized.stay_known(log, leads).await;
        let removed = matches!(why, StartError::Refused(Refusal::Removed { .. }));
        if !(removed && departure.is_over()) {
            end.refuse(why.to_string());
        }
    })
}

/// What a start needs besides its settings.
pub(crate) struct Start<'a> {
    pub(crate) settings: &'a NodeSettings,
    pub(crate) world: &'a World,
    pub(crate) metrics: &'a Arc<dyn NodeMetrics>,
    pub(crate) condition: &'a Arc<Condition>,
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
        let (opened, gate, recognized) = match &self.settings.peers {
            None => (
                self.alone(found).await?,
                Arc::new(OpenGate) as Arc<dyn Gate>,
                None,
            ),
            Some(peers) => {
                let (home, node) = (self.world.raft_home, found.node());
                let presence =
                    Presence::new(self.settings.this(), node, founders, recall, links.clone(), home);
                let (opened, recognized) = self
                    .meet(found, &presence, &peers.join, &services, &links)
                    .await?;
                (opened, Arc::new(presence) as Arc<dyn Gate>, Some(recognized))
            }
        };
        Ok(Started {
            opened: self.behind_its_founding(opened).await?,
            lodging,
            links,
            services,
            gate,
            port,
            recognized,
        })
    }

    /// What was restored stands behind the entry that founds its cluster before Raft begins.
    async fn behind_its_founding(&self, opened: Opened) -> Result<Opened, StartError> {
        let this = self.settings.this();
        let done = self
            .world
            .raft_home
            .blocking(move || opened.behind_its_founding(this));
        done.await.map_err(StartError::io("writing what was restored"))?
    }

    /// A server without a port for others, which must have none.
    async fn alone(&self, found: Found) -> Result<Opened, StartError> {
        let members = match found {
            Found::Node(opened) => {
                let roster = self.rosters(&opened).await?.newest;
                if roster.others(opened.identity.node).next().is_none() {
                    return Ok(*opened);
                }
                roster.list()
            }
            Found::Empty(beginning) => beginning.members(),
        };
        Err(StartError::NoPeerPort {
            directory: self.settings.data_dir.clone(),
            members,
        })
    }

    /// Founds a cluster with the others, joins one, or comes back to the one that this directory is in.
    async fn meet(
        &self,
        found: Found,
        presence: &Presence,
        seeds: &[String],
        services: &Services,
        links: &Arc<Links>,
    ) -> Result<(Opened, Recognized), StartError> {
        let meeting = Meeting::new(presence.clone(), links.clone(), self.waiting.clone());
        if let Found::Node(opened) = &found {
            self.come_back(opened, presence).await?;
        }
        services.hello.begin(presence.service());
        let (rng, home) = (&*self.world.rng, self.world.raft_home);
        let opened = match found {
            Found::Node(opened) => *opened,
            Found::Empty(beginning) if beginning.founding().is_none() && joins(&beginning, seeds) => {
                meeting.join(beginning, seeds, home).await?
            }
            Found::Empty(beginning) => meeting.found(beginning, &self.founders()?, rng, home).await?,
        };
        let own = durable(&opened.starts, &*opened.log)?;
        let recognized = meeting.be_recognized(own, opened.starts.clone(), seeds).await?;
        Ok((opened, recognized))
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
            observer: Arc::new(FlushTimer::new(self.condition.clone(), self.metrics.clone())),
            held: None,
        };
        let joins = self
            .settings
            .peers
            .as_ref()
            .is_some_and(|peers| !peers.join.is_empty());
        let first = if founders > 1 || joins {
            FirstStart::Together
        } else {
            FirstStart::Alone
        };
        let until = Instant::now() + IN_USE_MAX;
        loop {
            match self.try_open(hooks.clone(), first).await {
                Err(StartError::InUse(_)) if Instant::now() < until => sleep(IN_USE_LOOK_EVERY).await,
                opened => return opened,
            }
        }
    }

    async fn try_open(&self, hooks: LogHooks, first: FirstStart) -> Result<(Found, Recall), StartError> {
        let (home, world) = (self.world.raft_home, self.world.clone());
        let (directory, options) = (self.settings.data_dir.clone(), self.settings.log.clone());
        let opened = home.blocking(move || {
            let found = bootstrap::open(&world, &directory, options, hooks, first)?;
            let recall = Recall::open(world.files.clone(), &directory);
            let recall = recall.map_err(StartError::io("reading what is known of the peers"))?;
            let recall = recall.under(found.lock());
            Ok((found, recall))
        });
        opened.await.map_err(StartError::io("opening the storage"))?
    }

    /// A node shows itself as the member that it is. It must still have the name that it has in its cluster.
    async fn come_back(&self, opened: &Opened, presence: &Presence) -> Result<(), StartError> {
        let (own, identity) = (self.settings.this(), opened.identity);
        let rosters = self.rosters(opened).await?;
        if let Some(seat) = rosters.newest.seat(identity.node)
            && seat.peer.name != own.name
        {
            return Err(StartError::Refused(Refusal::Renamed {
                founded: seat.peer.name.clone(),
                own: own.name,
            }));
        }
        let founding = match (&opened.founding, &opened.joined) {
            (Some(founding), _) => founding.clone(),
            (None, Some(joined)) => joined.as_founding(),
            (None, None) => Roster::alone(identity, own).as_founding(),
        };
        presence.belong(founding, rosters, opened.lineage.clone());
        presence.rules_are(opened.loaded.applied.state.rules());
        presence.removed().map_or(Ok(()), |removed| Err(removed.into()))
    }

    /// Who is in the cluster that this node is in, by its own disk.
    async fn rosters(&self, opened: &Opened) -> Result<Rosters, StartError> {
        let base = match (&opened.joined, &opened.founding) {
            (Some(joined), _) => joined.clone(),
            (None, Some(founding)) => Roster::founded(founding),
            (None, None) => Roster::alone(opened.identity, self.settings.this()),
        };
        let (checkpoint, log) = (opened.loaded.applied.clone(), opened.log.clone());
        let read = move || Rosters::on_disk(base, &checkpoint, &*log);
        let read = self.world.raft_home.blocking(read).await;
        read.map_err(StartError::io("reading the members in the log"))?
    }
}

/// Whether an empty directory is to be taken in by a cluster, or has been.
fn joins(beginning: &Beginning, seeds: &[String]) -> bool {
    beginning.joined().is_some() || !seeds.is_empty()
}

fn durable(starts: &Starts, log: &dyn LogStore) -> Result<Durable, StartError> {
    Durable::of(starts.present(), &log.durable()).map_err(|error| StartError::Raft(error.to_string()))
}
