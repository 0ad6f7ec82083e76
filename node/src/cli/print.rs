//! Rows as a table or as JSON.

use std::io;

use serde::Serialize;

use super::{Format, Streams};

/// Characters of a cell; what is longer is cut, in tables only.
const CELL_CHARS_MAX: usize = 60;

/// Something that a table has a line for.
pub(super) trait Row: Serialize {
    /// The columns' names.
    const HEADER: &'static [&'static str];
    /// A text for each column.
    fn cells(&self) -> Vec<String>;
    /// Whether cells that are long are cut.
    fn is_cut() -> bool {
        true
    }
}

/// Prints rows: a table with aligned columns, or a JSON array.
pub(super) fn rows<R: Row>(streams: &mut Streams<'_>, format: Format, rows: &[R]) -> io::Result<()> {
    match format {
        Format::Json => json(streams, &rows),
        Format::Table => {
            let header = R::HEADER.iter().map(ToString::to_string).collect();
            let lines: Vec<Vec<String>> = std::iter::once(header)
                .chain(
                    rows.iter()
                        .map(|row| row.cells().iter().map(|cell| tidy(cell, R::is_cut())).collect()),
                )
                .collect();
            table(streams, &lines)
        }
    }
}

/// Prints a value as JSON, indented.
pub(super) fn json<T: Serialize + ?Sized>(streams: &mut Streams<'_>, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *streams.out, value)?;
    writeln!(streams.out)
}

fn table(streams: &mut Streams<'_>, lines: &[Vec<String>]) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for line in lines {
        let padded: Vec<_> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(streams.out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

/// A cell on one line, without what would move a terminal's cursor.
fn tidy(cell: &str, is_cut: bool) -> String {
    let mut clean: String = cell
        .chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect();
    if is_cut && let Some((end, _)) = clean.char_indices().nth(CELL_CHARS_MAX) {
        clean.truncate(end);
        clean.push('…');
    }
    if clean.is_empty() { "-".to_owned() } else { clean }
}
