//! Transactions and scans.

use spine_proto::v1::{
    self, compare::Operand, key_range::Range, txn_op::Op, txn_result::Result as Done, txn_unmet::Found,
};
use tonic::Code;

use crate::served::{Served, prefix, put};

fn one(key: &'static str) -> v1::KeyRange {
    v1::KeyRange {
        range: Some(Range::Key(key.into())),
    }
}

fn when(key: &'static str, relation: v1::Relation, operand: Operand) -> v1::Compare {
    v1::Compare {
        range: Some(one(key)),
        relation: relation.into(),
        operand: Some(operand),
    }
}

fn op(op: Op) -> v1::TxnOp {
    v1::TxnOp { op: Some(op) }
}

fn read(range: v1::KeyRange) -> v1::TxnOp {
    op(Op::Read(v1::TxnRead {
        range: Some(range),
        ..v1::TxnRead::default()
    }))
}

async fn leased(served: &Served) -> v1::LeaseGrantResponse {
    let request = v1::LeaseGrantRequest {
        ttl_ms: 10_000,
        ..v1::LeaseGrantRequest::default()
    };
    served.lease().grant(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn conditions_choose_what_is_done_in_one_revision() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let request = v1::TxnRequest {
        when: vec![when("a", v1::Relation::Equal, Operand::Version(0))],
        then: vec![
            op(Op::Put(put("a", "1"))),
            op(Op::Put(put("b", "2"))),
            read(prefix("")),
        ],
        otherwise: vec![
            op(Op::Delete(v1::DeleteRequest {
                range: Some(one("b")),
                guard: None,
            })),
            read(prefix("")),
        ],
        ..v1::TxnRequest::default()
    };
    let first = kv.txn(request.clone()).await.unwrap().into_inner();
    assert!(first.held && first.unmet.is_empty());
    let Some(Done::Read(rows)) = &first.results[2].result else {
        panic!("{first:?}")
    };
    assert_eq!((rows.count, rows.more), (2, false));
    assert!(rows.kvs.iter().all(|row| row.mod_revision == first.revision));
    let second = kv.txn(request).await.unwrap().into_inner();
    assert!(!second.held && second.revision == first.revision + 1);
    assert_eq!(second.results[0].result, Some(Done::Deleted(1)));
}

#[tokio::test]
async fn an_unmet_operation_undoes_all_and_is_named() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let lease = leased(&served).await.id;
    let lock = v1::LockKey {
        key: "l".into(),
        lease: lease.clone(),
        value: Some("held".into()),
        ..v1::LockKey::default()
    };
    let txn = |then| v1::TxnRequest {
        then,
        ..v1::TxnRequest::default()
    };
    let locked = kv
        .txn(txn(vec![op(Op::Lock(lock.clone()))]))
        .await
        .unwrap()
        .into_inner();
    let Some(Done::Put(row)) = &locked.results[0].result else {
        panic!("{locked:?}")
    };
    assert_eq!((row.written, row.fence), (true, Some(locked.index)));
    let other = v1::LockKey {
        lease: leased(&served).await.id,
        ..lock.clone()
    };
    let absent = v1::Compare {
        range: Some(one("x")),
        relation: v1::Relation::Greater.into(),
        operand: Some(Operand::Version(0)),
    };
    let failed = kv
        .txn(txn(vec![
            op(Op::Put(put("y", "1"))),
            op(Op::Lock(other)),
            op(Op::Check(absent)),
        ]))
        .await
        .unwrap()
        .into_inner();
    assert!(failed.results.is_empty() && failed.revision == locked.revision);
    assert_eq!(failed.unmet[0].op, 1);
    assert_eq!(failed.unmet[0].found, Some(Found::LockedBy(lease.clone())));
    assert_eq!(failed.unmet[1].found, Some(Found::Absent(v1::Absent {})));
    let free = kv
        .txn(txn(vec![op(Op::Unlock(lock))]))
        .await
        .unwrap()
        .into_inner();
    let Some(Done::Put(row)) = &free.results[0].result else {
        panic!("{free:?}")
    };
    assert_eq!((row.fence, row.kv.as_ref().unwrap().lock.clone()), (None, None));
}

#[tokio::test]
async fn a_transaction_that_only_reads_needs_no_leader_to_be_stale() {
    let served = Served::start().await;
    let mut kv = served.kv();
    kv.put(put("a", "1")).await.unwrap();
    served.registry.local.set_leaderless(true);
    let mut request = v1::TxnRequest {
        when: vec![when("a", v1::Relation::Less, Operand::Value("2".into()))],
        then: vec![read(prefix("a"))],
        ..v1::TxnRequest::default()
    };
    let refused = kv.txn(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    request.consistency = v1::Consistency::Stale.into();
    let answer = kv.txn(request).await.unwrap().into_inner();
    assert!(answer.held && answer.results.len() == 1);
}

#[tokio::test]
async fn what_makes_no_transaction_is_refused() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let requests = [
        vec![op(Op::Put(put("a", "1"))), op(Op::Put(put("a", "2")))],
        vec![
            op(Op::Put(put("a", "1"))),
            op(Op::Delete(v1::DeleteRequest {
                range: Some(prefix("")),
                guard: None,
            })),
        ],
        vec![v1::TxnOp::default()],
        vec![op(Op::Lock(v1::LockKey {
            key: "a".into(),
            lease: "short".into(),
            ..v1::LockKey::default()
        }))],
        vec![op(Op::Check(v1::Compare {
            range: Some(one("a")),
            relation: 9,
            operand: Some(Operand::Version(1)),
        }))],
        vec![op(Op::Check(v1::Compare {
            range: Some(one("a")),
            ..v1::Compare::default()
        }))],
    ];
    for then in requests {
        let request = v1::TxnRequest {
            then,
            ..v1::TxnRequest::default()
        };
        let status = kv.txn(request.clone()).await.unwrap_err();
        assert_eq!(
            status.metadata().get("spine-code").unwrap(),
            "invalid",
            "{request:?}: {status}"
        );
    }
    let nobody = v1::PutRequest {
        lease: vec![7; 16].into(),
        ..put("a", "1")
    };
    let status = kv.put(nobody).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "lease 7070707070707070707070707070707 not found")
    );
}

#[tokio::test]
async fn a_scan_is_one_moment_in_many_pages() {
    let served = Served::start().await;
    let mut kv = served.kv();
    for key in ["s/1", "s/2", "s/3", "t"] {
        served.registry.put_here(key, "x".repeat(400_000)).await;
    }
    let request = v1::ScanRequest {
        range: Some(prefix("s/")),
        ..v1::ScanRequest::default()
    };
    let mut scan = kv.scan(request.clone()).await.unwrap().into_inner();
    let first = scan.message().await.unwrap().unwrap();
    assert_eq!((first.kvs.len(), first.header.is_some()), (2, true));
    served.registry.put_here("s/3", "new".into()).await;
    served.registry.put_here("s/4", "new".into()).await;
    let second = scan.message().await.unwrap().unwrap();
    assert_eq!((second.kvs.len(), second.revision), (1, first.revision));
    assert_eq!(second.kvs[0].value.len(), 400_000);
    assert!(second.header.is_none() && scan.message().await.unwrap().is_none());

    let empty = v1::ScanRequest {
        range: Some(prefix("none")),
        ..request.clone()
    };
    let mut scan = kv.scan(empty).await.unwrap().into_inner();
    assert!(scan.message().await.unwrap().unwrap().kvs.is_empty());
    assert!(scan.message().await.unwrap().is_none());
    let future = v1::ScanRequest {
        revision: Some(99),
        ..request
    };
    assert_eq!(kv.scan(future).await.unwrap_err().code(), Code::OutOfRange);
}
