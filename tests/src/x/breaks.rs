//! Planted defects: each patch in `tests/sim/breaks` is applied to a copy of the tree, and the simulation has to find it
//! within the seeds that the patch names.
//!
//! A patch begins with a word on what it breaks and a line `Seeds: ARGUMENTS`: what `sim` is told.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use spine_tests::cargo::cargo;

use crate::install::must;
use crate::run::Stage;
use crate::workspace::Workspace;

/// Where the patches lie, and what they are called.
const PATCHES: &str = "tests/sim/breaks";
const SUFFIX: &str = "patch";

/// A stage for each patch, or for those that are named.
///
/// # Errors
/// The patches can't be read, or there is none of a name.
pub(crate) fn stages(workspace: &Workspace, names: &[String]) -> Result<Vec<Stage>, String> {
    let mut patches = patches(&workspace.root)?;
    let named = |patch: &PathBuf, name: &String| patch.file_stem() == Some(OsStr::new(name));
    if let Some(unknown) = names
        .iter()
        .find(|name| !patches.iter().any(|patch| named(patch, name)))
    {
        return Err(format!("there is no {PATCHES}/{unknown}.{SUFFIX}"));
    }
    patches.retain(|patch| names.is_empty() || names.iter().any(|name| named(patch, name)));
    Ok(patches.into_iter().map(|patch| stage(workspace, patch)).collect())
}

/// All patches, by name.
fn patches(root: &Path) -> Result<Vec<PathBuf>, String> {
    let directory = root.join(PATCHES);
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut patches = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension() == Some(OsStr::new(SUFFIX)) {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(patches)
}

fn stage(workspace: &Workspace, patch: PathBuf) -> Stage {
    let (root, target) = (workspace.root.clone(), workspace.target.clone());
    let name = patch
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Stage::prepared(format!("break: {name}"), move || {
        let seeds = seeds(&patch)?;
        let tree = target.join("breaks/tree");
        copy(&root, &tree)?;
        apply(&patch, &tree)?;
        let mut build = cargo();
        build
            .args(["build", "--profile", "sim", "-p", "spine-tests", "--bin", "sim"])
            // The crates of others are those of the unbroken simulation.
            .arg("--target-dir")
            .arg(target.join("sim"))
            .env("RUSTFLAGS", "--cfg tokio_unstable")
            .current_dir(&tree);
        must(&mut build)?;
        let mut run = Command::new(target.join("sim/sim/sim"));
        run.arg("--until-found").args(seeds);
        Ok(run)
    })
}

/// What the patch has the simulation told.
fn seeds(patch: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(patch).map_err(|error| format!("{}: {error}", patch.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Seeds: "));
    let line = line.ok_or_else(|| format!("{}: which seeds find it?", patch.display()))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// Makes `tree` what the checkout is, and leaves alone what is the same, so that little is built anew.
fn copy(root: &Path, tree: &Path) -> Result<(), String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git does not start: {error}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(wanted) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|there| there == wanted) {
            continue;
        }
        let failed = |error: std::io::Error| format!("{}: {error}", to.display());
        fs::create_dir_all(to.parent().unwrap_or(tree)).map_err(failed)?;
        fs::write(&to, wanted).map_err(failed)?;
    }
    Ok(())
}

fn apply(patch: &Path, tree: &Path) -> Result<(), String> {
    // Otherwise git takes the tree for a part of the checkout around it, and skips what it does not track.
    let ceiling = tree.parent().unwrap_or(tree);
    must(
        Command::new("git")
            .arg("apply")
            .arg(patch)
            .env("GIT_CEILING_DIRECTORIES", ceiling)
            .current_dir(tree),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_patch_applies_and_names_its_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the workspace");
        let patches = patches(root).expect("the patches");
        assert!(!patches.is_empty());
        for patch in patches {
            seeds(&patch).expect("its seeds");
            let mut check = Command::new("git");
            let check = check.args(["apply", "--check"]).arg(&patch).current_dir(root);
            let status = check.status().expect("git starts");
            assert!(status.success(), "{} is of an older tree", patch.display());
        }
    }
}
