//! Servers of earlier releases, built from the history.
//!
//! `tests/upgrade/releases.toml` names the commits. A release is built once, into `releases/COMMIT` in the target directory; what it has
//! in common with this checkout, the crates of others, is built once for both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// An earlier release.
#[derive(Clone, Debug, Deserialize)]
pub struct Release {
    /// Its number.
    pub version: String,
    /// The commit that it is made of, in full.
    pub commit: String,
    /// What it brought.
    pub what: String,
}

#[derive(Debug, Deserialize)]
struct Releases {
    release: Vec<Release>,
}

/// All of them, the oldest first.
pub fn all() -> Vec<Release> {
    let list = root().join("tests/upgrade/releases.toml");
    let text = fs::read_to_string(&list).expect("the list of releases is there");
    let releases: Releases = toml::from_str(&text).expect("the list of releases is one");
    releases.release
}

impl Release {
    /// Its binary, built unless it was before.
    ///
    /// # Panics
    /// If the history doesn't have it, or it doesn't build: both say what to do.
    pub fn binary(&self) -> PathBuf {
        let place = target().join("releases").join(&self.commit);
        let binary = place.join("debug/spine");
        if binary.exists() {
            return binary;
        }
        let tree = place.join("tree");
        self.check_out(&tree);
        self.stamp(&tree);
        let mut cargo = crate::cargo::cargo();
        cargo
            .args(["build", "--package", "spine-node", "--bin", "spine"])
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &place)
            .env("CARGO_BUILD_BUILD_DIR", target());
        let built = cargo.status().expect("cargo starts");
        assert!(
            built.success(),
            "release {} ({}) does not build: {built}",
            self.version,
            self.commit
        );
        binary
    }

    /// Gives what is built a number of its own. Two releases may bear the same one in their manifests, and cargo tells a
    /// workspace's packages apart by name and number, wherever they lie: it would take what it has compiled of one for the other's.
    fn stamp(&self, tree: &Path) {
        let manifest = tree.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a release has a manifest");
        let (before, rest) = text
            .split_once("\nversion = \"")
            .expect("the workspace has a version");
        let (_, after) = rest.split_once('"').expect("the version ends");
        let stamped = format!(
            "{before}\nversion = \"{}+{}\"{after}",
            self.version,
            &self.commit[..9]
        );
        fs::write(&manifest, stamped).expect("a place in the target directory");
    }

    /// Lays the files of its commit out in `tree`.
    fn check_out(&self, tree: &Path) {
        let known = git(["cat-file", "-e", &format!("{}^{{commit}}", self.commit)]).status();
        assert!(
            known.expect("git starts").success(),
            "the history here does not have release {} ({}): this is a shallow clone; `git fetch --unshallow` brings the rest",
            self.version,
            self.commit
        );
        // What an interrupted attempt left is not to be mixed with this.
        let _ = fs::remove_dir_all(tree);
        fs::create_dir_all(tree).expect("a place in the target directory");
        let mut archive = git(["archive", "--format=tar", &self.commit])
            .stdout(Stdio::piped())
            .spawn()
            .expect("git starts");
        let unpacked = Command::new("tar")
            .args(["-x", "-C"])
            .arg(tree)
            .stdin(archive.stdout.take().expect("it was asked for"))
            .status()
            .expect("tar starts");
        let archived = archive.wait().expect("a child can be waited for");
        assert!(
            archived.success() && unpacked.success(),
            "git archive of {}: {archived}, tar: {unpacked}",
            self.commit
        );
    }
}

fn git<const N: usize>(arguments: [&str; N]) -> Command {
    let mut git = Command::new("git");
    // The checkout may belong to somebody else than who runs the tests.
    git.args(["-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(root());
    git
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}

/// The target directory that this test lies in.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors()
        .find(|directory| directory.join("deps").is_dir())
        .and_then(Path::parent)
        .expect("cargo puts tests below TARGET/PROFILE/deps")
        .to_owned()
}
