//! Three servers as processes, two of them lost for good: the third goes on as a new cluster, and the lost ones can't come
//! back but as new servers of that.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use spine_client::{Client, Error, LeaseId, Topic, proto::LeaseGrantRequest};
use spine_tests::{http, spine_process, wait};

/// A start with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// What a command or a server ends with that is refused.
const REFUSED: i32 = 4;
/// What a command ends with that finds nothing.
const NOT_FOUND: i32 = 3;

/// Longer than the test, so that what is left of it tells when it was renewed.
const LEASE_MS: u64 = 1_800_000;

/// A server, running or not.
struct Server {
    name: &'static str,
    place: PathBuf,
    http: SocketAddr,
    grpc: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

impl Server {
    fn new(place: &Path, name: &'static str) -> Self {
        let place = place.join(name);
        fs::create_dir_all(&place).unwrap();
        Self {
            name,
            place,
            http: spine_process::free_address(),
            grpc: spine_process::free_address(),
            peer: spine_process::free_address(),
            child: None,
        }
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    fn start(&mut self, arguments: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.join("log"));
        let log = log.unwrap();
        let child = Command::new(spine_process::binary())
            .args(arguments)
            .args(["--governance", "open", "--name", self.name])
            .args(["--http-addr", &self.http.to_string()])
            .args(["--grpc-addr", &self.grpc.to_string()])
            .args(["--peer-addr", &self.peer.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn await_ready(&mut self) {
        let url = format!("http://{}/readyz", self.http);
        let what = format!("{} is ready", self.name);
        wait::until_true(&what, READY_WITHIN, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("{} ended with {status}:\n{}", self.name, self.said());
            }
            http::is_ok(&url)
        });
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until it has ended by itself; gives its exit code and the last thing it said.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let status = wait::until("the server ends", READY_WITHIN, || child.try_wait().unwrap());
        let last = self.said().lines().last().unwrap_or_default().to_owned();
        (status.code(), last)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap_or_default()
    }

    fn put(&self, key: &str, value: &str) -> bool {
        let url = format!("http://{}/v1/kv/{key}", self.http);
        http::put(&url, value).is_some_and(|answer| answer.status().is_success())
    }

    fn get(&self, key: &str) -> Option<String> {
        let answer = http::get(&format!("http://{}/v1/kv/{key}?raw", self.http))?;
        answer.status().is_success().then(|| answer.text().ok())?
    }

    /// The index of a key, as Consul's API tells it.
    fn index(&self, key: &str) -> u64 {
        let answer = http::get(&format!("http://{}/v1/kv/{key}", self.http)).unwrap();
        let index = answer.headers()["X-Consul-Index"].to_str().unwrap();
        index.parse().unwrap()
    }

    /// `spine recover` on its directory.
    fn recover(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(spine_process::binary())
            .args(["recover", "--data-dir"])
            .arg(self.data())
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn inspect(&self) -> Value {
        let (exit, said, complained) = self.recover(&["--inspect", "-o", "json"]);
        assert_eq!(exit, Some(0), "{complained}");
        serde_json::from_str(&said).unwrap()
    }

    fn move_away(&self) {
        fs::rename(self.data(), self.place.join("away")).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = format!("---- {} ----\n{}\n", self.name, self.said());
            let _ = std::io::copy(&mut text.as_bytes(), &mut std::io::stderr());
        }
    }
}

fn three(place: &Path) -> ([Server; 3], String) {
    let servers = ["n1", "n2", "n3"].map(|name| Server::new(place, name));
    let list = servers
        .each_ref()
        .map(|server| format!("{}={}", server.name, server.peer));
    let list = list.join(",");
    (servers, list)
}

/// Three that serve, the first of them with `count` keys; gives the flags that they were started with.
fn founded(servers: &mut [Server; 3], list: &str, count: usize) {
    for server in servers.iter_mut() {
        server.start(&["serve", "--initial-cluster", list]);
    }
    for server in servers.iter_mut() {
        server.await_ready();
    }
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
        let (exit, said, complained) = server.recover(arguments);
        assert_eq!(exit, Some(REFUSED), "{complained}");
        assert!(complained.contains(why), "{complained}");
        said
    };
    // While it runs, and while others do, nothing is done.
    refused(&servers[2], &["--inspect"], "in use by another process");
    servers[2].kill();
    let survivor = servers[2].inspect();
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
    assert_eq!(servers[2].inspect()["cluster"], *cluster);
    cluster
}

/// The lost servers come back to the cluster `cluster` that was given up, and then to the one that goes on.
fn come_back(servers: &mut [Server; 3], list: &str, cluster: &str) {
    let refused = |server: &mut Server| {
        server.start(&["serve", "--initial-cluster", list]);
        let (exit, last) = server.ended();
        assert_eq!(exit, Some(REFUSED), "{last}");
        assert!(last.contains("spine join"), "{last}");
        last
    };
    // With their disks they are refused,
    let last = refused(&mut servers[0]);
    assert!(last.contains(cluster), "{last}");
    // without them as well, if they would found,
    servers[0].move_away();
    refused(&mut servers[0]);
    // and are servers of it when they join.
    servers[1].move_away();
    let seed = servers[2].peer.to_string();
    for server in &mut servers[..2] {
        server.start(&["join", &seed]);
        server.await_ready();
        wait::until_true("it votes", READY_WITHIN, || {
            server.said().contains("this server votes now")
        });
    }
}

#[test]
fn the_last_of_three_goes_on_with_all_that_it_had() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = three(place.path());
    founded(&mut servers, &list, 40);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(grant_lease(&servers[2]));
    // What was acknowledged is on a majority; wait until it is on the third as well.
    wait::until_true("the third has the last write", READY_WITHIN, || {
        let url = format!("http://{}/v1/kv/k39?raw&stale", servers[2].http);
        http::get(&url).is_some_and(|answer| answer.text().is_ok_and(|text| text == "v39"))
    });
    let before = servers[2].index("k39");
    let cluster = be_refused(&mut servers);
    let (exit, said, complained) = servers[2].recover(&["--accept-loss", &cluster, "-o", "json"]);
    assert_eq!(exit, Some(0), "{complained}");
    let done: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(done["from_cluster"], *cluster);
    assert_ne!(done["cluster"], *cluster);

    // It starts with the flags that it had.
    let began = Instant::now();
    servers[2].start(&["serve", "--initial-cluster", &list]);
    servers[2].await_ready();
    for key in 0..40 {
        assert_eq!(servers[2].get(&format!("k{key}")), Some(format!("v{key}")));
    }
    assert!(servers[2].index("k39") > before);
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
    let (mut servers, list) = three(place.path());
    founded(&mut servers, &list, 3);
    for server in &mut servers {
        server.kill();
    }
    let cluster = servers[0].inspect()["cluster"].as_str().unwrap().to_owned();
    let (exit, _, complained) = servers[0].recover(&["--accept-loss", &cluster]);
    assert_eq!(exit, Some(0), "{complained}");
    // The two others find each other first, and serve: the old cluster has a quorum.
    for server in &mut servers[1..] {
        server.start(&["serve", "--initial-cluster", &list]);
    }
    for server in &mut servers[1..] {
        server.await_ready();
    }
    servers[0].start(&["serve", "--initial-cluster", &list]);
    servers[0].await_ready();
    for server in &mut servers[1..] {
        let (exit, last) = server.ended();
        assert_eq!(exit, Some(REFUSED), "{last}");
        assert!(last.contains("was given up and goes on as"), "{last}");
    }
    assert!(servers[0].put("one", "cluster"));
}

#[test]
fn the_one_that_has_less_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = three(place.path());
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
    let (exit, _, complained) = servers[0].recover(&["--compare", &third]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(
        complained.contains("n3 has more") && complained.contains("recover n3"),
        "{complained}"
    );
    // The same by what was printed of it elsewhere.
    let file = place.path().join("n3.json");
    fs::write(&file, serde_json::to_vec(&servers[2].inspect()).unwrap()).unwrap();
    let file = file.display().to_string();
    let (exit, _, complained) = servers[0].recover(&["--compare", &file]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(complained.contains("n3 has more"), "{complained}");
    let (_, said, _) = servers[0].recover(&[]);
    assert!(said.contains("not compared: n2, n3"), "{said}");

    // Damage and emptiness are no survivors.
    fs::remove_dir_all(servers[1].data().join("log")).unwrap();
    let (exit, _, complained) = servers[1].recover(&["--inspect"]);
    assert_eq!(exit, Some(REFUSED), "{complained}");
    assert!(complained.contains("its log is gone"), "{complained}");
    fs::remove_dir_all(servers[1].data()).unwrap();
    fs::create_dir(servers[1].data()).unwrap();
    let (exit, _, complained) = servers[1].recover(&["--inspect"]);
    assert_eq!(exit, Some(NOT_FOUND), "{complained}");
    fs::remove_dir_all(servers[1].data()).unwrap();
    let (exit, _, _) = servers[1].recover(&["--inspect"]);
    assert_eq!(exit, Some(NOT_FOUND));
}

#[test]
fn a_server_takes_the_place_of_another_under_its_own_name() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = three(place.path());
    founded(&mut servers, &list, 3);
    servers[1].kill();
    let mut fourth = Server::new(place.path(), "n4");
    let seed = servers[0].peer.to_string();
    fourth.start(&["join", &seed, "--replace", "n2"]);
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
    fifth.start(&["join", &seed, "--replace", "n3"]);
    fifth.await_ready();
    wait::until_true("it is in the place of the other", READY_WITHIN, || {
        names(&servers[0]) == ["n1", "n4", "n5"]
    });
    let (exit, last) = servers[2].ended();
    assert_eq!(exit, Some(REFUSED), "{last}");
    assert!(last.contains("was removed"), "{last}");
    assert!(fifth.put("still", "here"));
}
