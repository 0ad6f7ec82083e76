//! `spine snapshot`: the state of a cluster in a file, and a new cluster from it.
//!
//! A file is written under another name, flushed and then renamed, so that what has its name is whole; nobody but its
//! owner may read it, since it holds all that the registry does.

#![expect(
    clippy::disallowed_methods,
    reason = "these are the user's files, not the node's"
)]

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, value_parser};
use serde::Serialize;
use spine_client::{SnapshotStream, proto::save_snapshot_response::Part};

use super::{
    Connection, Printing, Streams,
    exit::Failure,
    facts::{Fact, Report, say},
    progress::Bar,
};
use crate::{
    World,
    backup::{
        self, Loaded, ReadError, RestoreError,
        file::{Head, Totals, Writer},
    },
    raft::{checkpoint::Step, recovery::NUMBERS_SKIPPED},
};

/// No number may grow beyond what a reader of JSON takes for exact, nor by several restores.
const NUMBERS_SKIPPED_MAX: u64 = NUMBERS_SKIPPED * 100_000;

/// Keep the state of the cluster in a file, and begin a cluster with it
#[derive(Args, Debug)]
pub struct Snapshot {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch the state of the running cluster into a file; writes go on meanwhile
    Save {
        /// The file; there must be none of this name
        file: PathBuf,
    },
    /// Make a data directory that begins a new cluster with the state in a file: start one server with it, without
    /// --initial-cluster
    ///
    /// Indexes and revisions go on further on than the old cluster can have come after the save, so that no number that it gave,
    /// as the fencing number of a lock, is given again. Watches from before are told to begin anew; old versions of keys are
    /// gone; leases and TTLs get their whole time again.
    Restore {
        /// The file
        file: PathBuf,
        /// The directory; it must be empty, or not there. A mount point will do
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// How many indexes and revisions are left out. If a cluster that began with this file has worked already, say a
        /// thousand million more than it was given: its numbers too are not to be given again
        #[arg(long, value_name = "N", default_value_t = NUMBERS_SKIPPED,
              value_parser = value_parser!(u64).range(NUMBERS_SKIPPED..=NUMBERS_SKIPPED_MAX))]
        skip_numbers: u64,
    },
    /// Read a file to its end, and say whether it is whole and what is in it
    Inspect {
        /// The file
        file: PathBuf,
    },
}

impl Snapshot {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        match self.command {
            Command::Save { file } => {
                let report = save(&self.connection, &file, streams).await?;
                say(streams, self.printing.output, &report)
            }
            Command::Restore {
                file,
                data_dir,
                skip_numbers,
            } => {
                let report = restore(&file, skip_numbers, &data_dir, streams)?;
                say(streams, self.printing.output, &report)
            }
            Command::Inspect { file } => {
                let report = Inspected::of(&file, &load(&file, streams)?);
                say(streams, self.printing.output, &report)
            }
        }
    }
}

/// What was saved.
#[derive(Debug, Serialize)]
struct Saved {
    file: String,
    cluster: String,
    server: String,
    index: u64,
    revision: u64,
    chunks: u64,
    bytes: u64,
    sha256: String,
}

impl Report for Saved {
    fn facts(&self) -> Vec<Fact> {
        vec![
            Fact::new("file", &self.file),
            Fact::new("cluster", &self.cluster),
            Fact::new("server", &self.server),
            Fact::new("index", &self.index),
            Fact::new("revision", &self.revision),
            Fact::new("chunks", &self.chunks),
            Fact::new("bytes", &self.bytes),
            Fact::new("sha256", &self.sha256),
        ]
    }
}

async fn save(connection: &Connection, file: &Path, streams: &mut Streams<'_>) -> Result<Saved, Failure> {
    if file.exists() {
        let text = format!(
            "{} is there already: name another file, or remove it",
            file.display()
        );
        return Err(Failure::GuardFailed(text));
    }
    let mut snapshot = connection.client()?.admin.save_snapshot().await?;
    let draft = Draft::new(file).map_err(|error| cannot("write", file, &error))?;
    let totals = fetch(&mut snapshot, &draft, streams).await?;
    draft.name(file).map_err(|error| cannot("write", file, &error))?;
    let start = snapshot.start();
    Ok(Saved {
        file: file.display().to_string(),
        cluster: start.cluster_id.clone(),
        server: start.server.clone(),
        index: start.index,
        revision: start.revision,
        chunks: totals.chunks,
        bytes: totals.file_bytes,
        sha256: hex::encode(totals.sha256),
    })
}

/// Writes what comes into the draft, each part checked.
async fn fetch(
    snapshot: &mut SnapshotStream,
    draft: &Draft,
    streams: &mut Streams<'_>,
) -> Result<Totals, Failure> {
    let start = snapshot.start();
    let head = Head {
        state: start.state.clone(),
        cluster: start.cluster_id.clone(),
        server: start.server.clone(),
        release: start.version.clone(),
    };
    // What the state takes in memory is near to what its chunks take.
    let bar = Bar::new(streams, start.state_bytes).roughly();
    let write = |error: io::Error| cannot("write", &draft.path, &error);
    let mut writer = Writer::new(BufWriter::new(&draft.file), &head).map_err(write)?;
    let (mut chunks, mut bytes) = (0, 0);
    loop {
        match snapshot.next().await? {
            Part::Chunk(chunk) if crc32c::crc32c(&chunk.data) == chunk.crc32c => {
                writer.chunk(&chunk.data).map_err(write)?;
                chunks += 1;
                bytes += chunk.data.len() as u64;
                bar.reached("saving", bytes);
            }
            Part::End(end) if (end.chunks, end.bytes) == (chunks, bytes) => break,
            Part::Chunk(_) => return Err(mangled("a chunk came with another checksum than it left with")),
            Part::End(_) => return Err(mangled("chunks got lost on the way")),
            Part::Start(_) => return Err(mangled("it began twice")),
        }
    }
    let (totals, buffered) = writer.finish().map_err(write)?;
    buffered.into_inner().map_err(|error| write(error.into_error()))?;
    Ok(totals)
}

fn mangled(what: &str) -> Failure {
    Failure::Other(format!("the snapshot did not come through: {what}; begin again"))
}

/// A file that has not got its name yet. Dropping it removes it.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    fn new(target: &Path) -> io::Result<Self> {
        let mut name = OsString::from(target.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(".part");
        let path = target.with_file_name(name);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { file, path })
    }

    /// Makes it durable under its name.
    fn name(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It may have got its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// What was restored.
#[derive(Debug, Serialize)]
struct Restored {
    data_dir: String,
    cluster: String,
    from_cluster: String,
    saved_index: u64,
    saved_revision: u64,
    /// Those that the new cluster goes on from.
    index: u64,
    revision: u64,
}

impl Report for Restored {
    fn facts(&self) -> Vec<Fact> {
        vec![
            Fact::new("data directory", &self.data_dir),
            Fact::new("cluster", &self.cluster),
            Fact::new("from cluster", &self.from_cluster),
            Fact::new("saved index", &self.saved_index),
            Fact::new("saved revision", &self.saved_revision),
            Fact::new("index", &self.index),
            Fact::new("revision", &self.revision),
            Fact::new(
                "next",
                &format!(
                    "spine serve --data-dir {} …, without --initial-cluster",
                    self.data_dir
                ),
            ),
        ]
    }
}

fn restore(file: &Path, skipped: u64, directory: &Path, streams: &Streams<'_>) -> Result<Restored, Failure> {
    let loaded = load(file, streams)?;
    let bar = Bar::new(streams, loaded.totals.state_bytes);
    let progress = |step, bytes| {
        let what = match step {
            Step::Written => "writing",
            Step::Checked => "checking",
        };
        bar.reached(what, bytes);
    };
    let restored = backup::restore(&World::real(), &loaded.state, skipped, directory, &progress);
    let restored = restored.map_err(|error| match error {
        RestoreError::NotEmpty(_) | RestoreError::InUse(_) => Failure::GuardFailed(error.to_string()),
        other => Failure::Other(other.to_string()),
    })?;
    Ok(Restored {
        data_dir: directory.display().to_string(),
        cluster: restored.identity.cluster.to_string(),
        from_cluster: loaded.head.cluster,
        saved_index: loaded.header.index.0,
        saved_revision: loaded.header.revision.0,
        index: restored.index.0,
        revision: restored.revision.0,
    })
}

/// What is in a file.
#[derive(Debug, Serialize)]
struct Inspected {
    file: String,
    cluster: String,
    server: String,
    release: String,
    format: u16,
    rules: u32,
    index: u64,
    revision: u64,
    compacted_revision: u64,
    time_ms: u64,
    rows: Vec<Count>,
    chunks: u64,
    state_bytes: u64,
    bytes: u64,
    digest: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Count {
    table: &'static str,
    rows: usize,
}

impl Inspected {
    fn of(file: &Path, loaded: &Loaded) -> Self {
        let Loaded {
            head,
            header,
            totals,
            state,
        } = loaded;
        let rows = state.counts().into_iter();
        Self {
            file: file.display().to_string(),
            cluster: head.cluster.clone(),
            server: head.server.clone(),
            release: head.release.clone(),
            format: header.format,
            rules: header.rules,
            index: header.index.0,
            revision: header.revision.0,
            compacted_revision: state.kv().compacted().0,
            time_ms: header.time.0,
            rows: rows.map(|(table, rows)| Count { table, rows }).collect(),
            chunks: totals.chunks,
            state_bytes: totals.state_bytes,
            bytes: totals.file_bytes,
            digest: format!("{:032x}", header.digest),
            sha256: hex::encode(totals.sha256),
        }
    }
}

impl Report for Inspected {
    fn facts(&self) -> Vec<Fact> {
        let mut facts = vec![
            Fact::new("file", &self.file),
            Fact::new("cluster", &self.cluster),
            Fact::new("server", &self.server),
            Fact::new("release", &self.release),
            Fact::new("format, rules", &format!("{}, {}", self.format, self.rules)),
            Fact::new("index", &self.index),
            Fact::new("revision", &self.revision),
            Fact::new("compacted", &self.compacted_revision),
            Fact::new(
                "cluster time",
                &humantime::format_duration(Duration::from_millis(self.time_ms)),
            ),
        ];
        facts.extend(self.rows.iter().map(|count| Fact::new(count.table, &count.rows)));
        facts.extend([
            Fact::new("chunks", &self.chunks),
            Fact::new("bytes of state", &self.state_bytes),
            Fact::new("bytes", &self.bytes),
            Fact::new("digest", &self.digest),
            Fact::new("sha256", &self.sha256),
        ]);
        facts
    }
}

fn load(path: &Path, streams: &Streams<'_>) -> Result<Loaded, Failure> {
    let open = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (file, length) = open().map_err(|error| cannot("read", path, &error))?;
    let bar = Bar::new(streams, length);
    let loaded = backup::read(BufReader::new(file), &mut |bytes| bar.reached("reading", bytes));
    loaded.map_err(|error| match error {
        ReadError::File(backup::file::FileError::Io(error)) => cannot("read", path, &error),
        other => Failure::Other(format!("{}: {other}", path.display())),
    })
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    let text = format!("can't {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound if what == "read" => Failure::NotFound(text),
        _ => Failure::Other(text),
    }
}
