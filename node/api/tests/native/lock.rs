//! Locks and elections.

use std::time::Duration;

use bytes::Bytes;
use spine_core::Ttl;
use spine_proto::v1;
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code, Status};

use crate::served::{Served, prefix, put};

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn lease(served: &Served) -> Bytes {
    let request = v1::LeaseGrantRequest {
        ttl_ms: 10_000,
        ..v1::LeaseGrantRequest::default()
    };
    served.lease().grant(request).await.unwrap().into_inner().id
}

pub(crate) fn acquire(lease: &Bytes, wait_ms: u64) -> v1::LockAcquireRequest {
    v1::LockAcquireRequest {
        name: "job".into(),
        lease: lease.clone(),
        wait_ms,
        keep_place: false,
    }
}

pub(crate) fn release(lease: &Bytes) -> v1::LockReleaseRequest {
    v1::LockReleaseRequest {
        name: "job".into(),
        lease: lease.clone(),
        fence: 0,
    }
}

/// Waits until so many requests wait in the hub.
pub(crate) async fn parked(served: &Served, count: usize) {
    use spine_api::Registry;
    let waiting = async {
        while served.registry.hub().waiting() != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, waiting).await.expect("they wait");
}

pub(crate) fn begin(
    served: &Served,
    request: v1::LockAcquireRequest,
) -> JoinHandle<Result<v1::LockAcquireResponse, Status>> {
    let mut lock = served.lock();
    tokio::spawn(async move { lock.acquire(request).await.map(tonic::Response::into_inner) })
}

pub(crate) async fn places(served: &Served) -> u64 {
    let request = v1::CountRequest {
        range: Some(prefix("job/")),
        consistency: 0,
    };
    served.kv().count(request).await.unwrap().into_inner().count
}

#[tokio::test]
async fn who_waits_is_in_order_and_each_has_a_greater_fence() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let leases = [lease(&served).await, lease(&served).await, lease(&served).await];
    let first = lock.acquire(acquire(&leases[0], 0)).await.unwrap().into_inner();
    assert!(first.acquired);
    // Again: it is held.
    let again = lock.acquire(acquire(&leases[0], 0)).await.unwrap().into_inner();
    assert_eq!(again.place, first.place);
    let second = begin(&served, acquire(&leases[1], 60_000));
    parked(&served, 1).await;
    let third = begin(&served, acquire(&leases[2], 60_000));
    parked(&served, 2).await;
    let holder = v1::LockHolderRequest {
        name: "job".into(),
        consistency: 0,
    };
    let told = lock.holder(holder.clone()).await.unwrap().into_inner();
    assert_eq!((told.holder.unwrap().lease, told.waiting), (leases[0].clone(), 2));

    assert!(
        lock.release(release(&leases[0]))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    let second = timeout(SOON, second).await.unwrap().unwrap().unwrap();
    assert!(second.acquired && !third.is_finished());
    // The lease of the holder ends: the next one has it.
    let revoke = v1::LeaseRevokeRequest {
        id: leases[1].clone(),
    };
    served.lease().revoke(revoke).await.unwrap();
    let third = timeout(SOON, third).await.unwrap().unwrap().unwrap();
    let fence = |answer: &v1::LockAcquireResponse| answer.place.as_ref().unwrap().fence;
    assert!(third.acquired && fence(&first) < fence(&second) && fence(&second) < fence(&third));
    assert!(
        lock.release(release(&leases[2]))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    assert!(
        !lock
            .release(release(&leases[2]))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    assert_eq!(lock.holder(holder).await.unwrap().into_inner().holder, None);
}

#[tokio::test]
async fn who_waits_in_vain_or_breaks_off_leaves_no_place() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let (holder, other) = (lease(&served).await, lease(&served).await);
    lock.acquire(acquire(&holder, 0)).await.unwrap();
    let tried = lock.acquire(acquire(&other, 20)).await.unwrap().into_inner();
    assert_eq!((tried.acquired, tried.ahead), (false, 1));
    let alone = async {
        while places(&served).await != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, alone).await.expect("the place is given back");

    let begun = begin(&served, acquire(&other, 60_000));
    parked(&served, 1).await;
    assert_eq!(places(&served).await, 2);
    begun.abort();
    let alone = async {
        while places(&served).await != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, alone).await.expect("the place is given back");

    // Who wants to come back keeps it.
    let keeping = v1::LockAcquireRequest {
        keep_place: true,
        ..acquire(&other, 0)
    };
    let kept = lock.acquire(keeping.clone()).await.unwrap().into_inner();
    lock.release(release(&holder)).await.unwrap();
    let held = lock.acquire(keeping).await.unwrap().into_inner();
    assert!(held.acquired && held.place == kept.place);
}

#[tokio::test]
async fn a_lease_that_ends_while_it_waits_is_told() {
    let served = Served::start().await;
    let (holder, other) = (lease(&served).await, lease(&served).await);
    served.lock().acquire(acquire(&holder, 0)).await.unwrap();
    let begun = begin(&served, acquire(&other, 60_000));
    parked(&served, 1).await;
    let revoke = v1::LeaseRevokeRequest { id: other.clone() };
    served.lease().revoke(revoke).await.unwrap();
    let status = timeout(SOON, begun).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.metadata().get("spine-code").unwrap(), "unknown_lease");
    let status = served.lock().acquire(acquire(&other, 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    for name in [
        Bytes::new(),
        vec![b'x'; spine_api::limits::LOCK_NAME_BYTES_MAX + 1].into(),
    ] {
        let request = v1::LockAcquireRequest {
            name,
            ..acquire(&holder, 0)
        };
        let status = served.lock().acquire(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_lock_of_a_deeper_name_is_another() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let (one, other) = (lease(&served).await, lease(&served).await);
    let deeper = v1::LockAcquireRequest {
        name: "job/part".into(),
        ..acquire(&one, 0)
    };
    assert!(lock.acquire(deeper).await.unwrap().into_inner().acquired);
    assert!(
        lock.acquire(acquire(&other, 0))
            .await
            .unwrap()
            .into_inner()
            .acquired
    );
}

#[tokio::test]
async fn leaders_are_elected_observed_and_followed() {
    let served = Served::start().await;
    let mut election = served.election();
    let (one, other) = (lease(&served).await, lease(&served).await);
    let campaign = |lease: &Bytes, value: &'static str| v1::CampaignRequest {
        name: "job".into(),
        lease: lease.clone(),
        value: value.into(),
        wait_ms: 60_000,
        keep_place: false,
    };
    let observe = v1::ObserveRequest { name: "job".into() };
    let mut observed = election.observe(observe).await.unwrap().into_inner();
    let mut leaders = async || {
        let told = timeout(SOON, observed.message()).await.unwrap().unwrap().unwrap();
        told.leader.map(|leader| leader.value)
    };
    assert_eq!(leaders().await, None);
    let elected = election
        .campaign(campaign(&one, "n1"))
        .await
        .unwrap()
        .into_inner();
    assert!(elected.elected);
    assert_eq!(leaders().await.unwrap(), "n1");
    let next = {
        let (mut election, request) = (served.election(), campaign(&other, "n2"));
        tokio::spawn(async move { election.campaign(request).await })
    };
    let proclaim = |lease: &Bytes, fence| v1::ProclaimRequest {
        name: "job".into(),
        lease: lease.clone(),
        fence,
        value: "n1, still".into(),
    };
    let fence = elected.place.unwrap().fence;
    assert!(
        election
            .proclaim(proclaim(&one, fence))
            .await
            .unwrap()
            .into_inner()
            .leads
    );
    assert!(
        !election
            .proclaim(proclaim(&one, fence + 1))
            .await
            .unwrap()
            .into_inner()
            .leads
    );
    assert_eq!(leaders().await.unwrap(), "n1, still");
    let resign = v1::ResignRequest {
        name: "job".into(),
        lease: one.clone(),
        fence,
    };
    let of_another = v1::ResignRequest {
        fence: fence + 1,
        ..resign.clone()
    };
    assert!(!election.resign(of_another).await.unwrap().into_inner().found);
    assert!(election.resign(resign).await.unwrap().into_inner().found);
    let next = timeout(SOON, next).await.unwrap().unwrap().unwrap().into_inner();
    assert!(next.elected && next.place.unwrap().fence > fence);
    assert!(
        !election
            .proclaim(proclaim(&one, fence))
            .await
            .unwrap()
            .into_inner()
            .leads
    );
    assert_eq!(leaders().await.unwrap(), "n2");
    let leader = v1::LeaderRequest {
        name: "job".into(),
        consistency: 0,
    };
    let told = election.leader(leader).await.unwrap().into_inner();
    assert_eq!(told.leader.unwrap().lease, other);
    served.registry.local.advance(Ttl::seconds(11));
    assert_eq!(leaders().await, None);
}

/// Puts so many keys below a prefix.
async fn fill(served: &Served, below: &str, count: usize) {
    let keys: Vec<_> = (0..count).map(|n| format!("{below}{n:05}")).collect();
    for batch in keys.chunks(128) {
        let then = batch.iter().map(|key| v1::TxnOp {
            op: Some(v1::txn_op::Op::Put(v1::PutRequest {
                key: key.clone().into(),
                ..put("", "")
            })),
        });
        let request = v1::TxnRequest {
            then: then.collect(),
            ..v1::TxnRequest::default()
        };
        served.kv().txn(request).await.unwrap();
    }
}

#[tokio::test]
async fn no_more_wait_in_one_queue_than_may() {
    use spine_api::limits::{LOCK_PLACES_MAX, LOCK_PLACES_READ_MAX};
    let served = Served::start().await;
    let (holder, late) = (lease(&served).await, lease(&served).await);
    let mut lock = served.lock();
    assert!(
        lock.acquire(acquire(&holder, 0))
            .await
            .unwrap()
            .into_inner()
            .acquired
    );
    // What lies at its name counts, whoever put it there.
    fill(&served, "job/!", LOCK_PLACES_MAX - 1).await;
    let status = lock.acquire(acquire(&late, 0)).await.unwrap_err();
    assert_eq!(status.metadata().get("spine-code").unwrap(), "too_many");
    assert!(
        lock.acquire(acquire(&holder, 0))
            .await
            .unwrap()
            .into_inner()
            .acquired
    );
    // Of more than are read nobody says who is the first.
    let kept = v1::LockAcquireRequest {
        keep_place: true,
        ..acquire(&late, 0)
    };
    lock.release(release(&holder)).await.unwrap();
    assert!(!lock.acquire(kept.clone()).await.unwrap().into_inner().acquired);
    fill(&served, "job/#", LOCK_PLACES_READ_MAX - LOCK_PLACES_MAX + 1).await;
    let status = lock.acquire(kept).await.unwrap_err();
    assert_eq!(status.metadata().get("spine-code").unwrap(), "too_many");
}

#[tokio::test]
async fn keys_below_a_lock_hide_no_place() {
    let served = Served::start().await;
    let (holder, other) = (lease(&served).await, lease(&served).await);
    let mut lock = served.lock();
    assert!(
        lock.acquire(acquire(&holder, 0))
            .await
            .unwrap()
            .into_inner()
            .acquired
    );
    fill(&served, "job/!/", spine_api::limits::LOCK_PLACES_MAX).await;
    let tried = lock.acquire(acquire(&other, 0)).await.unwrap().into_inner();
    assert_eq!((tried.acquired, tried.ahead), (false, 1));
    let asked = v1::LockHolderRequest {
        name: "job".into(),
        consistency: 0,
    };
    let told = lock.holder(asked).await.unwrap().into_inner();
    assert_eq!((told.holder.unwrap().lease, told.waiting), (holder, 0));
}
