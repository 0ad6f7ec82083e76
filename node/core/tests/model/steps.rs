//! Random steps: few names, so that commands meet.

use proptest::{prelude::*, sample::select};
use spine_core::{
    Assignment, CaRoot, CatalogKey, CatalogOp, CatalogRow, CatalogTxn, CheckDefinition, CheckId, CheckKey,
    CheckKind, CheckUpdate, Command, Compare, Delete, Deregister, ExistingChecks, Guard, Index, InstanceId,
    InstanceKey, Key, KeyRange, LeaseEnd, LeaseGrant, LeaseId, LeaseOpen, LeaseTerms, Locking, Member,
    MemberName, MemberReport, MemberStatus, NodeDefinition, NodeName, Operand, Pace, Put, ReadKeys, Register,
    Relation, Repeat, Revision, Scope, Status, Target, TcpProbe, Ttl, Txn, TxnOp, UpdateSource, WallTime,
};

use super::naive;

pub(crate) const KEYS: [&str; 6] = ["a", "a/b", "a/c", "b", "b/", "c"];
pub(crate) const NODES: [&str; 5] = ["n1", "n2", "s1", "s2", "s3"];
pub(crate) const SERVICES: [&str; 2] = ["api", "web"];
pub(crate) const INSTANCES: [&str; 3] = ["api", "w2", "web"];
pub(crate) const CHECKS: [&str; 3] = ["c1", "c2", "service:web"];
const LEASES: [u128; 3] = [1, 2, u128::MAX];

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Time goes on by so many milliseconds, and an entry is applied.
    Entry(u64, Vec<Ask>),
    /// A snapshot is made, and the state restored from it.
    Snapshot,
}

/// A request whose numbers are still relative to what is there.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Through which of the sessions opened so far, with which sequence number and acknowledgement.
    pub(crate) session: Option<(usize, u64, u64)>,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// As it stands; but a guard's `ModifyIndex(0)` or `ModRevision(0)` is the row's own, and a probe's
    /// assignment since 0 is the check's present one.
    Do(Command),
    /// Compact at so many revisions before the present one, or at one ahead.
    Compact(Option<u64>),
    /// Repeat commands as renewals, whether they are repeats or not.
    Renew(Vec<Command>),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let advance = prop_oneof![
        6 => Just(0), 6 => 1..3_000_u64, 4 => Just(2_000), 4 => Just(5_000), 2 => 1..12_000_u64,
        1 => Just(60_000), 1 => Just(3_600_000),
    ];
    let entry = (advance, prop::collection::vec(ask(), 1..4));
    let step = prop_oneof![
        15 => entry.prop_map(|(advance, asks)| Step::Entry(advance, asks)),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..40)
}

fn ask() -> impl Strategy<Value = Ask> {
    let session = prop::option::weighted(0.15, (0..4_usize, 0..6_u64, 0..6_u64));
    (session, what()).prop_map(|(session, what)| Ask { session, what })
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        12 => command().prop_map(What::Do),
        1 => prop::option::weighted(0.9, 0..6_u64).prop_map(What::Compact),
        3 => prop::collection::vec(renewable(), 1..4).prop_map(What::Renew),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => put(),
        3 => delete(),
        6 => register(),
        3 => deregister(),
        5 => check_update(),
        2 => (lease(), ttl()).prop_map(|(id, ttl)| Command::LeaseGrant(LeaseGrant { id, ttl })),
        2 => lease_open(),
        1 => lease().prop_map(Command::LeaseRevoke),
        6 => txn(),
        6 => catalog_txn(),
        5 => Just(Command::Pulse),
        1 => Just(Command::OpenSession),
        2 => member_up(),
        3 => member_status(),
        1 => member_remove(),
        1 => select(&["r1", "r2"][..]).prop_map(|id| Command::CaRootInitial(root(id))),
        1 => select(&["r1", "r2"][..]).prop_map(|id| Command::CaRootSet(root(id))),
        2 => (0..4_u32).prop_map(Command::RulesRaise),
        1 => select(&[1 << 20, 16 << 20, 1 << 30, 4 << 30, 1 << 40][..]).prop_map(Command::QuotaSet),
    ]
}

fn renewable() -> impl Strategy<Value = Command> {
    prop_oneof![register(), check_update(), lease().prop_map(Command::LeaseRevoke)]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![20 => select(&KEYS[..]), 1 => Just("")].prop_map(|key| Key::from_static(key.as_bytes()))
}

pub(crate) fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::one),
        key().prop_map(KeyRange::prefix),
        (key(), prop::option::of(key())).prop_map(|(start, end)| KeyRange { start, end }),
    ]
}

fn guard() -> impl Strategy<Value = Guard> {
    let of = |index: u64| {
        [
            Guard::ModifyIndex(Index(index)),
            Guard::ModRevision(Revision(index)),
        ]
    };
    prop_oneof![
        6 => Just(Guard::Always),
        1 => Just(Guard::Absent),
        2 => select(of(0).to_vec()),
        1 => select(of(3).to_vec()),
    ]
}

fn put() -> impl Strategy<Value = Command> {
    let lease = prop::option::weighted(0.3, lease());
    let repeat = select(vec![Repeat::Skip, Repeat::Write]);
    (key(), select(&["1", "2"][..]), 0..2_u64, lease, guard(), repeat).prop_map(
        |(key, value, flags, lease, guard, repeat)| {
            Command::Put(Put {
                key,
                value: value.into(),
                flags,
                lease,
                guard,
                repeat,
            })
        },
    )
}

fn delete() -> impl Strategy<Value = Command> {
    (range(), guard()).prop_map(|(range, guard)| Command::Delete(Delete { range, guard }))
}

fn lease() -> impl Strategy<Value = LeaseId> {
    select(&LEASES[..]).prop_map(LeaseId)
}

fn lease_open() -> impl Strategy<Value = Command> {
    let checks = || {
        prop::collection::vec(
            prop_oneof![3 => check_id(), 2 => Just("serfHealth").prop_map(parsed)],
            0..2,
        )
    };
    let terms = (
        prop::option::weighted(0.8, node()),
        checks(),
        checks(),
        select(vec![LeaseEnd::Release, LeaseEnd::Delete]),
        select(vec![Ttl(0), Ttl(2_000), Ttl::seconds(61)]),
    );
    let terms = terms.prop_map(
        |(node, node_checks, service_checks, end, lock_delay)| LeaseTerms {
            name: "".into(),
            node,
            node_checks,
            service_checks,
            end,
            lock_delay,
        },
    );
    (lease(), prop::option::weighted(0.5, ttl()), terms)
        .prop_map(|(id, ttl, terms)| Command::LeaseOpen(Box::new(LeaseOpen { id, ttl, terms })))
}

fn parsed(id: &str) -> CheckId {
    CheckId::parse(id).expect("an id")
}

fn txn() -> impl Strategy<Value = Command> {
    let ops = || prop::collection::vec(txn_op(), 0..4);
    let when = prop::collection::vec(compare(), 0..3);
    (when, ops(), ops()).prop_map(|(when, then, otherwise)| {
        Command::Txn(Txn {
            when,
            then,
            otherwise,
        })
    })
}

fn catalog_txn() -> impl Strategy<Value = Command> {
    let ops = prop::collection::vec(catalog_op(), 0..4);
    ops.prop_map(|ops| Command::CatalogTxn(CatalogTxn { ops }))
}

fn catalog_op() -> impl Strategy<Value = CatalogOp> {
    let of_node = register().prop_map(|command| match command {
        Command::Register(register) => match (register.node_update, register.service) {
            (None, Some(service)) => CatalogRow::Instance(register.node, Box::new(service)),
            (definition, _) => CatalogRow::Node(register.node, definition.unwrap_or_default()),
        },
        other => unreachable!("{other:?}"),
    });
    let of_check = (node(), check()).prop_map(|(node, check)| CatalogRow::Check(node, Box::new(check)));
    let row = prop_oneof![3 => of_node, 2 => of_check];
    let key = || {
        prop_oneof![
            1 => node().prop_map(CatalogKey::Node),
            2 => (node(), instance()).prop_map(|(node, id)| CatalogKey::Instance(InstanceKey { node, id })),
            2 => (node(), check_id()).prop_map(|(node, id)| CatalogKey::Check(CheckKey { node, id })),
        ]
    };
    prop_oneof![
        3 => txn_op().prop_map(CatalogOp::Keys),
        2 => key().prop_map(CatalogOp::Read),
        6 => (row, row_guard()).prop_map(|(row, guard)| CatalogOp::Set(row, guard)),
        2 => (key(), row_guard()).prop_map(|(key, guard)| CatalogOp::Remove(key, guard)),
        1 => lease().prop_map(CatalogOp::EndLease),
    ]
}

/// Rows of the catalog have no revision, so a guard that asks for one is seldom.
fn row_guard() -> impl Strategy<Value = Guard> {
    prop_oneof![20 => guard().prop_map(|guard| match guard {
        Guard::ModRevision(Revision(at)) => Guard::ModifyIndex(Index(at)),
        guard => guard,
    }), 1 => guard()]
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    let read = (range(), prop::option::of(0..2_u32), any::<bool>()).prop_map(|(range, limit, required)| {
        TxnOp::Read(ReadKeys {
            range,
            revision: None,
            limit,
            required,
        })
    });
    let put = put().prop_map(|command| match command {
        Command::Put(put) => TxnOp::Put(put),
        other => unreachable!("{other:?}"),
    });
    let delete = delete().prop_map(|command| match command {
        Command::Delete(delete) => TxnOp::Delete(delete),
        other => unreachable!("{other:?}"),
    });
    prop_oneof![
        2 => read,
        3 => put,
        1 => delete,
        4 => locking().prop_map(TxnOp::Lock),
        2 => locking().prop_map(TxnOp::Unlock),
        1 => compare().prop_map(TxnOp::Check),
    ]
}

fn locking() -> impl Strategy<Value = Locking> {
    let content = select(&["1", "2"][..]).prop_map(|value| (value.into(), 0));
    (key(), lease(), prop::option::of(content)).prop_map(|(key, lease, content)| Locking {
        key,
        lease,
        content,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = select(vec![
        Relation::Equal,
        Relation::Equal,
        Relation::NotEqual,
        Relation::Greater,
        Relation::Less,
    ]);
    let operand = prop_oneof![
        select(&["1", "2"][..]).prop_map(|value| Operand::Value(value.into())),
        (0..3_u64).prop_map(Operand::Version),
        (0..5_u64).prop_map(|at| Operand::CreateRevision(Revision(at))),
        (0..5_u64).prop_map(|at| Operand::ModRevision(Revision(at))),
        (0..9_u64).prop_map(|at| Operand::CreateIndex(Index(at))),
        (0..9_u64).prop_map(|at| Operand::ModifyIndex(Index(at))),
        prop::option::of(lease()).prop_map(Operand::Lease),
        prop::option::of(lease()).prop_map(Operand::Lock),
    ];
    (range(), relation, operand).prop_map(|(range, relation, operand)| Compare {
        range,
        relation,
        operand,
    })
}

fn ttl() -> impl Strategy<Value = Ttl> {
    prop_oneof![30 => select(vec![1_000, 2_000, 5_000, 10_000]), 1 => Just(0)].prop_map(Ttl)
}

fn node() -> impl Strategy<Value = NodeName> {
    select(&NODES[..]).prop_map(|name| NodeName::parse(name).expect("a name"))
}

fn instance() -> impl Strategy<Value = InstanceId> {
    select(&INSTANCES[..]).prop_map(|id| InstanceId::parse(id).expect("an id"))
}

fn check_id() -> impl Strategy<Value = CheckId> {
    select(&CHECKS[..]).prop_map(|id| CheckId::parse(id).expect("an id"))
}

fn status() -> impl Strategy<Value = Status> {
    select(vec![Status::Passing, Status::Warning, Status::Critical])
}

fn register() -> impl Strategy<Value = Command> {
    let definition = (
        select(&["", "id", "s2"][..]),
        select(&["10.0.0.1", "10.0.0.2"][..]),
    );
    let definition = definition.prop_map(|(id, address)| NodeDefinition {
        id: id.into(),
        address: address.into(),
        ..NodeDefinition::default()
    });
    let service = (
        select(&SERVICES[..]),
        instance(),
        select(vec![80, 81]),
        any::<bool>(),
    );
    let service = service.prop_map(|(name, id, port, tagged)| spine_core::Service {
        port,
        tags: tagged.then(|| "v1".into()).into_iter().collect(),
        ..naive::service(name, id.as_str())
    });
    (
        node(),
        prop::option::weighted(0.4, definition),
        prop::option::weighted(0.8, service),
        prop::collection::vec(check(), 0..3),
        select(vec![
            ExistingChecks::Keep,
            ExistingChecks::Keep,
            ExistingChecks::Replace,
            ExistingChecks::Overwrite,
        ]),
        prop::option::weighted(0.5, ttl()),
    )
        .prop_map(|(node, node_update, service, checks, existing, heartbeat)| {
            Command::Register(Box::new(Register {
                node,
                node_update,
                service,
                checks,
                existing,
                heartbeat,
            }))
        })
}

fn check() -> impl Strategy<Value = CheckDefinition> {
    let kind = prop_oneof![
        1 => Just(CheckKind::External),
        4 => ttl().prop_map(CheckKind::Ttl),
        1 => ttl().prop_map(|interval| CheckKind::Tcp(TcpProbe {
            address: "127.0.0.1:1".into(),
            tls: false,
            pace: Pace { interval, timeout: Ttl(1) },
        })),
    ];
    (
        check_id(),
        kind,
        prop::option::weighted(0.7, instance()),
        prop::option::of(status()),
        prop::option::weighted(0.3, select(vec![Ttl(2_000), Ttl(5_000)])),
    )
        .prop_map(|(id, kind, service, status, deregister_after)| CheckDefinition {
            service,
            status,
            deregister_after,
            ..naive::check(id.as_str(), "", kind)
        })
}

fn deregister() -> impl Strategy<Value = Command> {
    let target = prop_oneof![
        1 => Just(Target::Node),
        3 => instance().prop_map(Target::Instance),
        3 => check_id().prop_map(Target::Check),
    ];
    (node(), target, scope())
        .prop_map(|(node, target, scope)| Command::Deregister(Deregister { node, target, scope }))
}

fn scope() -> impl Strategy<Value = Scope> {
    select(vec![Scope::Node, Scope::Servers])
}

fn check_update() -> impl Strategy<Value = Command> {
    let id = prop_oneof![
        check_id(),
        instance().prop_map(|id| CheckId::parse(id.as_str()).expect("an id"))
    ];
    let probe = (node(), select(vec![0, 0, 0, 1])).prop_map(|(member, since)| {
        UpdateSource::Probe(Assignment {
            member,
            since: Index(since),
        })
    });
    let source = prop_oneof![
        2 => Just(UpdateSource::Service),
        2 => ttl().prop_map(UpdateSource::ServiceOrImplicit),
        1 => probe,
    ];
    (node(), id, status(), select(&["", "fine"][..]), source, scope()).prop_map(
        |(node, check, status, output, source, scope)| {
            Command::CheckUpdate(CheckUpdate {
                node,
                check,
                status,
                output: output.into(),
                source,
                scope,
            })
        },
    )
}

fn member_up() -> impl Strategy<Value = Command> {
    (
        select(&["s1", "s2", "s3"][..]),
        1..3_u64,
        select(&["10.0.0.1", "10.0.0.2"][..]),
    )
        .prop_map(|(name, id, host)| {
            Command::MemberUp(Member {
                name: NodeName::parse(name).expect("a name"),
                id,
                node_uuid: format!("uuid-{name}").into(),
                host: host.into(),
                peer_address: format!("{host}:8300").into(),
                http_address: "".into(),
                grpc_address: "".into(),
                version: "0.1.0".into(),
                rules: 1,
            })
        })
}

fn member_status() -> impl Strategy<Value = Command> {
    let status = select(vec![MemberStatus::Alive, MemberStatus::Failed]);
    (select(&["s1", "s2", "s3"][..]), 1..3_u64, status).prop_map(|(name, id, status)| {
        Command::MemberStatus(MemberReport {
            name: NodeName::parse(name).expect("a name"),
            id,
            status,
        })
    })
}

fn member_remove() -> impl Strategy<Value = Command> {
    (select(&["s1", "s2", "s3"][..]), 1..3_u64).prop_map(|(name, id)| {
        Command::MemberRemove(MemberName {
            name: NodeName::parse(name).expect("a name"),
            id,
        })
    })
}

fn root(id: &str) -> CaRoot {
    CaRoot {
        id: id.into(),
        trust_domain: "test".into(),
        certificate_pem: "pem".into(),
        serial: "1".into(),
        key_id: "k".into(),
        key_type: "ec".into(),
        key_bits: 256,
        not_before: WallTime(0),
        not_after: WallTime(1),
        sealed_key: None,
    }
}
