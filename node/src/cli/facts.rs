//! What a command found or did: a line for each fact, or an object for programs.

use serde::Serialize;

use super::{
    Format, Streams,
    exit::Failure,
    print::{self, Row},
};

/// A report in both shapes.
pub(super) trait Report: Serialize {
    /// Its lines.
    fn facts(&self) -> Vec<Fact>;
}

/// Prints a report.
pub(super) fn say<R: Report>(streams: &mut Streams<'_>, format: Format, report: &R) -> Result<(), Failure> {
    match format {
        Format::Json => print::json(streams, report)?,
        Format::Table => print::rows(streams, format, &report.facts())?,
    }
    Ok(())
}

/// A line of a report.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    what: String,
    value: String,
}

impl Fact {
    /// A line.
    pub(super) fn new(what: &str, value: &(impl ToString + ?Sized)) -> Self {
        Self {
            what: what.to_owned(),
            value: value.to_string(),
        }
    }
}

impl Row for Fact {
    const HEADER: &'static [&'static str] = &["WHAT", "VALUE"];

    fn cells(&self) -> Vec<String> {
        vec![self.what.clone(), self.value.clone()]
    }

    /// A checksum that is cut is none.
    fn is_cut() -> bool {
        false
    }
}
