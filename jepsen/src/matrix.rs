//! Many runs, one after another: each in a process, namespaces and a directory of its own, so that no cell leaves anything
//! to the next.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    report::Row,
    run::{Error, Record, describe_binary},
};

/// One run of a matrix.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Where it is written.
    pub directory: PathBuf,
    /// What `spine-jepsen run` is told, apart from that.
    pub arguments: Vec<String>,
}

impl Cell {
    /// What came of it: now, or when it was run with the same binary.
    ///
    /// # Errors
    /// The run could not be made.
    pub fn result(&self, binary: &Path) -> Result<Vec<Row>, Error> {
        if let Some(rows) = self.known(binary)? {
            return Ok(rows);
        }
        if self.directory.exists() {
            // Of another binary, or interrupted. Kept beside, for it may hold the trace of a fault.
            fs::rename(&self.directory, self.free_name())?;
        }
        let mut run = Command::new(env::current_exe()?);
        run.arg("run")
            .args(&self.arguments)
            .arg("--directory")
            .arg(&self.directory);
        let status = run.status()?;
        self.known(binary)?.ok_or_else(|| {
            let directory = self.directory.display();
            Error::Io(io::Error::other(format!(
                "the run of {directory} ended with {status}"
            )))
        })
    }

    /// What came of it, if it was run to its end with this binary.
    fn known(&self, binary: &Path) -> Result<Option<Vec<Row>>, Error> {
        let path = self.directory.join("run.json");
        if !path.exists() {
            return Ok(None);
        }
        let record = serde_json::from_slice(&fs::read(&path)?);
        let record: Record = record.map_err(|error| Error::Json { path, error })?;
        let is_of_this = record.binary == describe_binary(binary)? && !record.rows.is_empty();
        Ok(is_of_this.then_some(record.rows))
    }

    fn free_name(&self) -> PathBuf {
        let name = |number: u32| {
            let mut name = self.directory.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        (1..u32::MAX)
            .map(name)
            .find(|name| !name.exists())
            .unwrap_or_else(|| name(0))
    }
}
