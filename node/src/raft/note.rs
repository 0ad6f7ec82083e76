//! Small files that are replaced as a whole: a boot number, a founding, what is remembered of the peers.
//!
//! A note is written beside the old one, flushed, and renamed over it: a crash leaves the old one or the new one. What
//! cannot be read back is damage, since neither of the two is ever half there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::world::files::{Files, Open};

/// Bytes of a note's content at most.
const CONTENT_BYTES_MAX: usize = 1 << 20;
/// What marks a file as a note.
const MAGIC: &[u8; 8] = b"spineNT1";
/// Magic and length before the content.
const HEAD_BYTES: usize = 12;
/// CRC-32C of all before it.
const SUM_BYTES: usize = 4;

/// A note in a directory.
#[derive(Clone, Debug)]
pub(super) struct Note {
    files: Arc<dyn Files>,
    directory: PathBuf,
    name: &'static str,
}

impl Note {
    /// The note of this name, whether it is there or not.
    pub(super) fn new(files: Arc<dyn Files>, directory: &Path, name: &'static str) -> Self {
        Self {
            files,
            directory: directory.to_owned(),
            name,
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// Its content; `None` if it was never written.
    pub(super) fn read(&self) -> io::Result<Option<Bytes>> {
        let names = self.files.list(&self.directory)?;
        if !names.iter().any(|name| name == self.name) {
            return Ok(None);
        }
        let file = self.files.open(&self.path(), Open::Existing)?;
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if length > HEAD_BYTES + CONTENT_BYTES_MAX + SUM_BYTES {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; length];
        let there = file.read_at(&mut bytes, 0)?;
        bytes.truncate(there);
        content(bytes.into()).map(Some).ok_or_else(|| self.damaged())
    }

    /// Replaces its content; durable when this returns.
    pub(super) fn write(&self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len())
            .ok()
            .filter(|_| content.len() <= CONTENT_BYTES_MAX);
        let length = length.ok_or_else(|| {
            let text = format!("{} can't hold {} bytes", self.name, content.len());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + content.len() + SUM_BYTES);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(length);
        bytes.put_slice(content);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        replace(&*self.files, &self.directory, self.name, &bytes)
    }

    /// The error of a note that is there and makes no sense.
    pub(super) fn damaged(&self) -> io::Error {
        let text = format!("{} is damaged", self.path().display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

fn content(mut bytes: Bytes) -> Option<Bytes> {
    let body = bytes.len().checked_sub(HEAD_BYTES + SUM_BYTES)?;
    let sum = bytes.split_off(HEAD_BYTES + body);
    let sound = bytes.starts_with(MAGIC)
        && bytes[MAGIC.len()..HEAD_BYTES] == u32::try_from(body).ok()?.to_le_bytes()
        && sum[..] == crc32c::crc32c(&bytes).to_le_bytes();
    sound.then(|| bytes.split_off(HEAD_BYTES))
}

/// Writes the file `name` in `directory` anew. It is the old one until it is the new one, and durable when this returns.
pub(super) fn replace(files: &dyn Files, directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft_name = format!("{name}.new");
    let draft = directory.join(&draft_name);
    if files.list(directory)?.contains(&draft_name) {
        // A crash before the rename left it.
        files.remove(&draft)?;
    }
    let file = files.open(&draft, Open::New)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    files.rename(&draft, &directory.join(name))?;
    files.sync_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::files::OsFiles;

    #[test]
    fn a_note_is_read_as_it_was_written_last() {
        let directory = tempfile::tempdir().unwrap();
        let note = Note::new(Arc::new(OsFiles), directory.path(), "note");
        assert_eq!(note.read().unwrap(), None);
        for content in [&b"first"[..], b"", b"a longer one than before"] {
            note.write(content).unwrap();
            assert_eq!(note.read().unwrap().as_deref(), Some(content));
        }
        // A crash before the rename leaves a draft.
        OsFiles
            .open(&directory.path().join("note.new"), Open::New)
            .unwrap();
        note.write(b"after").unwrap();
        assert_eq!(note.read().unwrap().as_deref(), Some(&b"after"[..]));
        assert!(note.write(&vec![0; CONTENT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn every_flipped_or_missing_byte_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let note = Note::new(Arc::new(OsFiles), directory.path(), "note");
        note.write(b"content").unwrap();
        let good = std::fs::read(note.path()).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            std::fs::write(note.path(), &bad).unwrap();
            assert_eq!(
                note.read().unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{place}"
            );
            std::fs::write(note.path(), &good[..place]).unwrap();
            assert_eq!(
                note.read().unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{place}"
            );
        }
    }
}
