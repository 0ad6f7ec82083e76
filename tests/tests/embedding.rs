//! The program in `examples/embedded`, which carries its own registry: it builds without the server's features, and does
//! what it says.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the server's features bring, and an embedder does without. (clap itself comes with openraft.)
const NEVER: [&str; 6] = [
    "clap_complete",
    "toml",
    "askama",
    "rcgen",
    "tracing-subscriber",
    "spine-client",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).args(["--offline", "--manifest-path"]);
    cargo.arg(root().join("examples/embedded/Cargo.toml"));
    cargo
}

/// Its crates: the same versions as in the workspace, whose lock file it is given.
fn crates() -> Vec<String> {
    let lock = root().join("examples/embedded/Cargo.lock");
    std::fs::copy(root().join("Cargo.lock"), lock).unwrap();
    let tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let mut crates: Vec<String> = String::from_utf8(tree.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    crates.sort();
    crates.dedup();
    crates
}

#[test]
fn a_program_runs_three_nodes_and_loses_one() {
    let crates = crates();
    for never in NEVER {
        assert!(
            !crates.iter().any(|name| name == never),
            "{never} is of the server's features"
        );
    }
    let mut build = cargo(&["build", "--message-format", "json-render-diagnostics"]);
    let built = build.stderr(std::process::Stdio::inherit()).output().unwrap();
    assert!(built.status.success());
    let program = String::from_utf8(built.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names what it has built");
    println!(
        "{} crates, {} KiB unoptimized",
        crates.len(),
        std::fs::metadata(&program).unwrap().len() / 1024
    );

    let directory = tempfile::tempdir().unwrap();
    let ran = Command::new(program).arg(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let lines: Vec<&str> = said.lines().collect();
    let wanted = [
        "3 nodes have founded a cluster",
        "n0: photo is at 10.0.0.7:8080",
        "n1: photo is at 10.0.0.7:8080",
        "n2: photo is at 10.0.0.7:8080",
        "1 change of photo was told",
        ", the leader, has gone; the next write took ",
        "photo is at 10.0.0.7:8080, 10.0.0.7:8081",
        "all nodes have ended",
    ];
    assert_eq!(lines.len(), wanted.len(), "{said}");
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.contains(wanted), "{line:?} is not {wanted:?}\n{said}");
    }
}
