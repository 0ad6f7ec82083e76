//! The system calls that no safe library offers: the one place where unsafe code is allowed.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `_IOR('X', 125, __u32)` of the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: c_ulong = 0x8004_587d;

/// Goes down without flushing the journal: what was not flushed before is lost, as when the power fails.
const EXT4_GOING_FLAGS_NOLOGFLUSH: c_uint = 2;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// Cuts the power of the ext4 file system mounted at `mount`: from now on nothing reaches its disk, each write and
/// flush fails, and all that is left to do is to unmount it. Needs root.
pub fn cut_power(mount: &Path) -> io::Result<()> {
    let root = File::open(mount)?;
    let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    // SAFETY: the descriptor is open for as long as `root` lives, and this request reads one `__u32` behind the
    // pointer, which outlives the call. On another file system the kernel answers ENOTTY and reads nothing.
    let answer = unsafe { ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
