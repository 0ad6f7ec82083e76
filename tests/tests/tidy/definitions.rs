//! The definitions in `proto/` are the reference of what goes over a wire: each part of them is explained where it stands, and
//! each call says with which errors it ends.
//!
//! They are read line by line, so a line holds one part; what it is, its first word tells. A line that can't be told is a
//! violation, too: nothing is passed over.

/// What a line is.
enum Line {
    /// Nothing that has a meaning of its own.
    Plain,
    /// A part that a comment explains.
    Part,
    /// A call, whose comment names its errors, too.
    Call,
}

/// Parts without a comment, and calls without a paragraph of errors, in one file.
pub(crate) fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if let Some(words) = line.strip_prefix("//") {
            comment.push(words.trim());
            continue;
        }
        let has_errors = comment.iter().any(|words| words.starts_with("Errors: "));
        let has_words = comment.iter().any(|words| !words.is_empty());
        let problem = match kind(line) {
            None => Some("can't be told what it is: write one part on a line"),
            Some(Line::Part | Line::Call) if !has_words => Some("says nothing of what it is"),
            Some(Line::Call) if !has_errors => Some("has no paragraph `Errors: ...`"),
            Some(Line::Plain | Line::Part | Line::Call) => None,
        };
        found.extend(problem.map(|problem| format!("{path}:{}: `{line}` {problem}", number + 1)));
        comment.clear();
    }
    found
}

fn kind(line: &str) -> Option<Line> {
    let ends = |ends: &[&str]| ends.iter().any(|end| line.ends_with(end));
    let numbered = || {
        line.split_once(" = ")
            .is_some_and(|(_, number)| number.starts_with(char::is_numeric))
    };
    match line.split([' ', ';']).next()? {
        "" | "}" | "syntax" | "package" | "import" | "option" | "reserved" => Some(Line::Plain),
        "service" | "message" | "enum" | "oneof" if ends(&["{", "{}"]) => Some(Line::Part),
        "rpc" if ends(&[";", "{", "{}"]) => Some(Line::Call),
        _ if ends(&[";"]) && numbered() => Some(Line::Part),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::violations;

    const GOOD: &str = "// A file.\nsyntax = \"proto3\";\n\npackage a;\nimport \"b.proto\";\n\n// A service.\nservice A {\n  \
                        // Does.\n  //\n  // Errors: none.\n  rpc Do(B) returns (stream C);\n}\n// Empty.\nmessage B {}\n\
                        // Full.\nmessage C {\n  reserved 3;\n  // One of two.\n  oneof d {\n    // The first.\n    \
                        string e = 1;\n    // The second.\n    map<string, F> g = 2;\n  }\n}\n// Which.\nenum F {\n  // None.\n  \
                        F_NONE = 0;\n}\n";

    /// The file without its nth line.
    fn without(line: &str) -> Vec<String> {
        let mut lines: Vec<_> = GOOD.lines().collect();
        let place = lines.iter().position(|found| found.trim() == line).unwrap();
        lines.remove(place);
        violations("a.proto", &lines.join("\n"))
    }

    #[test]
    fn finds_parts_that_nothing_explains() {
        assert_eq!(violations("a.proto", GOOD), [""; 0]);
        for (comment, part) in [
            ("// A service.", "service A {"),
            ("// Empty.", "message B {}"),
            ("// Full.", "message C {"),
            ("// One of two.", "oneof d {"),
            ("// The first.", "string e = 1;"),
            ("// The second.", "map<string, F> g = 2;"),
            ("// Which.", "enum F {"),
            ("// None.", "F_NONE = 0;"),
        ] {
            let found = without(comment);
            assert!(
                found.len() == 1 && found[0].contains(&format!("`{part}` says nothing")),
                "{comment}: {found:?}"
            );
        }
    }

    #[test]
    fn finds_calls_that_name_no_errors() {
        assert_eq!(
            without("// Errors: none."),
            ["a.proto:11: `rpc Do(B) returns (stream C);` has no paragraph `Errors: ...`"]
        );
    }

    #[test]
    fn passes_nothing_over() {
        let all_in_one = "// Two.\nmessage A { string b = 1; }\n";
        assert!(violations("a.proto", all_in_one)[0].contains("write one part on a line"));
        // An empty line parts a comment from what it explains.
        let apart = "// One.\n\nmessage A {}\n";
        assert!(violations("a.proto", apart)[0].contains("says nothing"));
        assert!(violations("a.proto", "//\nmessage A {}\n")[0].contains("says nothing"));
    }
}
