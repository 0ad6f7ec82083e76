//! A line of what the doctor says.

use serde::Serialize;

use crate::cli::print::Row;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Finding {
    /// What was checked.
    pub(super) check: &'static str,
    /// At which server; empty: at all of them.
    pub(super) server: String,
    /// How it stands.
    pub(super) result: Verdict,
    /// What was measured.
    pub(super) measured: String,
    /// What to do; empty where nothing is to be done.
    pub(super) remedy: &'static str,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Verdict {
    /// All is well.
    Ok,
    /// It is served, and something should be done.
    Warn,
    /// Something is broken.
    Fail,
}

impl Finding {
    /// All is well with every server.
    pub(super) fn ok(check: &'static str, measured: impl Into<String>) -> Self {
        Self {
            check,
            server: String::new(),
            result: Verdict::Ok,
            measured: measured.into(),
            remedy: "",
        }
    }

    /// Something should be done.
    pub(super) fn warn(
        check: &'static str,
        server: &str,
        measured: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            server: server.to_owned(),
            result: Verdict::Warn,
            remedy,
            ..Self::ok(check, measured)
        }
    }

    /// Something is broken.
    pub(super) fn fail(
        check: &'static str,
        server: &str,
        measured: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            result: Verdict::Fail,
            ..Self::warn(check, server, measured, remedy)
        }
    }
}

impl Row for Finding {
    const HEADER: &'static [&'static str] = &["CHECK", "SERVER", "RESULT", "MEASURED", "WHAT TO DO"];

    fn cells(&self) -> Vec<String> {
        let result = match self.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        vec![
            self.check.to_owned(),
            self.server.clone(),
            result.to_owned(),
            self.measured.clone(),
            self.remedy.to_owned(),
        ]
    }

    fn is_cut() -> bool {
        false
    }
}
