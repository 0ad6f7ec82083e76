//! `tests/compat/consul-rows.tsv`: every row of the Consul dialect that this release is about, its state, its tests.
//!
//! A row is `done` only with a test, and each test it names is there. Tests are named so:
//!
//! | form | stands for |
//! |---|---|
//! | `golden:NAME` | a script in `node/api/tests/scripts/consul/` |
//! | `CLIENT:NAME` | a check that the program of that client in `tests/compat/clients/` prints |
//! | `tutorial:NAME` | a test function in `tests/tests/tutorial.rs` |
//! | `FILE#NAME` | a test function of that name in that file |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MARKS: [&str; 4] = ["core", "expected", "later", "never"];
const STATES: [&str; 3] = ["done", "not-yet", "never"];

#[test]
fn every_row_is_whole_and_its_tests_are_there() {
    let table = read(&root().join("tests/compat/consul-rows.tsv"));
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("section\trow\tmark\tstate\ttest"));
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let [section, row, mark, state, tests] = cells[..] else {
            wrong.push(format!("not five cells: {line}"));
            continue;
        };
        let mut complain = |what: &str| wrong.push(format!("{section} {row}: {what}"));
        if !seen.insert((section, row)) {
            complain("stands there twice");
        }
        if !MARKS.contains(&mark) || !STATES.contains(&state) || (mark == "never") != (state == "never") {
            complain("has an unknown mark or state, or a state against its mark");
        }
        match tests {
            "-" if state == "done" => complain("is done without a test"),
            "-" => {}
            tests => tests.split(' ').filter(|test| !exists(test)).for_each(|test| {
                complain(&format!("its test {test} is not there"));
            }),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn exists(test: &str) -> bool {
    if let Some((file, name)) = test.split_once('#') {
        return has_function(&root().join(file), name);
    }
    match test.split_once(':') {
        Some(("golden", script)) => root()
            .join("node/api/tests/scripts/consul")
            .join(script)
            .is_file(),
        Some(("tutorial", name)) => has_function(&root().join("tests/tests/tutorial.rs"), name),
        Some((client, check)) => {
            // Quoted, or a bare property name in JavaScript.
            let forms = [format!("\"{check}\""), format!("async {check}(")];
            let programs = programs(client);
            programs
                .iter()
                .any(|program| forms.iter().any(|form| program.contains(form)))
        }
        None => false,
    }
}

fn has_function(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    [format!("fn {name}("), format!("def {name}(")]
        .iter()
        .any(|form| text.contains(form))
}

/// What the program of a client consists of: its own file, and what both Python clients share.
fn programs(client: &str) -> Vec<String> {
    let clients = root().join("tests/compat/clients");
    let own = ["main.py", "main.js", "main.go"].map(|name| clients.join(client).join(name));
    let shared = clients.join("python_common/both.py");
    let is_python = own[0].is_file();
    let files = own
        .into_iter()
        .filter(|file| file.is_file())
        .chain(is_python.then_some(shared));
    files.map(|file| read(&file)).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
