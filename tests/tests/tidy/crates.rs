//! What may depend on what: between our crates, on crates of others, and which file may name what.

use crate::metadata::{Dependency, Metadata, Package};
use crate::source::Source;

/// The row of one of our crates.
struct Rule {
    name: &'static str,
    /// Our crates that it may use.
    ours: &'static [&'static str],
    /// Crates of others that it must not use, however useful.
    never: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        name: "spine-core",
        ours: &[],
        never: IMPURE,
    },
    Rule {
        name: "spine-proto",
        ours: &[],
        never: &["openraft", "sled"],
    },
    Rule {
        name: "spine-api",
        ours: &["spine-core", "spine-proto"],
        never: &["openraft", "openraft-rt-tokio", "sled", "turmoil"],
    },
    Rule {
        name: "spine-node",
        ours: &["spine-core", "spine-proto", "spine-api", "spine-client"],
        never: &["turmoil", "madsim"],
    },
    Rule {
        name: "spine-client",
        ours: &["spine-proto"],
        never: &["openraft", "sled", "axum"],
    },
    Rule {
        name: "spine-tests",
        ours: &[
            "spine-core",
            "spine-proto",
            "spine-api",
            "spine-node",
            "spine-client",
        ],
        never: &[],
    },
    // Sees what a user of the cluster sees, so that its models owe nothing to the code that they judge.
    Rule {
        name: "spine-jepsen",
        ours: &["spine-client"],
        never: &["openraft", "sled", "turmoil"],
    },
];

/// What would give the core a clock, a thread, a socket or chance.
const IMPURE: &[&str] = &[
    "tokio",
    "async-trait",
    "async-std",
    "smol",
    "futures",
    "tonic",
    "prost",
    "hyper",
    "axum",
    "openraft",
    "sled",
    "rand",
    "fastrand",
    "getrandom",
    "uuid",
    "chrono",
    "time",
    "parking_lot",
    "crossbeam-channel",
    "rayon",
    "rustix",
    "libc",
];

/// Edges that the table doesn't allow.
pub(crate) fn violations(metadata: &Metadata) -> Vec<String> {
    metadata.ours().flat_map(violations_of).collect()
}

fn violations_of(package: &Package) -> Vec<String> {
    let Some(rule) = RULES.iter().find(|rule| rule.name == package.name) else {
        return vec![format!("{} has no row in the table of crates", package.name)];
    };
    let wrong = |dependency: &&Dependency| {
        let is_ours = RULES.iter().any(|rule| rule.name == dependency.name);
        // Tests of a crate may reach for what the crate itself must not.
        let is_for_tests = dependency.kind.as_deref() == Some("dev");
        (is_ours && !rule.ours.contains(&dependency.name.as_str()))
            || (!is_for_tests && rule.never.contains(&dependency.name.as_str()))
    };
    let wrong = package.dependencies.iter().filter(wrong);
    wrong
        .map(|dependency| format!("{} must not depend on {}", package.name, dependency.name))
        .collect()
}

/// Names that belong in few places.
struct Place {
    name: &'static str,
    /// Where it must not stand.
    not_in: &'static [&'static str],
    /// The files below those where it may.
    but_in: &'static [&'static str],
}

const SHELL: &[&str] = &["node/src/", "node/api/src/", "client/src/", "node/core/src/"];
const CORE: &[&str] = &["node/core/src/"];

const PLACES: &[Place] = &[
    Place {
        name: "openraft",
        not_in: SHELL,
        but_in: &["node/src/raft/"],
    },
    Place {
        name: "openraft_rt_tokio",
        not_in: SHELL,
        but_in: &["node/src/raft/"],
    },
    Place {
        name: "sled",
        not_in: SHELL,
        but_in: &[
            "node/src/storage/sled.rs",
            "node/src/storage/sled/",
            "node/src/storage/sled_log/",
        ],
    },
    Place {
        name: "bincode",
        not_in: SHELL,
        but_in: &["node/core/src/codec.rs", "node/src/raft/"],
    },
    Place {
        name: "spine_client",
        not_in: &["node/src/"],
        but_in: &["node/src/cli/"],
    },
    Place {
        name: "turmoil",
        not_in: SHELL,
        but_in: &[],
    },
    Place {
        name: "std::net",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::fs",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::env",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::process",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::thread",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::time::Instant",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::time::SystemTime",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::collections::HashMap",
        not_in: CORE,
        but_in: &[],
    },
    Place {
        name: "std::collections::HashSet",
        not_in: CORE,
        but_in: &[],
    },
];

/// Names in a file where they don't belong.
pub(crate) fn misplaced(source: &Source) -> Vec<String> {
    let lies_in = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
    let applies = |place: &&Place| lies_in(place.not_in) && !lies_in(place.but_in);
    let places: Vec<&Place> = PLACES.iter().filter(applies).collect();
    if places.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for named in source.names() {
        // A single word is a local name or a field, unless it opens a path or stands in a `use`, which are longer.
        if named.segments.len() < 2 {
            continue;
        }
        let written = format!("{}::", named.written());
        let wrong = places
            .iter()
            .filter(|place| written.starts_with(&format!("{}::", place.name)));
        found.extend(wrong.map(|place| {
            format!(
                "{}:{}: {} does not belong here",
                source.path, named.line, place.name
            )
        }));
    }
    found
}

/// The only files that may be unsafe: ioctl and setns, which have no safe form.
const UNSAFE: &[&str] = &["tests/src/sys.rs", "jepsen/src/sys.rs"];

/// Unsafe code elsewhere.
pub(crate) fn unsafety(source: &Source) -> Vec<String> {
    if UNSAFE.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let words = source
        .lines_of("unsafe")
        .into_iter()
        .chain(source.lines_of("unsafe_code"));
    words
        .map(|line| {
            format!(
                "{}:{line}: unsafe code belongs in {}",
                source.path,
                UNSAFE.join(" or ")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Dependency, Metadata, Package, misplaced, unsafety, violations};
    use crate::source::Source;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency {
                name: (*name).to_owned(),
                kind: kind.map(str::to_owned),
            })
            .collect();
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: String::new(),
            license: None,
            dependencies,
        }
    }

    fn of(package: Package) -> Vec<String> {
        violations(&Metadata {
            workspace_members: vec![package.id.clone()],
            packages: vec![package],
        })
    }

    #[test]
    fn finds_edges_that_the_table_forbids() {
        assert_eq!(
            of(package(
                "spine-core",
                &[("spine-proto", None), ("tokio", None), ("bytes", None)]
            ))
            .len(),
            2
        );
        assert_eq!(
            of(package(
                "spine-api",
                &[("openraft", None), ("spine-node", Some("dev"))]
            ))
            .len(),
            2
        );
        assert_eq!(of(package("spine-new", &[])).len(), 1, "a crate without a row");
        assert_eq!(
            of(package("spine-core", &[("rand", Some("dev")), ("serde", None)])),
            [""; 0]
        );
        assert_eq!(
            of(package(
                "spine-jepsen",
                &[("spine-client", None), ("spine-core", None)]
            ))
            .len(),
            1,
            "the harness has models of its own"
        );
    }

    #[test]
    fn finds_names_out_of_place() {
        let bad = "use std::{collections::{BTreeMap, HashMap}, net::SocketAddr};\nfn f() { let t = std::time::Instant::now(); }";
        assert_eq!(misplaced(&Source::parse("node/core/src/a.rs", bad)).len(), 3);
        assert_eq!(
            misplaced(&Source::parse("node/src/hub.rs", "use openraft::Raft;")).len(),
            1
        );
        assert_eq!(
            misplaced(&Source::parse("node/src/raft/types.rs", "use openraft::Raft;")),
            [""; 0]
        );
        assert_eq!(
            misplaced(&Source::parse("node/src/a.rs", "let sled = 1; sled + 1;")),
            [""; 0]
        );
    }

    #[test]
    fn finds_unsafe_code() {
        let bad = "fn f() { unsafe { g() } }";
        assert_eq!(unsafety(&Source::parse("node/src/a.rs", bad)).len(), 1);
        assert_eq!(
            unsafety(&Source::parse("node/src/a.rs", "#![allow(unsafe_code)]")).len(),
            1
        );
        assert_eq!(unsafety(&Source::parse("tests/src/sys.rs", bad)), [""; 0]);
    }
}
