//! How many results in a row change a status.

use crate::command::{Status, Thresholds};

/// Counts a probe's results in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    successes: u32,
    failures: u32,
}

impl Counter {
    /// Takes a result; gives the status that the check is to have from now on, `before` being the present one.
    ///
    /// A warning (HTTP 429) is a success of the probe: it takes `success_before_passing` of them as well.
    pub fn record(&mut self, thresholds: &Thresholds, result: Status, before: Status) -> Status {
        if result == Status::Critical {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            let warning = thresholds.failures_before_warning;
            return if self.failures >= thresholds.failures_before_critical.max(1) {
                Status::Critical
            } else if warning > 0 && self.failures >= warning {
                before.max(Status::Warning)
            } else {
                before
            };
        }
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if self.successes >= thresholds.success_before_passing.max(1) {
            result
        } else {
            before
        }
    }

    /// Failures in a row up to now.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_make_it_critical_and_two_successes_passing() {
        let thresholds = Thresholds {
            success_before_passing: 2,
            failures_before_warning: 2,
            failures_before_critical: 3,
        };
        let mut counter = Counter::default();
        let mut status = Status::Passing;
        let mut seen = Vec::new();
        for result in [
            Status::Critical,
            Status::Critical,
            Status::Critical,
            Status::Passing,
            Status::Passing,
        ] {
            status = counter.record(&thresholds, result, status);
            seen.push(status);
        }
        assert_eq!(
            seen,
            [
                Status::Passing,
                Status::Warning,
                Status::Critical,
                Status::Critical,
                Status::Passing
            ]
        );
    }
}
