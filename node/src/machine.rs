//! What the machine tells of itself and of this process. What it doesn't tell is absent.

use std::{collections::BTreeMap, fs, io, os::unix::fs::FileExt, path::Path, time::Duration};

use rustix::fs::{StatVfs, statvfs};

use crate::world::clock::Clock;

/// The file system of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its kind, as `ext4`; a number in hexadecimal if it is not a usual one.
    pub kind: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that may still be used.
    pub available_bytes: u64,
}

impl Disk {
    /// That of `directory`.
    ///
    /// # Errors
    /// The directory can't be looked at.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let StatVfs {
            f_frsize,
            f_blocks,
            f_bavail,
            ..
        } = statvfs(directory)?;
        Ok(Self {
            kind: kind(directory)?,
            total_bytes: f_frsize.saturating_mul(f_blocks),
            available_bytes: f_frsize.saturating_mul(f_bavail),
        })
    }
}

/// The numbers by which Linux knows its file systems: `linux/magic.h`.
#[cfg(target_os = "linux")]
fn kind(directory: &Path) -> io::Result<String> {
    const KINDS: &[(u64, &str)] = &[
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb"),
        (0x6573_5546, "fuse"),
        (0x0102_1997, "9p"),
    ];
    let stat = rustix::fs::statfs(directory)?;
    // 32 bits count; wider ones may carry a sign.
    let number = stat.f_type.cast_unsigned() & 0xffff_ffff;
    let known = KINDS.iter().find(|(known, _)| *known == number);
    Ok(known.map_or_else(|| format!("{number:#x}"), |(_, kind)| (*kind).to_owned()))
}

#[cfg(not(target_os = "linux"))]
fn kind(_directory: &Path) -> io::Result<String> {
    Ok("unknown".to_owned())
}

/// Times writes of 4 KiB with their flushes in a file of `directory` that has no name, so that nothing of it is left; the
/// blocks are its own before, as those of the log's segments are.
///
/// # Errors
/// The disk refuses.
pub fn time_flushes(directory: &Path, clock: &dyn Clock, times: usize) -> io::Result<Vec<Duration>> {
    const BLOCK: [u8; 4096] = [0x5a; 4096];
    let file = tempfile::tempfile_in(directory)?;
    let flush = || {
        file.write_all_at(&BLOCK, 0)?;
        file.sync_data()
    };
    flush()?;
    let timed = (0..times).map(|_| {
        let began = clock.monotonic();
        flush()?;
        Ok(clock.monotonic().saturating_sub(began))
    });
    timed.collect()
}

/// Files, sockets among them, that this process has open, and how many it may have.
pub fn open_files() -> Option<(u64, u64)> {
    use rustix::process::{Resource, getrlimit};
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // No limit is the greatest one.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Some((u64::try_from(open).ok()?, limit))
}

/// The threads of this process: name and what they do, and how many of each.
pub fn threads() -> BTreeMap<String, u32> {
    let mut threads = BTreeMap::new();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        // One that ends meanwhile is passed over.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        if let Some(thread) = thread(&stat) {
            *threads.entry(thread).or_default() += 1;
        }
    }
    threads
}

/// What a line of `/proc/PID/stat` says: the name stands in brackets, and may hold brackets; a letter for the state follows.
fn thread(stat: &str) -> Option<String> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let doing = match rest.chars().next()? {
        'R' => "running",
        'S' | 'I' => "waiting",
        'D' => "waiting for the disk",
        'T' | 't' => "stopped",
        _ => "ending",
    };
    Some(format!("{name}: {doing}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::clock::OsClock;

    #[test]
    fn a_directory_has_a_file_system_that_flushes() {
        let place = tempfile::tempdir().unwrap();
        let disk = Disk::of(place.path()).unwrap();
        assert!(
            disk.total_bytes >= disk.available_bytes && !disk.kind.is_empty(),
            "{disk:?}"
        );
        let took = time_flushes(place.path(), &OsClock, 3).unwrap();
        assert_eq!(took.len(), 3);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");
        assert!(Disk::of(&place.path().join("absent")).is_err());
    }

    #[test]
    fn threads_are_read_by_name_and_state() {
        assert_eq!(thread("12 (raft-n1) S 1 2"), Some("raft-n1: waiting".to_owned()));
        assert_eq!(
            thread("12 (log (a) b) D 1 2"),
            Some("log (a) b: waiting for the disk".to_owned())
        );
        assert_eq!(thread(""), None);
        let (open, limit) = open_files().unwrap();
        assert!(open <= limit && !threads().is_empty());
    }
}
