//! The bytes of a snapshot file. Pure: what is read and written comes from the caller, and no input makes it panic.
//!
//! ```text
//! "SPINESNP", format        8 + 4 bytes
//! frames                    kind, length of the body, CRC-32C, body
//!   head    1, once, first: whose state it is, and what its rows come to
//!   chunk   2, any number: a piece of the state, as the core cuts it
//!   end     3, once, last: how many chunks and bytes there were, and a SHA-256 over everything before this frame
//! ```
//!
//! A frame's checksum covers its kind, its number and its body, so that none can be lost, doubled or swapped. Behind the
//! end there is nothing. All numbers are little-endian.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use sha2::{Digest, Sha256};
use spine_core::snapshot::CHUNK_BYTES;

/// The format that this code writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"SPINESNP";
const FRAME_HEADER_BYTES: usize = 9;
/// Longest body of a frame in bytes: a chunk; the others are far shorter.
const BODY_BYTES_MAX: usize = CHUNK_BYTES;

/// Whose state it is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Head {
    /// What the chunks come to: [`spine_core::snapshot::Header`].
    #[prost(bytes = "bytes", tag = "1")]
    pub state: Bytes,
    /// The cluster's id: a UUID.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// The server that it was fetched from.
    #[prost(string, tag = "3")]
    pub server: String,
    /// The release that this one ran.
    #[prost(string, tag = "4")]
    pub release: String,
}

/// What a whole file comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Chunks in it.
    pub chunks: u64,
    /// Bytes of the chunks.
    pub state_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// SHA-256 of everything before the last frame; that frame holds it.
    pub sha256: [u8; 32],
}

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no snapshot file of Spine")]
    Foreign,
    /// It was written by a newer release.
    #[error("the file has format {found}, and this release reads up to {FORMAT}: use a newer release")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Its end is missing.
    #[error("the file is cut off after {0} bytes: it was not saved to its end, or not copied whole")]
    CutOff(u64),
    /// It doesn't hold what was written.
    #[error("the file is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Head = 1,
    Chunk = 2,
    End = 3,
}

fn checksum(kind: u8, number: u64, body: &[u8]) -> u32 {
    let mut place = [0; 9];
    place[0] = kind;
    place[1..].copy_from_slice(&number.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), body)
}

/// Writes a snapshot file.
pub struct Writer<W> {
    out: W,
    sha256: Sha256,
    frames: u64,
    totals: Totals,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// The output's.
    pub fn new(out: W, head: &Head) -> io::Result<Self> {
        let mut writer = Self {
            out,
            sha256: Sha256::new(),
            frames: 0,
            totals: Totals {
                chunks: 0,
                state_bytes: 0,
                file_bytes: 0,
                sha256: [0; 32],
            },
        };
        let mut beginning = MAGIC.to_vec();
        beginning.put_u32_le(FORMAT);
        writer.put(&beginning)?;
        writer.frame(Kind::Head, &head.encode_to_vec())?;
        Ok(writer)
    }

    /// Appends a chunk, of at most [`CHUNK_BYTES`].
    ///
    /// # Errors
    /// The output's.
    pub fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.frame(Kind::Chunk, chunk)?;
        self.totals.chunks += 1;
        self.totals.state_bytes += chunk.len() as u64;
        Ok(())
    }

    /// Writes the end; gives back the output, which is not flushed.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<(Totals, W)> {
        self.totals.sha256 = self.sha256.clone().finalize().into();
        let mut end = Vec::new();
        end.put_u64_le(self.totals.chunks);
        end.put_u64_le(self.totals.state_bytes);
        end.put_slice(&self.totals.sha256);
        self.frame(Kind::End, &end)?;
        Ok((self.totals, self.out))
    }

    fn frame(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        if body.len() > BODY_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a part of {} bytes is too long",
                body.len()
            )));
        }
        let mut header = Vec::with_capacity(FRAME_HEADER_BYTES);
        header.put_u8(kind as u8);
        header.put_u32_le(u32::try_from(body.len()).expect("bounded above"));
        header.put_u32_le(checksum(kind as u8, self.frames, body));
        self.frames += 1;
        self.put(&header)?;
        self.put(body)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.totals.file_bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Reads a snapshot file.
pub struct Reader<R> {
    input: R,
    sha256: Sha256,
    frames: u64,
    offset: u64,
    head: Head,
    chunks: u64,
    state_bytes: u64,
}

/// What a file goes on with.
#[derive(Debug)]
pub enum Next {
    /// A chunk.
    Chunk(Vec<u8>),
    /// Nothing: it is whole.
    End(Totals),
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn new(input: R) -> Result<Self, FileError> {
        let mut reader = Self {
            input,
            sha256: Sha256::new(),
            frames: 0,
            offset: 0,
            head: Head::default(),
            chunks: 0,
            state_bytes: 0,
        };
        let beginning = reader.take(MAGIC.len() + 4).map_err(|error| match error {
            FileError::CutOff(_) => FileError::Foreign,
            other => other,
        })?;
        if &beginning[..MAGIC.len()] != MAGIC {
            return Err(FileError::Foreign);
        }
        let found = (&beginning[MAGIC.len()..]).get_u32_le();
        if found > FORMAT {
            return Err(FileError::Newer { found });
        }
        if found != FORMAT {
            return Err(reader.damaged("a format that never was"));
        }
        reader.sha256.update(&beginning);
        let (kind, body) = reader.frame()?;
        if kind != Kind::Head {
            return Err(reader.damaged("the head is missing"));
        }
        reader.head = Head::decode(&body[..]).map_err(|_| reader.damaged("the head makes no sense"))?;
        Ok(reader)
    }

    /// Whose state it is.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next part. Not to be called again after the end.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read_on(&mut self) -> Result<Next, FileError> {
        let before = self.sha256.clone();
        let (kind, body) = self.frame()?;
        match kind {
            Kind::Head => Err(self.damaged("a second head")),
            Kind::Chunk => {
                self.chunks += 1;
                self.state_bytes += body.len() as u64;
                Ok(Next::Chunk(body))
            }
            Kind::End => self.end(&body, before.finalize().into()),
        }
    }

    fn end(&mut self, body: &[u8], sha256: [u8; 32]) -> Result<Next, FileError> {
        let mut expected = Vec::new();
        expected.put_u64_le(self.chunks);
        expected.put_u64_le(self.state_bytes);
        expected.put_slice(&sha256);
        if body != expected {
            return Err(self.damaged("its end says that it should have held something else"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(self.damaged("there is something behind its end"));
        }
        Ok(Next::End(Totals {
            chunks: self.chunks,
            state_bytes: self.state_bytes,
            file_bytes: self.offset,
            sha256,
        }))
    }

    /// One frame, checked.
    fn frame(&mut self) -> Result<(Kind, Vec<u8>), FileError> {
        let begin = self.offset;
        let damaged = |what| FileError::Damaged { offset: begin, what };
        let header = self.take(FRAME_HEADER_BYTES)?;
        let mut fields = &header[..];
        let kind = match fields.get_u8() {
            1 => Kind::Head,
            2 => Kind::Chunk,
            3 => Kind::End,
            _ => return Err(damaged("no part begins here")),
        };
        let length = fields.get_u32_le() as usize;
        if length > BODY_BYTES_MAX {
            return Err(damaged("a part is longer than any can be"));
        }
        let expected = fields.get_u32_le();
        let body = self.take(length)?;
        if checksum(kind as u8, self.frames, &body) != expected {
            return Err(damaged("the checksum of a part is wrong"));
        }
        self.frames += 1;
        self.sha256.update(&header);
        self.sha256.update(&body);
        Ok((kind, body))
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, FileError> {
        let mut taken = vec![0; bytes];
        let mut there = 0;
        while there < bytes {
            match self.input.read(&mut taken[there..]) {
                Ok(0) => return Err(FileError::CutOff(self.offset + there as u64)),
                Ok(read) => there += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.offset += bytes as u64;
        Ok(taken)
    }

    fn damaged(&self, what: &'static str) -> FileError {
        FileError::Damaged {
            offset: self.offset,
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            state: Bytes::from_static(b"header"),
            cluster: "c".into(),
            server: "n1".into(),
            release: "0.1.0".into(),
        }
    }

    fn file() -> (Totals, Vec<u8>) {
        let mut writer = Writer::new(Vec::new(), &head()).unwrap();
        for (number, length) in [(1, 100), (2, 0), (3, 2000)] {
            writer.chunk(&vec![number; length]).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, Totals), FileError> {
        let mut reader = Reader::new(bytes)?;
        assert_eq!(*reader.head(), head());
        let mut chunks = Vec::new();
        loop {
            match reader.read_on()? {
                Next::Chunk(chunk) => chunks.push(chunk),
                Next::End(totals) => return Ok((chunks, totals)),
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let (written, bytes) = file();
        let (chunks, totals) = read(&bytes).unwrap();
        assert_eq!(totals, written);
        assert_eq!(totals.file_bytes, bytes.len() as u64);
        assert_eq!(chunks, [vec![1; 100], vec![], vec![3; 2000]]);
    }

    #[test]
    fn each_byte_that_is_wrong_is_noticed() {
        let (_, bytes) = file();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let error = read(&damaged).unwrap_err();
            let expected = match at {
                0..8 => matches!(error, FileError::Foreign),
                8..12 => matches!(error, FileError::Newer { .. }),
                // A length that has grown reaches behind the end.
                _ => matches!(error, FileError::Damaged { .. } | FileError::CutOff(_)),
            };
            assert!(expected, "byte {at}: {error}");
        }
    }

    #[test]
    fn each_cut_is_noticed_and_so_is_what_was_appended() {
        let (_, bytes) = file();
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            let expected = if length < 12 {
                matches!(error, FileError::Foreign)
            } else {
                matches!(error, FileError::CutOff(at) if at == length as u64)
            };
            assert!(expected, "{length} bytes: {error}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(read(&longer), Err(FileError::Damaged { .. })));
    }

    #[test]
    fn parts_that_were_swapped_doubled_or_left_out_are_noticed() {
        let mut writer = Writer::new(Vec::new(), &head()).unwrap();
        let begin = writer.totals.file_bytes;
        let begin = usize::try_from(begin).unwrap();
        writer.chunk(&[1; 50]).unwrap();
        writer.chunk(&[2; 50]).unwrap();
        let (_, bytes) = writer.finish().unwrap();
        let length = FRAME_HEADER_BYTES + 50;
        let (first, second) = (begin..begin + length, begin + length..begin + 2 * length);
        let rest = &bytes[second.end..];
        let build = |parts: &[std::ops::Range<usize>]| {
            let mut built = bytes[..begin].to_vec();
            for part in parts {
                built.extend_from_slice(&bytes[part.clone()]);
            }
            built.extend_from_slice(rest);
            built
        };
        assert!(read(&build(&[first.clone(), second.clone()])).is_ok());
        for parts in [
            vec![second.clone(), first.clone()],
            vec![first.clone(), first.clone()],
            vec![first.clone()],
            vec![second],
            vec![],
        ] {
            assert!(
                matches!(read(&build(&parts)), Err(FileError::Damaged { .. })),
                "{parts:?}"
            );
        }
    }

    #[test]
    fn a_part_is_not_longer_than_a_chunk() {
        let mut writer = Writer::new(Vec::new(), &head()).unwrap();
        assert!(writer.chunk(&vec![0; CHUNK_BYTES]).is_ok());
        assert!(writer.chunk(&vec![0; CHUNK_BYTES + 1]).is_err());
    }
}
