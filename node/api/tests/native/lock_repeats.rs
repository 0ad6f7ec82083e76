//! Calls for a lock that are repeated while earlier ones still end: none takes away what another was given.

use std::time::Duration;

use bytes::Bytes;
use spine_api::{Error, Registry};
use spine_proto::v1;
use tokio::time::timeout;

use crate::{
    lock::{acquire, begin, lease, parked, places, release},
    served::{Served, prefix},
};

const SOON: Duration = Duration::from_secs(30);

/// Waits until nothing is on its way that a call left behind.
async fn settled(served: &Served) {
    let settled = async {
        let mut quiet = 0;
        let mut index = 0;
        while quiet < 50 {
            tokio::task::yield_now().await;
            let now = served.registry.hub().newest().index().0;
            quiet = if now == index { quiet + 1 } else { 0 };
            index = now;
        }
    };
    timeout(SOON, settled).await.expect("it ends");
}

async fn holder(served: &Served) -> Option<Bytes> {
    let asked = v1::LockHolderRequest {
        name: "job".into(),
        consistency: 0,
    };
    let told = served.lock().holder(asked).await.unwrap().into_inner();
    told.holder.map(|place| place.lease)
}

/// A lease ends.
async fn revoke(served: &Served, lease: &Bytes) {
    let request = v1::LeaseRevokeRequest { id: lease.clone() };
    served.lease().revoke(request).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_repeats_its_call_in_vain_keeps_the_lock() {
    for error in [
        Error::NoLeader,
        Error::Unknown("no answer".into()),
        Error::Deadline("waiting".into()),
    ] {
        let served = Served::start().await;
        let mut lock = served.lock();
        let lease = lease(&served).await;
        let held = lock.acquire(acquire(&lease, 0)).await.unwrap().into_inner();
        // The next proposal ends so, and the one behind it is carried out.
        served.registry.fail_once_with(error.clone());
        lock.acquire(acquire(&lease, 0)).await.unwrap_err();
        settled(&served).await;
        assert_eq!(holder(&served).await, Some(lease.clone()), "{error:?}");
        // So does the read that makes sure.
        served.registry.fail_view_once_with(error.clone());
        lock.acquire(acquire(&lease, 0)).await.unwrap_err();
        settled(&served).await;
        assert_eq!(holder(&served).await, Some(lease.clone()), "{error:?}");
        let again = lock.acquire(acquire(&lease, 0)).await.unwrap().into_inner();
        let fence = |answer: &v1::LockAcquireResponse| answer.place.as_ref().unwrap().fence;
        assert_eq!(fence(&again), fence(&held));
    }
}

#[tokio::test]
async fn who_made_its_place_and_ends_with_an_error_gives_it_back() {
    let served = Served::start().await;
    let lease = lease(&served).await;
    served.registry.fail_view_once_with(Error::NoLeader);
    served.lock().acquire(acquire(&lease, 0)).await.unwrap_err();
    let gone = async {
        while places(&served).await != 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.expect("the place is given back");
}

#[tokio::test]
async fn a_release_on_its_way_takes_nothing_from_the_next_call() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let (first, second) = (lease(&served).await, lease(&served).await);
    lock.acquire(acquire(&first, 0)).await.unwrap();
    // It breaks off, and its place is on its way back.
    let begun = begin(&served, acquire(&second, 60_000));
    parked(&served, 1).await;
    served.registry.hold_deletions(true);
    begun.abort();
    timeout(SOON, served.registry.deletions_held(1))
        .await
        .expect("a deletion is on its way");
    // It comes back at once, and has its turn.
    let next = begin(&served, acquire(&second, 60_000));
    parked(&served, 1).await;
    revoke(&served, &first).await;
    let held = timeout(SOON, next).await.unwrap().unwrap().unwrap();
    assert!(held.acquired);
    served.registry.hold_deletions(false);
    settled(&served).await;
    assert_eq!(holder(&served).await, Some(second));
}

#[tokio::test]
async fn who_gives_up_takes_nothing_from_a_call_that_was_told_it_holds() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let (first, second) = (lease(&served).await, lease(&served).await);
    lock.acquire(acquire(&first, 0)).await.unwrap();
    let patient = begin(&served, acquire(&second, 60_000));
    parked(&served, 1).await;
    // A second call for the same place gives up, and its deletion is on its way.
    served.registry.hold_deletions(true);
    let gives_up = begin(&served, acquire(&second, 0));
    timeout(SOON, served.registry.deletions_held(1))
        .await
        .expect("a deletion is on its way");
    revoke(&served, &first).await;
    let held = timeout(SOON, patient).await.unwrap().unwrap().unwrap();
    assert!(held.acquired);
    served.registry.hold_deletions(false);
    let gave_up = timeout(SOON, gives_up).await.unwrap().unwrap().unwrap();
    assert!(!gave_up.acquired);
    settled(&served).await;
    assert_eq!(holder(&served).await, Some(second));
}

#[tokio::test]
async fn who_waits_is_told_that_its_place_was_given_back() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let (first, second) = (lease(&served).await, lease(&served).await);
    lock.acquire(acquire(&first, 0)).await.unwrap();
    let waiting = begin(&served, acquire(&second, 60_000));
    parked(&served, 1).await;
    assert!(lock.release(release(&second)).await.unwrap().into_inner().found);
    let told = timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((told.acquired, told.place), (false, None));
}

#[tokio::test]
async fn a_release_with_a_fence_frees_that_place_alone() {
    let served = Served::start().await;
    let mut lock = served.lock();
    let lease = lease(&served).await;
    let fence = |answer: v1::LockAcquireResponse| answer.place.unwrap().fence;
    let old = fence(lock.acquire(acquire(&lease, 0)).await.unwrap().into_inner());
    let of_old = v1::LockReleaseRequest {
        fence: old,
        ..release(&lease)
    };
    assert!(lock.release(of_old.clone()).await.unwrap().into_inner().found);
    let new = fence(lock.acquire(acquire(&lease, 0)).await.unwrap().into_inner());
    assert!(new > old);
    assert!(!lock.release(of_old).await.unwrap().into_inner().found);
    assert_eq!(holder(&served).await, Some(lease));
}

#[tokio::test]
async fn a_lock_that_is_asked_for_again_keeps_the_value_of_an_election() {
    let served = Served::start().await;
    let lease = lease(&served).await;
    let campaign = v1::CampaignRequest {
        name: "job".into(),
        lease: lease.clone(),
        value: "n1".into(),
        ..v1::CampaignRequest::default()
    };
    served.election().campaign(campaign).await.unwrap();
    let again = served
        .lock()
        .acquire(acquire(&lease, 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.place.unwrap().value, "n1");
    let range = v1::CountRequest {
        range: Some(prefix("job/")),
        consistency: 0,
    };
    assert_eq!(served.kv().count(range).await.unwrap().into_inner().count, 1);
}
