//! Servers.

use spine_core::{
    CheckDefinition, CheckKind, ExistingChecks, Index, Member, MemberName, MemberReport, MemberStatus,
    NodeDefinition, NodeName, Outcome, Register, Service, Status,
};

use super::{
    Model, Told,
    catalog::{check, service},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) id: u64,
    pub(crate) failed: bool,
    pub(crate) since: u64,
    /// When it joined, was lost or came back last, or another was removed.
    pub(crate) changed: Index,
}

impl Model {
    /// A server brings its node, the check of its node, and the service `consul`.
    pub(super) fn member_up(&mut self, member: &Member) -> Told {
        let port = member.peer_address.rsplit(':').next();
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
        let addresses = ["lan", "wan"].map(|tag| (tag.into(), member.host.clone()));
        self.register(&Register {
            node: member.name.clone(),
            node_update: Some(NodeDefinition {
                id: member.node_uuid.clone(),
                address: member.host.clone(),
                tagged_addresses: addresses.into(),
                ..NodeDefinition::default()
            }),
            service: Some(Service {
                port,
                meta: [("spine-version".into(), member.version.clone())].into(),
                ..service("consul", "consul")
            }),
            checks: vec![CheckDefinition {
                status: Some(Status::Passing),
                output: "Agent alive and reachable".into(),
                ..check("serfHealth", "Serf Health Status", CheckKind::External)
            }],
            existing: ExistingChecks::Overwrite,
            heartbeat: None,
        })?;
        let mut gone = self.gone.remove(&member.name).unwrap_or_default();
        if !self.members.contains_key(&member.name) {
            self.note_orphans(&member.name, false);
            if self.rules() >= 2 {
                gone.changed = Index(self.index);
            }
        }
        let server = self.members.entry(member.name.clone()).or_insert(gone);
        server.id = member.id;
        self.set_failed(&member.name, false);
        Ok(Outcome::MemberUp)
    }

    pub(super) fn member_status(&mut self, report: &MemberReport) -> Told {
        match self.members.get(&report.name) {
            Some(server) if server.id == report.id => {}
            _ => return Err("unknown_member"),
        }
        let changed = self.set_failed(&report.name, report.status == MemberStatus::Failed);
        Ok(Outcome::MemberStatus { changed })
    }

    /// A server takes along what it has brought; its node stays while anything else is on it.
    pub(super) fn member_remove(&mut self, MemberName { name, id }: &MemberName) -> Outcome {
        let found = self.members.get(name).is_some_and(|server| server.id == *id);
        if found {
            let own = |id: &str| (name.to_string(), id.to_owned());
            self.remove_check(&own("serfHealth"));
            self.remove_instance(&own("consul"));
            let bare = self.is_bare(name.as_str());
            if bare {
                self.remove_node(name);
            }
            // Whoever probes what this one did, or might have, does so in a new term.
            let index = Index(self.index);
            self.members
                .values_mut()
                .for_each(|server| server.changed = index);
            let failed = self.members.remove(name).is_some_and(|server| server.failed);
            if !bare && self.rules() >= 2 {
                let server = Server {
                    failed: true,
                    since: self.now,
                    changed: index,
                    ..Server::default()
                };
                self.gone.insert(name.clone(), server);
            }
            self.tell_carriers(name);
            if !failed || bare {
                self.note_orphans(name, true);
            }
        }
        Outcome::MemberRemoved { found }
    }

    fn is_bare(&self, node: &str) -> bool {
        let mut left = self.instances.keys().chain(self.checks.keys());
        left.all(|key| key.0 != node)
    }

    /// A node whose server was removed goes with the last thing on it.
    pub(super) fn clear_deserted(&mut self, node: &str) {
        let gone = self.gone.keys().find(|name| name.as_str() == node).cloned();
        if let Some(name) = gone.filter(|_| self.is_bare(node)) {
            self.remove_node(&name);
        }
    }

    fn set_failed(&mut self, name: &NodeName, failed: bool) -> bool {
        let server = self.members.get_mut(name).expect("it is a member");
        if server.failed == failed {
            return false;
        }
        server.failed = failed;
        server.since = self.now;
        server.changed = Index(self.index);
        self.tell_carriers(name);
        self.note_orphans(name, failed);
        true
    }

    fn tell_carriers(&mut self, changed: &NodeName) {
        let live = self.members.iter().filter(|(_, server)| !server.failed);
        let live: Vec<_> = live.map(|(name, _)| name.to_string()).collect();
        for (other, server) in self.members.clone() {
            if server.failed && live.is_empty() {
                self.say_of_node(&other, Status::Critical, "Agent not live or unreachable");
            } else if server.failed {
                // The model's entries have no wall time.
                let carriers = live.join(", ");
                let output = format!(
                    "server {other} is down since 1970-01-01T00:00:00Z; its checks are run by {carriers}"
                );
                self.say_of_node(&other, Status::Passing, &output);
            } else if other == *changed {
                self.say_of_node(&other, Status::Passing, "Agent alive and reachable");
            }
        }
    }

    fn say_of_node(&mut self, node: &NodeName, status: Status, output: &str) {
        let key = (node.to_string(), "serfHealth".to_owned());
        if let Some(before) = self.checks.get(&key).cloned() {
            let mut row = before.clone();
            row.say(self.now, status, &output.into());
            if row != before {
                self.store(key, row);
            }
        }
    }

    /// Numbers the terms of office of those who probe: another server or another definition begins a new one.
    pub(super) fn begin_terms(&mut self) {
        let terms = self.checks.iter().filter_map(|(key, row)| {
            let assignment = self.assignment(key, row)?;
            Some((key.clone(), (assignment.member, row.defined)))
        });
        let terms: Vec<_> = terms.collect();
        let before = std::mem::take(&mut self.terms);
        for (key, (member, defined)) in terms {
            let same = before
                .get(&key)
                .filter(|term| (&term.0, term.1) == (&member, defined));
            let number = same.map_or(self.terms_begun + 1, |term| term.2);
            self.terms_begun = self.terms_begun.max(number);
            self.terms.insert(key, (member, defined, number));
        }
    }
}
