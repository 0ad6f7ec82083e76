//! A service as it is read once and then told, event by event: who of its instances may get requests. Pure.
//!
//! The health of an instance is the worst of its own checks and of its node's, so the view holds the nodes of its
//! instances, too. A node that comes with an instance is not known here, and then all is read afresh.

use std::collections::{BTreeMap, BTreeSet};

use spine_proto::v1::{self, Status, event::Change};

use crate::limits::INSTANCES_MAX;

/// An instance's or a check's place: its node and its id there.
type Place = (String, String);

/// Which instances are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) service: String,
    /// Any, if it is empty.
    pub(crate) version: String,
    pub(crate) tags: Vec<String>,
    pub(crate) warning: bool,
}

/// What an event changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing of the service.
    None,
    /// Its view.
    Changed,
    /// More than the event says: all is to be read afresh.
    Unknown,
}

/// A service.
#[derive(Debug, Default)]
pub(crate) struct View {
    service: String,
    /// Addresses of the nodes.
    nodes: BTreeMap<String, String>,
    instances: BTreeMap<Place, v1::Service>,
    /// By their place; each judges an instance of its node, or, where that is empty, the node.
    checks: BTreeMap<Place, Judgement>,
}

#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    instance: String,
    status: Status,
}

impl View {
    /// What was read of a service.
    pub(crate) fn read(service: &str, endpoints: Vec<v1::Endpoint>) -> Self {
        let mut view = Self {
            service: service.to_owned(),
            ..Self::default()
        };
        for endpoint in endpoints {
            let node = endpoint.node.unwrap_or_default();
            let address = node.definition.unwrap_or_default().address;
            view.nodes.insert(node.name.clone(), address);
            let instance = endpoint.instance.unwrap_or_default().service.unwrap_or_default();
            view.instances.insert((node.name, instance.id.clone()), instance);
            for check in endpoint.checks {
                view.judge(check);
            }
        }
        view
    }

    /// The nodes of its instances.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &String> {
        self.nodes.keys()
    }

    /// Follows what has happened.
    pub(crate) fn apply(&mut self, event: v1::Event) -> Effect {
        match event.change {
            Some(Change::Instance(change)) => self.instance_changed(change),
            Some(Change::Check(change)) => self.check_changed(change),
            Some(Change::Node(change)) => self.node_changed(change),
            Some(Change::Key(_) | Change::Member(_) | Change::Lease(_) | Change::CaRoots(_)) | None => {
                Effect::None
            }
        }
    }

    fn instance_changed(&mut self, change: v1::InstanceChange) -> Effect {
        let place = (change.node, change.id);
        let after = change.after.and_then(|instance| instance.service);
        match after.filter(|service| service.name == self.service) {
            Some(_) if !self.nodes.contains_key(&place.0) => Effect::Unknown,
            Some(_) if !self.instances.contains_key(&place) && self.instances.len() >= INSTANCES_MAX => {
                Effect::None
            }
            Some(service) => {
                self.instances.insert(place, service);
                Effect::Changed
            }
            None if self.instances.remove(&place).is_some() => Effect::Changed,
            None => Effect::None,
        }
    }

    fn check_changed(&mut self, change: v1::CheckChange) -> Effect {
        let ours = if change.service.is_empty() {
            self.nodes.contains_key(&change.node)
        } else {
            change.service == self.service
        };
        match change.after {
            Some(check) if ours => self.judge(check),
            Some(_) => Effect::None,
            // One that went may have judged an instance that has changed its service meanwhile.
            None => match self.checks.remove(&(change.node, change.id)) {
                Some(_) => Effect::Changed,
                None => Effect::None,
            },
        }
    }

    fn node_changed(&mut self, change: v1::NodeChange) -> Effect {
        let after = change.after.and_then(|node| node.definition);
        match (self.nodes.get_mut(&change.name), after) {
            (Some(address), Some(node)) if *address != node.address => {
                *address = node.address;
                Effect::Changed
            }
            // Its instances go by themselves, and if it comes back its checks are not those known here.
            (Some(_), None) => {
                self.nodes.remove(&change.name);
                Effect::Changed
            }
            (Some(_) | None, _) => Effect::None,
        }
    }

    fn judge(&mut self, check: v1::Check) -> Effect {
        let status = check.status();
        let v1::Check { node, definition, .. } = check;
        let definition = definition.unwrap_or_default();
        let judgement = Judgement {
            instance: definition.instance,
            status,
        };
        let place = (node, definition.id);
        if self.checks.get(&place) == Some(&judgement) {
            // Its output has changed.
            return Effect::None;
        }
        self.checks.insert(place, judgement);
        Effect::Changed
    }

    /// The instances that may get requests, by node and id, and how many there are besides those, whatever their health.
    pub(crate) fn targets(&self, wanted: &Wanted) -> Resolved {
        let worst = self.worst();
        let mut resolved = Resolved::default();
        for ((node, id), service) in &self.instances {
            if !wanted.matches(service) {
                continue;
            }
            resolved.registered += 1;
            let of = |instance: &str| worst.get(&(node.as_str(), instance)).copied();
            let status = of(id).max(of("")).unwrap_or(Status::Passing);
            if status == Status::Passing || wanted.warning && status == Status::Warning {
                resolved.targets.push(self.target(node, service, status));
            }
        }
        resolved
    }

    /// The worst of the checks of each instance, by its node and id; and of each node, by its name and nothing.
    fn worst(&self) -> BTreeMap<(&str, &str), Status> {
        let mut worst = BTreeMap::new();
        for ((node, _), Judgement { instance, status }) in &self.checks {
            let known = worst
                .entry((node.as_str(), instance.as_str()))
                .or_insert(Status::Passing);
            *known = (*known).max(*status);
        }
        worst
    }

    fn target(&self, node: &str, service: &v1::Service, status: Status) -> v1::ResolvedTarget {
        let weights = service.weights.unwrap_or(v1::Weights {
            passing: 1,
            warning: 1,
        });
        let address = if service.address.is_empty() {
            self.nodes.get(node).cloned().unwrap_or_default()
        } else {
            service.address.clone()
        };
        v1::ResolvedTarget {
            node: node.to_owned(),
            id: service.id.clone(),
            address,
            port: service.port,
            weight: match status {
                Status::Warning => weights.warning,
                Status::Unspecified | Status::Passing | Status::Critical => weights.passing,
            },
            status: status.into(),
            version: service.meta.get("version").cloned().unwrap_or_default(),
        }
    }
}

/// Who may get requests.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) targets: Vec<v1::ResolvedTarget>,
    /// All instances of this version and with these tags.
    pub(crate) registered: usize,
}

impl Wanted {
    /// As the servers' `Resolve` says it: a version is in the metadata, or a tag.
    fn matches(&self, service: &v1::Service) -> bool {
        let tags: BTreeSet<_> = service.tags.iter().collect();
        let is_version = self.version.is_empty()
            || service.meta.get("version") == Some(&self.version)
            || tags.contains(&self.version);
        is_version && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str) -> v1::Node {
        v1::Node {
            name: name.into(),
            definition: Some(v1::NodeDefinition {
                address: address.into(),
                ..v1::NodeDefinition::default()
            }),
            ..v1::Node::default()
        }
    }

    fn instance(node: &str, id: &str, version: &str) -> v1::Instance {
        v1::Instance {
            node: node.into(),
            service: Some(v1::Service {
                id: id.into(),
                name: "photo".into(),
                port: 80,
                meta: [("version".to_owned(), version.to_owned())].into(),
                weights: Some(v1::Weights {
                    passing: 7,
                    warning: 2,
                }),
                ..v1::Service::default()
            }),
            ..v1::Instance::default()
        }
    }

    fn check(node: &str, id: &str, instance: &str, status: Status) -> v1::Check {
        v1::Check {
            node: node.into(),
            definition: Some(v1::CheckDefinition {
                id: id.into(),
                instance: instance.into(),
                ..v1::CheckDefinition::default()
            }),
            status: status.into(),
            ..v1::Check::default()
        }
    }

    /// Two instances on one node.
    fn view() -> View {
        let endpoint = |id: &str, version: &str| v1::Endpoint {
            node: Some(node("n1", "10.0.0.1")),
            instance: Some(instance("n1", id, version)),
            checks: vec![
                check("n1", id, id, Status::Passing),
                check("n1", "serf", "", Status::Passing),
            ],
            status: Status::Passing.into(),
        };
        View::read("photo", vec![endpoint("a", "1"), endpoint("b", "2")])
    }

    fn wanted() -> Wanted {
        Wanted {
            service: "photo".into(),
            ..Wanted::default()
        }
    }

    fn ids(view: &View, wanted: &Wanted) -> Vec<String> {
        let targets = view.targets(wanted).targets;
        targets.into_iter().map(|target| target.id).collect()
    }

    fn event(change: Change) -> v1::Event {
        v1::Event {
            index: 1,
            change: Some(change),
        }
    }

    fn told(node: &str, id: &str, service: &str, after: Option<v1::Check>) -> v1::Event {
        event(Change::Check(v1::CheckChange {
            node: node.into(),
            id: id.into(),
            service: service.into(),
            after,
            ..v1::CheckChange::default()
        }))
    }

    fn registered(node: &str, id: &str, after: Option<v1::Instance>) -> v1::Event {
        event(Change::Instance(v1::InstanceChange {
            node: node.into(),
            id: id.into(),
            service: "photo".into(),
            after,
            ..v1::InstanceChange::default()
        }))
    }

    #[test]
    fn instances_are_where_they_say_or_at_their_node() {
        let resolved = view().targets(&wanted());
        let target = &resolved.targets[0];
        assert_eq!(
            (target.address.as_str(), target.port, target.weight),
            ("10.0.0.1", 80, 7)
        );
        assert_eq!(resolved.registered, 2);
    }

    #[test]
    fn a_version_is_in_the_metadata_or_a_tag() {
        let mut view = view();
        let mut tagged = instance("n1", "c", "");
        tagged.service.as_mut().unwrap().tags = vec!["2".into(), "blue".into()];
        view.apply(registered("n1", "c", Some(tagged)));
        let second = Wanted {
            version: "2".into(),
            ..wanted()
        };
        assert_eq!(ids(&view, &second), ["b", "c"]);
        let blue = Wanted {
            tags: vec!["blue".into()],
            ..second
        };
        assert_eq!(ids(&view, &blue), ["c"]);
        assert_eq!(view.targets(&blue).registered, 1);
    }

    #[test]
    fn the_worst_check_of_an_instance_and_its_node_decides() {
        let mut view = view();
        let warns = Some(check("n1", "a", "a", Status::Warning));
        assert_eq!(view.apply(told("n1", "a", "photo", warns)), Effect::Changed);
        assert_eq!(ids(&view, &wanted()), ["b"]);
        let with_warning = Wanted {
            warning: true,
            ..wanted()
        };
        assert_eq!(view.targets(&with_warning).targets[0].weight, 2);

        let dead = Some(check("n1", "serf", "", Status::Critical));
        assert_eq!(view.apply(told("n1", "serf", "", dead.clone())), Effect::Changed);
        assert_eq!(
            view.apply(told("n1", "serf", "", dead)),
            Effect::None,
            "only its output"
        );
        assert_eq!(ids(&view, &with_warning), [""; 0]);
        assert_eq!(view.targets(&wanted()).registered, 2);

        view.apply(told("n1", "serf", "", None));
        view.apply(told("n1", "a", "photo", None));
        assert_eq!(ids(&view, &wanted()), ["a", "b"]);
    }

    #[test]
    fn instances_come_and_go_and_change_their_service() {
        let mut view = view();
        let mut other = instance("n1", "a", "1");
        other.service.as_mut().unwrap().name = "other".into();
        assert_eq!(view.apply(registered("n1", "a", Some(other))), Effect::Changed);
        assert_eq!(view.apply(registered("n1", "b", None)), Effect::Changed);
        assert_eq!(view.apply(registered("n1", "b", None)), Effect::None);
        assert_eq!(ids(&view, &wanted()), [""; 0]);
        // What is not ours leaves no trace.
        let foreign = Some(check("n1", "x", "x", Status::Critical));
        assert_eq!(
            view.apply(told("n1", "x", "other", foreign.clone())),
            Effect::None
        );
        assert_eq!(view.apply(told("n9", "x", "", foreign)), Effect::None);
    }

    #[test]
    fn a_node_that_is_not_known_is_read() {
        let mut view = view();
        let elsewhere = Some(instance("n2", "c", "1"));
        assert_eq!(view.apply(registered("n2", "c", elsewhere)), Effect::Unknown);
        let renamed = v1::NodeChange {
            name: "n1".into(),
            after: Some(node("n1", "10.0.0.9")),
            ..v1::NodeChange::default()
        };
        assert_eq!(view.apply(event(Change::Node(renamed))), Effect::Changed);
        assert_eq!(view.targets(&wanted()).targets[0].address, "10.0.0.9");
        let gone = v1::NodeChange {
            name: "n1".into(),
            ..v1::NodeChange::default()
        };
        view.apply(event(Change::Node(gone)));
        let back = Some(instance("n1", "a", "1"));
        assert_eq!(view.apply(registered("n1", "a", back)), Effect::Unknown);
    }

    #[test]
    fn no_more_instances_are_kept_than_may_be() {
        let mut view = view();
        for number in 0..INSTANCES_MAX {
            let id = format!("x{number:05}");
            view.apply(registered("n1", &id, Some(instance("n1", &id, "1"))));
        }
        assert_eq!(view.targets(&wanted()).registered, INSTANCES_MAX);
    }
}
