//! Leases.

use spine_core::Ttl;
use spine_proto::v1::{self, key_range::Range};
use tonic::Code;

use crate::served::{Served, photo, prefix, put, ttl_check};

fn grant(ttl_ms: u64) -> v1::LeaseGrantRequest {
    v1::LeaseGrantRequest {
        ttl_ms,
        ..v1::LeaseGrantRequest::default()
    }
}

#[tokio::test]
async fn a_lease_lives_by_its_renewals_and_takes_its_keys_along() {
    let served = Served::start().await;
    let (mut lease, mut kv) = (served.lease(), served.kv());
    let granted = lease.grant(grant(10_000)).await.unwrap().into_inner();
    assert_eq!((granted.id.len(), granted.ttl_ms), (16, 10_000));
    let id = || granted.id.clone();
    let hanging = v1::PutRequest {
        lease: id(),
        ..put("a", "1")
    };
    kv.put(hanging).await.unwrap();
    served.registry.local.advance(Ttl::seconds(6));
    let renewed = lease
        .renew(v1::LeaseRenewRequest { id: id() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(renewed.ttl_ms, 10_000);
    served.registry.local.advance(Ttl::seconds(6));
    let get = v1::LeaseGetRequest {
        id: id(),
        consistency: 0,
    };
    let found = lease.get(get.clone()).await.unwrap().into_inner();
    assert_eq!(found.remaining_ms, Some(4_000));
    assert_eq!((found.keys, found.keys_count), (vec!["a".into()], 1));
    assert_eq!(found.lease.unwrap().ttl_ms, 10_000);
    served.registry.local.advance(Ttl::seconds(4));
    assert_eq!(lease.get(get).await.unwrap().into_inner().lease, None);
    let status = lease.renew(v1::LeaseRenewRequest { id: id() }).await.unwrap_err();
    assert_eq!(
        (
            status.code(),
            status.metadata().get("spine-code").unwrap().to_str().unwrap()
        ),
        (Code::NotFound, "unknown_lease")
    );
    let count = v1::CountRequest {
        range: Some(prefix("")),
        consistency: 0,
    };
    assert_eq!(kv.count(count).await.unwrap().into_inner().count, 0);
}

#[tokio::test]
async fn a_lease_of_the_clients_own_id_is_made_once() {
    let served = Served::start().await;
    let mut lease = served.lease();
    let own = v1::LeaseGrantRequest {
        id: vec![9; 16].into(),
        ..grant(500)
    };
    assert_eq!(lease.grant(own.clone()).await.unwrap().into_inner().ttl_ms, 2_000);
    assert_eq!(
        lease.grant(own.clone()).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    let revoke = v1::LeaseRevokeRequest { id: own.id };
    assert_eq!(
        lease.revoke(revoke.clone()).await.unwrap().into_inner().deleted,
        0
    );
    assert_eq!(lease.revoke(revoke).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_lease_ends_with_what_it_hangs_on() {
    let served = Served::start().await;
    let (mut lease, mut catalog) = (served.lease(), served.catalog());
    let checked = v1::RegisterRequest {
        checks: vec![v1::CheckDefinition {
            status: v1::Status::Passing.into(),
            ..ttl_check()
        }],
        ..photo("p1", "1", 1)
    };
    catalog.register(checked).await.unwrap();
    let hanging = v1::LeaseGrantRequest {
        name: "worker".into(),
        node: "n1".into(),
        node_checks: vec!["serfHealth".into()],
        service_checks: vec!["service:p1".into()],
        end: v1::LeaseEnd::Delete.into(),
        lock_delay_ms: 5_000,
        ..grant(0)
    };
    let granted = lease.grant(hanging.clone()).await.unwrap().into_inner();
    assert_eq!(granted.ttl_ms, 0);
    let list = |node: &str, after: &[u8]| v1::LeaseListRequest {
        node: node.into(),
        after: after.to_vec().into(),
        limit: 1,
        consistency: 0,
    };
    lease.grant(grant(60_000)).await.unwrap();
    let page = lease.list(list("", &[])).await.unwrap().into_inner();
    assert!(page.more && page.leases.len() == 1);
    let last = page.leases[0].id.clone();
    assert!(!lease.list(list("", &last)).await.unwrap().into_inner().more);
    let page = lease.list(list("n1", &[])).await.unwrap().into_inner();
    let info = &page.leases[0];
    assert_eq!(
        (info.name.as_str(), info.end(), info.lock_delay_ms),
        ("worker", v1::LeaseEnd::Delete, 5_000)
    );
    assert_eq!(
        (info.node_checks.len(), info.service_checks.len(), info.ttl_ms),
        (1, 1, 0)
    );
    // Nobody renews it; the check falls silent.
    served.registry.local.advance(Ttl::seconds(10));
    assert!(
        lease
            .list(list("n1", &[]))
            .await
            .unwrap()
            .into_inner()
            .leases
            .is_empty()
    );
    let status = lease.grant(hanging).await.unwrap_err();
    assert_eq!(
        (
            status.code(),
            status.metadata().get("spine-code").unwrap().to_str().unwrap()
        ),
        (Code::FailedPrecondition, "check_critical")
    );
    for (request, code) in [
        (grant(0), "invalid"),
        (
            v1::LeaseGrantRequest {
                node: "n9".into(),
                ..grant(0)
            },
            "unknown_node",
        ),
        (
            v1::LeaseGrantRequest {
                lock_delay_ms: 60_001,
                ..grant(9_000)
            },
            "invalid",
        ),
        (
            v1::LeaseGrantRequest {
                end: 7,
                ..grant(9_000)
            },
            "invalid",
        ),
        (
            v1::LeaseGrantRequest {
                id: "short".into(),
                ..grant(9_000)
            },
            "invalid",
        ),
    ] {
        let status = lease.grant(request).await.unwrap_err();
        assert_eq!(status.metadata().get("spine-code").unwrap(), code, "{status}");
    }
}

#[tokio::test]
async fn what_hangs_on_a_lease_is_told_as_far_as_a_page_goes() {
    let served = Served::start().await;
    let (mut lease, mut kv) = (served.lease(), served.kv());
    let id = lease.grant(grant(10_000)).await.unwrap().into_inner().id;
    for batch in 0..8 {
        let then = (0..128).map(|n| {
            let request = v1::PutRequest {
                key: format!("k{batch}-{n}").into(),
                lease: id.clone(),
                ..v1::PutRequest::default()
            };
            v1::TxnOp {
                op: Some(v1::txn_op::Op::Put(request)),
            }
        });
        let request = v1::TxnRequest {
            then: then.collect(),
            ..v1::TxnRequest::default()
        };
        kv.txn(request).await.unwrap();
    }
    let get = v1::LeaseGetRequest { id, consistency: 0 };
    let found = lease.get(get).await.unwrap().into_inner();
    assert_eq!((found.keys.len(), found.keys_count), (1_000, 1_024));
    let one = v1::KeyRange {
        range: Some(Range::Key(found.keys[0].clone())),
    };
    let request = v1::DeleteRequest {
        range: Some(one),
        guard: None,
    };
    kv.delete(request).await.unwrap();
}
