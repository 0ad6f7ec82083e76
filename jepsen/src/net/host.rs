//! A network namespace: a host's own devices, addresses and ports.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::panic;
use std::process::Command;
use std::thread;

use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sys;

/// The namespace. Nothing names it, so it goes with its last process, socket and this handle.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// The one that the calling thread is in.
    pub(super) fn own() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// A new one, empty but for its loopback.
    pub(super) fn fresh() -> io::Result<Self> {
        // A thread that left the process's network has nothing else to do in this world.
        on_a_thread(|| {
            sys::leave_network()?;
            Self::own()
        })
    }

    /// Runs `work` on a thread inside.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })
    }

    /// Gives the host its address on a TUN device, whose other end is the file. Reading it never blocks.
    pub(super) fn attach(&self, address: Ipv4Addr) -> io::Result<File> {
        self.inside(|| {
            let tun = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open("/dev/net/tun")?;
            sys::attach_tun(&tun, DEVICE)?;
            ip(&["link", "set", "lo", "up"])?;
            ip(&["addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
            ip(&["link", "set", DEVICE, "mtu", MTU, "txqueuelen", QUEUE, "up"])?;
            Ok(tun)
        })?
    }
}

/// The device's name in each namespace.
const DEVICE: &str = "tun0";

/// Bytes of the longest packet: fewer of them for the switch to move than with Ethernet's 1500.
const MTU: &str = "9000";

/// Packets that may wait for the switch: it is one thread, and a burst must not look like loss.
const QUEUE: &str = "5000";

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("ip of iproute2: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ip {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

/// Runs `work` on a thread of its own, whose namespace ends with it.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}
