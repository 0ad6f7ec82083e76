//! The files of the repository: those that git knows, and new ones that it would not ignore.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Directory of the root manifest.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Every file, as a path from the root.
pub(crate) fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files; without it this test can't tell sources from what was built");
    assert!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let listed = String::from_utf8(listed.stdout).expect("paths of this repository are UTF-8");
    let mut files: Vec<String> = listed.split_terminator('\0').map(str::to_owned).collect();
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files.dedup();
    files
}

/// A text file that has to be there.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same where it is text; `None` for pictures and the like.
pub(crate) fn text(path: &str) -> Option<String> {
    String::from_utf8(std::fs::read(root().join(path)).ok()?).ok()
}

/// Whether the file's name ends with this extension.
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Files that are copied byte for byte from elsewhere and keep their form.
pub(crate) fn is_verbatim(path: &str) -> bool {
    path.starts_with("tests/compat/tutorials/")
}

/// The text of every file under a folder.
pub(crate) fn scripts(folder: &str) -> Vec<String> {
    files()
        .iter()
        .filter(|path| path.starts_with(folder))
        .filter_map(|path| text(path))
        .collect()
}
