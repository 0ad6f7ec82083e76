//! How many tests passed, read from the closing lines that the runners print.

use std::fmt;
use std::ops::AddAssign;

/// Tests counted over one or more runners.
///
/// Its `Display` is the closing line of `cargo x`: `N passed, N failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that ran and held.
    pub(crate) passed: u64,
    /// Tests that did not hold, were skipped, or stages that failed without naming a test.
    pub(crate) failed: u64,
}

impl Tally {
    /// Reads one line of a runner's output; lines that are not a runner's closing line count nothing.
    ///
    /// Understood are libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …` and pytest's
    /// `1 failed, 3 passed, 1 skipped in 0.12s`, with or without the `=` around it.
    pub(crate) fn of_line(line: &str) -> Self {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            let (_verdict, counts) = counts.split_once(". ").unwrap_or_default();
            return Self::of_counts(counts.split("; "));
        }
        let bare = line.trim_matches('=').trim();
        match bare.rsplit_once(" in ") {
            Some((counts, time)) if is_pytest_time(time) => Self::of_counts(counts.split(", ")),
            _ => Self::default(),
        }
    }

    /// Nothing failed, and something ran.
    pub(crate) fn is_green(self) -> bool {
        self.failed == 0
    }

    /// Adds up `N word` pairs. A test that was left out proves nothing, so it counts as failed.
    fn of_counts<'a>(counts: impl Iterator<Item = &'a str>) -> Self {
        let mut tally = Self::default();
        for count in counts {
            let Some((number, word)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match word {
                "passed" => tally.passed += number,
                "failed" | "error" | "errors" | "ignored" | "skipped" | "xfailed" | "xpassed" => {
                    tally.failed += number;
                }
                _ => {}
            }
        }
        tally
    }
}

/// `0.12s`, or `75.03s (0:01:15)` past a minute.
fn is_pytest_time(text: &str) -> bool {
    let seconds = text.split(' ').next().unwrap_or_default();
    seconds
        .strip_suffix('s')
        .is_some_and(|number| number.parse::<f64>().is_ok())
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn counts(line: &str) -> (u64, u64) {
        let tally = Tally::of_line(line);
        (tally.passed, tally.failed)
    }

    #[test]
    fn reads_libtest() {
        let line =
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.03s";
        assert_eq!(counts(line), (12, 0));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(counts(line), (1, 2));
    }

    #[test]
    fn reads_pytest() {
        assert_eq!(counts("5 passed in 0.10s"), (5, 0));
        assert_eq!(
            counts("=== 1 failed, 3 passed, 2 warnings in 75.03s (0:01:15) ==="),
            (3, 1)
        );
        assert_eq!(counts("2 errors in 0.02s"), (0, 2));
    }

    #[test]
    fn what_was_left_out_counts_as_failed() {
        assert_eq!(
            counts("test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"),
            (4, 1)
        );
        assert_eq!(counts("4 passed, 1 skipped in 0.20s"), (4, 1));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "running 3 tests",
            "test a ... ok",
            "3 passed over the bridge",
            "built in 3s",
            "",
            "1 failed in life",
        ] {
            assert_eq!(counts(line), (0, 0), "{line}");
        }
    }

    #[test]
    fn closes_with_the_totals() {
        let mut total = Tally { passed: 2, failed: 0 };
        total += Tally { passed: 1, failed: 1 };
        assert_eq!(total.to_string(), "3 passed, 1 failed");
        assert!(!total.is_green());
    }
}
