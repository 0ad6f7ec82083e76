//! Three servers as processes, two of them lost for good: the third goes on as a new cluster, and the lost ones can't come
//! back but as new servers of that.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use spine_client::{Client, Error, LeaseId, Topic, proto::LeaseGrantRequest};
use spine_tests::{
    http,
    server::{self, REFUSED, Server},
    spine_process, wait,
};

/// A start with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// What a command ends with that finds nothing.
const NOT_FOUND: i32 = 3;

/// Longer than the test, so that what is left of it tells when it was renewed.
const LEASE_MS: u64 = 1_800_000;

/// The index of a key, as Consul's API tells it.
fn index(server: &Server, key: &str) -> u64 {
    let answer = http::get(&format!("http://{}/v1/kv/{key}", server.http)).unwrap();
    let index = answer.headers()["X-Consul-Index"].to_str().unwrap();
    index.parse().unwrap()
}

/// `spine recover` on its directory.
fn recover(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(spine_process::binary())
        .args(["recover", "--data-dir"])
        .arg(server.data())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn inspect(server: &Server) -> Value {
    let (exit, said, complained) = recover(server, &["--inspect", "-o", "json"]);
    assert_eq!(exit, Some(0), "{complained}");
    serde_json::from_str(&said).unwrap()
}

fn move_away(server: &Server) {
    fs::rename(server.data(), server.data().with_extension("away")).unwrap();
}

/// Three that serve, the first of them with `count` keys.
fn founded(servers: &mut [Server; 3], list: &str, count: usize) {
    server::found(servers, list);
    for key in 0..count {
        assert!(servers[0].put(&format!("k{key}"), &format!("v{key}")), "k{key}");
    }
}

/// Blocks until whoever waits for `key` past `index` is answered, at most so long; gives the index of the answer.
fn blocking(server: &Server, key: &str, index: u64) -> u64 {
    let url = format!("http://{}/v1/kv/{key}?index={index}&wait=60s", server.http);
    let answer = http::get(&url).unwrap();
    answer.headers()["X-Consul-Index"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn client(server: &Server) -> Client {
    Client::builder(&server.grpc.to_string()).build().unwrap()
}

fn lease() -> LeaseId {
    LeaseId::from_bytes(&[7; 16]).unwrap()
}

async fn grant_lease(server: &Server) {
    let request = LeaseGrantRequest {
        id: lease().into(),
        ttl_ms: LEASE_MS,
        ..LeaseGrantRequest::default()
    };
    client(server).lease.grant_with(request).await.unwrap();
}

/// What a client finds that knew the old cluster up to the index `before`; `began`: when the new one did.
async fn find_it_recovered(server: &Server, before: u64, began: Instant) {
    let client = client(server);
    // A watch from before is told to begin anew.
    let watch = client.watch.topics([Topic::Everything]).after(before).start();
    let told = watch.await.unwrap().next().await;
    assert!(matches!(told, Err(Error::Compacted { .. })), "{told:?}");
    // The lease has its whole time again.
    let found = client.lease.get(lease()).await.unwrap();
    assert!(found.lease.is_some());
    let left = found.remaining_ms.unwrap();
    let since = u64::try_from(began.elapsed().as_millis()).unwrap();
    let whole = left <= LEASE_MS && left + since + 1_000 > LEASE_MS;
    assert!(whole, "{left} after {since}");
}

/// Tries all that is refused of the third, the last of which is left when the other two are lost; gives the cluster's id.
fn be_refused(servers: &mut [Server; 3]) -> String {
    let refused = |server: &Server, arguments: &[&str], why: &str| {
        let (exit, said, complained) = recover(server, arguments);
        assert_eq!(exit, Some(REFUSED), "{complained}");
        assert!(complained.contains(why), "{complained}");
        said
    };
    // While it runs, and while others do, nothing is done.
    refused(&servers[2], &["--inspect"], "in use by another process");
    servers[2].kill();
    let survivor = inspect(&servers[2]);
    assert_eq!(survivor["server"], "n3");
    assert_eq!(survivor["members"].as_array().unwrap().len(), 3);
    let cluster = survivor["cluster"].as_str().unwrap().to_owned();
    let accept = ["--accept-loss", &cluster];
    refused(&servers[2], &accept, "of the same cluster runs and answers");
    servers[0].kill();
    servers[1].kill();
    // Nor by reflex.
    let said = refused(&servers[2], &[], &format!("--accept-loss {cluster}"));
    assert!(said.contains("not compared: n1, n2"), "{said}");
    let other = ["--accept-loss", "00000000-0000-4000-8000-000000000000"];
    refused(&servers[2], &other, "nothing was changed");
    assert_eq!(inspect(&servers[2])["cluster"], *cluster);
    cluster
}

/// The lost servers come back to the cluster `cluster` that was given up, and then to the one that goes on.
fn come_back(servers: &mut [Server; 3], list: &str, cluster: &str) {
    let refused = |server: &mut Server| {
        server.found(list);
        let last = server.refused();
        assert!(last.contains("spine join"), "{last}");
        last
    };
    // With their disks they are refused,
    let last = refused(&mut servers[0]);
    assert!(last.contains(cluster), "{last}");
    // without them as well, if they would found,
    move_away(&servers[0]);
    refused(&mut servers[0]);
    // and are servers of it when they join.
    move_away(&servers[1]);
    let seed = servers[2].peer;
    for server in &mut servers[..2] {
        server.join(seed, &[]);
        server.await_ready();
        wait::until_true("it votes", READY_WITHIN, || {
            server.said().contains("this server votes now")
        });
    }
}

#[test]
fn the_last_of_three_goes_on_with_all_that_it_had() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["n1", "n2", "n3"]);
    founded(&mut servers, &list, 40);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(grant_lease(&servers[2]));
    // What was acknowledged is on a majority; wait until it is on the third as well.
    wait::until_true("the third has the last write", READY_WITHIN, || {
        let url = format!("http://{}/v1/kv/k39?raw&stale", servers[2].http);
        http::get(&url).is_some_and(|answer| answer.text().is_ok_and(|text| text == "v39"))
    });
    let before = index(&servers[2], "k39");
    let cluster = be_refused(&mut servers);
    let (exit, said, complained) = recover(&servers[2], &["--accept-loss", &cluster, "-o", "json"]);
    assert_eq!(exit, Some(0), "{complained}");
    let done: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(done["from_cluster"], *cluster);
    assert_ne!(done["cluster"], *cluster);

    // It starts with the flags that it had.
    let began = Instant::now();
    servers[2].found(&list);
    servers[2].await_ready();
    for key in 0..40 {
        assert_eq!(servers[2].get(&format!("k{key}")), Some(format!("v{key}")));
    }
    assert!(index(&servers[2], "k39") > before);
    // Who waits for what comes next, or for what only the lost ones told, is answered at once.
    assert!(blocking(&servers[2], "k1", before) > before);
    assert!(blocking(&servers[2], "k1", before + 1_000) > before + 1_000);
    assert!(servers[2].put("after", "it"));
    runtime.block_on(find_it_recovered(&servers[2], before, began));

    come_back(&mut servers, &list, &cluster);
    servers[2].kill();
    wait::until_true("the other two write", READY_WITHIN, || {
        servers[0].put("on", "and on")
    });
    assert_eq!(servers[1].get("k7"), Some("v7".to_owned()));
}

#[test]
fn servers_of_the_old_cluster_that_run_end_when_they_meet_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["n1", "n2", "n3"]);
    founded(&mut servers, &list, 3);
    for server in &mut servers {
        server.kill();
    }
    let cluster = inspect(&servers[0])["cluster"].as_str().unwrap().to_owned();
    let (exit, _, complained) = recover(&servers[0], &["--accept-loss", &cluster]);
    assert_eq!(exit, Some(0), "{complained}");
    // The two others find each other first, and serve: the old cluster has a quorum.
    for server in &mut servers[1..] {
        server.found(&list);
    }
    for server in &mut servers[1..] {
        server.await_ready();
    }
    servers[0].found(&list);
    servers[0].await_ready();
    for server in &mut servers[1..] {
        let last = server.refused();
        assert!(last.contains("was given up and goes on as"), "{last}");
    }
    assert!(servers[0].put("one", "cluster"));
}

#[test]
fn the_one_that_has_less_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["n1", "n2", "n3"]);
    founded(&mut servers, &list, 3);
    servers[0].kill();
    for key in 0..10 {
        wait::until_true("a write without the first", READY_WITHIN, || {
            servers[1].put(&format!("late{key}"), "x")
        });
    }
    wait::until_true("the third has it", READY_WITHIN, || {
        servers[2].get("late9").is_some()
    });
    servers[1].kill();
    servers[2].kill();
    let third = servers[2].data().display().to_string();
    let (exit, _, complained) = recover(&servers[0], &["--compare", &third]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(
        complained.contains("n3 has more") && complained.contains("recover n3"),
        "{complained}"
    );
    // The same by what was printed of it elsewhere.
    let file = place.path().join("n3.json");
    fs::write(&file, serde_json::to_vec(&inspect(&servers[2])).unwrap()).unwrap();
    let file = file.display().to_string();
    let (exit, _, complained) = recover(&servers[0], &["--compare", &file]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(complained.contains("n3 has more"), "{complained}");
    let (_, said, _) = recover(&servers[0], &[]);
    assert!(said.contains("not compared: n2, n3"), "{said}");

    // Damage and emptiness are no survivors.
    fs::remove_dir_all(servers[1].data().join("log")).unwrap();
    let (exit, _, complained) = recover(&servers[1], &["--inspect"]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(complained.contains("its log is gone"), "{complained}");
    fs::remove_dir_all(servers[1].data()).unwrap();
    fs::create_dir(servers[1].data()).unwrap();
    let (exit, _, complained) = recover(&servers[1], &["--inspect"]);
    assert_eq!(exit, Some(NOT_FOUND), "{complained}");
    fs::remove_dir_all(servers[1].data()).unwrap();
    let (exit, _, _) = recover(&servers[1], &["--inspect"]);
    assert_eq!(exit, Some(NOT_FOUND));
}

#[test]
fn a_server_takes_the_place_of_another_under_its_own_name() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["n1", "n2", "n3"]);
    founded(&mut servers, &list, 3);
    servers[1].kill();
    let mut fourth = Server::new(place.path(), "n4");
    let seed = servers[0].peer;
    fourth.join(seed, &["--replace", "n2"]);
    fourth.await_ready();
    let names = |server: &Server| {
        let output = Command::new(spine_process::binary())
            .args(["members", "-o", "json", "--addr", &server.grpc.to_string()])
            .output()
            .unwrap();
        let members: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let names = members
            .iter()
            .map(|member| member["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    wait::until_true("it is in the place of the other", READY_WITHIN, || {
        names(&servers[0]) == ["n1", "n3", "n4"]
    });
    // One that runs goes as well.
    let mut fifth = Server::new(place.path(), "n5");
    fifth.join(seed, &["--replace", "n3"]);
    fifth.await_ready();
    wait::until_true("it is in the place of the other", READY_WITHIN, || {
        names(&servers[0]) == ["n1", "n4", "n5"]
    });
    let last = servers[2].refused();
    assert!(last.contains("was removed"), "{last}");
    assert!(fifth.put("still", "here"));
}
