//! Golden scripts: commands and questions go in, outcomes, events and answers come out.
//!
//! Each script begins with an empty state. `UPDATE_GOLDENFILES=1` writes the output anew; then read it.

mod script;

use std::path::{Path, PathBuf};

fn scripts(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of scripts") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            scripts(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn scripts_say_what_happens() {
    let mut found = Vec::new();
    scripts(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"),
        &mut found,
    );
    assert!(!found.is_empty(), "no scripts");
    for path in found {
        println!("{}", path.display());
        goldenscript::run(&mut script::Script::default(), &path).expect("the script runs");
    }
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
