//! Upgrades: a cluster of the newest earlier release is rolled to this one under load, half of it back and forth, and what
//! an earlier release wrote is opened by this one.
//!
//! `tests/upgrade/releases.toml` names the releases. Run by `cargo x upgrade`, which builds them from the history.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use spine_client::Client;
use spine_core::{RULES_KNOWN, snapshot::Header};
use spine_tests::{
    cluster::{Cluster, SERVERS},
    http, release,
    spine_process::{self, free_address},
    wait,
    writers::{Load, Spread},
};
use tokio::runtime::Runtime;

/// Writes between two steps.
const BETWEEN: u64 = 300;
const PATIENCE: Duration = Duration::from_mins(2);
/// How long all must have run this release before the rules are raised, here.
const HOLD: &str = "3s";

/// Which release a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Runs {
    Old,
    New,
}

/// Three servers, some of the old release and some of this one, under load.
struct Rolling {
    cluster: Cluster,
    old: PathBuf,
    runs: [Runs; SERVERS],
    load: Load,
    rolled: Vec<(Instant, Instant)>,
    /// Which release has led while both were there.
    led: BTreeSet<Runs>,
}

impl Rolling {
    /// All run the old release.
    fn start(place: &Path, old: PathBuf) -> Self {
        let data = ["n1", "n2", "n3"].map(|name| place.join(name));
        let mut cluster = Cluster::new(data, place);
        (0..SERVERS).for_each(|at| cluster.is_to_run(at, &old, &[]));
        cluster.start_all();
        let load = Load::start(&cluster);
        load.await_more(BETWEEN);
        Self {
            cluster,
            old,
            runs: [Runs::Old; SERVERS],
            load,
            rolled: Vec::new(),
            led: BTreeSet::new(),
        }
    }

    /// Stops a server in order and starts it with this release, while the others serve.
    fn roll(&mut self, at: usize, to: Runs) {
        let began = Instant::now();
        self.cluster.ask_to_stop(at);
        let status = self.cluster.await_stopped(at);
        assert!(status.success(), "{status}:\n{}", self.cluster.said(at));
        match to {
            Runs::Old => self.cluster.is_to_run(at, &self.old, &[]),
            Runs::New => {
                let options = ["--rules-hold", HOLD];
                self.cluster.is_to_run(at, spine_process::binary(), &options);
            }
        }
        self.runs[at] = to;
        self.cluster.spawn(at);
        self.cluster.await_ready(at);
        self.load.await_more(BETWEEN);
        self.rolled.push((began, Instant::now()));
        if self.is_mixed() {
            self.led.insert(self.leader_runs());
            self.must_refuse_what_is_new();
        }
    }

    fn is_mixed(&self) -> bool {
        self.runs.contains(&Runs::Old) && self.runs.contains(&Runs::New)
    }

    fn leader_runs(&self) -> Runs {
        self.runs[self.cluster.leader()]
    }

    /// Lets the leader go until one of this release leads.
    fn must_be_led_by(&mut self, wanted: Runs) {
        wait::until_true("a server of either release leads", PATIENCE, || {
            let leader = self.cluster.leader();
            if self.runs[leader] == wanted {
                return true;
            }
            self.cluster.ask_to_stop(leader);
            self.cluster.await_stopped(leader);
            self.cluster.spawn(leader);
            self.cluster.await_ready(leader);
            false
        });
        self.load.await_more(BETWEEN);
        self.led.insert(wanted);
    }

    /// While servers of both releases are there, what came with this one is refused, with a word to the reason; and what was there
    /// before works.
    fn must_refuse_what_is_new(&self) {
        for at in 0..SERVERS {
            let (status, said) = txn(self.cluster.http(at), &register("mixed", 1));
            assert_eq!(status, 501, "n{}: {said}", at + 1);
            if self.runs[at] == Runs::New {
                let old = self.runs.iter().position(|runs| *runs == Runs::Old).unwrap();
                let who = format!("n{} runs ", old + 1);
                assert!(
                    said.contains("needs rules 2; the cluster is at 1") && said.contains(&who),
                    "n{}: {said}",
                    at + 1
                );
                assert_eq!(metric(self.cluster.http(at), "spine_rules"), Some(1));
            }
            let (status, said) = txn(self.cluster.http(at), &key_alone("mixed"));
            assert_eq!(status, 200, "n{}: {said}", at + 1);
        }
    }
}

#[test]
fn three_servers_are_upgraded_under_load_and_half_of_them_back_and_forth() {
    let release = release::all().pop().expect("there is one");
    let old = release.binary();
    let place = tempfile::tempdir().unwrap();
    println!("from {} ({}, {})", release.version, release.what, release.commit);
    let mut rolling = Rolling::start(place.path(), old.clone());

    // One is new; the leader is an old one, then it.
    rolling.roll(0, Runs::New);
    rolling.must_be_led_by(Runs::Old);
    rolling.must_be_led_by(Runs::New);
    // Two are; both go back, and come again.
    rolling.roll(1, Runs::New);
    rolling.roll(0, Runs::Old);
    rolling.roll(1, Runs::Old);
    rolling.roll(0, Runs::New);
    rolling.roll(1, Runs::New);
    rolling.must_be_led_by(Runs::Old);
    rolling.must_be_led_by(Runs::New);
    // The last one.
    rolling.roll(2, Runs::New);
    let Rolling {
        mut cluster,
        load,
        rolled,
        led,
        ..
    } = rolling;
    assert_eq!(
        led,
        BTreeSet::from([Runs::Old, Runs::New]),
        "both have led while both were there"
    );

    // All know the new rules: after a while they are in force, and there is no way back.
    let all_new = Instant::now();
    for at in 0..SERVERS {
        wait::until_true("the rules are raised", PATIENCE, || {
            metric(cluster.http(at), "spine_rules") == Some(RULES_KNOWN.into())
        });
    }
    println!(
        "rules raised {:?} after the last server, with a hold of {HOLD}",
        all_new.elapsed()
    );
    for at in 0..SERVERS {
        let name = format!("new-{at}");
        let (status, said) = txn(cluster.http(at), &register(&name, 0));
        assert_eq!(status, 200, "n{}: {said}", at + 1);
    }
    load.await_more(BETWEEN);
    let written = load.end();
    an_older_release_does_not_come_back(&mut cluster, 2, &old);

    println!("{written}");
    let gaps = rolled.iter().map(|(from, to)| written.gap(*from, *to)).collect();
    println!("write gap of a rolled server, s: {}", Spread(gaps));
    written.must_be_there(&cluster);
    let digests: BTreeSet<_> = (0..SERVERS).map(|at| digest(&cluster, at)).collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
    for at in 0..SERVERS {
        assert_eq!(metric(cluster.http(at), "spine_digest_mismatches_total"), Some(0));
        let said = cluster.said(at);
        assert!(!said.contains("panicked"), "n{}:\n{said}", at + 1);
        for name in ["new-0", "new-1", "new-2"] {
            let url = format!("http://{}/v1/health/service/{name}?passing", cluster.http(at));
            let found = http::get_json(&url).unwrap();
            assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        }
    }
}

/// Once the rules are raised, a server that is started with the older release gets no part in the cluster, and says why.
fn an_older_release_does_not_come_back(cluster: &mut Cluster, at: usize, old: &Path) {
    cluster.ask_to_stop(at);
    assert!(cluster.await_stopped(at).success());
    cluster.is_to_run(at, old, &[]);
    let before = cluster.said(at).len();
    cluster.spawn(at);
    wait::until_true("the older release is refused", PATIENCE, || {
        let said = cluster.said(at)[before..].to_owned();
        said.contains("the cluster is at rules 2") || said.contains("newer than format")
    });
    let ready = format!("http://{}/readyz", cluster.http(at));
    assert!(!http::is_ok(&ready), "it must not serve");
    cluster.kill(at);
    cluster.is_to_run(at, spine_process::binary(), &["--rules-hold", HOLD]);
    cluster.spawn(at);
    cluster.await_ready(at);
}

#[test]
fn what_a_single_server_of_each_release_wrote_is_read() {
    for release in release::all() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let before = Server::start(&release.binary(), &data, &[]);
        fill(before.http);
        let index = metric(before.http, "spine_index").unwrap();
        before.stop();

        let after = Server::start(spine_process::binary(), &data, &["--rules-hold", "1s"]);
        assert!(metric(after.http, "spine_index").unwrap() >= index);
        must_have_all(after.http);
        wait::until_true("the rules are raised", PATIENCE, || {
            metric(after.http, "spine_rules") == Some(RULES_KNOWN.into())
        });
        let (status, said) = txn(after.http, &register("new", 0));
        assert_eq!(status, 200, "{said}");
        after.stop();
        println!(
            "what a server of {} ({}) wrote is read",
            release.version, release.what
        );
    }
}

#[test]
fn what_an_earlier_release_saved_is_restored() {
    let release = release::all().pop().unwrap();
    let (binary, place) = (release.binary(), tempfile::tempdir().unwrap());
    let at = |name: &str| place.path().join(name);
    let before = Server::start(&binary, &at("before"), &[]);
    fill(before.http);
    let addr = before.grpc.to_string();
    run(
        &binary,
        &["snapshot", "save", at("saved").to_str().unwrap(), "--addr", &addr],
    );
    let index = modify_index(before.http, "key/0");
    // What was written after it is not in it, and its number is never given again.
    assert!(put(before.http, "late", "x"));
    let late = modify_index(before.http, "late");
    before.stop();

    let (saved, data) = (at("saved"), at("after"));
    let (saved, restored) = (saved.to_str().unwrap(), data.to_str().unwrap());
    run(
        spine_process::binary(),
        &["snapshot", "restore", saved, "--data-dir", restored],
    );
    let after = Server::start(spine_process::binary(), &data, &[]);
    must_have_all(after.http);
    assert!(
        http::get(&format!("http://{}/v1/kv/late", after.http))
            .unwrap()
            .status()
            == 404
    );
    assert_eq!(modify_index(after.http, "key/0"), index);
    assert!(put(after.http, "key/0", "changed"));
    assert!(modify_index(after.http, "key/0") > late, "the index goes on");
    after.stop();
}

fn run(binary: &Path, arguments: &[&str]) {
    let output = Command::new(binary).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Writes what [`must_have_all`] looks for.
fn fill(server: SocketAddr) {
    for number in 0..500 {
        assert!(put(server, &format!("key/{number}"), &format!("value {number}")));
    }
    let service = r#"{"Name":"kiosk","ID":"k1","Port":80,"Check":{"TTL":"1h","Status":"passing"}}"#;
    let url = format!("http://{server}/v1/agent/service/register");
    assert!(http::put(&url, service).unwrap().status().is_success());
}

fn must_have_all(server: SocketAddr) {
    let keys = http::get_json(&format!("http://{server}/v1/kv/key/?recurse")).unwrap();
    assert_eq!(keys.as_array().map(Vec::len), Some(500));
    let url = format!("http://{server}/v1/health/service/kiosk?passing");
    assert_eq!(http::get_json(&url).unwrap().as_array().map(Vec::len), Some(1));
}

fn put(server: SocketAddr, key: &str, value: &str) -> bool {
    let url = format!("http://{server}/v1/kv/{key}");
    http::put(&url, value).is_some_and(|answer| answer.status().is_success())
}

/// The index at which a key was changed last.
fn modify_index(server: SocketAddr, key: &str) -> u64 {
    let rows = http::get_json(&format!("http://{server}/v1/kv/{key}")).unwrap();
    rows[0]["ModifyIndex"].as_u64().unwrap()
}

/// One server that is a cluster of its own.
struct Server {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
    log: PathBuf,
}

impl Server {
    fn start(binary: &Path, data: &Path, options: &[&str]) -> Self {
        let [http, grpc] = [free_address(), free_address()];
        let log = data.with_extension("log");
        let output = fs::File::create(&log).unwrap();
        let child = Command::new(binary)
            .args(["serve", "--governance", "open", "--name", "n1"])
            .args(["--http-addr", &http.to_string()])
            .args(["--grpc-addr", &grpc.to_string()])
            .arg("--data-dir")
            .arg(data)
            .args(options)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            http,
            grpc,
            log,
        };
        wait::until_true("the server is ready", PATIENCE, || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}:\n{}", server.said());
            http::is_ok(&format!("http://{http}/readyz"))
        });
        server
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let ended = wait::until("the server ends", PATIENCE, || self.child.try_wait().unwrap());
        assert!(ended.success(), "{ended}:\n{}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A transaction that came with rules 2: a node, a service on it and a key.
fn register(name: &str, index: u64) -> String {
    serde_json::json!([
        {"Node": {"Verb": "set", "Node": {"Node": "outside", "Address": "10.0.0.1"}}},
        {"Service": {"Verb": "cas", "Node": "outside",
            "Service": {"ID": name, "Service": name, "Port": 80, "ModifyIndex": index}}},
        {"KV": {"Verb": "set", "Key": name, "Value": "MQ=="}},
    ])
    .to_string()
}

/// One that was there before.
fn key_alone(name: &str) -> String {
    serde_json::json!([{"KV": {"Verb": "set", "Key": name, "Value": "MQ=="}}]).to_string()
}

fn txn(server: SocketAddr, body: &str) -> (u16, String) {
    let answer = http::put(&format!("http://{server}/v1/txn"), body).expect("a server that is ready answers");
    (answer.status().as_u16(), answer.text().unwrap())
}

fn metric(server: SocketAddr, name: &str) -> Option<u64> {
    let page = http::get(&format!("http://{server}/metrics"))?.text().ok()?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

/// What a server's own state comes to.
fn digest(cluster: &Cluster, at: usize) -> (u64, u128) {
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let client = Client::connect(&cluster.grpc(at).to_string()).unwrap();
    let header = runtime.block_on(async {
        let snapshot = client.admin.save_snapshot().await.unwrap();
        Header::decode(&snapshot.start().state).unwrap()
    });
    assert_eq!(header.rules, RULES_KNOWN);
    (header.index.0, header.digest)
}
