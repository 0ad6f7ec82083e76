//! Lists are cut into pages, so that no answer outgrows what a client accepts.

use prost::Message;

use crate::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};

/// How many rows are wanted.
pub(super) fn limit(wire: u32) -> usize {
    if wire == 0 {
        PAGE_ROWS_MAX
    } else {
        (wire as usize).min(PAGE_ROWS_MAX)
    }
}

/// The first rows, at least one if there are any, and whether more follow.
pub(super) fn cut<T: Message>(rows: impl Iterator<Item = T>, limit: usize) -> (Vec<T>, bool) {
    cut_at(rows, limit, PAGE_BYTES_MAX)
}

/// The same, with so many bytes.
pub(super) fn cut_at<T: Message>(
    rows: impl Iterator<Item = T>,
    limit: usize,
    bytes_max: usize,
) -> (Vec<T>, bool) {
    let mut page = Vec::new();
    let mut bytes = 0;
    for row in rows {
        bytes += row.encoded_len();
        if page.len() == limit || (bytes > bytes_max && !page.is_empty()) {
            return (page, true);
        }
        page.push(row);
    }
    (page, false)
}
