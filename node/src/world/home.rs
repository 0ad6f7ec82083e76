//! Where Raft runs.
//!
//! Heartbeats and votes must never wait: neither for a disk, nor for a batch that is being applied, nor for a busy
//! dialect. So openraft's tasks have a thread with a runtime of their own. A simulated world has one runtime for
//! everything and says so.

use std::{io, thread};

use tokio::{runtime::Handle, sync::oneshot};

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

    /// Opens a place for Raft: its runtime begins to run, and runs until [`Lodging::end`].
    #[expect(
        clippy::disallowed_methods,
        reason = "Raft's own thread; `Lodging::end` joins it"
    )]
    pub fn open(self, name: &str) -> io::Result<Lodging> {
        match self {
            Self::OwnThread => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let handle = runtime.handle().clone();
                let (leave, left) = oneshot::channel::<()>();
                // A lodging that is dropped drops the sender, which ends the runtime as well.
                let body = move || {
                    let _ = runtime.block_on(left);
                };
                let thread = thread::Builder::new().name(format!("raft-{name}")).spawn(body)?;
                Ok(Lodging {
                    home: self,
                    handle,
                    own: Some((leave, thread)),
                })
            }
            Self::Here => Ok(Lodging {
                home: self,
                handle: Handle::current(),
                own: None,
            }),
        }
    }
}

/// Raft's place while it runs: openraft, the port for peers and the ways to them.
#[derive(Debug)]
pub struct Lodging {
    home: RaftHome,
    handle: Handle,
    /// Ends the thread, and the thread.
    own: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Lodging {
    /// Which kind of place it is.
    pub fn home(&self) -> RaftHome {
        self.home
    }

    /// Where tasks that belong to Raft are spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the thread, and with it every task that is still there.
    pub async fn end(self) {
        if let Some((leave, thread)) = self.own {
            drop(leave);
            // It has nothing to wait for but the task that it polls at this moment.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
