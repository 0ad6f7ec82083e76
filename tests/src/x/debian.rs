//! What the tests need of the system, by Debian package, each only if what it brings is missing.

use std::process::Command;

use crate::install;

/// How to see that it is there, and the package that brings it.
const NEEDED: &[(&[&str], &str)] = &[
    (&["npm", "--version"], "npm"),
    (&["go", "version"], "golang-go"),
    // An environment for Python's packages.
    (&["python3", "-c", "import ensurepip, venv"], "python3-venv"),
    // Disables fdatasync in the proof that a power-cut test can fail.
    (&["strace", "--version"], "strace"),
    // Small ext4 images on loop devices, whose power is cut.
    (&["mkfs.ext4", "-V"], "e2fsprogs"),
    (&["losetup", "--version"], "mount"),
    // A server's own wall clock. Its program alone, without the library, is of no use.
    (
        &["sh", "-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"],
        "libfaketime",
    ),
    // Namespaces of the tutorials, and the network of clusters under faults.
    (&["ip", "-V"], "iproute2"),
    (&["unshare", "--version"], "util-linux"),
];

/// Installs what is missing. The stage's program says what is there then.
///
/// # Errors
/// Something is missing and can't be installed.
pub(crate) fn packages() -> Result<Command, String> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(probe, _)| !runs(probe))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        if !rustix::process::geteuid().is_root() {
            return Err(format!(
                "missing, and only root may install: {}",
                missing.join(" ")
            ));
        }
        install::must(Command::new("apt-get").args(["update", "--quiet"]))?;
        let mut install = Command::new("apt-get");
        install
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&missing);
        install::must(&mut install)?;
    }
    let mut said = Command::new("uname");
    said.arg("-sr");
    Ok(said)
}

fn runs(probe: &[&str]) -> bool {
    let Some((program, arguments)) = probe.split_first() else {
        return false;
    };
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}
