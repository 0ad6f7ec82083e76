//! What a command ends with.

use std::{io, process::ExitCode};

use spine_client::Error;

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It is done.
    Ok,
    /// Something else went wrong.
    Error,
    /// The command line can't be understood.
    Usage,
    /// What was asked for is not there.
    NotFound,
    /// The cluster's rules, or the condition given, refuse it.
    Refused,
    /// No leader: most servers are down or apart.
    NoQuorum,
    /// It may have been done or not.
    Unknown,
    /// The lock was lost while a command ran under it.
    LockLost,
    /// A command that was run ended with this.
    Command(u8),
}

impl Exit {
    /// The exit codes, as scripts may rely on them.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::NoQuorum => 5,
            Self::Unknown => 6,
            Self::LockLost => 7,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command is not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The cluster said so, or could not be asked.
    Client(Error),
    /// It is not there.
    NotFound(String),
    /// The condition given does not hold.
    GuardFailed(String),
    /// The lock was lost while a command ran under it.
    LockLost(String),
    /// A command that was run ended with this code, and has said why itself.
    Command(u8),
    /// A command could not be run; what a shell would end with.
    NotRun(String, u8),
    /// Anything else.
    Other(String),
    /// Reading or writing on this machine.
    Io(io::Error),
}

impl Failure {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => match error {
                Error::Refused(_) | Error::Compacted { .. } => Exit::Refused,
                Error::Unknown(_) => Exit::Unknown,
                Error::NoLeader | Error::Deadline(_) => Exit::NoQuorum,
                Error::Config(_) => Exit::Usage,
                _ => Exit::Error,
            },
            Self::NotFound(_) => Exit::NotFound,
            Self::GuardFailed(_) => Exit::Refused,
            Self::LockLost(_) => Exit::LockLost,
            Self::Command(code) | Self::NotRun(_, code) => Exit::Command(*code),
            // `spine kv list | head` has done what it should.
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Other(_) | Self::Io(_) => Exit::Error,
        }
    }

    /// Cause and remedy in one line; `None` if there is nothing to say.
    pub(super) fn line(&self) -> Option<String> {
        Some(match self {
            Self::Client(error) => match remedy(error) {
                Some(remedy) => format!("{}; {remedy}", one_line(&error.to_string())),
                None => one_line(&error.to_string()),
            },
            Self::NotFound(text)
            | Self::GuardFailed(text)
            | Self::LockLost(text)
            | Self::NotRun(text, _)
            | Self::Other(text) => one_line(text),
            Self::Command(_) => return None,
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Self::Io(error) => one_line(&error.to_string()),
        })
    }
}

fn remedy(error: &Error) -> Option<String> {
    let text = match error {
        Error::Refused(refusal) if refusal.remedy.is_empty() => return None,
        Error::Refused(refusal) => &refusal.remedy,
        Error::Unknown(_) => "read whether it took effect before trying again",
        Error::NoLeader => {
            "retry; if it lasts, look for servers that are down or apart, or read with --stale"
        }
        Error::Deadline(_) => "retry with a longer --timeout, or read with --stale",
        Error::Overloaded(_) => "retry later",
        Error::Unreachable(_) => "start a node there, or name others with --addr or SPINE_ADDR",
        Error::BrokenOff(_) => "run the command again",
        Error::Compacted { .. } => "list what is there now, and watch without --from",
        Error::Config(_) => "see --help",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Scripts read errors by the line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
