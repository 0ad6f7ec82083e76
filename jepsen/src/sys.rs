//! The system calls that no safe library offers: the one place of this crate where unsafe code is allowed.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `_IOR('X', 125, __u32)` of the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: Opcode = 0x8004_587d;

/// Goes down without flushing the journal: what was not flushed before is lost, as when the power fails.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// Cuts the power of the ext4 file system mounted at `mount`: from now on nothing reaches its disk, each write and
/// flush fails, and all that is left to do is to unmount it. Needs root.
pub fn cut_power(mount: &Path) -> io::Result<()> {
    let root = File::open(mount)?;
    // SAFETY: this request reads one `__u32` behind the pointer. Another file system answers ENOTTY and reads nothing.
    unsafe {
        ioctl(
            root,
            Setter::<EXT4_IOC_SHUTDOWN, u32>::new(EXT4_GOING_FLAGS_NOLOGFLUSH),
        )
    }?;
    Ok(())
}

/// `_IOW('T', 202, int)` of the kernel's `linux/if_tun.h`; in truth it takes an `ifreq`.
const TUNSETIFF: Opcode = 0x4004_54ca;

/// A layer 3 device whose packets come without a header of the driver's own.
const IFF_TUN_NO_PI: u16 = 0x0001 | 0x1000;

/// The part of the kernel's `struct ifreq` that `TUNSETIFF` looks at, padded to its full length.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// Makes the TUN device `name` in the calling thread's network namespace and ties it to `device`, an open
/// `/dev/net/tun`: what the kernel sends there can be read from it, what is written to it the kernel receives. The
/// device goes when the file is closed. Needs root.
pub fn attach_tun(device: &File, name: &str) -> io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN_NO_PI,
        padding: [0; 22],
    };
    // One byte less than there is room for: the kernel wants the terminating zero.
    for (place, byte) in request.name[..15].iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    // SAFETY: the request reads and writes one `struct ifreq` behind the pointer, and `InterfaceRequest` is as long as
    // that on every 64-bit Linux. What the kernel writes there, the name it chose, is the name asked for.
    unsafe { ioctl(device, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }?;
    Ok(())
}

/// Moves the calling thread, and it alone, to a fresh network namespace. Needs root.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: only no longer sharing the table of open files is dangerous, and that stays shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Moves the calling thread to a fresh network and to mounts of its own, and its future children to a fresh world of
/// processes. Needs root, and a process of one thread.
pub fn leave_machine() -> io::Result<()> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    // SAFETY: as above.
    unsafe { unshare_unsafe(flags) }?;
    Ok(())
}
