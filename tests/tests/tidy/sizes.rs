//! Files past 700 lines and functions past 100 are asked whether there is a second subject in them.

use crate::source::Source;

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 100;

/// The ratchet: what is longer for a reason. `path` or `path: function`, and the reason.
pub(crate) const KNOWN: &[(&str, &str)] = &[
    (
        "node/core/src/outcome.rs: row",
        "a table, one row for each rejection",
    ),
    (
        "node/core/tests/script/mod.rs: ask",
        "one flat match, an arm for each question",
    ),
];

/// Something too long: what, and its length.
pub(crate) type Oversized = (String, usize);

/// What in this file is past the usual size.
pub(crate) fn oversized(source: &Source) -> Vec<Oversized> {
    let file = (source.lines > FILE_LINES_MAX).then(|| (source.path.clone(), source.lines));
    let functions = source
        .functions()
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX);
    let functions = functions.map(|function| (format!("{}: {}", source.path, function.name), function.lines));
    file.into_iter().chain(functions).collect()
}

/// What is too long without a reason, and reasons for what is no longer too long.
pub(crate) fn violations(oversized: &[Oversized], known: &[(&str, &str)]) -> Vec<String> {
    let new = oversized
        .iter()
        .filter(|(what, _)| !known.iter().any(|(listed, _)| listed == what));
    let new = new.map(|(what, lines)| format!("{what} has {lines} lines: is there a second subject in it?"));
    let gone = known
        .iter()
        .filter(|(listed, _)| !oversized.iter().any(|(what, _)| what == listed));
    let gone = gone.map(|(listed, _)| format!("{listed} is short now: remove it from the list"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::{oversized, violations};
    use crate::source::Source;

    #[test]
    fn finds_what_is_too_long_and_stale_reasons() {
        let long = Source::parse(
            "a.rs",
            &format!("fn f() {{{}}}\n{}", "\n".repeat(100), "\n".repeat(650)),
        );
        let found = oversized(&long);
        assert_eq!(found, [("a.rs".to_owned(), 751), ("a.rs: f".to_owned(), 101)]);
        assert_eq!(violations(&found, &[]).len(), 2);
        assert_eq!(
            violations(&found, &[("a.rs", "a table"), ("a.rs: f", "a table")]),
            [""; 0]
        );
        assert_eq!(violations(&[], &[("a.rs", "a table")]).len(), 1);
        assert_eq!(oversized(&Source::parse("b.rs", "fn f() {}")), []);
    }
}
