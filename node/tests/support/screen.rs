//! A terminal that keeps what was drawn on it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use indicatif::{ProgressDrawTarget, TermLike};

/// The terminal. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Screen(Arc<Mutex<Vec<String>>>);

impl Screen {
    /// A place for bars on it.
    pub fn target(&self) -> ProgressDrawTarget {
        ProgressDrawTarget::term_like(Box::new(self.clone()))
    }

    /// Everything that was drawn, whether it is still there or not.
    pub fn drawn(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    /// Whether nothing is left of it.
    pub fn is_clear(&self) -> bool {
        self.0.lock().unwrap().last().is_none_or(String::is_empty)
    }

    fn draw(&self, text: &str) {
        self.0.lock().unwrap().push(text.trim_end().to_owned());
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        100
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.draw(line);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        // The rest of a line is filled with spaces, by themselves.
        if !text.trim().is_empty() {
            self.draw(text);
        }
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
