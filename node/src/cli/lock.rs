//! `spine lock`: a command that runs while a lock is held, and not for longer.
//!
//! The command is the leader of a process group of its own, so that all that it starts gets the signals, and ends when the
//! lock is lost. It is told the fencing number: whatever it writes to should refuse a lower one than it has seen, for no
//! lock holds off a process that was stopped in between.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use futures::{FutureExt, future::select_all};
use rustix::process::{Pid, Signal, kill_process_group};
use spine_client::{Error, LeaseLost, LockGuard};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
    time::timeout,
};

use super::{Connection, Streams, duration, exit::Failure};

/// The command finds its fencing number here,
const FENCE: &str = "SPINE_FENCE";
/// and the name of the lock here.
const LOCK: &str = "SPINE_LOCK";

/// What is passed on to the command.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

/// Run a command while a lock is held. It finds its fencing number in `SPINE_FENCE`, and is ended if the lock is lost. Ends
/// with what the command ends with; with 7 if the lock was lost, with 4 if it was not to be had in time (--wait).
#[derive(Args, Debug)]
pub struct Lock {
    /// The lock's name
    name: String,
    /// Were this process gone, the lock would be free after so long
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    ttl: Duration,
    /// Wait for the lock at most so long [default: until it is free]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    wait: Option<Duration>,
    /// If the lock is lost, the command has so long to end after SIGTERM; then SIGKILL
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    grace: Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    connection: Connection,
}

impl Lock {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let client = self.connection.client()?;
        // A lease of our own: ending it gives the lock, or the place in the queue, back at once.
        let lease = client.lease.grant(self.ttl).await?;
        let mut lock = client.lock(self.name.clone()).lease(&lease);
        if let Some(wait) = self.wait {
            lock = lock.wait(wait);
        }
        let acquired = tokio::select! {
            acquired = lock.acquire() => acquired.map_err(|error| match error {
                Error::Deadline(why) if self.wait.is_some() => Failure::GuardFailed(why.to_string()),
                error => error.into(),
            }),
            signal = signals.next() => Err(Failure::Command(128 + number(signal))),
        };
        let ended = match acquired {
            Ok(guard) => self.hold(&guard, &mut signals).await,
            Err(failure) => Err(failure),
        };
        match (lease.revoke().await, &ended) {
            // Lost it is not there to be given back.
            (Ok(()), _) | (Err(_), Err(Failure::LockLost(_))) => {}
            (Err(error), _) => {
                let line = format!(
                    "the lock is not given back: {error}; it is free after {:?}",
                    self.ttl
                );
                writeln!(streams.err, "warning: {line}")?;
            }
        }
        ended
    }

    /// Runs the command.
    async fn hold(&self, guard: &LockGuard, signals: &mut Signals) -> Result<(), Failure> {
        let [program, arguments @ ..] = &self.command[..] else {
            return Err(Failure::Other("there is no command".to_owned()));
        };
        let spawned = Command::new(program)
            .args(arguments)
            .env(FENCE, guard.fence().to_string())
            .env(LOCK, &self.name)
            .stdin(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|error| not_started(program, &error))?;
        let status = loop {
            tokio::select! {
                biased;
                status = child.wait() => break status?,
                lost = guard.lost() => {
                    self.end(&mut child).await?;
                    let why = match lost {
                        LeaseLost::Ended => "its lease was ended",
                        LeaseLost::Unsure => "its lease could not be renewed in time, so others may have it",
                    };
                    return Err(Failure::LockLost(format!("the lock {:?} was lost: {why}; the command was ended", self.name)));
                }
                signal = signals.next() => signal_group(&child, signal),
            }
        };
        match status_code(status) {
            0 => Ok(()),
            code => Err(Failure::Command(code)),
        }
    }

    /// Ends the command and all that it has started.
    async fn end(&self, child: &mut Child) -> io::Result<()> {
        let group = group(child);
        signal_group(child, Signal::TERM);
        let ended = timeout(self.grace, child.wait()).await;
        // What it has started may have a life of its own.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        match ended {
            Ok(status) => status.map(drop),
            Err(_) => child.wait().await.map(drop),
        }
    }
}

/// Signals that came.
struct Signals(Vec<(unix::Signal, Signal)>);

impl Signals {
    fn new() -> io::Result<Self> {
        let listening = PASSED_ON.map(|(kind, signal)| Ok((unix::signal(kind)?, signal)));
        listening.into_iter().collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Signal {
        let came = self.0.iter_mut().map(|(listening, signal)| {
            let signal = *signal;
            async move {
                listening.recv().await;
                signal
            }
            .boxed()
        });
        select_all(came).await.0
    }
}

/// The group that the command leads; `None` once it has ended.
fn group(child: &Child) -> Option<Pid> {
    let id = i32::try_from(child.id()?).ok()?;
    Pid::from_raw(id)
}

fn signal_group(child: &Child, signal: Signal) {
    if let Some(group) = group(child) {
        // Nobody may be left to be told.
        let _ = kill_process_group(group, signal);
    }
}

/// What a shell would end with.
fn status_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn number(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or_default()
}

fn not_started(program: &OsString, error: &io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    Failure::NotRun(format!("{}: {error}", program.display()), code)
}
