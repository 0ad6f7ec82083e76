//! A data directory and the machine that it is on, looked at without any server.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use super::{
    finding::Finding,
    judge::{size, untrusted},
};
use crate::{
    config::defaults,
    machine::{self, Disk},
    world::{
        clock::OsClock,
        lock::{DirLocks, OsDirLocks},
        net::{Net, OsNet},
    },
};

/// How often a small write is timed.
const FLUSHES: usize = 50;
/// Half of the flushes take so long at most on a disk that does for a registry.
const FLUSH_WARN: Duration = Duration::from_millis(20);
/// And on one that does at all.
const FLUSH_FAIL: Duration = Duration::from_millis(50);
const SPACE_FAIL: u64 = 256 << 20;
const SPACE_WARN: u64 = 2 << 30;
const FILES_MIN: u64 = 4_096;

/// What was found.
#[derive(Debug)]
pub(super) struct Facts {
    /// The directory; an error if it can't be looked at.
    directory: Result<Directory, String>,
    /// How many files a process may have open, at the most that it may ask for itself.
    files_max: Option<u64>,
    /// Bytes of swap space, and how many are used.
    swap: Option<(u64, u64)>,
    /// Ports of the usual ones that are taken on the loopback.
    taken: Vec<u16>,
}

/// A directory that is there.
#[derive(Debug)]
struct Directory {
    owner: u32,
    this_user: u32,
    /// A server runs on it.
    in_use: bool,
    disk: Disk,
    /// What flushes took, or why nothing can be written.
    flushes: Result<Vec<Duration>, String>,
}

/// Looks at a directory.
pub(super) async fn look(directory: &Path) -> Facts {
    let open_limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let mut taken = Vec::new();
    for port in [defaults::HTTP_PORT, defaults::GRPC_PORT, defaults::PEER_PORT] {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listening = OsNet.listen(address).await;
        if listening.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            taken.push(port);
        }
    }
    Facts {
        directory: look_at(directory).map_err(|error| format!("{}: {error}", directory.display())),
        // None is more than any.
        files_max: Some(open_limit.unwrap_or(u64::MAX)),
        swap: fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| swap(&text)),
        taken,
    }
}

fn look_at(directory: &Path) -> io::Result<Directory> {
    let metadata = fs::metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let disk = Disk::of(directory)?;
    // A directory that no server ever had is left as it is. The lock is let go of at once.
    let in_use = directory.join("lock").exists()
        && OsDirLocks
            .lock(directory)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    let flushes = machine::time_flushes(directory, &OsClock, FLUSHES);
    Ok(Directory {
        owner: metadata.uid(),
        this_user: rustix::process::geteuid().as_raw(),
        in_use,
        disk,
        flushes: flushes.map_err(|error| error.to_string()),
    })
}

/// What `/proc/meminfo` says of swap space: bytes in all and used.
fn swap(meminfo: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line
            .trim_start_matches(':')
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse()
            .ok()?;
        Some(kib << 10)
    };
    let total = bytes("SwapTotal")?;
    Some((total, total.saturating_sub(bytes("SwapFree")?)))
}

/// What follows from it.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let directory = match &facts.directory {
        Ok(directory) => directory,
        Err(error) => {
            let remedy = "make it, and give it to the user that the server runs as";
            return vec![Finding::fail("directory", "", error, remedy)];
        }
    };
    vec![
        owner(directory),
        lock(directory),
        space(&directory.disk),
        kind(&directory.disk),
        flushes(&directory.flushes),
        files(facts.files_max),
        swapping(facts.swap),
        ports(directory.in_use, &facts.taken),
    ]
}

fn owner(directory: &Directory) -> Finding {
    let Directory { owner, this_user, .. } = directory;
    if owner == this_user {
        return Finding::ok("owner", format!("user {owner}, who runs this"));
    }
    let measured = format!("user {owner}; this is run by {this_user}");
    Finding::warn(
        "owner",
        "",
        measured,
        "run the server as the owner, or give the directory to its user",
    )
}

fn lock(directory: &Directory) -> Finding {
    Finding::ok(
        "lock",
        if directory.in_use {
            "a server runs on it"
        } else {
            "no server runs on it"
        },
    )
}

fn space(disk: &Disk) -> Finding {
    const REMEDY: &str = "make room: a server whose disk is full ends";
    let measured = format!(
        "{} of {} free",
        size(disk.available_bytes),
        size(disk.total_bytes)
    );
    match disk.available_bytes {
        ..SPACE_FAIL => Finding::fail("disk space", "", measured, REMEDY),
        SPACE_FAIL..SPACE_WARN => Finding::warn("disk space", "", measured, REMEDY),
        SPACE_WARN.. => Finding::ok("disk space", measured),
    }
}

fn kind(disk: &Disk) -> Finding {
    match untrusted(&disk.kind) {
        Some((what, remedy)) => Finding::warn("file system", "", format!("{}: {what}", disk.kind), remedy),
        None => Finding::ok("file system", &disk.kind),
    }
}

fn flushes(flushes: &Result<Vec<Duration>, String>) -> Finding {
    const CHECK: &str = "flushes";
    const REMEDY: &str =
        "give the data a disk of its own that flushes in a few milliseconds; see what else writes to it";
    let mut took = match flushes {
        Ok(took) => took.clone(),
        Err(error) => {
            let remedy = "let the server's user write there, or run this as that user";
            return Finding::fail(CHECK, "", error, remedy);
        }
    };
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let longest = took.last().copied().unwrap_or_default();
    let measured = format!(
        "half of {} within {median:.1?}, the longest {longest:.1?}",
        took.len()
    );
    if median > FLUSH_FAIL {
        Finding::fail(CHECK, "", measured, REMEDY)
    } else if median > FLUSH_WARN {
        Finding::warn(CHECK, "", measured, REMEDY)
    } else {
        Finding::ok(CHECK, measured)
    }
}

fn files(limit: Option<u64>) -> Finding {
    const CHECK: &str = "open files";
    match limit {
        Some(limit) if limit < FILES_MIN => Finding::warn(
            CHECK,
            "",
            format!("at most {limit}"),
            "raise the hard limit (LimitNOFILE=, ulimit -Hn): each connection is an open file",
        ),
        Some(u64::MAX) => Finding::ok(CHECK, "no limit"),
        Some(limit) => Finding::ok(CHECK, format!("at most {limit}")),
        None => Finding::ok(CHECK, "the system doesn't tell"),
    }
}

fn swapping(swap: Option<(u64, u64)>) -> Finding {
    const CHECK: &str = "swap";
    match swap {
        Some((total, used)) if used > 0 => Finding::warn(
            CHECK,
            "",
            format!("{} of {} used", size(used), size(total)),
            "give the machine more memory, or turn swap off: a server that is swapped out answers late, and is taken for dead",
        ),
        Some((0, _)) => Finding::ok(CHECK, "none"),
        Some((total, _)) => Finding::ok(CHECK, format!("none of {} used", size(total))),
        None => Finding::ok(CHECK, "the system doesn't tell"),
    }
}

fn ports(in_use: bool, taken: &[u16]) -> Finding {
    const CHECK: &str = "ports";
    if taken.is_empty() {
        return Finding::ok(CHECK, "the usual ones are free");
    }
    let listed: Vec<_> = taken.iter().map(ToString::to_string).collect();
    let measured = format!("{} taken on the loopback", listed.join(", "));
    if in_use {
        return Finding::ok(CHECK, measured);
    }
    let remedy = "find out by whom, or choose others (--http-addr, --grpc-addr, --peer-addr)";
    Finding::warn(CHECK, "", measured, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn facts() -> Facts {
        Facts {
            directory: Ok(Directory {
                owner: 7,
                this_user: 7,
                in_use: false,
                disk: Disk {
                    kind: "ext4".to_owned(),
                    total_bytes: 1 << 40,
                    available_bytes: 1 << 39,
                },
                flushes: Ok(vec![Duration::from_millis(2); 5]),
            }),
            files_max: Some(1 << 20),
            swap: Some((1 << 30, 0)),
            taken: Vec::new(),
        }
    }

    /// What is not well, when this is changed.
    fn found(
        change: impl FnOnce(&mut Directory, &mut Option<u64>, &mut Option<(u64, u64)>, &mut Vec<u16>),
    ) -> Vec<(&'static str, Verdict)> {
        let mut facts = facts();
        let directory = facts.directory.as_mut().unwrap();
        change(directory, &mut facts.files_max, &mut facts.swap, &mut facts.taken);
        let findings = judge(&facts);
        assert!(
            findings
                .iter()
                .all(|finding| (finding.result == Verdict::Ok) == finding.remedy.is_empty())
        );
        let wrong = findings.iter().filter(|finding| finding.result != Verdict::Ok);
        wrong.map(|finding| (finding.check, finding.result)).collect()
    }

    #[test]
    fn each_fault_of_a_directory_is_found() {
        use Verdict::{Fail, Warn};
        assert_eq!(found(|_, _, _, _| {}), []);
        assert_eq!(found(|it, _, _, _| it.owner = 8), [("owner", Warn)]);
        assert_eq!(
            found(|it, _, _, _| it.disk.available_bytes = 1 << 30),
            [("disk space", Warn)]
        );
        assert_eq!(
            found(|it, _, _, _| it.disk.available_bytes = 1 << 20),
            [("disk space", Fail)]
        );
        assert_eq!(
            found(|it, _, _, _| it.disk.kind = "tmpfs".to_owned()),
            [("file system", Warn)]
        );
        assert_eq!(
            found(|it, _, _, _| it.flushes = Ok(vec![Duration::from_millis(30)])),
            [("flushes", Warn)]
        );
        assert_eq!(
            found(|it, _, _, _| it.flushes = Ok(vec![Duration::from_millis(60)])),
            [("flushes", Fail)]
        );
        assert_eq!(
            found(|it, _, _, _| it.flushes = Err("denied".to_owned())),
            [("flushes", Fail)]
        );
        assert_eq!(
            found(|_, files, _, _| *files = Some(1_024)),
            [("open files", Warn)]
        );
        assert_eq!(found(|_, _, swap, _| *swap = Some((2, 1))), [("swap", Warn)]);
        assert_eq!(found(|_, _, _, taken| taken.push(8500)), [("ports", Warn)]);
        let running = |it: &mut Directory, _: &mut _, _: &mut _, taken: &mut Vec<u16>| {
            it.in_use = true;
            taken.push(8500);
        };
        assert_eq!(found(running), [], "they are the server's own");
    }

    #[tokio::test]
    async fn a_real_directory_is_left_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let facts = look(place.path()).await;
        assert!(facts.directory.is_ok(), "{facts:?}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let lock = OsDirLocks.lock(place.path()).unwrap();
        assert!(look(place.path()).await.directory.unwrap().in_use);
        drop(lock);
        assert!(!look(place.path()).await.directory.unwrap().in_use);
        let absent = judge(&look(&place.path().join("absent")).await);
        assert_eq!(absent[0].result, Verdict::Fail);
    }

    #[test]
    fn swap_is_read() {
        let text = "MemTotal:  16 kB\nSwapTotal:   8 kB\nSwapFree:  6 kB\n";
        assert_eq!(swap(text), Some((8 << 10, 2 << 10)));
        assert_eq!(swap(""), None);
    }
}
