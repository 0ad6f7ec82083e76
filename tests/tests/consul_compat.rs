//! Unmodified clients of Consul against `spine dev`: each registers, reads catalog and health, keeps keys with
//! check-and-set, filters, and blocks on a query that its own change wakes and no other.
//!
//! The clients come by name from their registries, locked in `tests/compat/clients/`; the program there prints one
//! line for each check, `ok NAME` or `FAIL NAME why`. Run by `cargo x compat`.

#![expect(clippy::print_stdout, reason = "what the clients say is the result")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use spine_tests::compat;
use spine_tests::spine_process::SpineProcess;

#[test]
fn pypi_python_consul() {
    passes(30, python("python_consul"));
}

#[test]
fn pypi_py_consul() {
    passes(39, python("py_consul"));
}

#[test]
fn npm_consul() {
    let client = folder("npm_consul");
    let mut node = Command::new("node");
    node.env("NODE_PATH", compat::node_modules("npm_consul", &client));
    node.arg(client.join("main.js"));
    passes(21, node);
}

#[test]
fn go_consul_api() {
    passes(
        36,
        Command::new(compat::go_program("go_consul", &folder("go_consul"))),
    );
}

fn python(name: &str) -> Command {
    let client = folder(name);
    let environment = compat::python_environment(name, &client.join("requirements.txt"));
    let mut python = Command::new(environment.join("bin/python"));
    // No bytecode beside the sources: the checkout stays as it is.
    python.arg("-B").arg(client.join("main.py"));
    python.env("PYTHONPATH", folder("python_common"));
    python
}

fn folder(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("compat/clients")
        .join(client)
}

/// Runs `client` against a fresh server; it has to pass exactly `checks` checks, so that none is lost unnoticed.
fn passes(checks: usize, mut client: Command) {
    let server = SpineProcess::dev();
    let ran = client
        .arg(server.http_addr().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the client was installed just above");
    let said = String::from_utf8_lossy(&ran.stdout);
    print!("{said}");
    let passed: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    let failed = said.lines().filter(|line| !line.starts_with("ok ")).count();
    assert_eq!(
        (passed.len(), failed),
        (checks, 0),
        "checks that passed and failed"
    );
    assert!(ran.status.success(), "the client ended with {}", ran.status);
}
