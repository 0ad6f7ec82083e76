//! The life of a cluster of real processes: it grows and shrinks, moves and loses its leaders, is saved and begun anew, while
//! clients use it.
//!
//! Needs root: run by `cargo x faults`. The figures of a debug build on a busy machine say little.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "its figures are part of what it shows")]

mod counter;
mod grown;
mod restored;

use std::time::Duration;

/// A condition is waited for so long.
const PATIENCE: Duration = Duration::from_mins(2);

/// A number that the environment may set.
fn times(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}
