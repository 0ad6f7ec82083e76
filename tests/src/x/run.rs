//! Runs stages one after another, shows what they print and counts their tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::tally::Tally;

/// One step of a command: a program to run, and what is expected of it.
pub(crate) struct Stage {
    /// Shown before the stage runs and in the closing table.
    pub(crate) name: String,
    /// Builds what has to be there first and gives the program, or says what is missing.
    pub(crate) prepare: Box<dyn FnOnce() -> Result<Command, String>>,
    /// A runner that closes without a single test has not done its work.
    pub(crate) counts_tests: bool,
}

impl Stage {
    /// A stage that is right when its program exits with 0.
    pub(crate) fn tool(name: impl Into<String>, program: Command) -> Self {
        Self::prepared(name, move || Ok(program))
    }

    /// A stage whose program runs tests and says how many.
    pub(crate) fn tests(name: impl Into<String>, program: Command) -> Self {
        Self::prepared_tests(name, move || Ok(program))
    }

    /// A tool that has to be installed or looked for first.
    pub(crate) fn prepared(
        name: impl Into<String>,
        prepare: impl FnOnce() -> Result<Command, String> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            prepare: Box::new(prepare),
            counts_tests: false,
        }
    }

    /// Tests that need something installed or looked for first.
    pub(crate) fn prepared_tests(
        name: impl Into<String>,
        prepare: impl FnOnce() -> Result<Command, String> + 'static,
    ) -> Self {
        Self {
            counts_tests: true,
            ..Self::prepared(name, prepare)
        }
    }
}

/// How a stage ended.
struct Ended {
    name: String,
    tally: Tally,
    took: Duration,
    trouble: Option<String>,
}

/// Runs every stage, the later ones too when an earlier one fails: one run shows everything that is wrong.
///
/// A stage that fails without a failed test to show for it counts as one failure, so that the totals tell the truth.
pub(crate) fn all(stages: Vec<Stage>) -> Tally {
    let ended: Vec<Ended> = stages.into_iter().map(one).collect();
    let mut total = Tally::default();
    println!(
        "\n{:34} {:>8} {:>8} {:>9}",
        "stage", "passed", "failed", "seconds"
    );
    for stage in &ended {
        let Tally { passed, failed } = stage.tally;
        println!(
            "{:34} {passed:>8} {failed:>8} {:>9.1}",
            stage.name,
            stage.took.as_secs_f64()
        );
        if let Some(trouble) = &stage.trouble {
            println!("    {trouble}");
        }
        total += stage.tally;
    }
    println!();
    total
}

fn one(stage: Stage) -> Ended {
    println!("\n=== {}", stage.name);
    let start = Instant::now();
    let result = (stage.prepare)().and_then(|program| watch(program, stage.counts_tests));
    let (mut tally, trouble) = match result {
        Ok(counted) => counted,
        Err(missing) => (Tally::default(), Some(missing)),
    };
    if let Some(trouble) = &trouble {
        eprintln!("cargo x: {}: {trouble}", stage.name);
        tally.failed = tally.failed.max(1);
    }
    Ended {
        name: stage.name,
        tally,
        took: start.elapsed(),
        trouble,
    }
}

/// Passes the program's output through line by line while counting the runners' closing lines in it.
fn watch(mut program: Command, counts_tests: bool) -> Result<(Tally, Option<String>), String> {
    let named = program.get_program().to_string_lossy().into_owned();
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{named} does not start: {error}"))?;
    let output = child
        .stdout
        .take()
        .expect("stdout was asked for as a pipe just above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.map_err(|error| format!("{named}: its output broke off: {error}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if counts_tests {
            tally += Tally::of_line(&line);
        }
    }
    let status = child.wait().map_err(|error| format!("{named}: {error}"))?;
    let trouble = if !status.success() {
        Some(format!("{named} ended with {status}"))
    } else if counts_tests && tally == Tally::default() {
        Some("ran no test".to_owned())
    } else {
        None
    };
    Ok((tally, trouble))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Stage, all};
    use crate::tally::Tally;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn adds_up_over_the_runners() {
        let total = all(vec![
            Stage::tests(
                "rust",
                shell("echo 'test result: ok. 2 passed; 0 failed; 0 ignored'"),
            ),
            Stage::tests("python", shell("echo '3 passed in 0.1s'")),
            Stage::tool("fmt", shell("echo '9 passed in 0.1s'")),
        ]);
        assert_eq!(total, Tally { passed: 5, failed: 0 });
    }

    #[test]
    fn a_stage_that_fails_without_a_failed_test_counts_as_one() {
        let total = all(vec![
            Stage::tool("fmt", shell("exit 1")),
            Stage::tests("build breaks", shell("exit 101")),
            Stage::tests(
                "runs nothing",
                shell("echo 'test result: ok. 0 passed; 0 failed; 0 ignored'"),
            ),
            Stage::tool("is missing", Command::new("/nonexistent/program")),
            Stage::prepared_tests("lacks a privilege", || Err("needs root".to_owned())),
        ]);
        assert_eq!(total, Tally { passed: 0, failed: 5 });
    }

    #[test]
    fn failed_tests_are_counted_once() {
        let total = all(vec![Stage::tests(
            "two fail",
            shell("echo '1 passed, 2 failed in 1.0s'; exit 1"),
        )]);
        assert_eq!(total, Tally { passed: 1, failed: 2 });
    }
}
