//! A disk in memory that loses what was not flushed, for tests and the simulator.
//!
//! It holds two things apart: what the running process sees, and what has reached the platter. Between two flushes of a
//! file each block of each write may or may not have arrived, in any order, so a write can be lost, torn or overtaken
//! by a later one. Names are as in a journaling file system: of the creations, renames and removals since the last
//! flush of the directory the disk has kept some first ones.
//!
//! [`crash_at`](SimDisk::crash_at) cuts the power at a chosen operation; [`after_crash`](SimDisk::after_crash) gives a
//! disk as it might be found afterwards, chosen by a seed. [`set_faults`](SimDisk::set_faults) makes the disk lie.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spine_node::world::files::{File, Files, Open};
use spine_node::world::lock::{DirLock, DirLocks};

/// Faults that stay on until they are taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Flushes of files return at once and flush nothing: a drive that lies, or a program that forgot them.
    pub skip_sync: bool,
    /// Flushes of files fail, and what they should have flushed is taken for clean from then on, as Linux does: a later
    /// flush succeeds without it.
    pub fail_sync: bool,
    /// No bytes can be written: the disk is full.
    pub full: bool,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Names as the process sees them.
    names: BTreeMap<PathBuf, u64>,
    /// Names as the platter has them.
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last flush of their directory.
    changes: Vec<Change>,
    faults: Faults,
    /// Operations so far that write or flush.
    operations: u64,
    crash_at: Option<u64>,
    /// Set when the power is cut: nothing works any more.
    off: bool,
}

/// A file: what is on the platter, and the writes that may have got there.
#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// What the process sees.
    current: Vec<u8>,
}

#[derive(Clone)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
enum Change {
    Create { path: PathBuf, inode: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl Change {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Create { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. } => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename { from, to } => {
                // A directory takes along what is in it.
                let within: Vec<PathBuf> = names
                    .keys()
                    .filter(|name| name.starts_with(from))
                    .cloned()
                    .collect();
                for name in within {
                    let inode = names.remove(&name).expect("it is there");
                    let rest = name.strip_prefix(from).expect("it starts so");
                    // Of a file nothing is left, and joined it would end in a slash.
                    let named = if rest.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(rest)
                    };
                    names.insert(named, inode);
                }
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

/// A small seeded generator (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose numbers follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which isn't 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the standing faults.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Cuts the power at the `operation`th operation from now on that writes or flushes (0: the next one). It fails,
    /// though its bytes may have arrived, and so does everything after it.
    pub fn crash_at(&self, operation: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operation);
    }

    /// Operations so far that write or flush.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Cuts the power now.
    pub fn cut_power(&self) {
        self.state().off = true;
    }

    /// Whether the power was cut.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Bytes that a crash could lose now.
    pub fn unsynced_bytes(&self) -> u64 {
        let state = self.state();
        let pending = state.inodes.values().flat_map(|inode| &inode.pending);
        pending
            .map(|p| {
                if let Pending::Write { bytes, .. } = p {
                    bytes.len() as u64
                } else {
                    0
                }
            })
            .sum()
    }

    /// The disk as it may be found after a power cut now, with the power on and without faults. What survives of the
    /// unflushed writes follows from `rng`.
    pub fn after_crash(&self, rng: &mut Rng) -> Self {
        self.crashed(rng).0
    }

    /// The same, and whether the cut lost anything: a byte that was written, or a name.
    pub fn crashed(&self, rng: &mut Rng) -> (Self, bool) {
        let state = self.state();
        let mut lost = false;
        let block = if rng.one_in(2) { 512 } else { 4096 };
        // How likely a block arrived, so that all, none and halves all occur.
        let odds = [0, 1, 4, 7, 8][usize::try_from(rng.below(5)).expect("below 5")];
        let mut names = state.durable_names.clone();
        let kept = usize::try_from(rng.below(state.changes.len() as u64 + 1)).expect("a count of changes");
        for change in &state.changes[..kept] {
            change.apply(&mut names);
        }
        lost |= names != state.names;
        let mut found = State {
            next_inode: state.next_inode,
            ..State::default()
        };
        for (number, inode) in &state.inodes {
            if names.values().any(|named| named == number) {
                let bytes = inode.survivor(rng, block, odds);
                lost |= bytes != inode.current;
                let inode = Inode {
                    durable: bytes.clone(),
                    pending: Vec::new(),
                    current: bytes,
                };
                found.inodes.insert(*number, inode);
            }
        }
        found.durable_names = names.clone();
        found.names = names;
        (Self(Arc::new(Mutex::new(found))), lost)
    }

    /// Bytes of a file as the process sees them.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .names
            .get(path)
            .map(|inode| state.inodes[inode].current.clone())
    }

    /// Puts a file there, flushed; for damage that is done on purpose.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.next_inode;
        state.next_inode += 1;
        let bytes = bytes.to_vec();
        state.inodes.insert(
            inode,
            Inode {
                durable: bytes.clone(),
                pending: Vec::new(),
                current: bytes,
            },
        );
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.current, offset, bytes);
        self.pending.push(Pending::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }

    fn sync(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::SetLen(length) => self.durable.resize(length, 0),
                Pending::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
            }
        }
    }

    /// Takes what was written for clean without having it on the platter.
    fn forget(&mut self) {
        self.pending.clear();
    }

    /// What a crash leaves: each block of each pending write arrived with `odds` in eight.
    fn survivor(&self, rng: &mut Rng, block: usize, odds: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for pending in &self.pending {
            match pending {
                Pending::SetLen(length) => {
                    if rng.below(8) < odds {
                        bytes.resize(*length, 0);
                    }
                }
                Pending::Write {
                    offset,
                    bytes: written,
                } => {
                    let mut start = *offset;
                    let end = offset + written.len();
                    while start < end {
                        let stop = end.min((start / block + 1) * block);
                        if rng.below(8) < odds {
                            put(&mut bytes, start, &written[start - offset..stop - offset]);
                        }
                        start = stop;
                    }
                }
            }
        }
        bytes
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation; `Ok(true)` if the power goes out during it.
    fn operate(&mut self) -> io::Result<bool> {
        self.alive()?;
        let crashes = self.crash_at == Some(self.operations);
        self.operations += 1;
        self.off |= crashes;
        Ok(crashes)
    }

    fn alive(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        let crashes = self.operate()?;
        change.apply(&mut self.names);
        self.changes.push(change);
        if crashes { Err(power_is_off()) } else { Ok(()) }
    }
}

/// The locks of directories on it: nobody else is there.
#[derive(Clone, Copy, Debug)]
pub struct Unlocked;

impl DirLock for Unlocked {}

impl DirLocks for Unlocked {
    fn lock(&self, _: &Path) -> io::Result<Box<dyn DirLock>> {
        Ok(Box::new(Self))
    }
}

impl Files for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.alive()?;
        let there = state.names.get(path).copied();
        let inode = match (there, how) {
            (Some(inode), Open::Existing) => inode,
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::New) => {
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.change(Change::Create {
                    path: path.to_owned(),
                    inode,
                })?;
                inode
            }
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.keys().any(|name| name.starts_with(from)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Remove {
            path: path.to_owned(),
        })
    }

    fn remove_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let within: Vec<PathBuf> = state
            .names
            .keys()
            .filter(|name| name.starts_with(path))
            .cloned()
            .collect();
        within
            .into_iter()
            .try_for_each(|path| state.change(Change::Remove { path }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.operate()? {
            return Err(power_is_off());
        }
        // A journal keeps the order of all changes: what came before a flushed one is kept with it.
        let Some(last) = state
            .changes
            .iter()
            .rposition(|change| change.dir() == Some(path))
        else {
            return Ok(());
        };
        let flushed: Vec<Change> = state.changes.drain(..=last).collect();
        for change in flushed {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        let names = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names
            .filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.alive()?;
        let within = state.names.keys().filter_map(|name| name.strip_prefix(path).ok());
        let first = within.filter_map(|rest| Some(rest.iter().next()?.to_owned()));
        Ok(first.collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        // Directories are names of files only.
        self.state().alive()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut Inode) -> T) -> T {
        f(self
            .disk
            .state()
            .inodes
            .get_mut(&self.inode)
            .expect("inodes stay as long as the disk"))
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.state().alive()?;
        self.with(|inode| {
            let offset = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(inode.current.len());
            let there = buf.len().min(inode.current.len() - offset);
            buf[..there].copy_from_slice(&inode.current[offset..offset + there]);
            Ok(there)
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let crashes = {
            let mut state = self.disk.state();
            if state.faults.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.operate()?
        };
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|inode| inode.write(offset, buf));
        if crashes { Err(power_is_off()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let faults = {
            let mut state = self.disk.state();
            if state.operate()? {
                return Err(power_is_off());
            }
            state.faults
        };
        if faults.fail_sync {
            self.with(Inode::forget);
            return Err(io::Error::other("injected failure of a flush"));
        }
        if !faults.skip_sync {
            self.with(Inode::sync);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.state().alive()?;
        Ok(self.with(|inode| inode.current.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let crashes = self.disk.state().operate()?;
        let length = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|inode| {
            inode.current.resize(length, 0);
            inode.pending.push(Pending::SetLen(length));
        });
        if crashes { Err(power_is_off()) } else { Ok(()) }
    }
}
