//! Servers come, are lost, and are heard again.
//!
//! A server is not the host that its services run on. When it is lost, its registrations stay, others run its checks,
//! and its node goes on passing; the check of the node says who carries it. Only when nobody is left to do so is the
//! node critical.

use std::{collections::BTreeMap, sync::Arc};

use super::State;
use crate::{
    command::{
        CheckDefinition, CheckKind, ExistingChecks, Member, MemberName, MemberReport, MemberStatus,
        NodeDefinition, Register, Service, Status, Thresholds, Weights,
    },
    event::{Change, Delta},
    health::Check,
    id::{CheckId, CheckKey, InstanceId, InstanceKey, NodeName, ServiceName},
    limits,
    member::Liveness,
    outcome::{Outcome, Rejection},
    rules::{DESERTED_NODES, JOINING_BEGINS_TERM},
    writer::Writer,
};

/// The check of a server's node, by Consul's name.
const NODE_CHECK: &str = "serfHealth";
/// What a server registers on its node.
const SERVER_INSTANCE: &str = "consul";
/// What it says while the server is heard.
const HEARD: &str = "Agent alive and reachable";
/// What it says when no server is left.
const NOBODY: &str = "Agent not live or unreachable";

impl State {
    /// The servers, by name.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().map(|(_, member)| member)
    }

    /// Whether a server is heard, and since when.
    pub fn liveness_of(&self, member: &NodeName) -> Liveness {
        self.liveness.get(member).copied().unwrap_or_default()
    }

    /// The nodes of servers that are not there: the leader has lost them, or they are members no longer and something that
    /// their clients registered is still on their nodes. By name.
    pub(super) fn nodes_of_lost(&self) -> impl Iterator<Item = &NodeName> {
        self.liveness
            .iter()
            .filter(|(_, row)| row.status == MemberStatus::Failed)
            .map(|(name, _)| name)
    }

    /// Of these, the nodes of those that are members no longer.
    pub(super) fn deserted(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes_of_lost().filter(|name| !self.members.contains(name))
    }

    /// Nothing of a node's was left but what went now: if its server is a member no longer, the node goes as well.
    pub(super) fn clear_deserted(&mut self, w: &mut Writer, node: &NodeName) {
        let deserted = self.liveness.contains(node) && !self.members.contains(node);
        if deserted && self.is_bare(node) {
            self.remove_node(w, node);
        }
    }

    /// Whether nothing is on a node.
    fn is_bare(&self, node: &NodeName) -> bool {
        self.catalog.on_node(node).next().is_none() && self.health.on_node(node).next().is_none()
    }

    /// A server says that it is there: its member row, its node, the check of the node, and the service `consul`,
    /// which clients and UIs expect to find.
    pub(super) fn member_up(&mut self, w: &mut Writer, member: &Member) -> Result<Outcome, Rejection> {
        if !self.members.contains(&member.name) && self.members.len() >= limits::MEMBERS_MAX {
            return Err(Rejection::too_many("members", limits::MEMBERS_MAX));
        }
        self.register(w, &registration(member)?)?;
        let before = self.members.get(&member.name).cloned();
        let after = Arc::new(member.clone());
        let joins = before.is_none();
        if joins {
            // One that was removed may be back.
            self.note_orphans(w, &member.name, MemberStatus::Alive);
        }
        if before.as_deref() != Some(member) {
            self.members.put(member.name.clone(), after.clone());
            w.emit(Change::Member(
                member.name.clone(),
                Delta {
                    before,
                    after: Some(after.clone()),
                },
            ));
        }
        self.set_liveness(w, &after, MemberStatus::Alive)?;
        if joins && self.rules >= JOINING_BEGINS_TERM {
            self.begin_term(w, &member.name);
        }
        Ok(Outcome::MemberUp)
    }

    pub(super) fn member_status(
        &mut self,
        w: &mut Writer,
        report: &MemberReport,
    ) -> Result<Outcome, Rejection> {
        let MemberReport { name, id, status } = report;
        let member = self.members.get(name).filter(|member| member.id == *id).cloned();
        let member = member.ok_or_else(|| Rejection::UnknownMember {
            name: name.clone(),
            id: *id,
        })?;
        let changed = self.set_liveness(w, &member, *status)?;
        Ok(Outcome::MemberStatus { changed })
    }

    /// A server is a member no longer: what it registered of itself goes. What its clients registered stays, on its node,
    /// and is checked by others, until it is registered elsewhere or goes; with nothing of the kind the node goes, too.
    pub(super) fn member_remove(
        &mut self,
        w: &mut Writer,
        MemberName { name, id }: &MemberName,
    ) -> Result<Outcome, Rejection> {
        let Some(member) = self.members.get(name).filter(|member| member.id == *id).cloned() else {
            return Ok(Outcome::MemberRemoved { found: false });
        };
        let node = name.clone();
        let id = CheckId::parse(NODE_CHECK)?;
        self.remove_check(w, &CheckKey { node, id });
        let node = name.clone();
        let id = InstanceId::parse(SERVER_INSTANCE)?;
        self.remove_instance(w, &InstanceKey { node, id });
        let is_bare = self.is_bare(name);
        if is_bare {
            self.remove_node(w, name);
        }
        self.members.remove(name);
        if !is_bare && self.rules >= DESERTED_NODES {
            // This row tells the node from one that never was a server's.
            let row = Liveness {
                status: MemberStatus::Failed,
                since: w.time,
                wall: w.wall,
                index: w.index,
            };
            self.liveness.put(name.clone(), row);
        } else {
            self.liveness.remove(name);
        }
        w.emit(Change::Member(
            name.clone(),
            Delta {
                before: Some(member),
                after: None,
            },
        ));
        self.begin_terms(w);
        self.tell_carriers(w, name)?;
        self.note_orphans(w, name, MemberStatus::Failed);
        Ok(Outcome::MemberRemoved { found: true })
    }

    /// One whose place others take has gone: what those who remain probe is theirs anew, so that no report from before is taken
    /// for one of now.
    fn begin_terms(&mut self, w: &Writer) {
        let names: Vec<_> = self.members().map(|member| member.name.clone()).collect();
        for name in names {
            self.begin_term(w, &name);
        }
    }

    fn begin_term(&mut self, w: &Writer, member: &NodeName) {
        let row = Liveness {
            index: w.index,
            ..self.liveness_of(member)
        };
        self.liveness.put(member.clone(), row);
    }

    fn set_liveness(
        &mut self,
        w: &mut Writer,
        member: &Arc<Member>,
        status: MemberStatus,
    ) -> Result<bool, Rejection> {
        let before = self.liveness_of(&member.name);
        if before.status == status {
            return Ok(false);
        }
        let after = Liveness {
            status,
            since: w.time,
            wall: w.wall,
            index: w.index,
        };
        self.liveness.put(member.name.clone(), after);
        w.emit(Change::MemberStatus(
            member.clone(),
            Delta {
                before: Some(before),
                after: Some(after),
            },
        ));
        self.tell_carriers(w, &member.name)?;
        self.note_orphans(w, &member.name, status);
        Ok(true)
    }

    /// Rewrites the checks of servers' nodes after `changed` was lost or came back: its own node's, and those of the
    /// nodes that others carry.
    fn tell_carriers(&mut self, w: &mut Writer, changed: &NodeName) -> Result<(), Rejection> {
        let (lost, live): (Vec<_>, Vec<_>) = self
            .members()
            .map(|member| (member.name.clone(), self.liveness_of(&member.name)))
            .partition(|(_, row)| row.status == MemberStatus::Failed);
        let live: Vec<_> = live.iter().map(|(name, _)| name.as_str()).collect();
        if live.contains(&changed.as_str()) {
            self.say_of_node(w, changed, Status::Passing, &HEARD.into())?;
        }
        let carriers = live.join(", ");
        for (name, row) in &lost {
            let (status, output) = if live.is_empty() {
                (Status::Critical, NOBODY.into())
            } else {
                let since = row.wall;
                let output = format!("server {name} is down since {since}; its checks are run by {carriers}");
                (Status::Passing, output.into())
            };
            self.say_of_node(w, name, status, &output)?;
        }
        Ok(())
    }

    /// Sets the check of a server's node, if its client has not removed it.
    fn say_of_node(
        &mut self,
        w: &mut Writer,
        node: &NodeName,
        status: Status,
        output: &Arc<str>,
    ) -> Result<(), Rejection> {
        let key = CheckKey {
            node: node.clone(),
            id: CheckId::parse(NODE_CHECK)?,
        };
        let Some(before) = self.health.check(&key).cloned() else {
            return Ok(());
        };
        let after = Check::clone(&before).reporting(w, status, output);
        if after != *before {
            self.put_check(
                w,
                Check {
                    modify_index: w.index,
                    ..after
                },
            );
        }
        Ok(())
    }
}

/// What a server registers of itself.
fn registration(member: &Member) -> Result<Register, Rejection> {
    let text = |text: &str| -> Arc<str> { text.into() };
    let port = member.peer_address.rsplit_once(':');
    let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
    let tagged = ["lan", "wan"].map(|tag| (text(tag), member.host.clone()));
    Ok(Register {
        node: member.name.clone(),
        node_update: Some(NodeDefinition {
            id: member.node_uuid.clone(),
            address: member.host.clone(),
            tagged_addresses: tagged.into(),
            meta: BTreeMap::new(),
        }),
        service: Some(Service {
            id: InstanceId::parse(SERVER_INSTANCE)?,
            name: ServiceName::parse("consul")?,
            kind: text(""),
            tags: Vec::new(),
            address: text(""),
            tagged_addresses: BTreeMap::new(),
            port,
            socket_path: text(""),
            meta: [(text("spine-version"), member.version.clone())].into(),
            weights: Weights::default(),
            enable_tag_override: false,
        }),
        checks: vec![CheckDefinition {
            id: CheckId::parse(NODE_CHECK)?,
            name: text("Serf Health Status"),
            notes: text(""),
            service: None,
            status: Some(Status::Passing),
            output: text(HEARD),
            kind: CheckKind::External,
            deregister_after: None,
            thresholds: Thresholds::default(),
        }],
        existing: ExistingChecks::Overwrite,
        heartbeat: None,
    })
}
