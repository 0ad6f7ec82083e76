//! Upgrades: a cluster of the newest earlier release is rolled to this one under load, half of it back and forth, and what
//! an earlier release wrote is opened by this one.
//!
//! `tests/upgrade/releases.toml` names the releases. Run by `cargo x upgrade`, which builds them from the history.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "what was done is part of what it shows")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use spine_core::RULES_KNOWN;
use spine_tests::{
    cluster::{Cluster, SERVERS},
    http, release,
    server::Server,
    spine_process, wait,
    writers::{Load, Spread},
};

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
        match to {
            Runs::Old => self.cluster.is_to_run(at, &self.old, &[]),
            Runs::New => {
                let options = ["--rules-hold", HOLD];
                self.cluster.is_to_run(at, spine_process::binary(), &options);
            }
        }
        self.runs[at] = to;
        restart(&mut self.cluster, at);
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
            restart(&mut self.cluster, leader);
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
                assert_eq!(self.cluster.metric(at, "spine_rules"), Some(1.0));
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
            cluster.metric(at, "spine_rules") == Some(RULES_KNOWN.into())
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
    cluster.must_agree();
    for at in 0..SERVERS {
        assert_eq!(cluster.metric(at, "spine_digest_mismatches_total"), Some(0.0));
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

/// A server that has fallen behind the beginning of the log is sent the state, whichever release it and the leader run.
#[test]
fn a_state_is_sent_from_one_release_to_the_other_both_ways() {
    let old = release::all().pop().expect("there is one").binary();
    let new = (spine_process::binary(), ["--rules-hold", "always"]);
    let place = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(
        ["n1", "n2", "n3"].map(|name| place.path().join(name)),
        place.path(),
    );
    (0..SERVERS).for_each(|at| cluster.is_to_run(at, &old, &[]));
    cluster.start_all();
    let (mut keys, late) = (0, 2);

    // An old leader, and a follower that comes back with the new release.
    cluster.kill(late);
    outrun(&mut cluster, late, &mut keys);
    cluster.is_to_run(late, new.0, &new.1);
    is_sent_the_state(&mut cluster, late, keys);

    // A new leader, and one that comes back with the old release.
    cluster.kill(late);
    for at in (0..SERVERS).filter(|at| *at != late) {
        cluster.is_to_run(at, new.0, &new.1);
    }
    outrun(&mut cluster, late, &mut keys);
    cluster.is_to_run(late, &old, &[]);
    is_sent_the_state(&mut cluster, late, keys);

    // It goes on from there with the new one.
    cluster.is_to_run(late, new.0, &new.1);
    restart(&mut cluster, late);
    write_more(&mut cluster, &mut keys);
    cluster.must_agree();
}

/// Stops a server in order and starts it with what it is to run.
fn restart(cluster: &mut Cluster, at: usize) {
    cluster.ask_to_stop(at);
    let status = cluster.await_stopped(at);
    assert!(status.success(), "{status}:\n{}", cluster.said(at));
    cluster.spawn(at);
    cluster.await_ready(at);
}

/// Writes, and restarts those that run, until none of them has in its log any more what the one that is `late` needs next.
///
/// A server that is stopped in order writes a checkpoint if a mebibyte was logged since the last one, and its log goes up to the
/// checkpoint before. No release can be told to keep less.
fn outrun(cluster: &mut Cluster, late: usize, keys: &mut usize) {
    for _ in 0..2 {
        for at in (0..SERVERS).filter(|at| *at != late) {
            write_more(cluster, keys);
            restart(cluster, at);
        }
    }
}

/// Writes more than a mebibyte.
fn write_more(cluster: &mut Cluster, keys: &mut usize) {
    let (server, value) = (cluster.http(cluster.leader()), "v".repeat(100 << 10));
    for _ in 0..16 {
        assert!(put(server, &format!("state/{keys}"), &value));
        *keys += 1;
    }
}

/// Starts a server, which is sent the state; then it has what the others have.
fn is_sent_the_state(cluster: &mut Cluster, at: usize, keys: usize) {
    let (leader, before) = (cluster.leader(), [0, 1, 2].map(|at| cluster.said(at).len()));
    cluster.spawn(at);
    cluster.await_ready(at);
    let says = |at: usize, what: &str| cluster.said(at)[before[at]..].contains(what);
    wait::until_true("the state has come", PATIENCE, || {
        says(at, "a snapshot has come and is durable")
    });
    assert!(says(leader, "a snapshot is sent"), "{}", cluster.said(leader));
    let list = format!("http://{}/v1/kv/state/?keys", cluster.http(at));
    let there = http::get_json(&list).unwrap();
    assert_eq!(there.as_array().map(Vec::len), Some(keys));
    cluster.must_agree();
    let (from, to) = (version(cluster, leader), version(cluster, at));
    assert_ne!(from, to);
    println!("a state of {keys} keys was sent from {from} to {to}");
}

/// The release that a server says it is.
fn version(cluster: &Cluster, at: usize) -> String {
    let page = http::get(&format!("http://{}/metrics", cluster.http(at))).unwrap();
    let page = page.text().unwrap();
    let (_, version) = page.split_once("spine_build_info{version=\"").unwrap();
    version.split('"').next().unwrap().to_owned()
}

#[test]
fn what_a_single_server_of_each_release_wrote_is_read() {
    for release in release::all() {
        let place = tempfile::tempdir().unwrap();
        let mut server = Server::new(place.path(), "n1");
        server.is_to_run(&release.binary());
        serve(&mut server, &[]);
        fill(server.http);
        let index = server.metric("spine_index").unwrap();
        server.stop();

        server.is_to_run(spine_process::binary());
        serve(&mut server, &["--rules-hold", "1s"]);
        assert!(server.metric("spine_index").unwrap() >= index);
        must_have_all(server.http);
        wait::until_true("the rules are raised", PATIENCE, || {
            server.metric("spine_rules") == Some(RULES_KNOWN.into())
        });
        let (status, said) = txn(server.http, &register("new", 0));
        assert_eq!(status, 200, "{said}");
        server.stop();
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
    let mut before = Server::new(&at("before"), "n1");
    before.is_to_run(&binary);
    serve(&mut before, &[]);
    fill(before.http);
    let addr = before.grpc.to_string();
    let file = at("saved");
    let file = file.to_str().unwrap();
    run(&binary, &["snapshot", "save", file, "--addr", &addr]);
    let index = modify_index(before.http, "key/0");
    // What was written after it is not in it, and its number is never given again.
    assert!(before.put("late", "x"));
    let late = modify_index(before.http, "late");
    before.stop();

    let mut after = Server::new(&at("after"), "n1");
    let data = after.data();
    let restored = ["snapshot", "restore", file, "--data-dir", data.to_str().unwrap()];
    run(spine_process::binary(), &restored);
    serve(&mut after, &[]);
    must_have_all(after.http);
    let gone = http::get(&format!("http://{}/v1/kv/late", after.http)).unwrap();
    assert_eq!(gone.status(), 404);
    assert_eq!(modify_index(after.http, "key/0"), index);
    assert!(after.put("key/0", "changed"));
    assert!(modify_index(after.http, "key/0") > late, "the index goes on");
    after.stop();
}

/// Starts a server that is a cluster of its own, and waits until it is ready.
fn serve(server: &mut Server, options: &[&str]) {
    server.start(&[&["serve"], options].concat());
    server.await_ready();
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
