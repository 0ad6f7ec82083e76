//! Every question, asked before and after each entry, and what its index promises.

use std::sync::Arc;

use serde::Serialize;
use spine_core::{
    AllChecks, AllEndpoints, AllLeases, Answer, CaRoots, Check, CheckId, CheckKey, CheckView, CountKeys,
    Endpoint, Event, FindInstance, GetKey, Index, Instance, InstanceHealth, InstanceId, InstanceKey,
    Interest, Key, KeyNames, KeyRange, KvRow, LeaseId, LeaseView, ListKeys, Members, Node, NodeChecks,
    NodeName, NodeServices, Nodes, OneCheck, OneLease, Page, Query, ServiceChecks, ServiceHealth,
    ServiceName, Services, State, Status, codec,
};

use super::steps;

/// What a question found, as bytes.
#[derive(Debug)]
pub(crate) struct Found {
    question: String,
    value: Vec<u8>,
    index: Index,
    interest: Interest,
}

/// What four promises say of one question's answers before and after a batch of events.
pub(crate) fn check(before: &[Found], after: &[Found], events: &[Event]) {
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(after) {
        let touched = events
            .iter()
            .any(|event| before.interest.iter().any(|topic| event.change.touches(topic)));
        let changed = before.value != after.value;
        let told = || format!("{}: {before:?} -> {after:?} by {events:?}", before.question);
        assert!(after.index >= before.index, "the index fell: {}", told());
        assert!(
            !changed || after.index > before.index,
            "the index stood: {}",
            told()
        );
        assert!(
            touched || after.index == before.index,
            "the index moved: {}",
            told()
        );
        assert!(!changed || touched, "a wake was missed: {}", told());
    }
}

/// Asks everything.
pub(crate) fn all(state: &State) -> Vec<Found> {
    let mut found = Asked {
        state,
        found: Vec::new(),
    };
    found.of_keys();
    found.of_catalog();
    found.of_checks();
    found.found
}

struct Asked<'a> {
    state: &'a State,
    found: Vec<Found>,
}

impl Asked<'_> {
    fn ask<Q: Query, S: Serialize>(&mut self, name: &str, query: &Q, shown: impl Fn(Q::Value) -> S) {
        let Answer {
            value,
            index,
            interest,
        } = query.ask(self.state);
        self.found.push(Found {
            question: name.to_owned(),
            value: codec::encode_row(&shown(value)),
            index,
            interest,
        });
    }

    fn of_keys(&mut self) {
        // The revision of a page is the store's: it moves with keys elsewhere.
        let page = |page: Page| -> (Vec<(Key, Arc<KvRow>)>, u64, bool) { (page.rows, page.count, page.more) };
        for key in steps::KEYS {
            let one = Key::from_static(key.as_bytes());
            self.ask(key, &GetKey(one.clone()), |row| row);
            let range = KeyRange::prefix(one);
            self.ask(key, &CountKeys(range.clone()), |count| count);
            for limit in [None, Some(1)] {
                let range = range.clone();
                self.ask(key, &ListKeys { range, limit }, page);
            }
        }
        for separator in [None, Some("/".into())] {
            let prefix = Key::new();
            self.ask("names", &KeyNames { prefix, separator }, |names| names);
        }
    }

    fn of_catalog(&mut self) {
        self.ask("nodes", &Nodes, |nodes| nodes);
        self.ask("services", &Services, |services| services);
        self.ask("endpoints", &AllEndpoints, endpoints);
        self.ask("members", &Members, |all| -> Vec<_> {
            all.into_iter().map(|view| (view.member, view.liveness)).collect()
        });
        let lease = |view: LeaseView| (view.id, view.ttl, view.terms, view.create_index);
        for node in [None, Some("n1"), Some("s1")] {
            let query = AllLeases {
                node: node.map(|name| NodeName::parse(name).expect("a name")),
                ..AllLeases::default()
            };
            self.ask("leases", &query, |all| {
                all.into_iter().map(lease).collect::<Vec<_>>()
            });
        }
        for id in [1, 2] {
            self.ask("lease", &OneLease(LeaseId(id)), |found| found.map(lease));
        }
        self.ask("roots", &CaRoots, |roots| -> Vec<_> {
            roots
                .into_iter()
                .map(|view| (view.root, view.active, view.index))
                .collect()
        });
        // Among them ids, one of which is the name of another node.
        for node in steps::NODES.into_iter().chain(["id", "uuid-s1"]) {
            let query = NodeServices { node: node.into() };
            self.ask(node, &query, |found| {
                found.map(|found| {
                    (
                        found.node,
                        found.instances.iter().map(instance).collect::<Vec<_>>(),
                    )
                })
            });
        }
        for service in steps::SERVICES.into_iter().chain(["consul", "none"]) {
            let name = ServiceName::parse(service).expect("a name");
            self.ask(service, &ServiceHealth(name.clone()), endpoints);
            self.ask(service, &ServiceChecks(name), views);
        }
        for (node, id) in places(&steps::INSTANCES) {
            let key = InstanceKey {
                node: NodeName::parse(node).expect("a name"),
                id: InstanceId::parse(id).expect("an id"),
            };
            self.ask(id, &InstanceHealth(key.clone()), |found| {
                endpoints(found.into_iter().collect())
            });
            self.ask(id, &FindInstance(key), |found| found);
        }
    }

    fn of_checks(&mut self) {
        for status in [None, Some(Status::Passing), Some(Status::Critical)] {
            self.ask("checks", &AllChecks { status }, |all| -> Vec<_> {
                // Of the instance a check's index covers the name and the tags.
                let of = |view: CheckView| {
                    let of = view
                        .instance
                        .map(|row| (row.service.name.clone(), row.service.tags.clone()));
                    (view.check, of, view.node)
                };
                all.into_iter().map(of).collect()
            });
        }
        for node in steps::NODES {
            self.ask(node, &NodeChecks(NodeName::parse(node).expect("a name")), views);
        }
        for (node, id) in places(&steps::CHECKS) {
            let key = CheckKey {
                node: NodeName::parse(node).expect("a name"),
                id: CheckId::parse(id).expect("an id"),
            };
            self.ask(id, &OneCheck(key), |found| views(found.into_iter().collect()));
        }
    }
}

fn places<'a>(ids: &'a [&'a str]) -> impl Iterator<Item = (&'static str, &'a str)> {
    ["n1", "s2"]
        .into_iter()
        .flat_map(move |node| ids.iter().map(move |id| (node, *id)))
}

type Shown = (Arc<Node>, Instance, Vec<Arc<Check>>);

fn endpoints(all: Vec<Endpoint>) -> Vec<Shown> {
    all.into_iter()
        .map(|one| (one.node, instance(&one.instance), one.checks))
        .collect()
}

fn views(all: Vec<CheckView>) -> Vec<(Arc<Check>, Option<Instance>, Arc<Node>)> {
    all.into_iter()
        .map(|view| (view.check, view.instance.as_ref().map(instance), view.node))
        .collect()
}

/// The hash by which a repeated registration is known is the core's own affair.
fn instance(row: &Arc<Instance>) -> Instance {
    Instance {
        content: 0,
        ..Instance::clone(row)
    }
}
