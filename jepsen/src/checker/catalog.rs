//! Who is listed for traffic: the dead leave in time, the living never leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Around, Findings};
use crate::{
    clock::Micros,
    fault::Fault,
    history::{Call, History, InstanceState, Operation, Out, Sight},
};

/// Beyond what probing takes: for what was seen to be agreed upon and shown.
const AGREED_WITHIN: Duration = Duration::from_secs(3);

/// How long a cluster takes to be at peace after a fault: by then others run the checks of a server that was lost.
const SETTLE: Duration = Duration::from_secs(3);

/// What a node showed this long before a fault it shows after it as well: by then it was on its disk.
const ON_DISK_AFTER: Duration = Duration::from_secs(5);

/// Checks all views of all services.
pub fn check(history: &History, around: Around<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut services = services(history);
    for operation in &history.operations {
        if let (Call::Passing { service, stale }, Some(Out::Passing { ids })) =
            (&operation.call, operation.answer())
        {
            let view = View {
                operation,
                stale: *stale,
                ids: ids.iter().map(String::as_str).collect(),
            };
            let Some(service) = services.get_mut(service.as_str()) else {
                continue;
            };
            service.views.push(view);
        }
    }
    for service in services.values() {
        service.check(around, &mut findings);
    }
    findings
}

fn services(history: &History) -> BTreeMap<&str, Service<'_>> {
    let mut services: BTreeMap<&str, Service<'_>> = BTreeMap::new();
    for operation in &history.operations {
        match &operation.call {
            Call::RegisterInstance {
                service,
                id,
                interval_ms,
                timeout_ms,
                failures,
                ..
            } => {
                let instance = services.entry(service).or_default().instances.entry(id);
                let instance = instance.or_default();
                instance.interval = Duration::from_millis(*interval_ms);
                instance.timeout = Duration::from_millis(*timeout_ms);
                instance.failures = *failures;
                if !operation.failed() {
                    instance.registrations.push(operation);
                }
            }
            Call::DeregisterInstance { service, id } => {
                let instance = services.entry(service).or_default().instances.entry(id);
                if !operation.failed() {
                    instance.or_default().deregistrations.push(operation);
                }
            }
            Call::Passing { service, .. } => {
                services.entry(service).or_default();
            }
            _ => {}
        }
    }
    for sighting in &history.sightings {
        let Sight::Instance { id, state } = &sighting.sight else {
            continue;
        };
        for service in services.values_mut() {
            if let Some(instance) = service.instances.get_mut(id.as_str()) {
                instance.states.push((sighting.at, *state));
            }
        }
    }
    services
}

/// A service: what became of its instances, and what was shown of them.
#[derive(Default)]
struct Service<'a> {
    instances: BTreeMap<&'a str, Instance<'a>>,
    views: Vec<View<'a>>,
}

/// An instance, registered once and deregistered at most once.
#[derive(Default)]
struct Instance<'a> {
    interval: Duration,
    timeout: Duration,
    failures: u32,
    registrations: Vec<&'a Operation>,
    deregistrations: Vec<&'a Operation>,
    states: Vec<(Micros, InstanceState)>,
}

/// An answer to the question who may get traffic.
struct View<'a> {
    operation: &'a Operation,
    stale: bool,
    ids: BTreeSet<&'a str>,
}

impl Service<'_> {
    fn check(&self, around: Around<'_>, findings: &mut Findings) {
        for view in &self.views {
            for id in &view.ids {
                if !self.instances.contains_key(id) {
                    findings.violation("phantom", format!("{id}: {}", view.describe()));
                }
            }
        }
        for (id, instance) in &self.instances {
            let mut seen = Seen::default();
            for view in &self.views {
                let shown = view.ids.contains(id);
                let complaint = if shown {
                    instance.may_be_shown(view, around)
                } else {
                    instance
                        .has_left(view, &seen, around)
                        .or_else(|| instance.may_be_missing(view, around))
                };
                if let Some((rule, detail)) = complaint {
                    findings.violation(rule, format!("{id}: {detail}; {}", view.describe()));
                }
                let Operation { start, end, .. } = *view.operation;
                if let Some((since, InstanceState::Up)) = instance.state(start, end).filter(|_| shown) {
                    seen.note(view, since);
                }
            }
        }
    }
}

impl View<'_> {
    fn describe(&self) -> String {
        let Operation { node, start, end, .. } = self.operation;
        let how = if self.stale { "stale" } else { "linearizable" };
        format!(
            "the {how} view of {node} from {start} to {end} shows {:?}",
            self.ids
        )
    }

    /// Whether the node may have shown what was long past: it was asked for what it has, and was cut off.
    fn may_be_old(&self, around: Around<'_>) -> bool {
        let Operation { node, start, end, .. } = self.operation;
        let was_cut_off = |fault: &&Fault| fault.cut_off.contains(node) || fault.nodes.contains(node);
        self.stale
            && around
                .faults
                .iter()
                .filter(was_cut_off)
                .any(|fault| fault.from <= *end && *start <= fault.until.after(SETTLE))
    }
}

/// When an instance was first shown as passing since it is up: by anybody in a linearizable view, and by each node.
#[derive(Default)]
struct Seen<'a> {
    since: Micros,
    fresh: Option<Micros>,
    by_node: BTreeMap<&'a str, Micros>,
}

impl<'a> Seen<'a> {
    /// It was shown, and has been up since `since`. Sightings of an earlier life don't count.
    fn note(&mut self, view: &View<'a>, since: Micros) {
        if since != self.since {
            *self = Self {
                since,
                ..Self::default()
            };
        }
        let at = view.operation.end;
        if !view.stale {
            self.fresh = Some(self.fresh.map_or(at, |first| first.min(at)));
        }
        let first = self.by_node.entry(&view.operation.node).or_insert(at);
        *first = at.min(*first);
    }
}

impl Instance<'_> {
    /// What it did during all of this time; `None`: several things.
    fn state(&self, from: Micros, until: Micros) -> Option<(Micros, InstanceState)> {
        let last = self.states.iter().rfind(|(at, _)| *at <= until)?;
        (last.0 <= from).then_some(*last)
    }

    fn probing(&self) -> Duration {
        self.interval * self.failures.max(1) + self.timeout
    }

    /// When it was certainly registered; `None`: never.
    fn registered(&self) -> Option<Micros> {
        let answered = self.registrations.iter().filter(|one| one.answer().is_some());
        answered.map(|one| one.end).min()
    }

    /// Whether its deregistration had begun before a moment.
    fn leaves(&self, before: Micros) -> bool {
        self.deregistrations.iter().any(|one| one.start <= before)
    }

    /// It is in a view: is there a reason why it should not be?
    fn may_be_shown(&self, view: &View<'_>, around: Around<'_>) -> Option<(&'static str, String)> {
        let Operation { start, end, .. } = *view.operation;
        if !self.registrations.iter().any(|one| one.start <= end) {
            return Some(("phantom", "it is not registered".to_owned()));
        }
        if view.may_be_old(around) {
            return None;
        }
        let gone = self.deregistrations.iter().filter(|one| one.answer().is_some());
        if let Some(gone) = gone.map(|one| one.end).min() {
            let due = if view.stale {
                around.due(gone, AGREED_WITHIN, SETTLE)
            } else {
                gone
            };
            if start > due {
                return Some(("shown after deregistration", format!("deregistered at {gone}")));
            }
        }
        let (since, state) = self.state(start, end)?;
        let is_dead = match state {
            InstanceState::Up | InstanceState::Flapping => false,
            InstanceState::Failing | InstanceState::Hung | InstanceState::Stopped => true,
        };
        let due = around.due(since, self.probing() + AGREED_WITHIN, SETTLE);
        (is_dead && start > due).then(|| {
            (
                "dead and shown",
                format!("{state:?} since {since}, due to go at {due}"),
            )
        })
    }

    /// It is not in a view: should it have come there by now?
    fn may_be_missing(&self, view: &View<'_>, around: Around<'_>) -> Option<(&'static str, String)> {
        let Operation { start, end, .. } = *view.operation;
        let (since, state) = self.state(start, end)?;
        if state != InstanceState::Up || self.leaves(end) || view.may_be_old(around) {
            return None;
        }
        let since = self.registered()?.max(since);
        let due = around.due(since, self.interval + self.timeout + AGREED_WITHIN, SETTLE);
        (start > due).then(|| {
            (
                "alive and not shown",
                format!("up since {since}, due to come at {due}"),
            )
        })
    }

    /// It is not in a view: had it been shown, and has not stopped serving since?
    fn has_left(
        &self,
        view: &View<'_>,
        seen: &Seen<'_>,
        around: Around<'_>,
    ) -> Option<(&'static str, String)> {
        let Operation { start, end, node, .. } = view.operation;
        let (since, state) = self.state(*start, *end)?;
        if state != InstanceState::Up || self.leaves(*end) {
            return None;
        }
        let first = if view.stale {
            *seen.by_node.get(node.as_str())?
        } else {
            seen.fresh?
        };
        if seen.since != since || first >= *start {
            return None;
        }
        // A node that was touched soon after it had shown it may have lost what was not yet on its disk.
        let forgot = |fault: &Fault| {
            fault.overlaps(first, *end)
                && fault.nodes.contains(node)
                && fault.from < first.after(ON_DISK_AFTER)
        };
        let is_excused = view.stale && around.faults.iter().any(forgot);
        (!is_excused).then(|| ("alive and left", format!("up since {since}, shown since {first}")))
    }
}
