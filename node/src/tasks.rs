//! The tasks of a node, which end with it, and what ends the node.
//!
//! A node that is dropped leaves nothing running: each task belongs to a [`Task`] in it, but for those that end by
//! themselves once Raft has.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

/// A task. Dropped, it ends at its next wait.
#[derive(Debug)]
#[must_use = "dropped, the task ends"]
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    /// Runs one.
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// The same, on another runtime.
    pub(crate) fn on(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(runtime.spawn(task))
    }

    /// Waits until it has come to its own end.
    pub(crate) async fn finished(&mut self) {
        let _ = (&mut self.0).await;
    }

    /// Ends it, and waits for that.
    pub(crate) async fn end(mut self) {
        self.0.abort();
        self.finished().await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What ends a node; the first reason counts.
#[derive(Clone, Debug)]
pub(crate) struct Fatal(Arc<watch::Sender<Option<Ending>>>);

/// Why a node ends.
#[derive(Clone, Debug)]
struct Ending {
    reason: Arc<str>,
    /// The others refuse it.
    refused: bool,
}

impl Default for Fatal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Fatal {
    pub(crate) fn tell(&self, reason: impl Into<Arc<str>>) {
        self.end(reason.into(), false);
    }

    /// The others refuse this node.
    pub(crate) fn refuse(&self, reason: impl Into<Arc<str>>) {
        self.end(reason.into(), true);
    }

    fn end(&self, reason: Arc<str>, refused: bool) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                tracing::error!(reason = &*reason, "this node can't go on");
                *told = Some(Ending { reason, refused });
            }
            first
        });
    }

    /// Whether the reason is that the others refuse it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|ending| ending.refused)
    }

    /// Waits for the reason.
    pub(crate) async fn told(&self) -> Arc<str> {
        let mut told = self.0.subscribe();
        let reason = told
            .wait_for(Option::is_some)
            .await
            .expect("the sender is here")
            .clone();
        reason.expect("waited for").reason
    }

    /// Runs a task without which the node can't be.
    pub(crate) fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let fatal = self.clone();
        Task::spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                fatal.tell(format!("{what} panicked"));
            }
        })
    }
}
