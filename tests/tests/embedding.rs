//! The program in `examples/embedded`, which carries its own registry: it builds without the server's features, and does
//! what it says.

use std::process::Command;

use spine_tests::embedded;

/// What the server's features bring, and an embedder does without. (clap itself comes with openraft.)
const NEVER: [&str; 6] = [
    "clap_complete",
    "toml",
    "askama",
    "rcgen",
    "tracing-subscriber",
    "spine-client",
];

#[test]
fn a_program_runs_three_nodes_and_loses_one() {
    let crates = embedded::crates().unwrap();
    for never in NEVER {
        assert!(
            !crates.iter().any(|name| name == never),
            "{never} is of the server's features"
        );
    }
    let program = embedded::build().unwrap();
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
