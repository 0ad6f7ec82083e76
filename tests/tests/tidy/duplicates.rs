//! Crates that are built in more than one version. Each costs time to build and a place for two truths, so each is known by name.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::Metadata;

/// The ratchet: crates that come twice, and because of whom. Remove a line when its crate is single again.
pub(crate) const KNOWN: &[&str] = &[
    // sled 0.34 is pinned.
    "parking_lot",
    "parking_lot_core",
    // Two generations of the RustCrypto crates: openraft still brings sha2 0.10, the sealing of the CA's key the newer one.
    "block-buffer",
    "cpufeatures",
    "crypto-common",
    // ring, proptest and rand.
    "getrandom",
    // openraft, turmoil, proptest and phf's generator draw from three generations of rand.
    "rand",
    "rand_core",
    // Procedural macros on their way from syn 2 to 3.
    "syn",
    "synstructure",
    // Build time only: protox and prost-build.
    "hashbrown",
    "itertools",
    // The bars of the command line, and what goldenscript compares texts with.
    "console",
    // Others' own pace: reqwest, x509 parsing, proptest's bit sets.
    "base64",
    "bit-vec",
    "nom",
    "toml_datetime",
    "tower-http",
    "winnow",
];

/// Crates with several versions that are not known, and known ones that have become single.
pub(crate) fn violations(metadata: &Metadata, known: &[&str]) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let list = |versions: &BTreeSet<&str>| versions.iter().copied().collect::<Vec<_>>().join(" and ");
    let new = versions.iter().filter(|(name, _)| !known.contains(name));
    let new = new.map(|(name, versions)| format!("{name} is built as {}", list(versions)));
    let gone = known.iter().filter(|name| !versions.contains_key(*name));
    let gone = gone.map(|name| format!("{name} is single now: remove it from the list"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::violations;
    use crate::metadata::{Metadata, Package};

    #[test]
    fn finds_new_doubles_and_stale_entries() {
        let package = |name: &str, version: &str| Package {
            id: String::new(),
            name: name.to_owned(),
            version: version.to_owned(),
            license: None,
            dependencies: Vec::new(),
        };
        let packages = vec![
            package("rand", "0.8.5"),
            package("rand", "0.9.0"),
            package("syn", "2.0.0"),
        ];
        let metadata = Metadata {
            packages,
            workspace_members: Vec::new(),
        };
        assert_eq!(violations(&metadata, &["rand"]), [""; 0]);
        assert_eq!(violations(&metadata, &[]), ["rand is built as 0.8.5 and 0.9.0"]);
        assert_eq!(
            violations(&metadata, &["rand", "syn"]),
            ["syn is single now: remove it from the list"]
        );
    }
}
