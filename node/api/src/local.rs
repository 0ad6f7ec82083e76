//! A registry that is one value in memory: no cluster, no disk, no clock of its own. Tests of dialects and of
//! clients stand on it, and time passes in it only when they say so.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use spine_core::{
    Applied, Author, Command, Entry, NodeName, Outcome, Renewal, RenewalRequest, Renewed, Request, Rights,
    State, Time, Ttl, WallTime,
};
use tokio::sync::watch;

use crate::{
    hub::Hub,
    registry::{AdminCommand, AdminOutcome, Context, Error, NodeStatus, Registry, Role},
};

/// The registry in memory.
pub struct Local {
    name: NodeName,
    hub: Hub,
    /// The state being changed, and the cluster time.
    now: Mutex<(State, Time)>,
    /// Whether there is a leader: without one it answers as a node that has had none for some time.
    led: watch::Sender<bool>,
    /// Who votes and who learns.
    votes: Mutex<BTreeMap<u64, bool>>,
}

/// The id of the one server that there is.
const NODE: u64 = 1;

impl Local {
    /// An empty registry on a node of this name.
    pub fn new(name: NodeName) -> Self {
        let state = State::new();
        Self {
            name,
            hub: Hub::new(state.clone()),
            now: Mutex::new((state, Time(0))),
            led: watch::Sender::new(true),
            votes: Mutex::new([(NODE, true)].into()),
        }
    }

    /// Lets cluster time pass, and ends what is due then.
    pub fn advance(&self, ttl: Ttl) {
        {
            let mut now = self.now.lock();
            now.1 = now.1.after(ttl);
        }
        self.end_due();
    }

    /// What a leader does all the time.
    fn end_due(&self) {
        let is_due = || {
            let now = self.now.lock();
            now.0.next_deadline().is_some_and(|due| due <= now.1)
        };
        while is_due() {
            self.apply(Request::internal(Command::Pulse));
        }
    }

    /// From now on answers as a node that has known no leader for some time and is not ready, or again as one that does.
    pub fn set_leaderless(&self, leaderless: bool) {
        self.led.send_replace(!leaderless);
    }

    /// From now on says so of a server, whether or not there is one of this id.
    pub fn set_vote(&self, node_id: u64, votes: bool) {
        self.votes.lock().insert(node_id, votes);
    }

    fn apply(&self, request: Request) -> Applied {
        let mut now = self.now.lock();
        let (state, time) = &mut *now;
        let batch = state.apply(&Entry {
            time: *time,
            wall: WallTime(0),
            requests: vec![request],
        });
        self.hub.publish(state.clone(), &batch.events);
        batch
            .applied
            .into_iter()
            .next()
            .expect("one request has one outcome")
    }

    fn check_leader(&self) -> Result<(), Error> {
        if *self.led.borrow() {
            Ok(())
        } else {
            Err(Error::NoLeader)
        }
    }

    fn author(cx: &Context) -> Author {
        Author {
            dialect: cx.dialect,
            peer: cx.peer.clone(),
            ..Author::default()
        }
    }
}

#[async_trait]
impl Registry for Local {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, Error> {
        self.check_leader()?;
        command.check()?;
        self.hub.newest().admits(&command)?;
        let renewal = self.hub.newest().as_renewal(&command);
        if let Some(renewal) = renewal
            && let renewed @ Renewed::Until(_) = self.renew(cx, renewal).await?
        {
            return Ok(Applied {
                index: self.hub.newest().index(),
                result: Ok(Outcome::Renewed(vec![renewed])),
            });
        }
        let applied = self.apply(Request {
            author: Self::author(cx),
            id: cx.request,
            ..Request::internal(command)
        });
        self.end_due();
        Ok(applied)
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, Error> {
        self.check_leader()?;
        let request = RenewalRequest {
            author: Self::author(cx),
            rights: Rights::Open,
            renewal,
        };
        let applied = self.apply(Request::internal(Command::Renew(vec![request])));
        match applied.result? {
            Outcome::Renewed(mut renewed) => Ok(renewed.pop().expect("one renewal has one outcome")),
            other => unreachable!("renewals have no outcome {other:?}"),
        }
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, Error> {
        if cx.consistency == crate::registry::Consistency::Linearizable {
            self.check_leader()?;
        }
        Ok(self.hub.newest())
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn status(&self) -> NodeStatus {
        let state = self.hub.newest();
        let leader = *self.led.borrow();
        NodeStatus {
            name: self.name.clone(),
            node_id: NODE,
            cluster_id: "11111111-2222-3333-4444-555555555555".into(),
            datacenter: "dc1".into(),
            role: if leader { Role::Leader } else { Role::Follower },
            leader: leader.then(|| self.name.clone()),
            last_contact: leader.then_some(std::time::Duration::ZERO),
            term: 1,
            last_log: state.index().0,
            committed: state.index().0,
            applied: state.index().0,
            index: state.index(),
            time: state.time(),
            rules: state.rules(),
            state_bytes: state.bytes(),
            state_quota: state.quota(),
            ready: leader,
        }
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.led.subscribe()
    }

    fn votes(&self) -> BTreeMap<u64, bool> {
        self.votes.lock().clone()
    }

    async fn admin(&self, _cx: &Context, command: AdminCommand) -> Result<AdminOutcome, Error> {
        match command {
            AdminCommand::Checkpoint => Err(Error::Unsupported(
                "a registry in memory has no checkpoint".into(),
            )),
            AdminCommand::RemoveMember { name, .. } | AdminCommand::Transfer { name: Some(name) }
                if *name != *self.name.as_str() =>
            {
                Err(Error::NoMember(name))
            }
            AdminCommand::RemoveMember { .. } | AdminCommand::Leave | AdminCommand::Transfer { .. } => Err(
                Error::Unsafe(format!("{} is the only server, and a registry needs one", self.name).into()),
            ),
        }
    }
}
