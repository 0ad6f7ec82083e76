//! Watches.

use std::time::Duration;

use spine_api::{Error, Read, Registry};
use spine_core::{Topic as Interest, limits::LOG_EVENTS_MAX};
use spine_proto::v1::{self, event::Change, topic::Topic};
use tonic::{Code, Status};

use crate::served::{Served, prefix, put};

fn watch_of(topic: Topic, from: Option<u64>) -> v1::WatchRequest {
    v1::WatchRequest {
        topics: vec![v1::Topic { topic: Some(topic) }],
        from_index: from,
        progress_interval_ms: 100,
        ..v1::WatchRequest::default()
    }
}

#[tokio::test]
async fn a_watch_says_where_it_begins_tells_what_happens_and_that_nothing_does() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let before = kv.put(put("app/a", "1")).await.unwrap().into_inner().index;
    let app = || Topic::Keys(prefix("app/"));
    let request = v1::WatchRequest {
        with_before: true,
        ..watch_of(app(), None)
    };
    let mut told = served.watch().watch(request).await.unwrap().into_inner();
    let opening = told.message().await.unwrap().unwrap();
    assert_eq!((opening.events.len(), opening.index), (0, before));

    kv.put(put("other", "1")).await.unwrap();
    let index = kv.put(put("app/a", "2")).await.unwrap().into_inner().index;
    let message = loop {
        let message = told.message().await.unwrap().unwrap();
        if !message.events.is_empty() {
            break message;
        }
    };
    assert_eq!(message.index, index);
    let [
        v1::Event {
            change: Some(Change::Key(change)),
            ..
        },
    ] = &message.events[..]
    else {
        panic!("{message:?}")
    };
    assert_eq!(change.before.as_ref().unwrap().value, "1");
    assert_eq!(change.after.as_ref().unwrap().value, "2");
    // Nothing happens to the topic, and the index moves on with what happens elsewhere.
    let elsewhere = kv.put(put("other", "2")).await.unwrap().into_inner().index;
    loop {
        let progress = told.message().await.unwrap().unwrap();
        assert!(progress.events.is_empty());
        if progress.index == elsewhere {
            break;
        }
    }
    // A new stream from an old index tells it again; without `with_before` only what is.
    let mut again = served
        .watch()
        .watch(watch_of(app(), Some(before)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().index, before);
    let message = again.message().await.unwrap().unwrap();
    let Some(Change::Key(change)) = &message.events[0].change else {
        panic!("{message:?}")
    };
    assert_eq!(change.before, None);
}

#[tokio::test]
async fn events_of_one_request_may_come_in_several_messages() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let large = "x".repeat(400 << 10);
    for key in ["a", "b", "c", "d"] {
        let request = v1::PutRequest {
            key: key.into(),
            value: large.clone().into(),
            ..v1::PutRequest::default()
        };
        kv.put(request).await.unwrap();
    }
    let request = v1::DeleteRequest {
        range: Some(prefix("")),
        guard: None,
    };
    let deleted = kv.delete(request).await.unwrap().into_inner().index;

    let request = v1::WatchRequest {
        with_before: true,
        ..watch_of(Topic::Everything(v1::Everything {}), Some(deleted - 2))
    };
    let mut told = served.watch().watch(request).await.unwrap().into_inner();
    told.message().await.unwrap().unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(index, _)| *index < deleted) {
        let message = told.message().await.unwrap().unwrap();
        seen.push((
            message.index,
            message.events.iter().map(|event| event.index).collect::<Vec<_>>(),
        ));
    }
    // The put of "d" and the beginning of the delete, then its rest; the index moves when a request is told whole.
    let d = deleted;
    assert_eq!(seen, [(d - 1, vec![d - 1, d]), (d - 1, vec![d, d]), (d, vec![d])]);
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops() {
    let served = Served::start().await;
    let mut told = served
        .watch()
        .watch(watch_of(Topic::Nodes(v1::Nodes {}), None))
        .await
        .unwrap()
        .into_inner();
    told.message().await.unwrap().unwrap();
    served.registry.hub().close();
    let status = loop {
        match told.message().await {
            Ok(Some(progress)) => assert!(progress.events.is_empty()),
            Ok(None) => panic!("it says why"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.metadata().get("spine-code").unwrap(), "shutting_down");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watch_from_before_the_change_log_is_told_where_that_begins() {
    let served = Served::start().await;
    // More than the change log holds: the oldest go.
    let mut last = 0;
    for number in 0..=LOG_EVENTS_MAX {
        last = served.registry.put_here("k", number.to_string()).await;
    }
    let status = {
        let mut told = served
            .watch()
            .watch(watch_of(Topic::Nodes(v1::Nodes {}), Some(0)))
            .await
            .unwrap()
            .into_inner();
        told.message().await.unwrap().unwrap();
        told.message().await.unwrap_err()
    };
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.metadata().get("spine-code").unwrap(), "compacted");
    let oldest = status
        .metadata()
        .get("spine-oldest-index")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let from = oldest.parse::<u64>().unwrap() - 1;
    assert!((1..last).contains(&from));
    let mut told = served
        .watch()
        .watch(watch_of(Topic::Nodes(v1::Nodes {}), Some(from)))
        .await
        .unwrap()
        .into_inner();
    told.message().await.unwrap().unwrap();
    assert_eq!(told.message().await.unwrap().unwrap().index, last);
}

/// What a watch from there is told first: the opening message, or why there is none.
async fn opened(served: &Served, from: u64, cluster_id: &str) -> Result<v1::WatchResponse, Status> {
    let request = v1::WatchRequest {
        cluster_id: cluster_id.to_owned(),
        ..watch_of(Topic::Keys(prefix("")), Some(from))
    };
    let mut told = served.watch().watch(request).await?.into_inner();
    told.message().await.map(|message| message.expect("it begins"))
}

#[tokio::test]
async fn a_place_of_another_life_of_the_cluster_is_not_gone_on_from() {
    let served = Served::start().await;
    let newest = served.registry.put_here("k", "1".into()).await;
    let opening = opened(&served, newest, "").await.unwrap();
    assert_eq!((opening.index, opening.cluster_id.is_empty()), (newest, false));

    // The registry began anew while the client was away: it is behind.
    let ended = opened(&served, newest + 490, "").await.unwrap_err();
    assert_eq!(ended.code(), Code::OutOfRange);
    assert_eq!(ended.metadata().get("spine-code").unwrap(), "compacted");
    assert!(ended.metadata().contains_key("spine-oldest-index"));
    assert!(
        ended.message().contains("another life") && ended.message().contains(&newest.to_string()),
        "{ended:?}"
    );
    // It may also have come past the client's place by then.
    let before = opening.cluster_id;
    assert!(opened(&served, newest, &before).await.is_ok());
    served
        .registry
        .set_cluster("22222222-2222-3333-4444-555555555555");
    let ended = opened(&served, newest, &before).await.unwrap_err();
    assert_eq!(ended.metadata().get("spine-code").unwrap(), "compacted");
}

#[tokio::test]
async fn a_server_that_lags_behind_does_not_take_a_place_for_one_of_another_life() {
    let served = Served::start().await;
    let newest = served.registry.put_here("k", "1".into()).await;
    served.registry.lag_behind("another");
    assert_eq!(opened(&served, newest + 1, "").await.unwrap().index, newest + 1);
    // Without a leader it can't know: another server is asked.
    served.registry.fail_view_once_with(Error::NoLeader);
    let ended = opened(&served, newest + 9, "").await.unwrap_err();
    assert_eq!(ended.metadata().get("spine-code").unwrap(), "no_leader");
}

#[tokio::test]
async fn a_parked_cursor_moves_past_what_does_not_touch_it() {
    let served = Served::start().await;
    let registry = &served.registry;
    let idle = Duration::from_millis(1);
    let mut cursor = registry.watch(vec![Interest::Nodes], registry.hub().newest().index());
    let mut parked = Box::pin(cursor.next(Some(idle)));
    assert!(futures::poll!(&mut parked).is_pending());
    // While it is parked the change log forgets all that it knew then.
    let mut last = 0;
    for number in 0..=LOG_EVENTS_MAX {
        last = registry.put_here("k", number.to_string()).await;
    }
    assert_eq!(parked.as_mut().await.unwrap().through.0, last);
    drop(parked);
    assert_eq!(cursor.next(Some(idle)).await.unwrap().through.0, last);
}

#[tokio::test]
async fn a_server_that_is_cut_off_does_not_say_for_ever_that_nothing_happens() {
    let served = Served::start().await;
    let keys = watch_of(Topic::Keys(prefix("")), None);
    let mut told = served.watch().watch(keys).await.unwrap().into_inner();
    served.registry.set_ready(false);
    let ended = loop {
        match told.message().await {
            Ok(message) => assert!(message.unwrap().events.is_empty()),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(ended.metadata().get("spine-code").unwrap(), "not_ready");
}
