//! The program in `examples/embedded`, which carries its own registry and lies outside the workspace.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

type Done<T> = Result<T, Box<dyn Error>>;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the workspace").to_owned()
}

/// Cargo for the example, with the versions of the workspace, whose lock file it is given.
fn cargo(arguments: &[&str]) -> Done<Command> {
    let lock = root().join("examples/embedded/Cargo.lock");
    fs::copy(root().join("Cargo.lock"), lock)?;
    let mut cargo = crate::cargo::cargo();
    cargo.args(arguments).args(["--offline", "--manifest-path"]);
    cargo.arg(root().join("examples/embedded/Cargo.toml"));
    Ok(cargo)
}

/// The names of its crates, in order.
///
/// # Errors
/// Cargo says why.
pub fn crates() -> Done<Vec<String>> {
    let tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"])?.output()?;
    if !tree.status.success() {
        return Err(String::from_utf8_lossy(&tree.stderr).into());
    }
    let mut crates: Vec<String> = String::from_utf8(tree.stdout)?
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// Builds it as the tests are built, and gives the program.
///
/// # Errors
/// It doesn't build.
pub fn build() -> Done<PathBuf> {
    built(cargo(&["build"])?)
}

/// Builds it optimized and without symbols.
///
/// # Errors
/// It doesn't build.
pub fn build_optimized() -> Done<PathBuf> {
    let mut cargo = cargo(&["build", "--release"])?;
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    built(cargo)
}

fn built(mut build: Command) -> Done<PathBuf> {
    build.args(["--message-format", "json-render-diagnostics"]);
    let built = build.stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        return Err("the example doesn't build".into());
    }
    let program = String::from_utf8(built.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.ok_or_else(|| "cargo doesn't name what it has built".into())
}
