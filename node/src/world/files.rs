//! Files as the log and the vote need them: positioned reads and writes, an explicit flush, atomic rename, and
//! directories whose entries are flushed on their own.
//!
//! The traits promise no more than POSIX does, and the log relies on no more: a write is durable only after
//! [`File::sync_data`] returned, a new or changed name only after [`Files::sync_dir`] returned, and whatever was not
//! flushed may be lost, torn into sectors and reordered by a power cut. [`OsFiles`] is the real disk.

#![expect(clippy::disallowed_methods, reason = "this is the seam to the real disk")]

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How [`Files::open`] treats a file that is there, or isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file must exist; it is opened for reading and writing.
    Existing,
    /// The file must not exist; it is made, empty.
    New,
}

/// A directory tree of files. Paths are absolute or relative to the process, as the implementation likes.
///
/// Duties of an implementation: after [`sync_dir`](Self::sync_dir) returned, every creation, rename and removal in that
/// directory is durable; a rename replaces its target at once, so that a crash shows the old file or the new one; an
/// open file goes on working when it is renamed or removed.
pub trait Files: Send + Sync + Debug {
    /// Opens `path` for reading and writing.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Renames the file `from` to `to`, replacing what was there; or a directory, where nothing is. Durable after
    /// [`sync_dir`](Self::sync_dir) of both.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it; no error if there is none. Not durable.
    fn remove_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of the directory `path` durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in the directory `path`, sorted; directories are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Names of all that is in the directory `path`, directories as well, sorted; none if it isn't there.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Makes the directory `path` and its missing parents durably; no error if it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file, used at positions, so that readers and the one writer share it without a cursor.
pub trait File: Send + Sync + Debug {
    /// Fills `buf` from `offset` on and returns how many bytes were there: fewer than asked for only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`, growing the file where needed. Durable after [`sync_data`](Self::sync_data).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all writes that returned before this call durable, and the length needed to read them back.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(how == Open::New)
            .open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|p| !p.as_os_str().is_empty() && !p.exists())
            .collect();
        fs::create_dir_all(path)?;
        for made in missing {
            match made.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent)?,
                _ => self.sync_dir(Path::new("."))?,
            }
        }
        Ok(())
    }
}

/// A file of the machine.
#[derive(Debug)]
struct OsFile(fs::File);

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}
