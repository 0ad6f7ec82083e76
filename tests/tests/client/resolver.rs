//! Resolvers: what they choose among, and how that follows what happens.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spine_api::local::Local;
use spine_client::proto::{NodeDefinition, RegisterRequest, Status};
use spine_client::resolver::{NoTarget, Report, Resolver, Targets};
use spine_client::{Client, Registration};
use spine_tests::local_api::{LocalApi, local};

const PATIENCE: Duration = Duration::from_secs(30);

/// A clock that goes when it is told to.
#[derive(Clone)]
struct Clock(Arc<Mutex<Instant>>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

async fn served() -> (Arc<Local>, LocalApi, Client) {
    let registry = local("").await;
    let api = LocalApi::serve(registry.clone());
    let client = Client::connect(&api.address().to_string()).unwrap();
    (registry, api, client)
}

fn photo(port: u16) -> Registration {
    Registration::new("photo", "10.0.0.7", port).id(&format!("photo-{port}"))
}

/// Waits until the resolver's targets are those at these ports.
async fn until_ports(resolver: &Resolver, ports: &[u32]) {
    let are = |targets: &Targets| targets.iter().map(|target| target.port).eq(ports.iter().copied());
    let mut changes = resolver.changes();
    let reached = tokio::time::timeout(PATIENCE, changes.wait_for(are)).await;
    let targets = resolver.targets();
    reached
        .unwrap_or_else(|_| panic!("not {ports:?} but {targets:?}"))
        .unwrap();
}

#[tokio::test]
async fn the_cache_follows_registrations_checks_and_nodes() {
    let (_registry, _api, client) = served().await;
    let resolver = client.resolver("photo").start().await.unwrap();
    assert_eq!(
        resolver.pick().unwrap_err(),
        NoTarget::NotFound {
            service: "photo".into()
        }
    );

    // On a node that it has not seen before, too.
    client
        .catalog
        .register(photo(80).ttl_check(PATIENCE))
        .await
        .unwrap();
    let elsewhere = RegisterRequest {
        node_definition: Some(NodeDefinition {
            address: "10.0.0.9".into(),
            ..NodeDefinition::default()
        }),
        ..RegisterRequest::from(photo(81).node("elsewhere"))
    };
    client.catalog.register(elsewhere).await.unwrap();
    until_ports(&resolver, &[81]).await;
    assert_eq!(resolver.registered(), 2, "a TTL check is critical at first");

    client
        .health
        .report("service:photo-80", Status::Passing, "")
        .await
        .unwrap();
    until_ports(&resolver, &[81, 80]).await;
    let picked = resolver.pick().unwrap();
    assert!(picked.address().starts_with("10.0.0.7:8"), "{}", picked.address());

    client
        .health
        .report("service:photo-80", Status::Critical, "")
        .await
        .unwrap();
    until_ports(&resolver, &[81]).await;
    client
        .catalog
        .deregister(Some("elsewhere"), "photo-81")
        .await
        .unwrap();
    until_ports(&resolver, &[]).await;
    assert_eq!(
        resolver.pick().unwrap_err(),
        NoTarget::NonePasses {
            service: "photo".into(),
            registered: 1
        }
    );
}

#[tokio::test]
async fn only_a_version_and_by_weight() {
    let (_registry, _api, client) = served().await;
    for (port, version, weight) in [(80, "1", 80), (81, "1", 20), (82, "2", 1)] {
        let registration = photo(port).version(version).weight(weight);
        client.catalog.register(registration).await.unwrap();
    }
    let second = client.resolver("photo").version("2").start().await.unwrap();
    assert_eq!(
        (second.pick().unwrap().target().port, second.registered()),
        (82, 1)
    );

    let first = client.resolver("photo").version("1").start().await.unwrap();
    let heavy = (0..2_000).filter(|_| first.pick().unwrap().target().port == 80);
    let heavy = heavy.count();
    assert!(
        (1_450..1_750).contains(&heavy),
        "80 of 100 would be 1,600 of 2,000, and {heavy} are"
    );
}

#[tokio::test]
async fn a_registry_that_began_anew_is_read_anew() {
    let (_registry, api, client) = served().await;
    let at = api.address();
    for number in 0..100 {
        client.kv.put("count", number.to_string()).await.unwrap();
    }
    client.catalog.register(photo(80)).await.unwrap();
    let resolver = client.resolver("photo").start().await.unwrap();
    until_ports(&resolver, &[80]).await;

    // In its place comes one that knows nothing of all that, and has not come so far yet.
    drop(api);
    let registry = local("").await;
    let api = LocalApi::serve_at(registry, at);
    let other = Client::connect(&api.address().to_string()).unwrap();
    other.catalog.register(photo(81)).await.unwrap();
    until_ports(&resolver, &[81]).await;
}

#[tokio::test]
async fn while_the_registry_is_away_what_was_known_is_served_and_says_its_age() {
    let (registry, api, client) = served().await;
    let at = api.address();
    client.catalog.register(photo(80)).await.unwrap();
    let clock = Clock::new();
    let resolver = client.resolver("photo").clock({
        let clock = clock.clone();
        move || clock.now()
    });
    let resolver = resolver.start().await.unwrap();
    drop(api);
    clock.advance(Duration::from_mins(10));
    assert_eq!(resolver.pick().unwrap().target().port, 80);
    assert_eq!(resolver.age(), Duration::from_mins(10));

    // It comes back, and what changed meanwhile arrives.
    let back = LocalApi::serve_at(registry.clone(), at);
    let other = Client::connect(&back.address().to_string()).unwrap();
    other.catalog.register(photo(81)).await.unwrap();
    until_ports(&resolver, &[80, 81]).await;
    assert_eq!(resolver.age(), Duration::ZERO);
}

#[tokio::test]
async fn an_instance_that_fails_is_left_alone_until_a_probe_succeeds() {
    let (_registry, _api, client) = served().await;
    client.catalog.register(photo(80).weight(60_000)).await.unwrap();
    client.catalog.register(photo(81)).await.unwrap();
    let clock = Clock::new();
    let resolver = client.resolver("photo").clock({
        let clock = clock.clone();
        move || clock.now()
    });
    let resolver = resolver.start().await.unwrap();
    let mut failures = 0;
    while failures < 3 {
        let pick = resolver.pick().unwrap();
        if pick.target().port == 80 {
            failures += 1;
            pick.report(Report::Failure);
        }
    }
    let ports = || resolver.pick().unwrap().target().port;
    assert!((0..50).all(|_| ports() == 81));

    // A change of the service does not make it whole.
    client.catalog.register(photo(82).weight(0)).await.unwrap();
    until_ports(&resolver, &[80, 81, 82]).await;
    assert!((0..50).all(|_| ports() == 81));

    clock.advance(Duration::from_secs(30));
    let probe = resolver.pick().unwrap();
    assert_eq!(probe.target().port, 80);
    assert!(
        (0..50).all(|_| ports() == 81),
        "one request at a time goes to see"
    );
    probe.report(Report::Success);
    assert!((0..50).any(|_| ports() == 80));
}

#[tokio::test]
async fn where_every_circuit_is_open_it_is_said_for_how_long() {
    let (_registry, _api, client) = served().await;
    client.catalog.register(photo(80)).await.unwrap();
    let clock = Clock::new();
    let resolver = client.resolver("photo").clock({
        let clock = clock.clone();
        move || clock.now()
    });
    let resolver = resolver.start().await.unwrap();
    for _ in 0..3 {
        resolver.pick().unwrap().report(Report::Failure);
    }
    clock.advance(Duration::from_secs(10));
    assert_eq!(
        resolver.pick().unwrap_err(),
        NoTarget::CircuitOpen {
            service: "photo".into(),
            retry_in: Duration::from_secs(20)
        }
    );
}
