//! Waits at a server that is cut off from its cluster: whoever would wait for nothing is told so.

use std::{pin::pin, sync::Arc, time::Duration};

use spine_api::{Blocking, Consistency, Context, Error, Read};
use spine_core::{Dialect, GetKey, Index};
use spine_proto::v1::{self, topic::Topic};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use crate::{
    lock::{acquire, begin, lease, parked, release},
    served::{Scripted, Served, prefix},
};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_hours(1);

fn code(status: &Status) -> &str {
    status.metadata().get("spine-code").unwrap().to_str().unwrap()
}

#[tokio::test]
async fn a_wait_for_a_lock_ends_and_goes_on_in_its_place() {
    let served = Served::start().await;
    let (holder, other) = (lease(&served).await, lease(&served).await);
    served.lock().acquire(acquire(&holder, 0)).await.unwrap();
    let waiting = || {
        let request = v1::LockAcquireRequest {
            keep_place: true,
            ..acquire(&other, 600_000)
        };
        begin(&served, request)
    };
    let cut_off = waiting();
    parked(&served, 1).await;
    served.registry.set_ready(false);
    let ended = timeout(SOON, cut_off).await.unwrap().unwrap().unwrap_err();
    assert_eq!((code(&ended), ended.code()), ("no_leader", Code::Unavailable));

    served.registry.set_ready(true);
    let again = waiting();
    parked(&served, 1).await;
    served.lock().release(release(&holder)).await.unwrap();
    assert!(timeout(SOON, again).await.unwrap().unwrap().unwrap().acquired);
}

#[tokio::test]
async fn an_observer_is_not_told_the_same_leader_for_ever() {
    let served = Served::start().await;
    let request = v1::ObserveRequest { name: "job".into() };
    let mut told = served.election().observe(request).await.unwrap().into_inner();
    told.message().await.unwrap().unwrap();
    served.registry.set_ready(false);
    let ended = timeout(SOON, told.message()).await.unwrap().unwrap_err();
    assert_eq!((code(&ended), ended.code()), ("not_ready", Code::Unavailable));
}

#[tokio::test]
async fn a_watch_ends_before_it_is_time_to_say_that_nothing_happens() {
    let served = Served::start().await;
    let request = v1::WatchRequest {
        topics: vec![v1::Topic {
            topic: Some(Topic::Keys(prefix(""))),
        }],
        progress_interval_ms: 600_000,
        ..v1::WatchRequest::default()
    };
    let mut told = served.watch().watch(request.clone()).await.unwrap().into_inner();
    told.message().await.unwrap().unwrap();
    served.registry.set_ready(false);
    let ended = timeout(SOON, told.message()).await.unwrap().unwrap_err();
    assert_eq!(code(&ended), "not_ready");
    // Nor does one begin there.
    let mut told = served.watch().watch(request).await.unwrap().into_inner();
    assert_eq!(code(&told.message().await.unwrap_err()), "not_ready");
}

/// Reads a key, and waits for it to change.
fn read(
    registry: &Arc<Scripted>,
    consistency: Consistency,
    floor: Index,
    wait: Duration,
) -> JoinHandle<Result<Index, Error>> {
    let registry = registry.clone();
    tokio::spawn(async move {
        let cx = Context {
            consistency,
            ..Context::new(Dialect::Internal)
        };
        let blocking = Blocking {
            floor,
            until: Instant::now() + wait,
        };
        let answer = registry.read(&cx, &GetKey("k".into()), Some(blocking)).await;
        answer.map(|answer| answer.index)
    })
}

#[tokio::test]
async fn a_read_that_waits_ends_and_a_stale_one_waits_on() {
    let served = Served::start().await;
    let registry = &served.registry;
    let floor = Index(registry.put_here("k", "1".into()).await);
    let fresh = read(registry, Consistency::Linearizable, floor, LONG);
    let stale = read(registry, Consistency::Stale, floor, LONG);
    parked(&served, 2).await;
    registry.set_ready(false);
    let ended = timeout(SOON, fresh).await.unwrap().unwrap();
    assert_eq!(ended, Err(Error::NoLeader));
    parked(&served, 1).await;
    let index = registry.put_here("k", "2".into()).await;
    assert_eq!(timeout(SOON, stale).await.unwrap().unwrap(), Ok(Index(index)));
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_time_has_come_asks_the_leader_whether_nothing_has_happened() {
    let registry = Arc::new(Scripted::new().await);
    let floor = Index(registry.put_here("k", "1".into()).await);
    let mut waiting = pin!(read(&registry, Consistency::Linearizable, floor, LONG));
    // It is parked when nothing but time is left to pass.
    assert!(timeout(LONG / 2, &mut waiting).await.is_err());
    registry.fail_view_once_with(Error::NoLeader);
    assert_eq!(waiting.await.unwrap(), Err(Error::NoLeader));

    let waiting = read(&registry, Consistency::Linearizable, floor, LONG);
    assert_eq!(waiting.await.unwrap(), Ok(floor));
}
