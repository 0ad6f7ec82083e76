//! Keys and values.

use spine_proto::v1::{self, guard::Condition, key_range::Range};
use tonic::Code;

use crate::served::{Served, prefix, put};

fn guard(condition: Condition) -> v1::Guard {
    v1::Guard {
        condition: Some(condition),
    }
}

fn keys(kvs: &[v1::KeyValue]) -> Vec<&str> {
    kvs.iter()
        .map(|kv| std::str::from_utf8(&kv.key).unwrap())
        .collect()
}

#[tokio::test]
async fn keys_are_put_read_and_deleted_under_guards() {
    let served = Served::start().await;
    let mut kv = served.kv();
    let written = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert_eq!(written.outcome(), v1::PutOutcome::Written);
    assert_eq!(
        kv.put(put("a", "1")).await.unwrap().into_inner().outcome(),
        v1::PutOutcome::Unchanged
    );
    let again = v1::PutRequest {
        write_unchanged: true,
        ..put("a", "1")
    };
    assert_eq!(
        kv.put(again).await.unwrap().into_inner().revision,
        written.revision + 1
    );

    for (condition, outcome) in [
        (Condition::Absent(v1::Absent {}), v1::PutOutcome::GuardFailed),
        (
            Condition::ModRevision(written.revision),
            v1::PutOutcome::GuardFailed,
        ),
        (
            Condition::ModRevision(written.revision + 1),
            v1::PutOutcome::Written,
        ),
        (Condition::ModifyIndex(written.index), v1::PutOutcome::GuardFailed),
    ] {
        let request = v1::PutRequest {
            guard: Some(guard(condition)),
            ..put("a", "2")
        };
        assert_eq!(
            kv.put(request).await.unwrap().into_inner().outcome(),
            outcome,
            "{condition:?}"
        );
    }

    let read = |revision| v1::GetRequest {
        key: "a".into(),
        revision,
        ..v1::GetRequest::default()
    };
    let now = kv.get(read(None)).await.unwrap().into_inner();
    assert_eq!(now.kv.as_ref().unwrap().value, "2");
    assert_eq!(now.kv.as_ref().unwrap().version, 3);
    let header = now.header.unwrap();
    assert!(
        header.applied_index > header.index,
        "failed guards raised the index after the newest change"
    );
    let then = kv.get(read(Some(written.revision))).await.unwrap().into_inner();
    assert_eq!(then.kv.unwrap().value, "1");

    let one = |key: &'static str| {
        Some(v1::KeyRange {
            range: Some(Range::Key(key.into())),
        })
    };
    let request = v1::DeleteRequest {
        range: one("a"),
        guard: Some(guard(Condition::ModifyIndex(1))),
    };
    assert!(kv.delete(request).await.unwrap().into_inner().guard_failed);
    let request = v1::DeleteRequest {
        range: one("a"),
        guard: None,
    };
    assert_eq!(kv.delete(request.clone()).await.unwrap().into_inner().deleted, 1);
    assert_eq!(kv.delete(request).await.unwrap().into_inner().deleted, 0);
    assert_eq!(kv.get(read(None)).await.unwrap().into_inner().kv, None);
}

#[tokio::test]
async fn pages_of_a_range_are_one_moment() {
    let served = Served::start().await;
    let mut kv = served.kv();
    for key in ["p/1", "p/2", "p/3", "q"] {
        kv.put(put(key, "old")).await.unwrap();
    }
    let mut request = v1::ListRequest {
        range: Some(prefix("p/")),
        limit: 2,
        ..v1::ListRequest::default()
    };
    let first = kv.list(request.clone()).await.unwrap().into_inner();
    assert_eq!(keys(&first.kvs), ["p/1", "p/2"]);
    kv.put(put("p/3", "new")).await.unwrap();
    kv.put(put("p/4", "new")).await.unwrap();

    let rest = v1::KeyInterval {
        start: first.next.unwrap(),
        end: Some("p0".into()),
    };
    request.range = Some(v1::KeyRange {
        range: Some(Range::Interval(rest)),
    });
    request.revision = Some(first.revision);
    let second = kv.list(request).await.unwrap().into_inner();
    assert_eq!((keys(&second.kvs), second.next), (vec!["p/3"], None));
    assert_eq!(second.kvs[0].value, "old");
    assert_eq!(second.revision, first.revision);

    let names = v1::ListRequest {
        range: Some(prefix("p/")),
        keys_only: true,
        ..v1::ListRequest::default()
    };
    let names = kv.list(names).await.unwrap().into_inner();
    assert!(names.kvs.len() == 4 && names.kvs.iter().all(|kv| kv.value.is_empty()));
    let count = v1::CountRequest {
        range: Some(prefix("p/")),
        ..v1::CountRequest::default()
    };
    assert_eq!(kv.count(count).await.unwrap().into_inner().count, 4);
}

#[tokio::test]
async fn a_page_is_cut_before_it_outgrows_a_message() {
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
    let request = v1::ListRequest {
        range: Some(prefix("")),
        ..v1::ListRequest::default()
    };
    let page = kv.list(request).await.unwrap().into_inner();
    assert_eq!((keys(&page.kvs), page.next), (vec!["a", "b"], Some("c".into())));
    // A message of a stranger has its bound, too.
    let huge = v1::PutRequest {
        value: vec![0; 3 << 20].into(),
        ..put("e", "")
    };
    assert_eq!(kv.put(huge).await.unwrap_err().code(), Code::OutOfRange);
}
