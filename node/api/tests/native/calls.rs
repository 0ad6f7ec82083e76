//! What all calls share: refusals of what says nothing, deadlines, credentials; readiness, reflection, members.

use std::time::Duration;

use spine_proto::v1::{self, check_definition::Kind, topic::Topic};
use tonic::{Code, Request};

use crate::served::{Served, photo, put, ttl_check};

fn everything() -> v1::Topic {
    v1::Topic {
        topic: Some(Topic::Everything(v1::Everything {})),
    }
}

#[tokio::test]
async fn a_message_that_says_nothing_is_refused() {
    let served = Served::start().await;
    let (mut kv, mut catalog, mut watch) = (served.kv(), served.catalog(), served.watch());
    let mut refusals = vec![
        kv.list(v1::ListRequest::default()).await.unwrap_err(),
        kv.put(v1::PutRequest {
            guard: Some(v1::Guard::default()),
            ..put("a", "1")
        })
        .await
        .unwrap_err(),
        catalog
            .deregister(v1::DeregisterRequest::default())
            .await
            .unwrap_err(),
        served
            .health()
            .update_check(v1::UpdateCheckRequest {
                check: "c".into(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        watch.watch(v1::WatchRequest::default()).await.unwrap_err(),
        watch
            .watch(v1::WatchRequest {
                topics: vec![v1::Topic::default()],
                ..Default::default()
            })
            .await
            .unwrap_err(),
        watch
            .watch(v1::WatchRequest {
                topics: vec![everything(); 65],
                ..Default::default()
            })
            .await
            .unwrap_err(),
    ];
    let fast = Kind::Tcp(v1::TcpProbe {
        pace: Some(v1::Pace {
            interval_ms: 10,
            timeout_ms: 0,
        }),
        ..Default::default()
    });
    for check in [
        v1::CheckDefinition {
            kind: Some(fast),
            ..v1::CheckDefinition::default()
        },
        v1::CheckDefinition {
            judges_node: true,
            ..ttl_check()
        },
        v1::CheckDefinition {
            judges_node: true,
            instance: "p1".into(),
            ..ttl_check()
        },
        v1::CheckDefinition {
            status: 9,
            ..ttl_check()
        },
    ] {
        let request = v1::RegisterRequest {
            checks: vec![check],
            ..photo("p1", "1", 1)
        };
        refusals.push(catalog.register(request).await.unwrap_err());
    }
    let mut port = photo("p1", "1", 1);
    port.service.as_mut().unwrap().port = 65_536;
    refusals.push(catalog.register(port).await.unwrap_err());
    for status in refusals {
        let code = status.metadata().get("spine-code").unwrap();
        assert!(code == "invalid" || code == "too_many", "{status}");
    }
}

#[tokio::test]
async fn members_and_this_server_are_told() {
    let served = Served::start().await;
    let mut members = served.members();
    let listed = members
        .list_members(v1::ListMembersRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.voters, Some(1));
    let list = listed.members;
    assert_eq!(
        (list.len(), list[0].name.as_str(), list[0].leader, list[0].failed),
        (1, "n1", true, false)
    );
    assert_eq!(list[0].votes, Some(true));
    served.registry.local.set_leaderless(true);
    let status = members
        .server_status(v1::ServerStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.role(), status.leader.as_str(), status.ready),
        (v1::Role::Follower, "", true)
    );
    // A stale read needs no leader; any other does.
    let stale = v1::ListMembersRequest {
        consistency: v1::Consistency::Stale.into(),
    };
    assert_eq!(
        members
            .list_members(stale)
            .await
            .unwrap()
            .into_inner()
            .members
            .len(),
        1
    );
    let status = members
        .list_members(v1::ListMembersRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_call_is_told_until_when_it_may_take_and_who_calls() {
    let served = Served::start().await;
    for (timeout, least, most) in [
        (None, 4_900, 5_000),
        (Some(Duration::from_secs(2)), 1_800, 1_901),
        (Some(Duration::from_millis(100)), 1, 91),
        (Some(Duration::from_mins(150)), 59_000, 60_000),
    ] {
        let mut request = Request::new(put("a", "1"));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
            .metadata_mut()
            .insert("authorization", "Bearer s3cret".parse().unwrap());
        served.kv().put(request).await.unwrap();
        let (budget, cx) = served.registry.last_call();
        assert!(
            (least..=most).contains(&budget.as_millis()),
            "{timeout:?}: {budget:?}"
        );
        assert_eq!(&*cx.credential.unwrap().0, "s3cret");
        assert!(cx.peer.unwrap().starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn readiness_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let served = Served::start().await;
    let mut health = HealthClient::new(served.channel.clone());
    let ask = |service: &str| HealthCheckRequest {
        service: service.into(),
    };
    for service in ["", "spine.v1.KV", "spine.v1.Watch"] {
        assert_eq!(
            health.check(ask(service)).await.unwrap().into_inner().status,
            1,
            "serving"
        );
    }
    assert_eq!(
        health.check(ask("nonsense")).await.unwrap_err().code(),
        Code::NotFound
    );
    let mut told = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(told.message().await.unwrap().unwrap().status, 1);
    served.registry.set_ready(false);
    assert_eq!(told.message().await.unwrap().unwrap().status, 2, "not serving");

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(served.channel.clone());
    let answer = reflection
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap();
    let answer = answer.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in [
        "KV", "Catalog", "Health", "Lease", "Lock", "Election", "Members", "Watch",
    ] {
        assert!(
            names.contains(&format!("spine.v1.{service}").as_str()),
            "{names:?}"
        );
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
}
