//! Nodes, instances and checks.

use spine_core::Ttl;
use spine_proto::v1::{self, deregister_request::Target, list_checks_request::Of};
use tonic::Code;

use crate::served::{Served, photo, ttl_check};

#[tokio::test]
async fn what_is_registered_is_resolved_by_version_health_and_weight() {
    let served = Served::start().await;
    let (mut catalog, mut health) = (served.catalog(), served.health());
    let registered = catalog.register(photo("p1", "1", 80)).await.unwrap().into_inner();
    assert_eq!((registered.node.as_str(), registered.changed), ("n1", true));
    assert!(
        !catalog
            .register(photo("p1", "1", 80))
            .await
            .unwrap()
            .into_inner()
            .changed
    );
    let checked = v1::RegisterRequest {
        checks: vec![ttl_check(), ttl_check()],
        ..photo("p2", "2", 20)
    };
    catalog.register(checked).await.unwrap();

    let ask = |version: &str, include_warning| v1::ResolveRequest {
        service: "photo".into(),
        version: version.into(),
        include_warning,
        ..v1::ResolveRequest::default()
    };
    let ids = |answer: &v1::ResolveResponse| answer.targets.iter().map(|t| t.id.clone()).collect::<Vec<_>>();
    let all = catalog.resolve(ask("", false)).await.unwrap().into_inner();
    assert_eq!((ids(&all), all.registered), (vec!["p1".to_owned()], 2));
    assert_eq!(
        (all.targets[0].weight, all.targets[0].address.as_str()),
        (80, "10.0.0.1")
    );
    let second = catalog.resolve(ask("2", true)).await.unwrap().into_inner();
    assert_eq!((second.targets.len(), second.registered), (0, 1));

    // It reports in, by the ids that its checks were given; the worst of them counts.
    let report = |check: &str, status: v1::Status| v1::UpdateCheckRequest {
        check: check.into(),
        status: status.into(),
        output: "so it says".into(),
        ..v1::UpdateCheckRequest::default()
    };
    health
        .update_check(report("service:p2:1", v1::Status::Passing))
        .await
        .unwrap();
    health
        .update_check(report("service:p2:2", v1::Status::Warning))
        .await
        .unwrap();
    assert!(
        catalog
            .resolve(ask("2", false))
            .await
            .unwrap()
            .into_inner()
            .targets
            .is_empty()
    );
    let warned = catalog.resolve(ask("2", true)).await.unwrap().into_inner();
    assert_eq!(
        (warned.targets[0].weight, warned.targets[0].status()),
        (1, v1::Status::Warning)
    );

    let list = catalog
        .list_services(v1::ListServicesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let photo = list
        .services
        .iter()
        .find(|service| service.name == "photo")
        .unwrap();
    assert_eq!((photo.passing, photo.warning, photo.critical), (1, 1, 0));

    // Silence makes it critical.
    served.registry.local.advance(Ttl::seconds(11));
    let of = Some(Of::Service("photo".into()));
    let request = v1::ListChecksRequest {
        of,
        status: v1::Status::Critical.into(),
        ..v1::ListChecksRequest::default()
    };
    let critical = health.list_checks(request).await.unwrap().into_inner().checks;
    let ids: Vec<_> = critical
        .iter()
        .map(|check| check.definition.as_ref().unwrap().id.as_str())
        .collect();
    assert_eq!(ids, ["service:p2:1", "service:p2:2"]);
}

#[tokio::test]
async fn lists_of_the_catalog_come_in_pages() {
    let served = Served::start().await;
    let (mut catalog, mut health) = (served.catalog(), served.health());
    for id in ["p1", "p2", "p3"] {
        let node_definition = Some(v1::NodeDefinition {
            address: "10.1.0.1".into(),
            ..v1::NodeDefinition::default()
        });
        let request = v1::RegisterRequest {
            node: format!("m-{id}"),
            node_definition,
            checks: vec![ttl_check()],
            ..photo(id, "1", 1)
        };
        catalog.register(request).await.unwrap();
    }
    let nodes = |after: &str| v1::ListNodesRequest {
        limit: 2,
        after: after.into(),
        consistency: 0,
    };
    let page = catalog.list_nodes(nodes("")).await.unwrap().into_inner();
    assert_eq!((page.nodes[1].name.as_str(), page.more), ("m-p2", true));
    let page = catalog.list_nodes(nodes("m-p2")).await.unwrap().into_inner();
    assert_eq!((page.nodes[1].name.as_str(), page.more), ("n1", false));

    let services = v1::ListServicesRequest {
        limit: 1,
        after: "consul".into(),
        consistency: 0,
    };
    let page = catalog.list_services(services).await.unwrap().into_inner();
    assert_eq!(
        (
            page.services[0].name.as_str(),
            page.services[0].critical,
            page.more
        ),
        ("photo", 3, false)
    );

    let after = Some(v1::InstanceKey {
        node: "m-p1".into(),
        id: "p1".into(),
    });
    let request = v1::ServiceInstancesRequest {
        service: "photo".into(),
        limit: 1,
        after,
        ..v1::ServiceInstancesRequest::default()
    };
    let page = catalog.service_instances(request).await.unwrap().into_inner();
    assert_eq!(
        (page.endpoints[0].node.as_ref().unwrap().name.as_str(), page.more),
        ("m-p2", true)
    );

    let after = Some(v1::CheckKey {
        node: "m-p2".into(),
        id: "service:p2".into(),
    });
    let request = v1::ListChecksRequest {
        limit: 1,
        after,
        ..v1::ListChecksRequest::default()
    };
    let page = health.list_checks(request).await.unwrap().into_inner();
    assert_eq!((page.checks[0].node.as_str(), page.more), ("m-p3", true));
}

#[tokio::test]
async fn what_leaves_the_catalog_is_named() {
    let served = Served::start().await;
    let mut catalog = served.catalog();
    let gone = |node: &str, target| v1::DeregisterRequest {
        node: node.into(),
        target,
    };
    catalog
        .register(v1::RegisterRequest {
            checks: vec![ttl_check()],
            ..photo("p1", "1", 1)
        })
        .await
        .unwrap();
    let check = || Some(Target::Check("service:p1".into()));
    assert!(
        catalog
            .deregister(gone("", check()))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    assert!(
        !catalog
            .deregister(gone("n1", check()))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    let instance = || Some(Target::Instance("p1".into()));
    assert!(
        catalog
            .deregister(gone("", instance()))
            .await
            .unwrap()
            .into_inner()
            .found
    );
    // The server's own node doesn't go because a name was left out.
    let whole = Some(Target::WholeNode(v1::WholeNode {}));
    let refused = catalog.deregister(gone("", whole)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
