//! What operators hold in their hands, against three servers of the real binary: `spine doctor`, `spine debug`, `spine lock`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use spine_client::{Client, Registration};
use spine_tests::{cluster::Cluster, server::Server, spine_process, wait};

const PATIENCE: Duration = Duration::from_mins(1);

/// Strings that must be in no bundle.
const SECRETS: [&str; 7] = [
    "token-4d1f",
    "key-8a22",
    "value-77c0",
    "seal-19bb",
    "service-5e3a",
    "tag-aa01",
    "path-c9d4",
];

fn spine(arguments: &[&str]) -> Command {
    let mut spine = Command::new(spine_process::binary());
    spine.args(arguments).stdin(Stdio::null());
    spine
}

fn run(arguments: &[&str]) -> Output {
    spine(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the doctor says: each check, where, and how it stands.
fn doctor(cluster: &Cluster, at: usize) -> (Option<i32>, Vec<[String; 3]>, String) {
    let address = cluster.grpc(at).to_string();
    let output = run(&["doctor", "--addr", &address, "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
    let found = findings.iter().map(|finding| {
        ["check", "server", "result"].map(|field| finding[field].as_str().unwrap().to_owned())
    });
    (output.status.code(), found.collect(), text(&output.stdout))
}

fn has(found: &[[String; 3]], check: &str, server: &str, result: &str) -> bool {
    found
        .iter()
        .any(|finding| finding == &[check, server, result].map(str::to_owned))
}

#[test]
fn the_doctor_finds_a_healthy_cluster_well_and_names_the_server_that_is_down() {
    let place = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(place.path());
    // Members say that they are there, and ask each other, a moment after they are ready. The disk of a busy machine is
    // what it is, and a directory for temporary files may lie in memory.
    let of_the_machine = ["log", "disk space", "file system", "open files"];
    let mut last = String::new();
    wait::until_true("the doctor finds the cluster well", PATIENCE, || {
        let (_, found, said) = doctor(&cluster, 0);
        last = said;
        let clusters = found
            .iter()
            .filter(|[check, _, _]| !of_the_machine.contains(&check.as_str()));
        clusters.clone().count() == 10 && clusters.into_iter().all(|[_, _, result]| result == "ok")
    });
    let table = run(&["doctor", "--addr", &cluster.grpc(1).to_string()]);
    assert!(
        text(&table.stdout).starts_with("CHECK"),
        "{}",
        text(&table.stdout)
    );

    let down = (cluster.leader() + 1) % 3;
    let name = format!("n{}", down + 1);
    cluster.kill(down);
    let asked = cluster.leader();
    let others: Vec<String> = (0..3)
        .filter(|at| *at != down)
        .map(|at| format!("n{}", at + 1))
        .collect();
    wait::until_true("the doctor sees that a server is down", PATIENCE, || {
        let (code, found, _) = doctor(&cluster, asked);
        code == Some(1)
            && has(&found, "members", &name, "fail")
            && has(&found, "quorum", "", "warn")
            && has(&found, "ports", &name, "fail")
            && others.iter().all(|other| has(&found, "peers", other, "fail"))
    });
}

#[test]
fn the_doctor_looks_at_a_directory_without_a_server() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    let output = run(&["doctor", "--data-dir", directory, "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let checks: Vec<_> = findings
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        checks,
        [
            "owner",
            "lock",
            "disk space",
            "file system",
            "flushes",
            "open files",
            "swap",
            "ports"
        ]
    );
    assert_eq!(
        fs::read_dir(place.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    let absent = run(&["doctor", "--data-dir", &format!("{directory}/absent")]);
    assert_eq!(absent.status.code(), Some(1), "{}", text(&absent.stdout));
    assert!(text(&absent.stdout).contains("FAIL"));
}

#[test]
fn a_bundle_holds_what_a_report_needs_and_no_secret() {
    let place = tempfile::tempdir().unwrap();
    // Its path is a secret, too: it names who runs the server.
    let data = place.path().join("path-c9d4");
    fs::create_dir(&data).unwrap();
    let seal = data.join("seal");
    fs::write(&seal, "seal-19bb-0123456789-0123456789!").unwrap();
    fs::set_permissions(&seal, fs::Permissions::from_mode(0o600)).unwrap();
    let [http, grpc, peer] = std::array::from_fn(|_| spine_process::free_address());
    let seal = seal.to_str().unwrap().to_owned();
    let dir = data.join("data").to_str().unwrap().to_owned();
    let arguments = [
        "serve",
        "--governance",
        "open",
        "--name",
        "n1",
        "--http-addr",
        &http.to_string(),
        "--grpc-addr",
        &grpc.to_string(),
        "--peer-addr",
        &peer.to_string(),
        "--data-dir",
        &dir,
        "--ca-seal-key",
        &seal,
    ]
    .map(str::to_owned);
    let _server = spine_process::SpineProcess::start(arguments, http);
    // What a server says as it joins is in the bundle as well.
    let mut other = Server::new(&data, "n2");
    other.join(peer, &[]);
    other.await_ready();
    let address = grpc.to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::builder(&address).token("token-4d1f").build().unwrap();
        client.kv.put("key-8a22", "value-77c0").await.unwrap();
        let service = Registration::new("service-5e3a", "127.0.0.1", 1).tag("tag-aa01");
        client.catalog.register(service).await.unwrap();
    });

    let bundle = place.path().join("bundle.tar.gz");
    let file = bundle.to_str().unwrap();
    let made = spine(&["debug", "--addr", &address, "-f", file])
        .env("SPINE_TOKEN", "token-4d1f")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let again = run(&["debug", "--addr", &address, "-f", file]);
    assert_eq!(again.status.code(), Some(1), "what is there is not written over");

    let unpacked = place.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar")
        .args(["-xzf", file, "-C"])
        .arg(&unpacked)
        .status()
        .unwrap();
    assert!(tar.success());
    let root = unpacked.join("spine-debug");
    for (part, holds) in [
        ("about.json", "made_by"),
        ("members.json", "\"n1\""),
        ("doctor.json", "\"quorum\""),
        ("n1/diagnosis.txt", "committed"),
        ("n1/metrics.txt", "spine_raft_term"),
        ("n1/config.json", "\"ca-seal-key\": \"(set)\""),
        ("n1/log.txt", "storage opened"),
        ("n1/summary.json", "\"keys\": 1"),
        ("n2/log.txt", "this server is a member"),
    ] {
        let text = fs::read_to_string(root.join(part)).unwrap_or_else(|error| panic!("{part}: {error}"));
        assert!(text.contains(holds), "{part} has no {holds}:\n{text}");
    }
    let files = files(&root);
    assert_eq!(files.len(), 13, "{files:#?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for secret in SECRETS {
            assert!(!text.contains(secret), "{file:?} has {secret}:\n{text}");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

#[test]
fn a_command_under_a_lock_gets_signals_and_is_ended_when_the_lock_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let server = spine_process::free_address();
    let http = spine_process::free_address();
    let arguments = [
        "dev",
        "--http-addr",
        &http.to_string(),
        "--grpc-addr",
        &server.to_string(),
    ]
    .map(str::to_owned);
    let registry = spine_process::SpineProcess::start(arguments, http);
    let address = server.to_string();

    // It says what it got, and ends with a code of its own; so does the child that it has started.
    let log = place.path().join("log");
    let script = format!(
        "trap 'echo hup >> {log}' HUP; trap 'echo term >> {log}; exit 3' TERM; sleep 600 & echo child $! >> {log}; \
         echo begins $SPINE_FENCE >> {log}; while :; do wait; done",
        log = log.display()
    );
    let lock = |script: &str| -> Child {
        spine(&[
            "lock", "--addr", &address, "--ttl", "2s", "--grace", "2s", "jobs", "--", "sh", "-c", script,
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
    };
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let signal = |child: &Child, signal| {
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, signal).unwrap();
    };

    let mut first = lock(&script);
    wait::until_true("the command runs", PATIENCE, || said().contains("begins"));
    signal(&first, rustix::process::Signal::HUP);
    wait::until_true("the command gets the signal", PATIENCE, || said().contains("hup"));
    signal(&first, rustix::process::Signal::TERM);
    let status = wait::until("the command ends", PATIENCE, || first.try_wait().unwrap());
    assert_eq!(status.code(), Some(3), "{}", said());

    // The lock was given back: the next one has it at once. Then the registry goes, and nothing renews it.
    fs::remove_file(&log).unwrap();
    let mut second = lock(&script);
    wait::until_true("the next command runs", PATIENCE, || said().contains("begins"));
    drop(registry);
    let status = wait::until("the lock is lost", PATIENCE, || second.try_wait().unwrap());
    assert_eq!(status.code(), Some(7), "{}", said());
    assert!(said().contains("term"), "{}", said());
    let child = said()
        .lines()
        .find_map(|line| line.strip_prefix("child ").map(str::to_owned))
        .unwrap();
    wait::until_true("what it had started ends with it", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}
