//! Golden scripts: commands and questions go in, outcomes, events and answers come out.
//!
//! Each script begins with an empty state. `UPDATE_GOLDENFILES=1` writes the output anew; then read it. Scripts in
//! `tests/bounds` reach bounds that are too large for a test: `src/bounds.rs` runs them with lower ones.

mod script;

use std::path::Path;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn scripts_say_what_happens() {
    script::run_all(&Path::new(CRATE).join("tests/scripts"));
}

#[test]
fn a_script_with_another_output_fails() {
    let output = goldenscript::generate(&mut script::Script::default(), "put a value=1\n---\nwrong\n")
        .expect("it runs");
    assert!(
        !output.contains("wrong") && output.contains("1: ok put revision=2"),
        "{output}"
    );
}

#[test]
fn every_command_and_every_rejection_is_in_a_script() {
    let scripts: String = ["tests/scripts", "tests/bounds"]
        .iter()
        .flat_map(|directory| script::files(&Path::new(CRATE).join(directory)))
        .map(|path| std::fs::read_to_string(path).expect("a script is text"))
        .collect();
    let commands = words(
        include_str!("../src/command.rs"),
        "pub const fn name(&self)",
        "=> \"",
    );
    let codes = words(
        include_str!("../src/outcome.rs"),
        "pub fn row(&self)",
        "=> (\n                \"",
    );
    assert_eq!((commands.len(), codes.len()), (21, 22), "the sources were read");
    let missing = |word: &&String, shape: &dyn Fn(&str) -> Vec<String>| {
        shape(word).iter().all(|shape| !scripts.contains(shape))
    };
    let applied = |word: &str| {
        ["\n", "\n(", "\"", "repeat "]
            .map(|before| format!("{before}{word}"))
            .to_vec()
    };
    let refused = |word: &str| vec![format!(": refused {word} ")];
    let commands: Vec<_> = commands.iter().filter(|word| missing(word, &applied)).collect();
    let codes: Vec<_> = codes.iter().filter(|word| missing(word, &refused)).collect();
    assert!(
        commands.is_empty() && codes.is_empty(),
        "no script has {commands:?} {codes:?}"
    );
}

/// The words that follow `before` in the function that begins with `function`.
fn words(source: &str, function: &str, before: &str) -> Vec<String> {
    let (_, body) = source.split_once(function).expect("the function is there");
    let (body, _) = body.split_once("\n    }\n").expect("the function ends");
    body.split(before)
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap_or_default().to_owned())
        .collect()
}
