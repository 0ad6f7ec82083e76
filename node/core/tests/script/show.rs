//! How scripts show outcomes, events and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spine_core::{
    Answer, Applied, Change, Check, CheckView, Delta, Endpoint, Event, Instance, Key, KvRow, LeaseView,
    Liveness, MemberView, Node, NodeWithInstances, Outcome, Page, ServiceName, Topic,
};

pub(crate) fn applied(applied: &Applied) -> String {
    match &applied.result {
        Ok(done) => format!("{}: ok {}", applied.index, outcome(done)),
        Err(rejection) => format!(
            "{}: refused {} — {rejection}",
            applied.index,
            rejection.row().code
        ),
    }
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Txn { .. } | Outcome::TxnUnmet { .. } => super::txn::outcome(outcome),
        Outcome::CatalogTxn { done, revision } => super::catalog_txn::carried_out(done, *revision),
        Outcome::CatalogTxnUnmet { unmet } => super::catalog_txn::unmet(unmet),
        Outcome::Put { revision, written } => {
            format!(
                "put revision={revision}{}",
                if *written { "" } else { " unchanged" }
            )
        }
        Outcome::GuardFailed { revision } => format!("guard failed revision={revision}"),
        Outcome::Deleted { count, revision } => format!("deleted {count} revision={revision}"),
        Outcome::Registered { changed } => format!("registered{}", if *changed { "" } else { " unchanged" }),
        other => format!("{other:?}"),
    }
}

pub(crate) fn event(event: &Event) -> String {
    let change = match &event.change {
        Change::Key(key, delta) => {
            format!(
                "key {} {}",
                text(key),
                change(delta, |row| format!("{}@{}", value(row), row.mod_revision))
            )
        }
        Change::Node(name, delta) => format!(
            "node {name} {}",
            change(delta, |node| node.definition.address.to_string())
        ),
        Change::Instance(key, delta) => {
            format!("instance {}/{} {}", key.node, key.id, change(delta, instance))
        }
        Change::Check(key, service, delta) => {
            let of = service
                .as_ref()
                .map(|name| format!(" of {name}"))
                .unwrap_or_default();
            format!("check {}/{}{of} {}", key.node, key.id, change(delta, check))
        }
        Change::Lease(id, begun) => format!("lease {id} {}", if *begun { "begun" } else { "ended" }),
        Change::Member(name, delta) => {
            format!("member {name} {}", change(delta, |member| member.id.to_string()))
        }
        Change::CaRoots(root) => format!("roots {}", root.id),
        Change::MemberStatus(member, delta) => {
            let side = |row: &Option<Liveness>| row.as_ref().map_or("-".into(), liveness);
            format!(
                "member {} {} -> {}",
                member.name,
                side(&delta.before),
                side(&delta.after)
            )
        }
    };
    format!("   {}| {change}", event.index)
}

fn change<T>(delta: &Delta<Arc<T>>, show: impl Fn(&T) -> String) -> String {
    let side = |row: &Option<Arc<T>>| row.as_deref().map_or("-".into(), &show);
    format!("{} -> {}", side(&delta.before), side(&delta.after))
}

pub(crate) fn member(view: &MemberView) -> String {
    format!(
        "{} {} {}",
        view.member.name,
        view.member.id,
        liveness(&view.liveness)
    )
}

fn liveness(row: &Liveness) -> String {
    format!("{} since {}@{}", row.status.as_str(), row.since.0, row.index)
}

pub(crate) fn answer<T>(answer: &Answer<T>, show: impl Fn(&T) -> String) -> String {
    let topics = answer.interest.iter().map(topic).collect::<Vec<_>>().join(" ");
    let value = show(&answer.value);
    format!("index {} of {topics}\n{value}", answer.index)
}

fn topic(topic: &Topic) -> String {
    match topic {
        Topic::Keys(range) => {
            format!(
                "keys[{}, {})",
                text(&range.start),
                range.end.as_ref().map_or("∞".into(), text)
            )
        }
        other => format!("{other:?}").replace("Arc", ""),
    }
}

#[expect(clippy::ref_option, reason = "as answers hold it")]
pub(crate) fn row(row: &Option<Arc<KvRow>>) -> String {
    row.as_deref().map_or("none".into(), kv)
}

pub(crate) fn kv(row: &KvRow) -> String {
    let lease = row
        .lease
        .map(|lease| format!(" lease={lease}"))
        .unwrap_or_default();
    let flags = if row.flags == 0 {
        String::new()
    } else {
        format!(" flags={}", row.flags)
    };
    let lock = match (row.lock, row.lock_index) {
        (None, 0) => String::new(),
        (None, times) => format!(" unlocked#{times}"),
        (Some(lease), times) => format!(" locked={lease}#{times}"),
    };
    format!(
        "{} created={}@{} modified={}@{} version={}{flags}{lease}{lock}",
        value(row),
        row.create_index,
        row.create_revision,
        row.modify_index,
        row.mod_revision,
        row.version
    )
}

pub(crate) fn lease(lease: &LeaseView) -> String {
    let ttl = lease.ttl.map_or("no TTL".into(), |ttl| ttl.to_string());
    let terms = lease.terms.as_ref().map_or(String::new(), |terms| {
        format!(
            " {:?} node={:?} checks={:?} {:?} {:?} delay={}",
            terms.name, terms.node, terms.node_checks, terms.service_checks, terms.end, terms.lock_delay
        )
    });
    format!("{} {ttl}{terms} created={}", lease.id, lease.create_index)
}

pub(crate) fn page(page: &Page) -> String {
    let mut out = vec![format!("count={} more={}", page.count, page.more)];
    out.extend(
        page.rows
            .iter()
            .map(|(key, row)| format!("{} = {}", text(key), kv(row))),
    );
    out.join("\n")
}

pub(crate) fn keys(keys: &[Key]) -> String {
    keys.iter().map(text).collect::<Vec<_>>().join(" ")
}

pub(crate) fn node(node: &Node) -> String {
    let id = if node.definition.id.is_empty() {
        String::new()
    } else {
        format!(" id={}", node.definition.id)
    };
    format!(
        "{} {}{id} modified={}",
        node.name, node.definition.address, node.modify_index
    )
}

#[expect(clippy::ref_option, reason = "as answers hold it")]
pub(crate) fn node_services(found: &Option<NodeWithInstances>) -> String {
    let Some(found) = found else { return "none".into() };
    format!(
        "{}\n{}",
        node(&found.node),
        lines(&found.instances, |row| instance(row))
    )
}

pub(crate) fn instance(row: &Instance) -> String {
    let service = &row.service;
    let tags = if service.tags.is_empty() {
        String::new()
    } else {
        format!(" {:?}", service.tags)
    };
    format!(
        "{}:{}{tags} {}:{} modified={}",
        service.name, service.id, service.address, service.port, row.modify_index
    )
}

pub(crate) fn services(services: &BTreeMap<ServiceName, BTreeSet<Arc<str>>>) -> String {
    services
        .iter()
        .map(|(name, tags)| format!("{name} {tags:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn endpoint(endpoint: &Endpoint) -> String {
    let checks = endpoint
        .checks
        .iter()
        .map(|row| format!("{}={}", row.definition.id, row.status.as_str()));
    format!(
        "{}/{} {} weight={} at {}:{} [{}]",
        endpoint.node.name,
        endpoint.instance.service.id,
        endpoint.status().as_str(),
        endpoint.weight(),
        endpoint.address(),
        endpoint.instance.service.port,
        checks.collect::<Vec<_>>().join(" ")
    )
}

pub(crate) fn check_view(view: &CheckView) -> String {
    let of = view
        .instance
        .as_ref()
        .map(|row| format!(" of {}", row.service.name))
        .unwrap_or_default();
    format!(
        "{}/{}{of} {} modified={}",
        view.check.node,
        view.check.definition.id,
        check(&view.check),
        view.check.modify_index
    )
}

pub(crate) fn check(check: &Check) -> String {
    let kind = check.definition.kind.as_str();
    let kind = if kind.is_empty() { "external" } else { kind };
    let implicit = if check.implicit { " implicit" } else { "" };
    let mut output = check.output.to_string();
    if output.len() > 100 {
        output = format!("{} bytes", output.len());
    }
    format!("{kind} {}{implicit} {output:?}", check.status.as_str())
}

pub(crate) fn lines<T>(rows: &[T], show: impl Fn(&T) -> String) -> String {
    rows.iter().map(show).collect::<Vec<_>>().join("\n")
}

pub(crate) fn text(key: &Key) -> String {
    String::from_utf8_lossy(key).escape_debug().to_string()
}

fn value(row: &KvRow) -> String {
    if row.value.len() > 40 {
        format!("{} bytes", row.value.len())
    } else {
        format!("{:?}", String::from_utf8_lossy(&row.value))
    }
}
