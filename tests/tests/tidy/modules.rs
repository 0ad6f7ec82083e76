//! Direction inside a crate: siblings that are kept apart.

use crate::source::Source;

/// Modules of one crate of which none may name another, and which no other module may name unless it is listed.
struct Apart {
    sources: &'static str,
    siblings: &'static [&'static str],
    /// Modules outside the siblings that may name them: the one place where they meet. `None`: anyone.
    meet_in: Option<&'static [&'static str]>,
}

const APART: &[Apart] = &[
    // A command that spans two of them is the business of `state`.
    Apart {
        sources: "node/core/src/",
        siblings: &["kv", "catalog", "health", "lease", "config", "governance"],
        meet_in: None,
    },
    // Dialects see the door and nothing of each other; the door sees no dialect.
    Apart {
        sources: "node/api/src/",
        siblings: &["native", "consul", "etcd", "xds", "dns", "ui"],
        meet_in: Some(&[]),
    },
];

/// Paths from one sibling to another, or from elsewhere to a sibling.
pub(crate) fn violations(source: &Source) -> Vec<String> {
    let Some(apart) = APART.iter().find(|apart| source.path.starts_with(apart.sources)) else {
        return Vec::new();
    };
    let module = source.module();
    let Some(here) = module.first() else {
        return Vec::new();
    };
    let is_sibling = |name: &str| apart.siblings.contains(&name);
    let may_meet = !is_sibling(here) && apart.meet_in.is_none_or(|places| places.contains(&here.as_str()));
    if may_meet {
        return Vec::new();
    }
    let mut found: Vec<String> = Vec::new();
    for named in source.names() {
        let Some(path) = named.in_crate() else { continue };
        if let Some(there) = path.first().filter(|there| *there != here && is_sibling(there)) {
            found.push(format!(
                "{}:{}: {here} must not name {there} ({})",
                source.path,
                named.line,
                named.written()
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::violations;
    use crate::source::Source;

    #[test]
    fn finds_a_dialect_that_imports_another() {
        let bad = "use crate::consul::filter; use super::super::etcd::kv; use crate::hub::Hub;";
        assert_eq!(
            violations(&Source::parse("node/api/src/native/kv.rs", bad)).len(),
            2
        );
        assert_eq!(
            violations(&Source::parse("node/api/src/hub.rs", "use crate::ui::page;")).len(),
            1,
            "nor does the door"
        );
        assert_eq!(
            violations(&Source::parse(
                "node/api/src/consul/kv.rs",
                "use super::filter; use crate::read;"
            )),
            [""; 0]
        );
        assert_eq!(
            violations(&Source::parse(
                "node/api/src/lib.rs",
                "pub use crate::consul::routes;"
            )),
            [""; 0]
        );
    }

    #[test]
    fn finds_core_modules_that_know_each_other() {
        assert_eq!(
            violations(&Source::parse(
                "node/core/src/kv/mvcc.rs",
                "use crate::{lease::Lease, table::Table};"
            ))
            .len(),
            1
        );
        assert_eq!(
            violations(&Source::parse(
                "node/core/src/state/expire.rs",
                "use crate::{lease::Lease, kv};"
            )),
            [""; 0]
        );
    }
}
