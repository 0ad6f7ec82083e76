use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
    response::Response,
};
use futures::StreamExt;
use spine_core::{
    CheckDefinition, CheckId, CheckKind, Command, ExistingChecks, InstanceId, NodeDefinition, NodeName,
    Register, Service, ServiceName, Status, Thresholds, Weights,
};
use tower::ServiceExt;

use crate::{Context, Registry, local::Local};

async fn register(local: &Local, name: &str, status: Status, output: &str) {
    let check = CheckDefinition {
        id: CheckId::parse(&format!("service:{name}")).unwrap(),
        name: "alive".into(),
        notes: "".into(),
        service: Some(InstanceId::parse(name).unwrap()),
        status: Some(status),
        output: output.into(),
        kind: CheckKind::External,
        deregister_after: None,
        thresholds: Thresholds::default(),
    };
    let service = Service {
        id: InstanceId::parse(name).unwrap(),
        name: ServiceName::parse(name).unwrap(),
        kind: "".into(),
        tags: vec!["<b>tag</b>".into()],
        address: "10.0.0.1".into(),
        tagged_addresses: [].into(),
        port: 80,
        socket_path: "".into(),
        meta: [("version".into(), "v1".into())].into(),
        weights: Weights::default(),
        enable_tag_override: false,
    };
    let register = Register {
        node: NodeName::parse("n1").unwrap(),
        node_update: Some(NodeDefinition {
            address: "127.0.0.1".into(),
            ..NodeDefinition::default()
        }),
        service: Some(service),
        checks: vec![check],
        existing: ExistingChecks::Overwrite,
        heartbeat: None,
    };
    let cx = Context::new(spine_core::Dialect::Consul);
    let applied = local
        .propose(&cx, Command::Register(Box::new(register)))
        .await
        .unwrap();
    applied.result.unwrap();
}

fn local() -> Arc<Local> {
    Arc::new(Local::new(NodeName::parse("n1").unwrap()))
}

async fn get(local: &Arc<Local>, path: &str) -> Response {
    let request = Request::get(path).body(Body::empty()).unwrap();
    super::router(local.clone()).oneshot(request).await.unwrap()
}

async fn text(response: Response) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_page_lists_services_with_their_health_and_escapes_what_strangers_wrote() {
    let local = local();
    register(&local, "photo", Status::Passing, "fine").await;
    register(&local, "mail", Status::Critical, "<script>alert(1)</script>").await;
    let response = get(&local, "/ui/").await;
    assert_eq!(response.status(), StatusCode::OK);
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let page = text(response).await;
    assert!(page.contains("2 services"), "{page}");
    assert!(page.contains("1 passing, 1 critical"), "{page}");
    assert!(page.contains("<code>10.0.0.1:80</code>"), "{page}");
    assert!(page.contains("version v1"), "{page}");
    assert!(
        !page.contains("<script>alert") && !page.contains("<b>tag"),
        "{page}"
    );
}

#[tokio::test]
async fn a_search_leaves_out_what_does_not_fit_and_is_escaped_too() {
    let local = local();
    register(&local, "photo", Status::Passing, "").await;
    register(&local, "mail", Status::Passing, "").await;
    let page = text(get(&local, "/ui/services?q=PHO").await).await;
    assert!(
        page.contains("1 service of 2") && !page.contains("s-mail"),
        "{page}"
    );
    let page = text(get(&local, "/ui/?q=%22%3E%3Cscript%3E").await).await;
    assert!(
        !page.contains("\"><script>") && page.contains("None of the 2 services"),
        "{page}"
    );
}

#[tokio::test]
async fn without_a_leader_the_page_is_there_and_says_so() {
    let local = local();
    register(&local, "photo", Status::Passing, "").await;
    local.set_leaderless(true);
    let page = text(get(&local, "/ui/").await).await;
    assert!(
        page.contains("photo") && page.contains("knows no leader"),
        "{page}"
    );
}

#[tokio::test]
async fn an_event_comes_for_each_change_and_none_is_missed_between_page_and_stream() {
    let local = local();
    register(&local, "photo", Status::Passing, "").await;
    let page_index = local.hub().newest().index();
    // The change comes after the page was made and before the browser listens.
    register(&local, "mail", Status::Passing, "").await;
    let response = get(&local, &format!("/ui/events?from={page_index}")).await;
    let mut events = response.into_body().into_data_stream();
    let deadline = Duration::from_secs(10);
    let first = tokio::time::timeout(deadline, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    assert!(first.contains("event: changed"), "{first}");
    assert!(
        first.contains(&format!("id: {}", local.hub().newest().index())),
        "{first}"
    );

    register(&local, "pay", Status::Critical, "").await;
    let second = tokio::time::timeout(deadline, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        String::from_utf8(second.to_vec())
            .unwrap()
            .contains("event: changed")
    );
}

#[tokio::test]
async fn a_browser_that_has_seen_more_than_there_is_looks_again() {
    let local = local();
    register(&local, "photo", Status::Passing, "").await;
    let response = get(&local, "/ui/events?from=1000").await;
    let mut events = response.into_body().into_data_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    assert!(
        first.contains(&format!("id: {}", local.hub().newest().index())),
        "{first}"
    );
}

#[tokio::test]
async fn assets_are_kept_by_the_browser_until_they_change() {
    let local = local();
    let tag = get(&local, "/ui/assets/app.js").await.headers()[header::ETAG].clone();
    let again = Request::get("/ui/assets/app.js")
        .header(header::IF_NONE_MATCH, tag)
        .body(Body::empty())
        .unwrap();
    let response = super::router(local.clone()).oneshot(again).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(get(&local, "/ui/elsewhere").await.status(), StatusCode::NOT_FOUND);
}
