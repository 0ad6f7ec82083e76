//! `spine debug`: a file for a report of a defect, that may be given to strangers.
//!
//! What is in it is listed here, one file after another; no server puts a key, a value, a path or a credential into its
//! answers ([`Admin.Debug`](spine_client::proto)), and nothing is taken from anywhere else. Its size and the time that it
//! takes are bounded: by [`PART_BYTES_MAX`] and `--timeout` for each server.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use flate2::{Compression, write::GzEncoder};
use futures::future::join_all;
use serde_json::json;
use spine_client::{Error, proto as v1};

use super::{
    Connection, Streams,
    doctor::{self, Facts, Server},
    exit::Failure,
    rows::MemberRow,
};
use crate::world::clock::{Clock, OsClock};

/// Bytes of one file in the bundle; what is longer is cut.
const PART_BYTES_MAX: usize = 4 << 20;
/// Servers in a bundle: more are none in a cluster.
const SERVERS_MAX: usize = 64;

/// Make a file for a report of a defect: members, what the doctor finds, and of each server its metrics, configuration, the
/// newest lines of its log, what its threads do, how many rows its tables have. No key, value, path or credential is in it.
#[derive(Args, Debug)]
pub struct Debug {
    /// The file; there must be none of this name
    #[arg(short, long, default_value = "spine-debug.tar.gz", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

impl Debug {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        if self.file.exists() {
            let problem = format!("{} is there already; choose another --file", self.file.display());
            return Err(Failure::Other(problem));
        }
        let facts = doctor::gather(&self.connection).await?;
        let told = join_all(
            facts
                .servers
                .iter()
                .take(SERVERS_MAX)
                .map(|server| self.ask(server)),
        )
        .await;
        let parts = parts(&facts, &told)?;
        let bytes = packed(&parts)?;
        keep(&self.file, &bytes)?;
        writeln!(
            streams.out,
            "{}: {} files of {} servers, {} bytes; look through it before you give it away",
            self.file.display(),
            parts.len(),
            told.len(),
            bytes.len()
        )?;
        Ok(())
    }

    async fn ask(&self, server: &Server) -> Result<v1::DebugResponse, Error> {
        // Who could not be asked before is not asked again.
        server.said.as_ref().map_err(Clone::clone)?;
        self.connection
            .client_of(&server.member.grpc_address)?
            .admin
            .debug()
            .await
    }
}

/// A file of the bundle.
struct Part {
    name: String,
    text: String,
}

impl Part {
    fn new(name: impl Into<String>, mut text: String) -> Self {
        let mut end = text.len().min(PART_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self {
            name: name.into(),
            text,
        }
    }

    fn json(name: impl Into<String>, value: &impl serde::Serialize) -> Result<Self, Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        Ok(Self::new(name, text + "\n"))
    }
}

fn parts(facts: &Facts, told: &[Result<v1::DebugResponse, Error>]) -> Result<Vec<Part>, Failure> {
    let members = facts
        .servers
        .iter()
        .map(|server| MemberRow::from(server.member.clone()));
    let mut parts = vec![
        Part::json(
            "about.json",
            &json!({ "made_by": env!("CARGO_PKG_VERSION"), "at_unix_ms": OsClock.wall().0 }),
        )?,
        Part::json("members.json", &members.collect::<Vec<_>>())?,
        Part::json("doctor.json", &doctor::judge(facts))?,
    ];
    for (server, told) in facts.servers.iter().zip(told) {
        let place = folder(&server.member.name);
        if let Ok(reached) = &server.said {
            parts.push(Part::new(
                format!("{place}/diagnosis.txt"),
                format!("{:#?}\n", reached.said),
            ));
        }
        match told {
            Ok(told) => of_server(&place, told, &mut parts)?,
            Err(error) => parts.push(Part::new(format!("{place}/not-asked.txt"), format!("{error}\n"))),
        }
    }
    Ok(parts)
}

fn of_server(place: &str, told: &v1::DebugResponse, parts: &mut Vec<Part>) -> Result<(), Failure> {
    let v1::DebugResponse {
        name: _,
        metrics,
        config,
        log,
        rows,
        threads,
        build,
    } = told;
    let mut lines = String::new();
    for line in log {
        let _ = writeln!(lines, "{line}");
    }
    parts.push(Part::new(format!("{place}/metrics.txt"), metrics.clone()));
    parts.push(Part::new(format!("{place}/log.txt"), lines));
    parts.push(Part::json(format!("{place}/config.json"), config)?);
    let summary = json!({ "rows": rows, "threads": threads, "build": build });
    parts.push(Part::json(format!("{place}/summary.json"), &summary)?);
    Ok(())
}

/// A server's name as that of a folder.
fn folder(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

fn packed(parts: &[Part]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(OsClock.wall().0 / 1_000);
        let name = Path::new("spine-debug").join(&part.name);
        archive.append_data(&mut header, name, part.text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

/// Writes a file that was not there, for this user alone.
#[expect(
    clippy::disallowed_methods,
    reason = "a file of the user's, not of the node's"
)]
fn keep(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_bundle_unpacks_to_its_parts() {
        let parts = [
            Part::new("a.txt", "one".to_owned()),
            Part::new("n1/b.txt", "two".to_owned()),
        ];
        let bytes = packed(&parts).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let unpacked = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        let unpacked: Vec<_> = unpacked.collect();
        let expected = [("spine-debug/a.txt", "one"), ("spine-debug/n1/b.txt", "two")];
        assert_eq!(
            unpacked,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn a_part_that_is_too_long_is_cut_between_characters() {
        let part = Part::new("long", "ä".repeat(PART_BYTES_MAX));
        assert_eq!(part.text.len(), PART_BYTES_MAX);
        assert!(Part::new("odd", "xä".repeat(PART_BYTES_MAX)).text.len() <= PART_BYTES_MAX);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        assert_eq!(folder("../n1"), "___n1");
        assert_eq!(folder("n-1_a.b"), "n-1_a_b");
    }
}
