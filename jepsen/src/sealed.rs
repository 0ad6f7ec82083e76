//! A harness in PID, mount and network namespaces of its own.
//!
//! Servers, mounts, loop devices and networks of a run end with its first process, however that ends: there is nothing
//! to clean up afterwards, by nobody. Runs beside each other don't meet. And process ids inside are the run's own, so
//! that no signal can hit a stranger.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

/// Set inside.
const INSIDE: &str = "SPINE_JEPSEN_SEALED";

/// Goes on in namespaces of its own: starts this program once more, with the same arguments, and doesn't come back.
/// Inside it returns at once.
///
/// To be called first of all, before there are threads and before anything was written down.
///
/// # Errors
/// Not root, or no `unshare` of util-linux.
pub fn enter() -> io::Result<()> {
    if is_inside() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "needs root: it makes namespaces, mounts and network devices",
        ));
    }
    // By `exec`, so that whoever ends this process ends the run: unshare passes the kill on.
    let mut unshare = Command::new("unshare");
    unshare
        .args([
            "--pid",
            "--mount",
            "--net",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1");
    Err(unshare.exec())
}

/// Whether this process runs in namespaces of its own.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some() && process::id() == 1
}
