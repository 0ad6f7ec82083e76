//! Nodes and instances.

use spine_core::{
    CheckDefinition, CheckId, CheckKind, Deregister, ExistingChecks, Index, InstanceId, InstanceKey,
    NodeDefinition, NodeName, Outcome, Register, Renewed, Scope, Service, ServiceName, Target, Thresholds,
    Weights, codec,
};

use super::{Model, Told, is_ttl};

/// A node or an instance, or a check, by node and id.
pub(crate) type Place = (String, String);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) definition: NodeDefinition,
    pub(crate) created: Index,
    pub(crate) modified: Index,
}

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) service: Service,
    /// The last registration, as long as all of it still holds.
    sent: Option<Register>,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) created: Index,
    pub(crate) modified: Index,
}

/// How a registration without checks repeats itself.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    last: u64,
    repeats: u64,
    ttl: u64,
    /// When it ends, once it is a lease.
    pub(crate) ends: Option<u64>,
}

impl Model {
    /// Whether anything changed.
    pub(super) fn register(&mut self, register: &Register) -> Result<bool, &'static str> {
        self.refuse(register)?;
        let mut changed = false;
        if let Some(definition) = &register.node_update {
            changed |= self.put_node(&register.node, definition);
        }
        changed |= match &register.service {
            Some(service) => self.put_instance(register, service),
            None => self.register_checks(register, None),
        };
        Ok(changed)
    }

    fn refuse(&self, register: &Register) -> Result<(), &'static str> {
        if !lengths_are(register) {
            return Err("invalid");
        }
        let node = &register.node;
        match &register.node_update {
            Some(definition) if self.id_is_taken(node, &definition.id) => return Err("node_id_taken"),
            None if !self.nodes.contains_key(node) => return Err("unknown_node"),
            _ => {}
        }
        for id in register.checks.iter().filter_map(|check| check.service.as_ref()) {
            let comes = register.service.as_ref().is_some_and(|service| service.id == *id);
            if !comes && !self.instances.contains_key(&(node.to_string(), id.to_string())) {
                return Err("unknown_instance");
            }
        }
        Ok(())
    }

    fn id_is_taken(&self, node: &NodeName, id: &str) -> bool {
        let has = |(name, row): (&NodeName, &Node)| name != node && *row.definition.id == *id;
        !id.is_empty() && self.nodes.iter().any(has)
    }

    fn put_node(&mut self, name: &NodeName, definition: &NodeDefinition) -> bool {
        let before = self.nodes.get(name);
        if before.is_some_and(|row| row.definition == *definition) {
            return false;
        }
        let modified = Index(self.index);
        let created = before.map_or(modified, |row| row.created);
        let row = Node {
            definition: definition.clone(),
            created,
            modified,
        };
        self.nodes.insert(name.clone(), row);
        true
    }

    fn put_instance(&mut self, register: &Register, service: &Service) -> bool {
        let key = (register.node.to_string(), service.id.to_string());
        let before = self.instances.get(&key).cloned();
        let repeated = before
            .as_ref()
            .is_some_and(|row| row.sent.as_ref() == Some(register));
        let mut changed = false;
        let twins = self.twins(register, service);
        if register.existing == ExistingChecks::Replace {
            let named = |id: &str| register.checks.iter().any(|check| check.id.as_str() == id);
            let mut gone = self.checks_of(&key);
            gone.retain(|(_, id)| !named(id));
            changed |= !gone.is_empty();
            for check in &gone {
                self.remove_check(check);
            }
        }
        let index = Index(self.index);
        let same = before.as_ref().is_some_and(|row| row.service == *service);
        changed |= !same;
        let row = Instance {
            service: service.clone(),
            sent: Some(register.clone()),
            heartbeat: before.as_ref().and_then(|row| row.heartbeat.clone()),
            created: before.as_ref().map_or(index, |row| row.created),
            modified: before.filter(|_| same).map_or(index, |row| row.modified),
        };
        self.instances.insert(key.clone(), row);
        changed |= !twins.is_empty();
        for twin in &twins {
            self.inherit(twin, &key, register);
        }
        changed |= self.register_checks(register, Some(&service.id));
        self.hear(&key, register.heartbeat.map(|ttl| ttl.0), repeated);
        for twin in &twins {
            self.remove_instance(twin);
            self.clear_deserted(&twin.0);
        }
        changed
    }

    /// The same process, registered through servers that are not there now.
    fn twins(&self, register: &Register, service: &Service) -> Vec<Place> {
        if register.existing == ExistingChecks::Overwrite || !self.members.contains_key(&register.node) {
            return Vec::new();
        }
        let reached = |node: &NodeName, service: &Service| match &*service.address {
            "" => self.nodes[node].definition.address.clone(),
            _ => service.address.clone(),
        };
        let servers = self.members.iter().chain(&self.gone);
        let lost = servers.filter(|(_, server)| server.failed);
        lost.filter(|(node, _)| **node != register.node)
            .filter_map(|(node, _)| {
                let place = (node.to_string(), service.id.to_string());
                let row = &self.instances.get(&place)?.service;
                let same = row.name == service.name && row.port == service.port;
                (same && reached(node, row) == reached(&register.node, service)).then_some(place)
            })
            .collect()
    }

    /// What judges a twin comes along, with what it says.
    fn inherit(&mut self, twin: &Place, to: &Place, register: &Register) {
        for from in self.checks_of(twin) {
            let named = register.checks.iter().any(|check| check.id.as_str() == from.1);
            let place = (to.0.clone(), from.1.clone());
            if (named || register.existing == ExistingChecks::Keep) && !self.checks.contains_key(&place) {
                let row = self.checks[&from].clone();
                self.bring(place, row);
            }
        }
        let heartbeat = self.instances[twin].heartbeat.clone();
        let row = self.instances.get_mut(to).expect("it was put");
        row.heartbeat = row.heartbeat.take().or(heartbeat);
    }

    /// Others have changed what this instance's client brought.
    pub(super) fn disturb(&mut self, key: &Place) {
        if let Some(row) = self.instances.get_mut(key) {
            row.sent = None;
        }
    }

    /// From now on it lives by a check.
    pub(super) fn end_heartbeat(&mut self, key: &Place) {
        if let Some(row) = self.instances.get_mut(key) {
            row.heartbeat = None;
        }
    }

    /// Takes note of a registration with a heartbeat of this length.
    fn hear(&mut self, key: &Place, ttl: Option<u64>, repeated: bool) {
        let own = |check: &Place| !self.checks[check].implicit;
        let checked = self.checks_of(key).iter().any(own);
        let now = self.now;
        let Some(row) = self.instances.get_mut(key) else {
            return;
        };
        let before = row.heartbeat.take();
        let Some(ttl) = ttl.filter(|_| !checked) else {
            return;
        };
        let fresh = Heartbeat {
            last: now,
            repeats: 0,
            ttl,
            ends: None,
        };
        let heard = |before: Heartbeat| match now - before.last {
            0..2_000 => before,
            gap if gap <= ttl || before.repeats >= 2 => Heartbeat {
                last: now,
                repeats: before.repeats + 1,
                ..before
            },
            _ => fresh.clone(),
        };
        let mut heartbeat = match before {
            Some(before) if before.ttl == ttl && (repeated || before.repeats >= 2) => heard(before),
            _ => fresh,
        };
        heartbeat.ends = (heartbeat.repeats >= 2).then_some(now + ttl);
        row.heartbeat = Some(heartbeat);
    }

    pub(super) fn renew_instance(
        &mut self,
        instance: &InstanceKey,
        content: u64,
    ) -> Result<Option<u64>, Renewed> {
        let key = (instance.node.to_string(), instance.id.to_string());
        let sent = self.instances.get(&key).and_then(|row| row.sent.as_ref());
        if sent.map(codec::content_hash) != Some(content) {
            return Err(Renewed::NotARenewal);
        }
        if let Some(ttl) = self.instances[&key].heartbeat.as_ref().map(|row| row.ttl) {
            self.hear(&key, Some(ttl), true);
        }
        let heartbeat = self.instances[&key].heartbeat.as_ref();
        Ok(heartbeat.and_then(|row| row.ends))
    }

    pub(super) fn deregister(&mut self, deregister: &Deregister) -> Told {
        let Deregister { node, target, scope } = deregister;
        let found = match target {
            Target::Node => self.remove_node(node),
            Target::Instance(id) => match self.find_instance(node, id, *scope)? {
                Some(key) => {
                    let found = self.remove_instance(&key);
                    self.clear_deserted(&key.0);
                    found
                }
                None => false,
            },
            Target::Check(id) => {
                let has = |key: &Place| self.checks.contains_key(key);
                match self.find(node, id.as_str(), *scope, has)? {
                    Some(key) => {
                        let found = self.remove_check(&key);
                        self.clear_deserted(&key.0);
                        found
                    }
                    None => false,
                }
            }
        };
        Ok(Outcome::Deregistered { found })
    }

    pub(super) fn remove_node(&mut self, node: &NodeName) -> bool {
        let on_node = |key: &&Place| key.0 == node.as_str();
        let checks: Vec<_> = self.checks.keys().filter(on_node).cloned().collect();
        let instances: Vec<_> = self.instances.keys().filter(on_node).cloned().collect();
        for key in &checks {
            self.remove_check(key);
        }
        for key in &instances {
            self.remove_instance(key);
        }
        self.doom_of_node(node);
        self.gone.remove(node);
        self.nodes.remove(node).is_some()
    }

    pub(super) fn remove_instance(&mut self, key: &Place) -> bool {
        for check in self.checks_of(key) {
            self.remove_check(&check);
        }
        self.instances.remove(key).is_some()
    }

    pub(super) fn find_instance(
        &self,
        node: &NodeName,
        id: &InstanceId,
        scope: Scope,
    ) -> Result<Option<Place>, &'static str> {
        self.find(node, id.as_str(), scope, |key| self.instances.contains_key(key))
    }

    /// On the node named; else, if so asked, on the one member's node that has it.
    pub(super) fn find(
        &self,
        node: &NodeName,
        id: &str,
        scope: Scope,
        has: impl Fn(&Place) -> bool,
    ) -> Result<Option<Place>, &'static str> {
        let here = (node.to_string(), id.to_owned());
        if has(&here) {
            return Ok(Some(here));
        }
        if scope == Scope::Node {
            return Ok(None);
        }
        let elsewhere = self
            .members
            .keys()
            .chain(self.gone.keys())
            .map(|member| (member.to_string(), id.to_owned()));
        let found: Vec<_> = elsewhere.filter(|key| has(key)).collect();
        if found.len() > 1 {
            return Err("ambiguous");
        }
        Ok(found.into_iter().next())
    }
}

impl Node {
    pub(super) fn wire(&self, name: &NodeName) -> spine_core::Node {
        spine_core::Node {
            name: name.clone(),
            definition: self.definition.clone(),
            create_index: self.created,
            modify_index: self.modified,
        }
    }
}

impl Instance {
    pub(super) fn wire(&self, node: &str) -> spine_core::Instance {
        spine_core::Instance {
            node: NodeName::parse(node).expect("a name"),
            service: self.service.clone(),
            content: self.sent.as_ref().map_or(0, codec::content_hash),
            create_index: self.created,
            modify_index: self.modified,
        }
    }
}

/// Whether its lengths of time are such.
pub(super) fn lengths_are(register: &Register) -> bool {
    let lengths = register.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Ttl(ttl) => Some(*ttl),
        kind => kind.interval(),
    });
    register.heartbeat.into_iter().chain(lengths).all(is_ttl)
}

/// A service with a name and an id alone.
pub(crate) fn service(name: &str, id: &str) -> Service {
    Service {
        id: InstanceId::parse(id).expect("an id"),
        name: ServiceName::parse(name).expect("a name"),
        kind: "".into(),
        tags: Vec::new(),
        address: "".into(),
        tagged_addresses: [].into(),
        port: 0,
        socket_path: "".into(),
        meta: [].into(),
        weights: Weights::default(),
        enable_tag_override: false,
    }
}

/// A check of a node with an id, a name and a kind alone.
pub(crate) fn check(id: &str, name: &str, kind: CheckKind) -> CheckDefinition {
    CheckDefinition {
        id: CheckId::parse(id).expect("an id"),
        name: name.into(),
        notes: "".into(),
        service: None,
        status: None,
        output: "".into(),
        kind,
        deregister_after: None,
        thresholds: Thresholds::default(),
    }
}
