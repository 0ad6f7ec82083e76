//! Every bound is reached: a test of its layer, or of a layer above, names it.
//!
//! Naming is not reaching, but who deletes or adds a bound is led to its test. Rust names a bound by its path,
//! `limits::NAME`; a golden script in a comment.

use std::collections::BTreeMap;

use proc_macro2::TokenTree;

use crate::source::{Source, each_stream, is_word};

/// The bounds of a layer, and where tests may reach them.
pub(crate) struct Layer {
    pub(crate) limits: &'static str,
    /// Folders of this layer and of those above, which it knows nothing of.
    tests: &'static [&'static str],
    /// Folders with golden scripts.
    pub(crate) scripts: &'static [&'static str],
}

pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        limits: "node/core/src/limits.rs",
        tests: &["node/core/", "node/api/", "node/src/", "node/tests/"],
        scripts: &["node/core/tests/scripts/", "node/core/tests/bounds/"],
    },
    Layer {
        limits: "node/api/src/limits.rs",
        tests: &["node/api/", "node/src/", "node/tests/"],
        scripts: &["node/api/tests/scripts/"],
    },
    Layer {
        limits: "node/src/limits.rs",
        tests: &["node/src/", "node/tests/"],
        scripts: &[],
    },
];

/// Bounds that no test names.
pub(crate) fn unreached(
    layer: &Layer,
    limits: &Source,
    sources: &[Source],
    scripts: &[String],
) -> Vec<String> {
    let lies_here = |source: &&Source| layer.tests.iter().any(|folder| source.path.starts_with(folder));
    let named: Vec<String> = sources
        .iter()
        .filter(lies_here)
        .flat_map(named_in_tests)
        .collect();
    let is_named = |bound: &str| {
        named.iter().any(|name| name == bound) || scripts.iter().any(|script| comments_name(script, bound))
    };
    let missing = constants(limits).into_iter().filter(|bound| !is_named(bound));
    missing
        .map(|bound| {
            format!(
                "{}: no test names limits::{bound}: write one that goes past it and sees what becomes of that",
                layer.limits
            )
        })
        .collect()
}

/// Names of bounds that stand in more than one layer: `limits::NAME` would not say which is meant.
pub(crate) fn ambiguous(limits: &[Source]) -> Vec<String> {
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for source in limits {
        for bound in constants(source) {
            if let Some(other) = first.insert(bound.clone(), &source.path) {
                found.push(format!(
                    "{}: {bound} is the name of a bound in {other}, too",
                    source.path
                ));
            }
        }
    }
    found
}

/// The `NAME` of every `pub const NAME`.
fn constants(limits: &Source) -> Vec<String> {
    let mut found = Vec::new();
    each_stream(&limits.tokens, &mut |tokens| {
        let named = tokens.windows(3).filter_map(|three| match three {
            [public, constant, TokenTree::Ident(name)]
                if is_word(public, "pub") && is_word(constant, "const") && *name != "fn" =>
            {
                Some(name.to_string())
            }
            _ => None,
        });
        found.extend(named);
    });
    found
}

/// The `NAME` of every path that ends with `limits::NAME`, in a file of tests or a module `tests`.
fn named_in_tests(source: &Source) -> Vec<String> {
    let is_test =
        |module: &[String]| source.path.contains("/tests/") || module.iter().any(|name| name == "tests");
    let names = source.names();
    let in_tests = names.iter().filter(|named| is_test(&named.module));
    in_tests
        .filter_map(|named| match &named.segments[..] {
            [.., module, name] if module == "limits" => Some(name.clone()),
            _ => None,
        })
        .collect()
}

fn comments_name(script: &str, bound: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let comments = script.lines().filter_map(|line| line.strip_prefix('#'));
    comments
        .flat_map(|comment| comment.split(|c| !is_part(c)))
        .any(|word| word == bound)
}

#[cfg(test)]
mod tests {
    use super::{LAYERS, ambiguous, unreached};
    use crate::source::Source;

    const LIMITS: &str = "pub const fn bound() {} pub const A_MAX: usize = 1; pub const B_MAX: usize = 2; \
                          pub const C_MAX: usize = 3; pub const D_MAX: usize = 4; const E_MAX: usize = 5;";

    #[test]
    fn finds_bounds_that_no_test_names() {
        let sources = [
            (
                "node/api/tests/bounds.rs",
                "use spine_api::limits::{A_MAX, Other}; // limits::D_MAX",
            ),
            (
                "node/src/a.rs",
                "fn f() { limits::D_MAX } mod tests { fn t() { limits::B_MAX } }",
            ),
            ("node/core/tests/below.rs", "fn t() { limits::D_MAX }"),
            ("client/tests/elsewhere.rs", "fn t() { limits::D_MAX }"),
            ("node/tests/local.rs", "const D_MAX: usize = 4; fn t() { D_MAX }"),
        ]
        .map(|(path, text)| Source::parse(path, text));
        let script = "# Past C_MAX, and D_MAXIMUM.\nput D_MAX\n".to_owned();
        let layer = &LAYERS[1];
        let found = unreached(layer, &Source::parse(layer.limits, LIMITS), &sources, &[script]);
        assert_eq!(
            found,
            [
                "node/api/src/limits.rs: no test names limits::D_MAX: write one that goes past it and sees what \
                 becomes of that"
            ]
        );
    }

    #[test]
    fn finds_names_that_two_layers_give() {
        let limits = ["a.rs", "b.rs"].map(|path| Source::parse(path, "pub const A_MAX: usize = 1;"));
        assert_eq!(
            ambiguous(&limits),
            ["b.rs: A_MAX is the name of a bound in a.rs, too"]
        );
    }
}
