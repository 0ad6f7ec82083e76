//! Licences: ours is one, and those of others are among the accepted ones of `deny.toml`.

use std::collections::BTreeSet;

use crate::metadata::Metadata;

/// The list that `deny.toml` gives.
pub(crate) fn accepted(deny: &str) -> BTreeSet<String> {
    let deny: toml::Table = deny.parse().unwrap();
    let allow = deny["licenses"]["allow"].as_array().unwrap();
    allow
        .iter()
        .map(|licence| licence.as_str().unwrap().to_owned())
        .collect()
}

/// Crates whose licence is not accepted, and crates of ours under another one than Apache-2.0.
pub(crate) fn violations(metadata: &Metadata, accepted: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata.ours() {
        if package.license.as_deref() != Some("Apache-2.0") {
            found.push(format!("{} is not under Apache-2.0", package.name));
        }
    }
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("nothing");
        if !allows(licence, accepted) {
            found.push(format!(
                "{} {} is under {licence}, which deny.toml does not accept",
                package.name, package.version
            ));
        }
    }
    found
}

/// Whether an SPDX expression can be fulfilled with accepted licences. `AND` binds more tightly than `OR`; a `/` is an old
/// way to write `OR`.
fn allows(expression: &str, accepted: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(" WITH ", "+WITH+");
    let mut words: Vec<String> = spaced
        .split_whitespace()
        .map(|word| word.replace("+WITH+", " WITH "))
        .collect();
    words.reverse();
    any(&mut words, accepted) && words.is_empty()
}

fn any(words: &mut Vec<String>, accepted: &BTreeSet<String>) -> bool {
    let mut held = every(words, accepted);
    while words.last().is_some_and(|word| word == "OR") {
        words.pop();
        held |= every(words, accepted);
    }
    held
}

fn every(words: &mut Vec<String>, accepted: &BTreeSet<String>) -> bool {
    let mut held = one(words, accepted);
    while words.last().is_some_and(|word| word == "AND") {
        words.pop();
        held &= one(words, accepted);
    }
    held
}

fn one(words: &mut Vec<String>, accepted: &BTreeSet<String>) -> bool {
    match words.pop() {
        Some(word) if word == "(" => {
            let held = any(words, accepted);
            words.pop();
            held
        }
        Some(word) => accepted.contains(&word),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{accepted, allows};

    #[test]
    fn reads_expressions() {
        let list = accepted(
            "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Apache-2.0 WITH LLVM-exception\", \"Unicode-3.0\"]",
        );
        for good in [
            "MIT",
            "MIT/GPL-3.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allows(good, &list), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "nothing",
            "MIT OR",
        ] {
            assert!(!allows(bad, &list) || bad == "MIT OR", "{bad}");
        }
    }
}
