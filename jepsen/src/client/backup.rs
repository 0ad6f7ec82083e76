//! Snapshots, by the commands that operators use; and a server that begins with one.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::process::{Child, Command};

use super::{Failure, Native};
use crate::{db, endpoint::Endpoint, history::Out};

/// Ports of the restored server: none that a node has.
const HTTP: u16 = 9_500;
const GRPC: u16 = 9_502;

/// What `spine snapshot save` says.
#[derive(Deserialize)]
struct Saved {
    index: u64,
    revision: u64,
}

impl Native {
    pub(super) async fn save(&self, file: &Path, stale: bool) -> Result<Out, Failure> {
        let address = self.address().to_string();
        let mut arguments = vec!["snapshot", "save", "--addr", &address, "-o", "json"];
        if stale {
            arguments.push("--stale");
        }
        let said = spine(&arguments, &[file]).await.map_err(Failure::Fail)?;
        let saved: Result<Saved, _> = serde_json::from_str(&said);
        let Saved { index, revision } =
            saved.map_err(|error| Failure::Fail(format!("{error} in {said:?}")))?;
        Ok(Out::Saved { index, revision })
    }
}

/// Runs a command of the binary under test, and gives what it says; or why it failed.
async fn spine(arguments: &[&str], paths: &[&Path]) -> Result<String, String> {
    let said = |error: io::Error| error.to_string();
    let mut command = Command::new(db::binary().map_err(said)?);
    command.args(arguments).args(paths).kill_on_drop(true);
    let output = command.output().await.map_err(said)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {}", output.status, text(&output.stderr)))
    }
}

/// A server that began with a snapshot. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Restored {
    process: Child,
    /// Where it is.
    pub(crate) endpoint: Endpoint,
    data: PathBuf,
}

impl Restored {
    /// Restores a file into a directory beside it, and starts a server with that, at other addresses than any node has.
    pub(crate) async fn start(file: &Path, on: IpAddr) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        let data = file.with_extension("data");
        let arguments = ["snapshot", "restore", "--data-dir"];
        spine(&arguments, &[&data, file]).await?;
        let log = File::create(file.with_extension("log")).map_err(said)?;
        let endpoint = Endpoint {
            name: "restored".to_owned(),
            http: SocketAddr::new(on, HTTP),
            grpc: SocketAddr::new(on, GRPC),
        };
        let mut command = Command::new(db::binary().map_err(said)?);
        command
            .args(["serve", "--governance", "open", "--name", &endpoint.name])
            .args(["--http-addr", &endpoint.http.to_string()])
            .args(["--grpc-addr", &endpoint.grpc.to_string()])
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(said)?)
            .stderr(log)
            .kill_on_drop(true);
        let process = command.spawn().map_err(said)?;
        Ok(Self {
            process,
            endpoint,
            data,
        })
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it, and removes what it had on its disk.
    pub(crate) async fn end(mut self) -> io::Result<()> {
        self.process.kill().await?;
        std::fs::remove_dir_all(&self.data)
    }
}

/// How long a server that begins with a snapshot may take to serve.
pub(crate) const RESTORED_WITHIN: Duration = Duration::from_mins(1);
