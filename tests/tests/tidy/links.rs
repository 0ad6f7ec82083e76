//! Links and paths in the documents lead to files that exist.

use std::path::{Component, Path, PathBuf};

/// Folders of the repository: a word in backticks that begins with one of them is a path.
const FOLDERS: &[&str] = &[
    "node/", "proto/", "client/", "tests/", "jepsen/", "deploy/", ".ci/", ".cargo/",
];

/// Links to nowhere and paths to nothing in one document.
pub(crate) fn violations(path: &str, text: &str, files: &[String]) -> Vec<String> {
    let exists = |wanted: &str| {
        let wanted = wanted.trim_end_matches('/');
        files.iter().any(|file| {
            file == wanted
                || file
                    .strip_prefix(wanted)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        for target in links(line) {
            let target = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !is_elsewhere && !exists(&join(folder, target)) {
                found.push(format!("{at}: the link to {target} leads nowhere"));
            }
        }
        for named in paths(line) {
            if !exists(named) {
                found.push(format!("{at}: there is no {named}"));
            }
        }
    }
    found
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The paths in backticks; what has placeholders or wildcards is not one.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            && word
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter))
            && !word.contains("NAME")
    };
    line.split('`').skip(1).step_by(2).filter(is_path)
}

/// A relative path, with `..` worked out.
fn join(folder: &Path, target: &str) -> String {
    let mut joined = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => {
                joined.pop();
            }
            Component::Normal(name) => joined.push(name),
            _ => {}
        }
    }
    joined.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::violations;

    #[test]
    fn finds_dead_links_and_paths() {
        let files = ["README.md", "node/ARCHITECTURE.md", "node/src/hub.rs"].map(str::to_owned);
        let good = "[a](../README.md#top) [b](https://example.org/x) `node/src/` `node/src/hub.rs` `tests/NAME.patch` [c](#here)";
        assert_eq!(violations("node/ARCHITECTURE.md", good, &files), [""; 0]);
        let bad = "[a](README.md) `node/src/gone.rs`";
        assert_eq!(violations("node/ARCHITECTURE.md", bad, &files).len(), 2);
    }
}
