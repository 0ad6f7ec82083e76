//! The ordered trace of one simulation, kept as a running hash.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Where every node, client and fault writes what it did. Cheap to clone; all clones are one trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    hash: Sha256,
    events: u64,
    /// For people: the same lines, so that two runs can be compared.
    file: Option<BufWriter<File>>,
}

/// The digest of a trace and its length.
pub struct Summary {
    /// SHA-256 over the lines, in hexadecimal digits.
    pub digest: String,
    /// How many lines.
    pub events: u64,
}

impl Trace {
    /// Starts an empty trace, written to `file` as well where one is named.
    pub fn new(file: Option<&str>) -> io::Result<Self> {
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Self(Arc::new(Mutex::new(Inner {
            hash: Sha256::new(),
            events: 0,
            file,
        }))))
    }

    /// Adds one line: simulated time, who, what. The order of calls is part of the digest.
    pub fn record(&self, who: impl Display, what: fmt::Arguments<'_>) {
        self.record_at(turmoil::sim_elapsed().unwrap_or_default(), who, what);
    }

    /// The same for what is done from outside the simulated hosts, where turmoil can't tell the time.
    pub fn record_at(&self, at: Duration, who: impl Display, what: fmt::Arguments<'_>) {
        let line = format!("{} {who} {what}\n", at.as_micros());
        let mut inner = self.inner();
        inner.hash.update(line.as_bytes());
        inner.events += 1;
        if let Some(file) = &mut inner.file {
            // A trace for people that can't be written is missed by them alone; the digest is what counts.
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// The digest of all lines so far.
    pub fn summary(&self) -> Summary {
        let inner = self.inner();
        let digest = inner.hash.clone().finalize();
        Summary {
            digest: hex::encode(digest),
            events: inner.events,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0
            .lock()
            .expect("the simulation has one thread, so no holder can have panicked and gone on")
    }
}
