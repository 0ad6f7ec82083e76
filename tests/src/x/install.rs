//! Installs what the Python client's tests need: by name, from the ordinary registry, into the target directory.
//!
//! An installation is made once for each description: that is kept beside it, and a changed one installs afresh. The
//! clients of others install themselves (`tests/src/compat.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Installs a Python package of this repository with its test requirements; gives the interpreter.
pub(crate) fn python_package(environment: &Path, package: &Path) -> Result<PathBuf, String> {
    let description = package.join("pyproject.toml");
    let python = environment.join("bin/python");
    once(environment, &description, || {
        virtual_environment(environment)?;
        // Editable, so that the tests see the sources as they are.
        let with_test_requirements = format!("{}[test]", package.display());
        must(
            pip(&python)
                .args(["install", "--quiet", "--editable"])
                .arg(with_test_requirements),
        )
    })?;
    Ok(python)
}

/// Runs `install` unless it went through before with the same description.
fn once(
    directory: &Path,
    description: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let mut wanted = fs::read(description).map_err(|error| format!("{}: {error}", description.display()))?;
    // An editable installation points at its sources: another checkout needs another one.
    wanted.extend(description.as_os_str().as_encoded_bytes());
    let stamp = directory.join("installed-from");
    if fs::read(&stamp).is_ok_and(|made_from| made_from == wanted) {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    install()?;
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn virtual_environment(directory: &Path) -> Result<(), String> {
    must(Command::new("python3").args(["-m", "venv"]).arg(directory))
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// Runs a program that has to succeed.
pub(crate) fn must(program: &mut Command) -> Result<(), String> {
    let named = program.get_program().to_string_lossy().into_owned();
    let status = program
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{named} does not start: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{named} ended with {status}"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::once;

    #[test]
    fn installs_once_for_each_description_and_again_after_a_failure() {
        let place = tempfile::tempdir().unwrap();
        let description = place.path().join("requirements.txt");
        let directory = place.path().join("environment");
        fs::write(&description, "one").unwrap();
        let runs = Cell::new(0);
        let install = |result: Result<(), String>| {
            once(&directory, &description, || {
                runs.set(runs.get() + 1);
                result
            })
        };
        assert!(install(Err("no network".to_owned())).is_err());
        install(Ok(())).unwrap();
        install(Ok(())).unwrap();
        assert_eq!(runs.get(), 2, "the failed run, then one that is kept");
        fs::write(&description, "two").unwrap();
        install(Ok(())).unwrap();
        assert_eq!(runs.get(), 3, "a changed description installs afresh");
    }
}
