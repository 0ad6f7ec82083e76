//! Where the workspace lies and what it holds, as `cargo metadata` tells it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use spine_tests::cargo::cargo;

/// The parts of `cargo metadata` that the stages need.
pub(crate) struct Workspace {
    /// Directory of the root manifest.
    pub(crate) root: PathBuf,
    /// Where cargo builds; caches of `cargo x` lie beneath it, so that removing it removes everything.
    pub(crate) target: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    test: bool,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self, String> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo metadata does not start: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", output.status));
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
        })
    }

    /// Integration tests that plain `cargo test` leaves alone (`test = false`): they need root, the network or a
    /// build of their own, and belong to a stage that names them.
    ///
    /// Each with its package.
    pub(crate) fn staged_tests(&self) -> BTreeSet<(&str, &str)> {
        let targets = self
            .packages
            .iter()
            .flat_map(|package| package.targets.iter().map(|target| (&*package.name, target)));
        targets
            .filter(|(_, target)| !target.test && target.kind.iter().any(|kind| kind == "test"))
            .map(|(package, target)| (package, &*target.name))
            .collect()
    }
}
