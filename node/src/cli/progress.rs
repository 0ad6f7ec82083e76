//! How far a command is that takes a while: a bar for the people who wait for it.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::Streams;

/// What is done, how much of it, and how long it still takes.
const TEMPLATE: &str =
    "{prefix} [{wide_bar}] {binary_bytes} of {msg}{binary_total_bytes} ({percent} %, {eta} left)";

/// A bar that goes when it is dropped, so that it is in the way of nothing that is printed afterwards.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// One that is full at `bytes`; drawn from the first [`reached`](Self::reached) on, where people see it.
    pub(super) fn new(streams: &Streams<'_>, bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), (streams.progress)());
        let style = ProgressStyle::with_template(TEMPLATE).expect("its braces close");
        Self(bar.with_style(style).with_finish(ProgressFinish::AndClear))
    }

    /// It is only known roughly when this one is full.
    pub(super) fn roughly(self) -> Self {
        Self(self.0.with_message("about "))
    }

    /// So many bytes are done of `what`; that is another thing than before, if it begins anew.
    pub(super) fn reached(&self, what: &'static str, bytes: u64) {
        if self.0.prefix() != what {
            self.0.set_prefix(what);
            self.0.reset_eta();
        }
        if self.0.length().is_some_and(|length| length < bytes) {
            self.0.set_length(bytes);
        }
        self.0.set_position(bytes);
    }
}
