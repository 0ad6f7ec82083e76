//! The newest lines of the log, kept for a report: so many, so long, so many bytes together.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::limits::{LOG_BYTES_KEPT_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_KEPT_MAX};

/// The newest lines. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Recent {
    /// The oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.iter().cloned().collect()
    }

    fn push(&self, line: &str) {
        let line = cut(line.trim_end());
        let mut kept = self.0.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LOG_LINES_KEPT_MAX || kept.bytes > LOG_BYTES_KEPT_MAX {
            let Some(oldest) = kept.lines.pop_front() else {
                return;
            };
            kept.bytes -= oldest.len();
        }
    }
}

fn cut(line: &str) -> String {
    let mut end = line.len().min(LOG_LINE_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}

/// Each event is written at once.
impl Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Recent {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;
    use crate::limits;

    #[test]
    fn the_newest_lines_are_kept_up_to_so_many() {
        let recent = Recent::default();
        for number in 0..limits::LOG_LINES_KEPT_MAX + 5 {
            recent.push(&format!("line {number}\n"));
        }
        let lines = recent.lines();
        assert_eq!(lines.len(), limits::LOG_LINES_KEPT_MAX);
        assert_eq!(lines[0], "line 5");
    }

    #[test]
    fn no_line_is_too_long_and_they_are_not_too_long_together() {
        let recent = Recent::default();
        let long = "ä".repeat(limits::LOG_LINE_BYTES_MAX);
        for _ in 0..limits::LOG_LINES_KEPT_MAX {
            recent.push(&long);
        }
        let lines = recent.lines();
        assert!(lines.iter().all(|line| line.len() == limits::LOG_LINE_BYTES_MAX));
        assert_eq!(
            lines.len(),
            limits::LOG_BYTES_KEPT_MAX / limits::LOG_LINE_BYTES_MAX
        );
    }
}
