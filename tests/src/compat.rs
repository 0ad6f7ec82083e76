//! Programs of others, installed by name from their registries, outside the source tree.
//!
//! Each installation lies in `$SPINE_CACHE` (or `~/.cache/spine`) under a name made from what it was made from: its
//! lock files and the tool's version. So it is made once, a changed lock makes a new one, and an installation that
//! was broken off is not taken for a whole one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// A Python environment with exactly what `requirements` locks.
pub fn python_environment(name: &str, requirements: &Path) -> PathBuf {
    installed(name, &[requirements], &version_of("python3"), |directory| {
        must(Command::new("python3").args(["-m", "venv"]).arg(directory));
        must(
            pip(directory)
                .args(["install", "--no-deps", "--requirement"])
                .arg(requirements),
        );
    })
}

/// The Python package at `source`, built and installed into `target`, with a build tool from `environment`.
pub fn python_package(environment: &Path, source: &Path, target: &Path) {
    must(
        pip(environment)
            .args([
                "install",
                "--no-index",
                "--no-deps",
                "--no-build-isolation",
                "--target",
            ])
            .args([target, source]),
    );
}

/// The folder `node_modules` with exactly what the `package-lock.json` in `client` locks.
pub fn node_modules(name: &str, client: &Path) -> PathBuf {
    let files = [client.join("package.json"), client.join("package-lock.json")];
    let directory = installed(name, &[&files[0], &files[1]], &version_of("npm"), |directory| {
        for file in &files {
            let name = file.file_name().expect("named above");
            fs::copy(file, directory.join(name)).expect("a description can be copied");
        }
        must(
            Command::new("npm")
                .args(["ci", "--ignore-scripts"])
                .current_dir(directory),
        );
    });
    directory.join("node_modules")
}

/// The program of the Go module in `client`, built with exactly what its `go.sum` locks.
pub fn go_program(name: &str, client: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(client)
        .expect("the client is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let version = output(Command::new("go").arg("version"));
    let directory = installed(name, &files, &version, |directory| {
        must(
            go_build(&directory.join("client"), Path::new("."))
                .env("GOFLAGS", "-mod=readonly")
                .current_dir(client),
        );
    });
    directory.join("client")
}

/// The command that builds `source` (a package or a file) into `program`, with the Go toolchain that is installed.
pub fn go_build(program: &Path, source: &Path) -> Command {
    let mut go = Command::new("go");
    go.args(["build", "-o"])
        .args([program, source])
        .env("GOTOOLCHAIN", "local");
    go
}

/// Runs a program that has to succeed, and shows what it said if it doesn't.
pub fn must(program: &mut Command) {
    output(program);
}

fn output(program: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = program
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.get_program().display()));
    let said = String::from_utf8_lossy(&stdout);
    assert!(
        status.success(),
        "{program:?}: {status}\n{said}{}",
        String::from_utf8_lossy(&stderr)
    );
    said.into_owned()
}

fn version_of(program: &str) -> String {
    output(Command::new(program).arg("--version"))
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// The directory of an installation, filled by `fill` unless that was done before.
fn installed(name: &str, made_from: &[&Path], tool: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let mut digest = Sha256::new_with_prefix(tool);
    for file in made_from {
        digest.update(fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    let key = &format!("{:x}", digest.finalize())[..16];
    let cache = cache();
    fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("{}: {error}", cache.display()));
    let directory = cache.join(format!("{name}-{key}"));

    // Test programs that start together fill it once. The lock ends with the file handle, however this ends.
    let lock = File::create(cache.join(format!("{name}-{key}.lock"))).expect("the cache can be written");
    lock.lock().expect("a fresh lock file can be locked");
    let complete = directory.join(".complete");
    if !complete.exists() {
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("what was broken off can be removed");
        }
        fs::create_dir_all(&directory).expect("the cache can be written");
        fill(&directory);
        File::create(&complete).expect("the cache can be written");
    }
    directory
}

fn cache() -> PathBuf {
    if let Some(directory) = std::env::var_os("SPINE_CACHE") {
        return PathBuf::from(directory);
    }
    let home = std::env::var_os("HOME").expect("HOME or SPINE_CACHE says where installations go");
    Path::new(&home).join(".cache/spine")
}
