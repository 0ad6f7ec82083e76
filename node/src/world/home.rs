//! Where Raft runs.
//!
//! Heartbeats and votes must never wait: neither for a disk, nor for a batch that is being applied, nor for a busy
//! dialect. So openraft's tasks have a thread with a runtime of their own. A simulated world has one runtime for
//! everything and says so.

use std::{io, thread};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// Where openraft's tasks run, and what it needs done beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftHome {
    /// On a thread with a runtime of its own.
    #[default]
    OwnThread,
    /// On the runtime that starts the node; what waits for a disk does it there, because simulated disks don't.
    Here,
}

impl RaftHome {
    /// Runs what may wait for a disk.
    pub async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::OwnThread => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
            Self::Here => Ok(work()),
        }
    }

    /// Begins to run `life`, which ends when Raft has ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "Raft's own thread; `Lodging::end` joins it"
    )]
    pub fn begin(self, name: &str, life: BoxFuture<'static, ()>) -> io::Result<Lodging> {
        let (done, ended) = oneshot::channel();
        let life = async move {
            life.await;
            let _ = done.send(());
        };
        let thread = match self {
            Self::OwnThread => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let body = move || runtime.block_on(life);
                Some(thread::Builder::new().name(format!("raft-{name}")).spawn(body)?)
            }
            Self::Here => {
                tokio::spawn(life);
                None
            }
        };
        Ok(Lodging { ended, thread })
    }
}

/// Raft's place while it runs.
#[derive(Debug)]
pub struct Lodging {
    ended: oneshot::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Lodging {
    /// Waits until it has ended, thread and all.
    pub async fn end(self) {
        // An error means that it panicked, which the node has noticed as Raft's end.
        let _ = self.ended.await;
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}
