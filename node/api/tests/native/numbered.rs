//! Writes with a number in a request session, and who leads.

use spine_proto::v1::{self, sessions_client::SessionsClient};
use tonic::{Code, Request};

use crate::served::{Served, photo, put};

async fn open(served: &Served) -> u64 {
    let mut sessions = SessionsClient::new(served.channel.clone());
    let opened = sessions.open_session(v1::OpenSessionRequest {}).await.unwrap();
    opened.into_inner().session
}

fn numbered<T>(message: T, number: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("spine-request", number.parse().unwrap());
    request
}

#[tokio::test]
async fn a_write_under_a_number_is_done_once() {
    let served = Served::start().await;
    let session = open(&served).await;
    let number = |sequence: u64, answered: u64| format!("{session}:{sequence}:{answered}");
    let mut kv = served.kv();
    let absent = || v1::PutRequest {
        guard: Some(v1::Guard {
            condition: Some(v1::guard::Condition::Absent(v1::Absent {})),
        }),
        ..put("k", "1")
    };
    let first = kv.put(numbered(absent(), &number(1, 0))).await.unwrap();
    let again = kv.put(numbered(absent(), &number(1, 0))).await.unwrap();
    assert_eq!(first.into_inner(), again.into_inner());
    let other = kv.put(numbered(absent(), &number(2, 0))).await.unwrap();
    assert_eq!(other.into_inner().outcome(), v1::PutOutcome::GuardFailed);

    let range = v1::KeyRange {
        range: Some(v1::key_range::Range::Key("k".into())),
    };
    let delete = v1::DeleteRequest {
        range: Some(range),
        guard: None,
    };
    let first = kv.delete(numbered(delete.clone(), &number(3, 0))).await.unwrap();
    let again = kv.delete(numbered(delete, &number(3, 0))).await.unwrap();
    assert_eq!(first.into_inner(), again.into_inner());

    let mut catalog = served.catalog();
    let register = photo("photo-1", "1", 1);
    let first = catalog
        .register(numbered(register, &number(4, 0)))
        .await
        .unwrap()
        .into_inner();
    let gone = v1::DeregisterRequest {
        target: Some(v1::deregister_request::Target::Instance("photo-1".into())),
        ..v1::DeregisterRequest::default()
    };
    for _ in 0..2 {
        let answer = catalog.deregister(numbered(gone.clone(), &number(5, 0))).await;
        assert!(answer.unwrap().into_inner().found);
    }
    assert!(first.changed);

    // What it says it has the answer to is not done again, nor told.
    kv.put(numbered(put("k", "2"), &number(6, 5))).await.unwrap();
    let late = kv.put(numbered(put("k", "3"), &number(5, 5))).await.unwrap_err();
    assert_eq!(late.metadata().get("spine-code").unwrap(), "answered_before");
}

#[tokio::test]
async fn a_number_that_means_nothing_is_not_left_out() {
    let served = Served::start().await;
    let session = open(&served).await;
    let wrong = [
        "7".to_owned(),
        "99999999:1:0".to_owned(),
        format!("{session}:1"),
        format!("{session}:1:0:0"),
        format!("{session}:-1:0"),
    ];
    for number in wrong {
        let refused = served
            .kv()
            .put(numbered(put("k", "1"), &number))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{number}");
        assert_eq!(refused.metadata().get("spine-code").unwrap(), "unknown_session");
    }
    let nothing = served
        .kv()
        .get(v1::GetRequest {
            key: "k".into(),
            ..v1::GetRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(nothing.into_inner().kv, None);
}

#[tokio::test]
async fn every_answer_says_where_the_leader_is() {
    let served = Served::start().await;
    let answer = served.kv().put(put("k", "1")).await.unwrap();
    assert_eq!(answer.metadata().get("spine-leader").unwrap(), "10.0.0.1:8502");
    served.registry.local.set_leaderless(true);
    let refused = served.kv().put(put("k", "1")).await.unwrap_err();
    assert_eq!(refused.metadata().get("spine-leader"), None);
}
