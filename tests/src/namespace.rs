//! A test in PID, mount and network namespaces of its own: the ports of the tutorials are free there, whatever runs on
//! the machine, `/etc/hosts` can say what a text presumes, and every process ends with the test.
//!
//! The test binary runs itself once more under `unshare`: outside, [`sealed`] starts that and waits; inside, it runs the
//! scenario as process 1. Needs root, and fails without.

#![expect(clippy::print_stdout, reason = "the output of the inner run is this run's")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::spine_process;

/// Set inside, to the name of the test.
const INSIDE: &str = "SPINE_SEALED_TEST";

/// Runs `scenario` sealed off. `test` is the name of the calling test function, by which the inner run finds it again.
pub fn sealed(test: &str, scenario: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        assert_eq!(
            std::process::id(),
            1,
            "{INSIDE} is set, but this process has no namespace of its own"
        );
        run("ip", &["link", "set", "lo", "up"]);
        scenario();
        return;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "needs root: it makes namespaces"
    );
    let own = std::env::current_exe().expect("a test knows its own path");
    let inner = Command::new("unshare")
        .args([
            "--pid",
            "--mount",
            "--net",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(own)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        // Built out here, where cargo may reach what it needs.
        .env("SPINE_BIN", spine_process::binary())
        .output()
        .expect("unshare of util-linux starts");
    for line in [inner.stdout, inner.stderr]
        .concat()
        .split_inclusive(|byte| *byte == b'\n')
    {
        let line = String::from_utf8_lossy(line);
        // The inner runner's totals are not shown: whoever counts tests would count this one twice.
        if !line.starts_with("test result: ") {
            print!("{line}");
        }
    }
    assert!(
        inner.status.success(),
        "{test} failed inside its namespaces: {}",
        inner.status
    );
}

/// Lets `names` mean this machine, for every program inside. `place`: a directory that outlives them.
pub fn hosts(names: &[&str], place: &Path) {
    let text = format!("127.0.0.1 localhost {}\n::1 localhost\n", names.join(" "));
    let file = place.join("hosts");
    fs::write(&file, text).expect("the directory of the scenario can be written");
    rustix::mount::mount_bind(&file, "/etc/hosts").expect("root may mount inside its own namespace");
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    assert!(status.success(), "{program} {}: {status}", arguments.join(" "));
}
