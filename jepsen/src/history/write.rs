//! Writing a history while it happens.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::line::{Call, Dialect, Line, Out, Process, Sight, Stamped, Workload};
use crate::{
    client::Failure,
    clock::{Clock, Micros},
};

/// Writes lines as they happen. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Recorder {
    clock: Clock,
    /// A line is written under a lock rather than sent to a task: nothing is waiting in memory when the harness dies, and
    /// a line is a copy into a buffer.
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
struct Sink {
    file: BufWriter<File>,
    next_process: u64,
    /// The first error: a history with a hole proves nothing, so the run ends with it.
    broken: Option<io::Error>,
}

impl Recorder {
    /// A new history at `path`.
    pub fn create(path: &Path, clock: Clock) -> io::Result<Self> {
        let sink = Sink {
            file: BufWriter::new(File::create_new(path)?),
            next_process: 1,
            broken: None,
        };
        Ok(Self {
            clock,
            sink: Arc::new(Mutex::new(sink)),
        })
    }

    /// The clock of its times.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A number that no process has had.
    pub fn process(&self) -> Process {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.next_process += 1;
        Process(sink.next_process - 1)
    }

    /// An operation begins.
    pub fn invoke(
        &self,
        p: Process,
        w: Workload,
        node: &str,
        dialect: Dialect,
        call: Call,
    ) -> Invocation<'_> {
        let node = node.to_owned();
        self.write(
            self.clock.now(),
            Line::Invoke {
                p,
                w,
                node,
                dialect,
                call,
            },
        );
        Invocation { recorder: self, p }
    }

    /// Something was seen.
    pub fn saw(&self, w: Workload, node: &str, sight: Sight) {
        let node = node.to_owned();
        self.write(self.clock.now(), Line::Saw { w, node, sight });
    }

    fn write(&self, t: Micros, line: Line) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.broken.is_some() {
            return;
        }
        if let Err(error) = write_line(&mut sink.file, &Stamped { t, line }) {
            sink.broken = Some(error);
        }
    }

    /// Everything written so far is in the file.
    ///
    /// # Errors
    /// The first that was met since the beginning.
    pub fn flush(&self) -> io::Result<()> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        match sink.broken.take() {
            Some(error) => Err(error),
            None => sink.file.flush(),
        }
    }
}

/// Writes one line.
pub(crate) fn write_line(to: &mut impl Write, line: &Stamped) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

/// An operation under way. Dropped without an end it stays without one: its outcome is unknown.
#[derive(Debug)]
#[must_use]
pub struct Invocation<'a> {
    recorder: &'a Recorder,
    p: Process,
}

impl Invocation<'_> {
    /// It came to an end. Gives the answer, if there is one, and the process under which its client goes on.
    pub fn end(self, result: Result<Out, Failure>) -> (Option<Out>, Process) {
        let p = self.p;
        let t = self.recorder.clock.now();
        let (line, answer, next) = match result {
            Ok(out) => (Line::Ok { p, out: out.clone() }, Some(out), p),
            Err(Failure::Fail(error)) => (Line::Fail { p, error }, None, p),
            Err(Failure::Unknown(error)) => (Line::Unknown { p, error }, None, self.recorder.process()),
        };
        self.recorder.write(t, line);
        (answer, next)
    }
}
