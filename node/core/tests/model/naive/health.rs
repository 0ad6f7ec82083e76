//! Checks.

use std::sync::Arc;

use spine_core::{
    Assignment, CheckDefinition, CheckKey, CheckKind, CheckUpdate, ExistingChecks, Index, InstanceId,
    NodeName, Outcome, Register, Renewed, Status, Ttl, UpdateSource, codec, health::ranking,
};

use super::{Model, Told, catalog, catalog::Place, is_ttl};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub(crate) definition: CheckDefinition,
    pub(crate) defined: Index,
    pub(crate) status: Status,
    pub(crate) output: Arc<str>,
    pub(crate) critical_since: Option<u64>,
    pub(crate) implicit: bool,
    pub(crate) created: Index,
    pub(crate) modified: Index,
    /// When its silence makes it critical.
    pub(crate) silent: Option<u64>,
    /// When its instance goes.
    pub(crate) doomed: Option<u64>,
    /// When it goes itself.
    pub(crate) forgotten: Option<u64>,
}

impl Check {
    fn ttl(&self) -> Option<u64> {
        match self.definition.kind {
            CheckKind::Ttl(ttl) => Some(ttl.0),
            _ => None,
        }
    }

    /// The words of the check that a report makes are not in the contract: it has none here.
    pub(super) fn wire(&self, node: &NodeName) -> spine_core::Check {
        let mut definition = self.definition.clone();
        if self.implicit {
            (definition.name, definition.notes) = ("".into(), "".into());
        }
        spine_core::Check {
            node: node.clone(),
            definition,
            definition_index: self.defined,
            status: self.status,
            output: self.output.clone(),
            critical_since: self.critical_since.map(spine_core::Time),
            implicit: self.implicit,
            create_index: self.created,
            modify_index: self.modified,
        }
    }

    pub(super) fn say(&mut self, now: u64, status: Status, output: &Arc<str>) {
        self.status = status;
        self.output = output.clone();
        self.critical_since = match status {
            Status::Critical => Some(self.critical_since.unwrap_or(now)),
            _ => None,
        };
    }

    fn arm(&mut self, now: u64) {
        let alive = self.status != Status::Critical;
        self.silent = self.ttl().filter(|_| alive).map(|ttl| now + ttl);
        let after = self.definition.deregister_after;
        self.doomed = self
            .critical_since
            .zip(after)
            .map(|(since, after)| since + after.0);
        self.forgotten = self.ttl().filter(|_| self.implicit).map(|ttl| now + 10 * ttl);
    }
}

impl Model {
    /// The checks that judge an instance.
    pub(super) fn checks_of(&self, (node, id): &Place) -> Vec<Place> {
        let judges = |row: &Check| {
            row.definition
                .service
                .as_ref()
                .is_some_and(|of| of.as_str() == id)
        };
        let checks = self
            .checks
            .iter()
            .filter(|(key, row)| key.0 == *node && judges(row));
        checks.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn remove_check(&mut self, key: &Place) -> bool {
        let Some(row) = self.checks.remove(key) else {
            return false;
        };
        if let Some(id) = row.definition.service {
            self.disturb(&(key.0.clone(), id.to_string()));
        }
        self.doom_of_check(key);
        true
    }

    /// Whether any changed. `own` is the instance that the registration itself is of.
    pub(super) fn register_checks(&mut self, register: &Register, own: Option<&InstanceId>) -> bool {
        let mut changed = false;
        for definition in &register.checks {
            let key = (register.node.to_string(), definition.id.to_string());
            let before = self.checks.get(&key).cloned();
            let after = self.registered(definition, register.existing, before.clone());
            if before.as_ref() == Some(&after) {
                continue;
            }
            changed = true;
            let judged = before.and_then(|row| row.definition.service);
            for id in judged.iter().chain(&definition.service) {
                if own != Some(id) {
                    let instance = (register.node.to_string(), id.to_string());
                    self.disturb(&instance);
                    self.end_heartbeat(&instance);
                }
            }
            self.store(key, after);
        }
        changed
    }

    fn registered(&self, definition: &CheckDefinition, how: ExistingChecks, before: Option<Check>) -> Check {
        let (index, now) = (Index(self.index), self.now);
        let plain = CheckDefinition {
            status: None,
            output: "".into(),
            ..definition.clone()
        };
        let status = definition.status.unwrap_or(Status::Critical);
        let Some(mut row) = before else {
            let mut row = new(plain, index);
            row.say(now, status, &definition.output);
            return row;
        };
        row.implicit = false;
        if row.definition != plain {
            row.definition = plain;
            row.defined = index;
        }
        if how == ExistingChecks::Overwrite {
            row.say(now, status, &definition.output);
        }
        row
    }

    /// A check comes from another node.
    pub(super) fn bring(&mut self, key: Place, row: Check) {
        let index = Index(self.index);
        let row = Check {
            defined: index,
            created: index,
            ..row
        };
        self.store(key, row);
    }

    pub(super) fn store(&mut self, key: Place, mut row: Check) {
        row.modified = Index(self.index);
        row.arm(self.now);
        if row.status == Status::Critical {
            self.doom_of_check(&key);
        }
        self.checks.insert(key, row);
    }

    pub(super) fn report(&mut self, update: &CheckUpdate) -> Told {
        if matches!(update.source, UpdateSource::ServiceOrImplicit(ttl) if !is_ttl(ttl)) {
            return Err("invalid");
        }
        let has = |key: &Place| self.checks.contains_key(key);
        let mut key = self.find(&update.node, update.check.as_str(), update.scope, has)?;
        let mut created = false;
        if key.is_none()
            && let UpdateSource::ServiceOrImplicit(ttl) = update.source
        {
            let id = InstanceId::parse(update.check.as_str()).expect("names are short here");
            let instance = self.find_instance(&update.node, &id, update.scope)?;
            key = instance.map(|(node, id)| (node, format!("service:{id}")));
            if let Some(key) = key.as_ref().filter(|key| !self.checks.contains_key(key)) {
                created = true;
                let row = self.implicit(&id, &key.1, ttl);
                self.checks.insert(key.clone(), row);
            }
        }
        let key = key.ok_or("unknown_check")?;
        let mut row = self.checks[&key].clone();
        match &update.source {
            UpdateSource::Probe(assignment) if self.assignment(&key, &row).as_ref() != Some(assignment) => {
                return Err("stale_assignment");
            }
            UpdateSource::Probe(_) => {}
            _ if row.ttl().is_none() => return Err("not_ttl"),
            _ => {}
        }
        row.say(self.now, update.status, &update.output);
        if row == self.checks[&key] && !created {
            row.arm(self.now);
            self.checks.insert(key, row);
        } else {
            self.store(key, row);
        }
        Ok(Outcome::CheckUpdated { created })
    }

    fn implicit(&self, instance: &InstanceId, id: &str, ttl: Ttl) -> Check {
        let definition = CheckDefinition {
            service: Some(instance.clone()),
            ..catalog::check(id, "", CheckKind::Ttl(ttl))
        };
        let mut row = new(definition, Index(self.index));
        row.implicit = true;
        row.critical_since = Some(self.now);
        row
    }

    /// Who probes a check.
    pub(crate) fn assignment(&self, key: &Place, row: &Check) -> Option<Assignment> {
        row.definition.kind.interval()?;
        let check = CheckKey {
            node: NodeName::parse(&key.0).expect("a name"),
            id: row.definition.id.clone(),
        };
        let ranked = ranking(&check, self.members.keys());
        let first = ranked.iter().position(|name| !self.members[*name].failed)?;
        let changes = ranked[..=first].iter().map(|name| self.members[*name].changed);
        Some(Assignment {
            member: ranked[first].clone(),
            since: changes.fold(row.defined, Index::max),
        })
    }

    pub(super) fn renew_check(&mut self, check: &CheckKey, content: u64) -> Result<Option<u64>, Renewed> {
        let now = self.now;
        let row = self
            .checks
            .get_mut(&(check.node.to_string(), check.id.to_string()))
            .ok_or(Renewed::NotARenewal)?;
        if row.ttl().is_none() || codec::content_hash(&(row.status, &*row.output)) != content {
            return Err(Renewed::NotARenewal);
        }
        row.arm(now);
        Ok(row.silent)
    }

    /// A TTL check was not heard in time.
    pub(super) fn silence(&mut self, key: &Place) {
        let mut row = self.checks[key].clone();
        let forgotten = row.forgotten;
        let output = match &*row.output {
            "" => "TTL expired".to_owned(),
            last => format!("TTL expired (last output before timeout follows): {last}"),
        };
        row.say(self.now, Status::Critical, &output.into());
        self.store(key.clone(), row);
        // What counts for an implicit check is the last report.
        self.checks.get_mut(key).expect("it was stored").forgotten = forgotten;
    }

    pub(super) fn end_critical(&mut self, key: &Place) {
        let row = self.checks.get_mut(key).expect("it is due");
        row.doomed = None;
        if let Some(id) = row.definition.service.clone() {
            self.remove_instance(&(key.0.clone(), id.to_string()));
            self.clear_deserted(&key.0);
        }
    }
}

fn new(definition: CheckDefinition, index: Index) -> Check {
    Check {
        definition,
        defined: index,
        status: Status::Critical,
        output: "".into(),
        critical_since: None,
        implicit: false,
        created: index,
        modified: index,
        silent: None,
        doomed: None,
        forgotten: None,
    }
}
