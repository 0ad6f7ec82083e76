//! A harness in PID, mount and network namespaces of its own.
//!
//! Servers, mounts, loop devices and networks of a run end with its first process, however that ends: there is nothing
//! to clean up afterwards, by nobody. Runs beside each other don't meet. And process ids inside are the run's own, so
//! that no signal can hit a stranger.

use std::env;
use std::io;
use std::process::{self, Command};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Signal, geteuid, set_parent_process_death_signal};

use crate::sys;

/// Set inside.
const INSIDE: &str = "SPINE_JEPSEN_SEALED";

/// Goes on in namespaces of its own: starts this program once more, with the same arguments, as their first process,
/// and ends with it. Only inside does it come back.
///
/// To be called first of all, before there are threads and before anything was written down.
///
/// # Errors
/// Not root, or a kernel without namespaces.
pub fn enter() -> io::Result<()> {
    if is_inside() {
        return settle();
    }
    if !geteuid().is_root() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "needs root: it makes namespaces, mounts and network devices",
        ));
    }
    sys::leave_machine()?;
    let inside = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()?;
    process::exit(inside.code().unwrap_or(1));
}

/// Whether this process is the first of namespaces of its own.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some() && process::id() == 1
}

/// The first steps inside.
fn settle() -> io::Result<()> {
    // A first process is deaf to signals that it doesn't handle: whoever ends the run ends its parent.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // What is mounted here shows nowhere else, and `/proc` tells of these processes.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    Ok(())
}
